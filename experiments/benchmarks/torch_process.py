"""PyTorch in a process of its own, so that neither side's memory is in the way of the other's."""

import contextlib
import json
import subprocess
import sys
from typing import Any


class TorchProcess:
    """A job of `experiments.benchmarks.pytorch`, ready to take steps; to be closed."""

    def __init__(self, job: str, **options: Any):
        """Start the process.

        Args:
          job: Function of `experiments.benchmarks.pytorch`.
          options: Its arguments, and the rank of the network.
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
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # What ended has no answer either.
            print(steps, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"PyTorch's process ended with status {self._process.wait()}.")
        return float(answer)

    def close(self) -> None:
        """End the process."""
        self._process.communicate()
