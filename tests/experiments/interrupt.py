"""Runs one command again and again in one process, each time with a signal at a chosen moment.

python tests/experiments/interrupt.py visualize SIGTERM:1,SIGINT:3,SIGKILL:2 --model=... --out=...

SIGTERM:3 sends SIGTERM when progress is told for the third time; "end" lets the command finish.
Prints the exit status of every run, and the number of units that are done, on a line of its own.
"""

import importlib
import os
import signal
import sys
from pathlib import Path

from featvis_jax import progress
from featvis_jax.commands import launch


def main() -> None:
    """Run the command once for every moment."""
    name, moments, *arguments = sys.argv[1:]
    command = importlib.import_module(f"featvis_jax.commands.{name}").COMMAND
    advance = progress.Progress.advance
    sys.argv = ["launcher", *arguments]
    for moment in moments.split(","):
        signal_name, _, call = moment.partition(":")
        left = [int(call or 0)]

        def told(self, steps, left=left, signal_name=signal_name):
            advance(self, steps)
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.Signals[signal_name])

        progress.Progress.advance = told
        status = 0
        try:
            launch.run(command, sys.argv)
        except SystemExit as stop:
            status = stop.code
        out = next(each for each in arguments if each.startswith("--out="))
        table = Path(out.removeprefix("--out=")) / "units.tsv"
        units = len(table.read_text().splitlines()) - 1 if table.exists() else 0
        print(f"status {status}, {units} units", flush=True)  # noqa: T201 - its caller reads it.


if __name__ == "__main__":
    main()
