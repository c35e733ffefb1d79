"""Breaks every write of a run: no room, an I/O error, or half a write.

    python -m tests.stress.break_disk

For each kind and each call a process of its own begins a run, or goes on with one, on a disk that
breaks at that call, and must end with status 2 and one message; what was finished must be whole,
and a later run must end with the same bytes.
"""

import contextlib
import io
import itertools
import os
import sys
import tempfile
from pathlib import Path

from featvis_jax.commands import launch
from featvis_jax.options import Options
from featvis_jax.results import files
from tests.results import broken_disk, crash_points


def broken(directory: Path, fault: str, call: int) -> int:
    """Exit status of a run whose disk breaks at a call; 0 if it has fewer calls."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    broken_disk.Disk(lambda name, operation: setattr(files.os, name, operation), fault, call)
    status, errors = 0, io.StringIO()
    command = launch.Command("compute", "", (), Options, lambda _: crash_points.compute(directory))
    try:
        with contextlib.redirect_stderr(errors):
            launch.run(command, ["launcher"])
    except SystemExit as stop:
        status = stop.code if errors.getvalue().startswith("Error: ") else 70
    except BaseException:
        status = 71
    os._exit(status)


def main() -> None:
    """Try every call."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        crash_points.compute(root / "whole")
        whole = crash_points.digests(root / "whole")
        for fault, begun in itertools.product(broken_disk.FAULTS, (True, False)):
            call, status = 0, 2
            while status != 0:
                call += 1
                directory = root / f"{fault}-{begun}-{call}"
                before = broken_disk.begin(directory) if begun else set()
                status = broken(directory, fault, call)
                if status not in (0, 2):
                    sys.exit(f"{fault} at call {call}: exit status {status}, expected 2.")
                broken_disk.check(directory, before, whole)
            print(
                f"{fault}, {'a run gone on with' if begun else 'a new run'}: {call - 1} calls "
                "broken, each ends with status 2, nothing is lost."
            )


if __name__ == "__main__":
    main()
