"""Packages that only some installations have."""

from __future__ import annotations

import importlib
import os
from typing import Any

import pytest


def runtime_or_skip(name: str) -> Any:
    """The module; a test without it is skipped, but fails where CI is set."""
    if os.environ.get("CI"):
        return importlib.import_module(name)
    return pytest.importorskip(name)
