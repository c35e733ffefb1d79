"""Which weights a file of torch.save holds, found without running what it may hide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from featvis_jax.importers.torch.complaints import said
from featvis_jax.importers.torch.explained import Weights, weights_of

_LIGHTNING = "pytorch-lightning_version"


class _Standin:
    """Stands for an object that would take running code to make."""

    name = ""

    def __init__(self, *args: Any, **kwargs: Any):
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


def held(path: Path) -> Weights:
    """Which weights a checkpoint holds.

    PyTorch's unpickler of tensors alone reads it, with a stand-in for whatever is not a tensor.

    Args:
      path: The file.

    Raises:
      ValueError: It cannot be read, or there are no weights in it.
    """
    try:
        found, objects = _read(path)
    except Exception as error:
        if type(error).__name__ == "UnpicklingError":
            raise ValueError(
                f"{path} cannot be read as weights alone, and nothing else is unpickled here: save "
                "them again with torch.save(module.state_dict(), ...)."
            ) from error
        raise ValueError(f"{path} cannot be read as a file of torch.save: {said(error)}") from error
    if isinstance(found, _Standin):
        return Weights(0, "", (), _kernel(found), module=found.name, objects=objects)
    under, tensors = max(state_dicts(found), key=lambda pair: len(pair[1]), default=("", {}))
    if not tensors:
        raise ValueError(
            f"{path} holds {type(found).__name__} without any weights; expected a network."
        )
    is_lightning = isinstance(found, Mapping) and _LIGHTNING in found
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    return weights_of(shapes, under=under, lightning=is_lightning)._replace(objects=objects)


def _read(path: Path) -> tuple[Any, list[str]]:
    """What the file holds, and the types that were stood in for."""
    try:
        objects = get_unsafe_globals_in_checkpoint(path)
    except ValueError:  # Written before 2020: it has no table of contents.
        return torch.load(path, map_location="meta", weights_only=True), []
    standins: list[Any] = [
        (type("_Standin", (_Standin,), {"name": name}), name) for name in objects
    ]
    with safe_globals(standins):
        return torch.load(path, map_location="meta", weights_only=True), objects


def state_dicts(found: Any) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """Whatever holds tensors by their names, at the top or one key below it.

    Args:
      found: What a checkpoint holds.

    Yields:
      The key, empty for the top, and the tensors.
    """
    if not isinstance(found, Mapping):
        return
    for key, part in [("", found), *found.items()]:
        if isinstance(part, Mapping):
            tensors = {
                str(name): value for name, value in part.items() if isinstance(value, torch.Tensor)
            }
            if tensors:
                yield str(key), tensors


def _kernel(module: _Standin) -> tuple[int, ...] | None:
    """Shape of the first weight of a module that can be a convolution's."""
    parts = [module]
    while parts:
        state = parts.pop(0).state
        if not isinstance(state, Mapping):
            continue
        for weight in dict(state.get("_parameters") or {}).values():
            if isinstance(weight, torch.Tensor) and weight.ndim in (4, 5):
                return tuple(weight.shape)
        below = dict(state.get("_modules") or {}).values()
        parts[:0] = [part for part in below if isinstance(part, _Standin)]
    return None
