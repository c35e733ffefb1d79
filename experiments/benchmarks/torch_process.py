"""PyTorch in a process of its own, so that neither side's memory is in the way of the other's."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from featvis_jax.commands import allocator

_PEAK = "peak"
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class TorchProcess:
    """A job of `experiments.benchmarks.pytorch`, ready to take steps; to be closed."""

    def __init__(self, job: str, **options: Any):
        """Start the process.

        Args:
          job: A job of `experiments.benchmarks.pytorch`.
          options: Its arguments.
        """
        command = [sys.executable, "-m", "experiments.benchmarks.pytorch", job, json.dumps(options)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, steps: int) -> float:
        """Take steps, and return the seconds that they took.

        Args:
          steps: How many.

        Raises:
          RuntimeError: The process has ended; it has said why.
        """
        return float(self._answer(str(steps)))

    def peak_bytes(self) -> float:
        """Most memory that the process had at once, over what it had before its first step.

        NaN where the system does not tell (`resident_bytes`).

        Raises:
          RuntimeError: The process has ended; it has said why.
        """
        return float(self._answer(_PEAK))

    def _answer(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # What ended has no answer either.
            print(line, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"PyTorch's process ended with status {self._process.wait()}.")
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def serve(run: Callable[[int], float]) -> None:
    """Be the other end of a `TorchProcess`: answer each line until there are no more.

    Args:
      run: Takes a number of steps and returns the seconds that they took.
    """
    allocator.return_what_is_free()
    with contextlib.suppress(OSError):
        _CLEAR.write_text("5")  # The peak so far is forgotten; see proc_pid_clear_refs(5).
    before = resident_bytes("VmRSS")
    for line in sys.stdin:
        if line.strip() == _PEAK:
            print(resident_bytes("VmHWM") - before, flush=True)
        else:
            print(run(int(line)), flush=True)


def resident_bytes(field: str) -> float:
    """Memory of this process that is in use, as Linux counts it; NaN on other systems.

    Args:
      field: ``"VmRSS"`` for now, ``"VmHWM"`` for the most there was.
    """
    with contextlib.suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith(f"{field}:"):
                return 1024.0 * int(line.split()[1])
    return float("nan")
