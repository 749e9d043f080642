"""Helpers that know nothing of networks: settings, console, figures, Markdown."""
