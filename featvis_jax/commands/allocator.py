"""What the allocator does with memory that the process has used: keep it, or give it back."""

import ctypes
import platform

# Constants of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -3, -4, -8


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


def return_large_blocks() -> None:
    """Have glibc take blocks of 32 MiB and more from the system after all, and give them back.

    For programs that take gigabytes at once and seconds with them: their page faults cost little,
    and a block of another size would be taken beside one that is kept.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    library = ctypes.CDLL(None)
    library.mallopt(_MMAP_MAX, 65536)  # glibc's own default.
    library.mallopt(_MMAP_THRESHOLD, 32 * 2**20)
    library.malloc_trim(0)


def return_what_is_free() -> None:
    """Have glibc give back what nobody uses now, that what is taken from here on can be told."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
