"""Memory that was freed stays with the process: training on a CPU frees and takes the same gigabytes in every pass."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # names of malloc.h


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory for the next buffers; for this process, from now on.

    Else it maps each large buffer anew, and the kernel hands it out in pages of 4 KB, zeroed one fault at a time, which
    takes about as long as the arithmetic. The process never shrinks below its peak any more.

    Returns:
        Whether there is a glibc and it agreed; elsewhere nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    return bool(libc.mallopt(_MMAP_MAX, 0)) and bool(libc.mallopt(_TRIM_THRESHOLD, -1))
