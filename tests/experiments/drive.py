"""Runs one launcher with many lists of flags in one process, since starting one takes seconds.

python tests/experiments/drive.py train < lists_of_flags.json > outcomes.json
"""

import contextlib
import importlib
import io
import json
import sys
import traceback
from typing import Any

import jax
from absl import flags
from absl.testing import flagsaver


def main() -> None:
    """Answer each list of flags with exit status, output and the programs that were compiled."""
    compiled: list[str] = []

    def listen(event: str, duration_secs: float, **details: Any) -> None:
        if "backend_compile" in event:
            # The function's name, with or without "jit()" around it by the release of JAX.
            compiled.append(str(details.get("fun_name")).removeprefix("jit(").removesuffix(")"))

    jax.monitoring.register_event_duration_secs_listener(listen)
    module = importlib.import_module(f"experiments.{sys.argv[1]}")
    launch = importlib.import_module("experiments.launch")
    outcomes = []
    for arguments in json.load(sys.stdin):
        compiled.clear()
        output, errors, status = io.StringIO(), io.StringIO(), 0
        saved = flagsaver.save_flag_values(flags.FLAGS)
        sys.argv = ["launcher", *arguments]
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            try:
                launch.run(module.main, launch.parse(sys.argv))
            except SystemExit as stop:
                status = stop.code
            except BaseException:
                status = 1
                traceback.print_exc()
        flagsaver.restore_flag_values(saved, flags.FLAGS)
        outcomes.append(
            {
                "status": status,
                "output": output.getvalue(),
                "errors": errors.getvalue(),
                "compiled": compiled.copy(),
            }
        )
    json.dump(outcomes, sys.stdout)


if __name__ == "__main__":
    main()
