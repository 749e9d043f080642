"""Compiles a loop with numba for given types: cached where a folder allows, told to the user
where it takes long."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numba

PATIENCE = 1.5
"""Seconds of this process's work; a kernel that comes from the cache is there much sooner."""


def compiled(signature: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: compile now, for `signature`, without fast-math; reads and keeps a cache.

    The cache lies where numba keeps it: beside the source, else in the user's cache folder. One
    that cannot be written or read is no error, the function is then compiled anew.
    """

    def compile_now(function: Callable[..., Any]) -> Callable[..., Any]:
        options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
        done = threading.Event()
        threading.Thread(target=_tell_unless, args=(done,), daemon=True).start()
        try:
            try:
                cached: Callable[..., Any] = numba.njit(signature, cache=True, **options)(function)
                return cached
            except Exception:  # no folder, a full disk, a damaged cache: each has its own error
                anew: Callable[..., Any] = numba.njit(signature, **options)(function)
                return anew
        finally:
            done.set()

    return compile_now


def _tell_unless(done: threading.Event) -> None:
    """Say what takes long, unless it is done before; waiting for a busy machine does not count."""
    began = time.process_time()
    while time.process_time() - began < PATIENCE:
        if done.wait(0.2):
            return
    sys.stderr.write("compiling the event-driven engine: some seconds, once ...\n")
    sys.stderr.flush()
