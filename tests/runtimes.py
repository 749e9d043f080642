"""Packages and compilers that only some installations have."""

from __future__ import annotations

import importlib
import os
import shutil
from typing import Any

import pytest


def runtime_or_skip(name: str) -> Any:
    """The module; a test without it is skipped, but fails where CI is set."""
    if os.environ.get("CI"):
        return importlib.import_module(name)
    return pytest.importorskip(name)


def compiler_or_skip(name: str) -> str:
    """The C compiler of that name; a test without it is skipped, but fails where CI is set."""
    if shutil.which(name) is None:
        assert not os.environ.get("CI"), f"CI lacks {name}"
        pytest.skip(f"there is no {name}")
    return name
