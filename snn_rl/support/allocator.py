"""Memory that training frees is kept for its next update."""

from __future__ import annotations

import ctypes
import os
import platform

# From malloc.h; values in bytes, or a number of blocks.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_NEVER, _PAD = 2**31 - 1, 64 * 2**20


def keep_freed_memory() -> bool:
    """Have the C library keep freed memory in the process; whether it could be told (glibc).

    An update allocates the same large tensors every time. By default each is mapped anew and its
    pages are zeroed when first touched, which costs up to a third of an update on images. Large
    tensors also ask for huge pages from now on, if torch has not allocated anything yet.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _PAD))
    return all([mallopt(option, value) == 1 for option, value in settings])
