"""Errors that a user can act on: one clear sentence, shown without a traceback."""

from __future__ import annotations


class SnnRlError(ValueError):
    """Base of all errors caused by input: its message is one sentence with the remedy."""


class ConversionError(SnnRlError):
    """A module that cannot become a spiking network; the message names the operation."""


class CheckpointError(SnnRlError):
    """An agent file that is missing, truncated, foreign or of another version."""


class ConfigError(SnnRlError):
    """A configuration with an unknown key, a wrong type or an impossible value."""


class EngineError(SnnRlError):
    """A network that the event-driven engine cannot run; the message names the layer."""
