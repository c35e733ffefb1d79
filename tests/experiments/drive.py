"""Runs one command with many lists of flags in one process, since starting one takes seconds.

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

from featvis_jax.commands import launch


def main() -> None:
    """Answer each list of flags with exit status, output and the programs that were compiled."""
    compiled: list[str] = []

    def listen(event: str, duration_secs: float, **details: Any) -> None:
        if "backend_compile" in event:
            # The function's name, with or without "jit()" around it by the release of JAX.
            compiled.append(str(details.get("fun_name")).removeprefix("jit(").removesuffix(")"))

    jax.monitoring.register_event_duration_secs_listener(listen)
    command = importlib.import_module(f"featvis_jax.commands.{sys.argv[1]}").COMMAND
    outcomes = []
    for arguments in json.load(sys.stdin):
        compiled.clear()
        output, errors, status = io.StringIO(), io.StringIO(), 0
        sys.argv = ["launcher", *arguments]
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            try:
                launch.run(command, sys.argv)
            except SystemExit as stop:
                status = stop.code
            except BaseException:
                status = 1
                traceback.print_exc()
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
