"""How the process keeps its memory."""

from __future__ import annotations

import ctypes
import functools
import platform

TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4
"""What mallopt(3) calls its parameters."""
STEP = 2**26
"""Bytes by which the memory grows beyond what is asked for."""


@functools.cache
def keep_freed() -> bool:
    """From now on what this process frees is kept for its next tensors instead of given back; whether that is so.

    glibc gives every large tensor back as it is freed and takes new pages for the next one, each of which the system
    clears first: a step of training whose batch is large spends much of its time so (`python -m bench.memory`). There
    is no way back, so this is for processes that train or encode. Other C libraries are left as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    asked = {MMAP_MAX: 0, TRIM_THRESHOLD: 2**31 - 1, TOP_PAD: STEP}
    return 0 not in [mallopt(parameter, value) for parameter, value in asked.items()]
