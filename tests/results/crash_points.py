"""Kills a writer at every one of its file operations, resumes, and compares the bytes.

Run as a program, because it forks, and a process with JAX in it must not:

    python tests/results/crash_points.py EMPTY_DIRECTORY

Writes how many crash points were tried; raises AssertionError if one of them loses anything.
"""

import hashlib
import os
import sys
from pathlib import Path

import numpy as np

from featvis_jax.results import store, tables

OPERATIONS = ("open", "write", "fsync", "replace", "mkdir", "unlink", "ftruncate", "pwrite")
KILLED = 77
CONFIGURATION = {"seed": 1, "steps": 4}
BATCHES = (("conv1", (0,)), ("conv1", (1,)))


def result(layer: str, channel: int, *, variant: int = 1) -> tables.UnitResult:
    """A unit whose content follows from its name."""
    generator = np.random.default_rng([channel, len(layer), variant])
    image = generator.random((4, 3, 1)).astype(np.float32)
    trace = generator.random(4).astype(np.float32)
    record = tables.UnitRecord(
        layer, channel, "alive", float(trace[0]), float(trace[-1]), 0.0,
        float(image.min()), float(image.max()), 4, 0.5, 1, variant=variant,
    )  # fmt: skip
    seen = np.abs(image) if channel % 2 else None
    return tables.UnitResult(record, image, trace, trace, transparency=seen)


def compute(directory: Path) -> None:
    """What a launcher does: open or resume, and compute what is not done."""
    with store.open_run(directory, CONFIGURATION, environment={"numpy": "2"}) as run:
        run.write_flags("--seed=1\n")
        run.write_layers([tables.LayerRecord("conv1", (4, 3), 2, (3, 3), (1, 1))])
        for layer, channels in BATCHES:
            missing = [channel for channel in channels if channel not in run.finished(layer)]
            run.write_units([result(layer, channel) for channel in missing], affine=np.eye(4))
        run.write_sheet("conv1")


def digests(directory: Path) -> dict[str, str]:
    """SHA-256 of every file, the lock too: a run that was closed leaves an empty one."""
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def count_down(calls: int) -> None:
    """Ends this process instead of a file operation, without any clean-up.

    Nothing changes on the disk between two operations, so the end after one is the end before the
    next.
    """
    left = [calls]

    def mortal(operation):
        def call(*arguments, **options):
            left[0] -= 1
            if left[0] == 0:
                os._exit(KILLED)
            return operation(*arguments, **options)

        return call

    for name in OPERATIONS:
        setattr(os, name, mortal(getattr(os, name)))


def finished_units(directory: Path) -> set[tuple[str, int]]:
    """The units that are done; each must have its image and traces whole."""
    if not (directory / "run.json").exists():
        return set()
    view = store.read_run(directory)
    units = {(record.layer, record.channel) for record in view.records()}
    for layer, channel in units:
        expected = result(layer, channel)
        np.testing.assert_array_equal(view.image(layer, channel)[0], expected.image)
        traces = view.traces(layer)
        row = traces.channel.tolist().index(channel)
        np.testing.assert_array_equal(traces.objective[row], expected.objective)
    return units


def main(root: Path) -> None:
    """Tries every crash point."""
    compute(root / "whole")
    whole = digests(root / "whole")
    before, calls, status = set(), 0, KILLED
    while status != 0:
        calls += 1
        directory = root / str(calls)
        child = os.fork()
        if child == 0:
            count_down(calls)
            compute(directory)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, KILLED), f"call {calls}: exit code {status}"
        units = finished_units(directory)
        assert units >= before, f"call {calls}: lost {before - units}"
        before = units
        compute(directory)
        assert digests(directory) == whole, f"call {calls}: other bytes after resuming"
    sys.stdout.write(f"{calls - 1}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
