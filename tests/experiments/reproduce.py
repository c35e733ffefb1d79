"""Reproduces the paper with most stages in one process, since starting one takes seconds.

python tests/experiments/reproduce.py FLAGS_OF_REPRODUCE_PAPER
"""

import contextlib
import importlib
import sys
from pathlib import Path
from unittest import mock

from experiments import reproduce_paper
from experiments.reproduction import stages
from featvis_jax.commands import launch

start_program = stages._wait
# What other tests start as a program.
STARTED_ELSEWHERE = ("experiments.train", "experiments.visualize")


def run_here(stage: stages.Stage, log: Path) -> int:
    """Run a launcher with its flags and its output in the log; gives its exit status."""
    if stage.module not in STARTED_ELSEWHERE:
        return start_program(stage, log)
    command = importlib.import_module(f"featvis_jax.commands.{stage.module.split('.')[-1]}").COMMAND
    with (
        log.open("a") as stream,
        contextlib.redirect_stdout(stream),
        contextlib.redirect_stderr(stream),
        mock.patch.object(sys, "argv", [f"{stage.module}.py", *stage.arguments]),
    ):
        try:
            launch.run(command, sys.argv)
        except SystemExit as stop:
            return int(stop.code or 0)
    return 0


if __name__ == "__main__":
    with mock.patch.object(stages, "_wait", run_here):
        launch.start(reproduce_paper.COMMAND)
