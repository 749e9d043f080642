"""Packages that only some exports need, named with the command that installs them."""

from __future__ import annotations

import importlib
from typing import Any

from snn_rl.errors import SnnRlError


def extra(module: str, name: str | None = None) -> Any:
    """The imported module.

    Args:
        name: of the extra that installs it, by default the module's own.

    Raises:
        SnnRlError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise SnnRlError(f"this needs {module}: pip install 'snn-rl[{name or module}]'") from None
