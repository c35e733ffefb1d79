"""What the allocator does with memory that the process has used."""

import ctypes
import platform

# Constants of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> None:
    """Have glibc keep freed memory, since a step asks for the same large blocks again and again.

    Given back and taken anew they cost a page fault for every 4 KiB. To be called before the
    process has a second thread, which would be given an arena of its own: an arena that is not the
    first holds no block of more than 64 MiB and keeps none. Another allocator has no mallopt and
    needs none.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, -1)
    mallopt(_ARENA_MAX, 1)
