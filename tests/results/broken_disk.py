"""A disk that breaks at a chosen call: no room, a bad sector, or half of what was to be written."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.results import crash_points

OPERATIONS = ("open", "write", "fsync", "replace", "mkdir", "ftruncate", "pwrite")
FAULTS = ("ENOSPC", "EIO", "short")


class Disk:
    """Counts the file operations of this process, and fails from one of them on.

    A fault stays: a full disk is full for the next file too. Removing and reading go on.
    """

    def __init__(self, patch: Callable[[str, object], None], fault: str, call: int) -> None:
        """Replace the operations of `os` by way of `patch`, which undoes it later."""
        self.calls = 0
        for name in OPERATIONS:
            patch(name, self._breaking(name, getattr(os, name), fault, call))

    def _breaking(self, name: str, sound: Callable, fault: str, call: int) -> Callable:
        def operation(*arguments, **options):
            reading = name == "open" and not arguments[1] & (os.O_WRONLY | os.O_RDWR)
            if not reading:
                self.calls += 1
                if self.calls >= call:
                    if fault == "short" and name in ("write", "pwrite"):
                        descriptor, data, *rest = arguments
                        sound(descriptor, bytes(data)[: len(data) // 2], *rest)
                    code = errno.ENOSPC if fault == "short" else getattr(errno, fault)
                    raise OSError(code, os.strerror(code))
            return sound(*arguments, **options)

        return operation


def check(directory: Path, before: set[tuple[str, int]], whole: dict[str, str]) -> set:
    """Check what a broken disk has left, and that the run goes on from there to the same bytes."""
    units = crash_points.finished_units(directory)
    assert units >= before, f"lost {before - units}"
    assert not any(directory.rglob("*.partial")), "half a file is left"
    crash_points.compute(directory)
    assert crash_points.digests(directory) == whole, "other bytes after going on"
    return units


def begin(directory: Path) -> set[tuple[str, int]]:
    """Write the first unit of the run while the disk is sound."""
    with crash_points.store.open_run(
        directory, crash_points.CONFIGURATION, environment={"numpy": "2"}
    ) as run:
        run.write_units([crash_points.result("conv1", 0)], affine=np.eye(4))
    return {("conv1", 0)}
