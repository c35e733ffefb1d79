"""Kills a run at random times with SIGKILL, goes on with it, and compares the bytes.

    python -m tests.stress.kill_run --kills=200

The run stores the units of two layers with everything around them, without a network, so that 200
kills take minutes. Ends with status 1 if a finished unit is lost or a byte differs.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from featvis_jax.results import store, tables
from tests.results import crash_points

BATCHES = [(layer, range(start, start + 3)) for layer in ("conv1", "conv2") for start in (0, 3, 6)]


def compute(directory: Path) -> None:
    """What a launcher does: open or resume, and compute what is not done, batch by batch."""
    with store.open_run(directory, {"seed": 1}, environment={"numpy": "2"}) as run:
        run.write_flags("--seed=1\n")
        run.write_layers([tables.LayerRecord("conv1", (4, 3), 9, (3, 3), (1, 1))])
        for layer, channels in BATCHES:
            missing = [channel for channel in channels if channel not in run.finished(layer)]
            run.write_units(
                [crash_points.result(layer, channel) for channel in missing], affine=np.eye(4)
            )
        for layer in ("conv1", "conv2"):
            run.write_sheet(layer)


def child_of(directory: Path) -> int:
    """Start the run in a process of its own."""
    child = os.fork()
    if child == 0:
        compute(directory)
        os._exit(0)
    return child


def main() -> None:
    """Kill, look, go on, compare; again and again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        compute(root / "whole")
        whole = crash_points.digests(root / "whole")
        started = time.monotonic()
        os.waitpid(child_of(root / "timed"), 0)
        duration = time.monotonic() - started
        killed = trials = 0
        finished: list[int] = []
        while killed < options.kills:
            directory = root / f"run-{trials}"
            trials += 1
            child = child_of(directory)
            time.sleep(draw.uniform(0, duration))
            os.kill(child, signal.SIGKILL)
            if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != -signal.SIGKILL:
                continue  # It was done before.
            killed += 1
            units = crash_points.finished_units(directory)
            finished.append(len(units))
            compute(directory)
            if crash_points.digests(directory) != whole:
                sys.exit(f"Kill {killed}: other bytes after going on, in {directory}.")
            if not crash_points.finished_units(directory) >= units:
                sys.exit(f"Kill {killed}: a finished unit is gone, in {directory}.")
        print(
            f"{killed} kills within {duration:.2f} s of a run ({trials} runs), between "
            f"{min(finished)} and {max(finished)} of 18 units finished: 0 lost, 0 torn, "
            "all final files identical."
        )


if __name__ == "__main__":
    main()
