"""A module and an example: checked, run once, and exported where no equal run was before.

What is kept is found by what the module did: every operation of the run, with its numbers and with
the values of every tensor that was there before. So nothing outdated is ever taken, whichever file
a weight or a line of code has come from, and the costly part, the export, is done once.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakIdKeyDictionary

from featvis_jax.importers.torch import exporters
from featvis_jax.importers.torch.complaints import said

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)
_SHAPE = "X,Y,CHANNELS (3-D: X,Y,Z,CHANNELS)"


def captured(made: Any, image_shape: Sequence[int] | None, *, shown: str) -> Captured | None:
    """What a user's function has returned, ready to be exported.

    Args:
      made: A module, or a module and an example (`conversion.function_network`).
      image_shape: ``(*spatial, channels)`` for a module that comes alone.
      shown: What it came from, for errors.

    Returns:
      None for what is no module.

    Raises:
      ValueError: There is no example, or it is no image.
    """
    match made:
        case nn.Module():
            module, example = made, image_shape
        case (nn.Module() as module, example):
            pass
        case _:
            return None
    # What compiles or distributes a module names its parts otherwise, and cannot be exported.
    module = getattr(module, "_orig_mod", module)
    if isinstance(module, _WRAPPERS):
        module = module.module
    if example is None:
        raise ValueError(
            f"{shown}: the network does not tell the shape of its images{_first_layer(module)}: "
            f"give image_shape, or --input_shape={_SHAPE}."
        )
    module.eval()
    return Captured(module, _inputs(example, shown), shown)


def _first_layer(module: nn.Module) -> str:
    """What its first convolution says of them."""
    for name, weight in module.named_parameters():
        if weight.ndim in (4, 5):
            axes = ", ".join("XYZ"[: weight.ndim - 2])
            return f", perhaps ({axes}, {weight.shape[1]}) by {name} {tuple(weight.shape)}"
    return ""


def _inputs(example: Any, shown: str) -> tuple[torch.Tensor, ...]:
    if isinstance(example, torch.Tensor):
        example = (example,)
    is_list = isinstance(example, (tuple, list))
    if is_list and example and all(isinstance(part, torch.Tensor) for part in example):
        image, *others = example
        if image.ndim not in (4, 5) or image.shape[0] != 1:
            raise ValueError(
                f"{shown}: the first tensor of the example has the shape {tuple(image.shape)}; "
                "expected one image, (1, channels, *spatial) with 2 or 3 spatial axes."
            )
        return (image.detach().cpu().float(), *(other.detach().cpu() for other in others))
    if not is_list or not all(isinstance(size, int) for size in example):
        raise ValueError(
            f"{shown}: the example is {type(example).__name__}; expected a tensor, a tuple of "
            "tensors or the shape of an image, (*spatial, channels)."
        )
    if len(example) not in (3, 4) or min(example) < 1:
        batch = len(example) == 5
        fix = f"; here ({', '.join(map(str, (*example[2:], example[1])))})" if batch else ""
        raise ValueError(
            f"{shown}: {tuple(example)} is not the shape of an image; expected (X, Y, CHANNELS) or "
            f"(X, Y, Z, CHANNELS){fix}."
        )
    *spatial, channels = example
    draws = torch.Generator().manual_seed(0)
    # An image of noise: no module takes a way of its own for it, as it may for zeros.
    return (torch.rand(1, channels, *spatial, generator=draws),)


class Captured(NamedTuple):
    """What is to be exported.

    Attributes:
      module: In evaluation mode, if it has modes.
      inputs: The image, ``(1, channels, *spatial)``, and what else it takes.
      shown: What it came from, for errors.
      program: The exported program that the module was made from.
    """

    module: nn.Module
    inputs: tuple[torch.Tensor, ...]
    shown: str
    program: torch.export.ExportedProgram | None = None

    def exported(self, cache: Path) -> str:
        """Path of an ONNX file of it, below a directory that keeps them.

        Raises:
          ValueError: The module cannot be run or exported.
        """
        _refuse_dtypes(self.module, self.shown)
        self.module.cpu()
        place = cache / self._digest()
        _refuse_values(self.module, self.shown)
        path = place / "network.onnx"
        if not path.is_file():
            with tempfile.TemporaryDirectory(dir=cache, ignore_cleanup_errors=True) as partial:
                whole = Path(partial, "whole")
                whole.mkdir()
                exporters.export(
                    self.program or self.module, self.inputs, whole / path.name, shown=self.shown
                )
                _move(whole, place)
        return str(path)

    def _digest(self) -> str:
        """SHA-256 over all that decides the file: the run, the names, and who writes it down."""
        record = _Record()
        record.number(self.inputs[0])
        try:
            with torch.no_grad(), record:
                self.module(*self.inputs)
        except Exception as error:
            shapes = " and ".join(str(tuple(part.shape)) for part in self.inputs)
            raise ValueError(
                f"{self.shown}: the network fails on an example of shape {shapes}, channels first: "
                f"{said(error)}"
            ) from error
        names = [(name, type(part).__qualname__) for name, part in self.module.named_modules()]
        writers = [importlib.metadata.version(name) for name in ("torch", "onnxscript")]
        # Two programs may do the same on an image, and differ in names and in what they leave open.
        graph = "" if self.program is None else str(self.program)
        shape = tuple(self.inputs[0].shape)
        record.digest.update(f"{shape} {names} {writers} {graph}".encode())
        record.digest.update(Path(exporters.__file__).read_bytes())
        return record.digest.hexdigest()[:40]


class _Record(TorchDispatchMode):
    """Takes down every operation of a run.

    A tensor of the run is told by its place in the order in which they came up; one that was there
    before, a weight or a constant, by its values.
    """

    def __init__(self):
        super().__init__()
        self.digest = hashlib.sha256()
        self._numbers = WeakIdKeyDictionary()
        self._count = 0

    def number(self, tensor: torch.Tensor) -> None:
        """Know a tensor from now on."""
        self._numbers[tensor] = self._count
        self._count += 1

    def _told(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if value not in self._numbers:
            self.number(value)
            array = value.detach().contiguous().numpy()
            self.digest.update(f"{array.dtype}{array.shape}".encode())
            self.digest.update(array.data)
        return f"tensor {self._numbers[value]}"

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        told = tree_map(self._told, (args, kwargs or {}))
        self.digest.update(f"{func}{told}".encode())
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and tensor not in self._numbers:
                self.number(tensor)
        return made


def _tensors(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


def _refuse_dtypes(module: nn.Module, shown: str) -> None:
    for name, tensor in _tensors(module):
        if tensor.is_meta:
            raise ValueError(
                f"{shown}: its weight {name} has a shape and no values (it is on the device meta): "
                "load the weights first."
            )
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ValueError(
                f"{shown}: its weight {name} is {kind}; expected float32, in which all is computed "
                "here: make it so with module.float()."
            )


def _refuse_values(module: nn.Module, shown: str) -> None:
    """Refuse weights that are no numbers; a buffer may hold infinities, as a mask of attention."""
    buffers = dict(module.named_buffers())
    for name, tensor in _tensors(module):
        wrong = tensor.isnan() if name in buffers else ~tensor.isfinite()
        if count := int(wrong.sum()):
            raise ValueError(
                f"{shown}: {count} of the {tensor.numel()} values of its weight {name} are not "
                "finite: take a checkpoint from before the training diverged."
            )


def _move(whole: Path, place: Path) -> None:
    """Put what is complete in its place, on the disk for good."""
    for file in whole.iterdir():
        with file.open("rb") as written:
            os.fsync(written.fileno())
    try:
        whole.rename(place)
    except OSError:
        if not place.is_dir():  # Else another process was faster, with the same.
            raise
