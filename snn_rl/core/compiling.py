"""Compiles loops with numba at their first call, for the types that come."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import numba

inner: Any = numba.njit(nogil=True, error_model="numpy")
"""Decorator of what loops call: it becomes a part of them. Without fast-math."""


def loop(function: Callable[..., None]) -> Callable[..., None]:
    """Decorator: compiled without fast-math, kept in a cache where a folder allows it.

    The cache lies where numba keeps it: beside the source, else in the user's cache folder. One
    that cannot be written or read is no error, the function is then compiled anew.
    """
    anew: Callable[..., None] = inner(function)
    try:
        chosen: Callable[..., None] = numba.njit(cache=True, nogil=True, error_model="numpy")(
            function
        )
    except RuntimeError:  # there is no folder
        return anew

    @wraps(function)
    def call(*arguments: Any) -> None:
        nonlocal chosen
        try:
            chosen(*arguments)
        except Exception:  # of compiling: a full disk, a damaged cache; loops themselves raise none
            if chosen is anew:
                raise
            chosen = anew
            chosen(*arguments)

    return call
