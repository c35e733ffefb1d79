"""The process that runs PyTorch: reads a request from its input, prints the answer, both JSON.

    python -m featvis_jax.importers.torch.worker

JAX is never imported here, unless a user's file does it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from featvis_jax.importers.python_files import call_function
from featvis_jax.importers.torch import bundles, checkpoints, programs
from featvis_jax.importers.torch.capture import captured

Shape = Sequence[int] | None


def function(path: str, name: str, image_shape: Shape, cache: str) -> dict[str, Any]:
    """Convert the module that a function returns, if it returns one."""
    made = call_function(Path(path), name)
    found = captured(made, image_shape, shown=f"{path}:{name}")
    return {} if found is None else {"network": found.exported(Path(cache))}


def script(path: str, image_shape: Shape, cache: str) -> dict[str, Any]:
    """Convert TorchScript."""
    module = programs.read_script(Path(path))
    found = captured(module, image_shape, shown=path)
    assert found is not None
    return {"network": found.exported(Path(cache))}


def program(path: str, image_shape: Shape, cache: str) -> dict[str, Any]:
    """Convert an exported program."""
    return {"network": programs.read_program(Path(path)).exported(Path(cache))}


def bundle(directory: str, image_shape: Shape, cache: str) -> dict[str, Any]:
    """Convert the network of a MONAI bundle."""
    module, shape = bundles.network(Path(directory))
    found = captured(module, image_shape or shape, shown=directory)
    assert found is not None
    return {"network": found.exported(Path(cache))}


def weights(path: str, cache: str) -> dict[str, Any]:
    """Tell which weights a checkpoint holds."""
    return {"weights": checkpoints.held(Path(path))._asdict()}


_JOBS = {
    "function": function,
    "script": script,
    "program": program,
    "bundle": bundle,
    "weights": weights,
}


def main() -> None:
    """Answer one request."""
    # What a user's code prints is for the user; the answer goes where no print does.
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        request = json.load(sys.stdin)
        try:
            answer = _JOBS[request.pop("job")](**request)
        except (ValueError, OSError) as error:
            answer = {"error": str(error)}
        json.dump(answer, answers, default=str)


if __name__ == "__main__":
    main()
