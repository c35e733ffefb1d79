"""Has networks of PyTorch converted, and reads the ONNX files that come of it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from featvis_jax.importers.torch.archives import Content, content
from featvis_jax.importers.torch.asked import require_torch
from featvis_jax.importers.torch.explained import Weights
from featvis_jax.nn.network import Network

_ROOT = Path(__file__).resolve().parents[3]


def function_network(
    path: Path, name: str, *, image_shape: Sequence[int] | None = None
) -> Network | None:
    """The network that a function of a Python file returns, if it is one of PyTorch.

    The function returns a `torch.nn.Module`, or that and an example: a tensor ``(1, channels,
    *spatial)``, a tuple of tensors of which the first is the image and the others stay as they are,
    or ``(*spatial, channels)``. The module is run once on the CPU, in evaluation mode, and exported
    where nothing is kept of an equal run (`featvis_jax.importers.torch.capture`). PyTorch and the
    file are in a process of their own.

    Args:
      path: The file.
      name: The function's, without arguments.
      image_shape: ``(*spatial, channels)``, where the function does not give an example.

    Returns:
      None where the function returns something else.

    Raises:
      FileNotFoundError: There is no such file.
      ValueError: The function fails, or its module cannot be converted.
    """
    shown = f"{path}:{name}"
    with _converted(
        shown, "function", path=str(path), name=name, image_shape=image_shape
    ) as answer:
        return None if "network" not in answer else _read(answer, shown)


def file_network(path: Path, *, image_shape: Sequence[int] | None = None) -> Network:
    """The network in a file of `torch.export.save` or of `torch.jit.save` (TorchScript).

    Nothing in it is unpickled (`featvis_jax.importers.torch.programs`).

    Args:
      path: The file.
      image_shape: ``(*spatial, channels)``. TorchScript never tells it; an exported program does,
        but for axes that it leaves open.

    Raises:
      FileNotFoundError: There is no such file.
      ValueError: It cannot be read or converted.
    """
    job = "program" if content(path) is Content.PROGRAM else "script"
    with _converted(str(path), job, path=str(path), image_shape=image_shape) as answer:
        return _read(answer, str(path), image_shape if job == "program" else None)


def bundle_network(directory: Path, *, image_shape: Sequence[int] | None = None) -> Network:
    """The network of a MONAI bundle, with its weights.

    Args:
      directory: Of the bundle, with ``configs`` and ``models``.
      image_shape: ``(*spatial, channels)``, where the bundle's metadata leave it open.

    Raises:
      FileNotFoundError: A file of the bundle is missing.
      ValueError: Its configuration asks for more than modules of MONAI and PyTorch, or its network
        cannot be converted.
    """
    shown = str(directory)
    with _converted(shown, "bundle", directory=shown, image_shape=image_shape) as answer:
        return _read(answer, shown)


def held_weights(path: Path) -> Weights:
    """Which weights a file of `torch.save` holds. Nothing in it is unpickled but tensors.

    Args:
      path: The file.

    Raises:
      ValueError: It cannot be read.
    """
    with _converted(str(path), "weights", path=str(path)) as answer:
        return Weights(**answer["weights"])


@contextlib.contextmanager
def _converted(shown: str, job: str, **arguments: Any) -> Iterator[dict[str, Any]]:
    """What the other process answers; a file that it names is there within the `with` block."""
    require_torch(shown)
    with _cache() as cache:
        request = {"job": job, "cache": str(cache), **arguments}
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(
                filter(None, [str(_ROOT), os.environ.get("PYTHONPATH", "")])
            ),
            # A file that imports JAX too may not take an accelerator from this process.
            "JAX_PLATFORMS": "cpu",
        }
        ended = subprocess.run(
            [sys.executable, "-m", "featvis_jax.importers.torch.worker"],
            input=json.dumps(request),
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        if ended.returncode or not ended.stdout:
            raise ValueError(
                f"{shown}: the process that converts it ended with status {ended.returncode}; "
                "it has said why above, unless the system killed it for want of memory."
            )
        answer = json.loads(ended.stdout)
        if "error" in answer:
            raise ValueError(answer["error"])
        yield answer


@contextlib.contextmanager
def _cache() -> Iterator[Path]:
    """Where conversions are kept: for good if the user's cache can be written, else not at all."""
    directory = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    try:
        directory = directory.expanduser() / "featvis_jax" / "networks"
        directory.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
    except (OSError, RuntimeError):  # Without a home, "~" is a RuntimeError.
        with tempfile.TemporaryDirectory(prefix="featvis_jax-") as temporary:
            yield Path(temporary)
    else:
        yield directory


def _read(answer: dict[str, Any], shown: str, image_shape: Sequence[int] | None = None) -> Network:
    from featvis_jax.importers.onnx import onnx_network  # With ONNX, when there is a file of it.

    path = Path(answer["network"])
    try:
        return onnx_network(path, image_shape=image_shape)
    except ValueError as error:
        # The user has never seen this file.
        raise ValueError(f"{shown}: {str(error).removeprefix(f'{path}: ')}") from error
