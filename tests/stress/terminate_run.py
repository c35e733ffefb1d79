"""Sends SIGTERM to a visualization at random times; each time it must end soon with status 75.

    python -m tests.stress.terminate_run --signals=50

A small job of a model of the zoo. Every tenth run that was stopped is gone on with, and its images
and traces are compared with those of a run that nobody disturbed.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.results import crash_points

JOB = [
    *["--model=square-lesion", "--layer=conv1", "--batch=2", "--steps=200"],
    *["--regularization=none", "--gallery=false"],
]
LIMIT_S = 10.0


def start(out: Path) -> subprocess.Popen[str]:
    """The job as a program."""
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.visualize", *JOB, f"--out={out}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def begun(process: subprocess.Popen[str], out: Path) -> None:
    """Wait until the launcher holds the run: before, there is no run to go on with."""
    while not (out / ".lock").exists() and process.poll() is None:
        time.sleep(0.01)


def images(out: Path) -> dict[str, str]:
    """Digests of what a run found."""
    return {
        name: digest
        for name, digest in crash_points.digests(out).items()
        if name.startswith(("images", "traces", "sheets"))
    }


def main() -> None:
    """Stop the job again and again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--signals", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        with start(root / "whole") as process:
            begun(process, root / "whole")
            started = time.monotonic()
            process.communicate()
        duration = time.monotonic() - started
        took: list[float] = []
        trials = resumed = 0
        while len(took) < options.signals:
            out = root / f"run-{trials}"
            trials += 1
            with start(out) as process:
                begun(process, out)
                time.sleep(draw.uniform(0, duration))
                sent = time.monotonic()
                process.send_signal(signal.SIGTERM)
                _, errors = process.communicate()
                seconds = time.monotonic() - sent
            if process.returncode == 0:
                continue  # It was done before.
            if process.returncode != 75 or seconds > LIMIT_S or "Traceback" in errors:
                sys.exit(f"exit status {process.returncode} after {seconds:.1f} s:\n{errors}")
            took.append(seconds)
            print(f"{len(took)}: status 75 after {seconds:.2f} s", flush=True)
            if len(took) % 10 == 0:
                with start(out) as process:
                    process.communicate()
                if process.returncode != 0 or images(out) != images(root / "whole"):
                    sys.exit(f"{out}: other bytes after going on.")
                resumed += 1
        print(
            f"{len(took)} signals within {duration:.1f} s of a run ({trials} runs): "
            f"{len(took)} exits with status 75, after {max(took):.2f} s at most and "
            f"{sum(took) / len(took):.2f} s on average; {resumed} runs gone on with, all identical."
        )


if __name__ == "__main__":
    main()
