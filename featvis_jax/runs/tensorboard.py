"""Scalars and images for TensorBoard, where they are asked for; its library is optional."""

import contextlib
import dataclasses
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from featvis_jax.options import Options, option
from featvis_jax.results.tables import UnitRecord


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorboardOptions(Options):
    """TensorBoard."""

    tensorboard: bool = option(
        False, "Also write scalars and images for TensorBoard, to `out`/tensorboard."
    )


class Events:
    """Where scalars and images go; unless it is asked for nowhere."""

    def __init__(self, writer: Any | None) -> None:
        """Keep the writer, if there is one."""
        self._writer = writer

    def scalar(self, name: str, value: float, *, step: int) -> None:
        """Write one number of a curve."""
        if self._writer is not None:
            self._writer.add_scalar(name, value, step)

    def image(self, name: str, picture: np.ndarray, *, step: int) -> None:
        """Write a picture, uint8 (rows, columns), in colour (rows, columns, 3)."""
        if self._writer is not None:
            self._writer.add_image(
                name, picture, step, dataformats="HW" if picture.ndim == 2 else "HWC"
            )

    def flush(self) -> None:
        """Put what was written on the disk."""
        if self._writer is not None:
            self._writer.flush()


def image_name(record: UnitRecord, *, variants: int) -> str:
    """Where an image of a run is found: by its layer, its channel and, among several, its variant.

    Args:
      record: Of the image.
      variants: Images that each unit of the run has.

    Example:
      >>> rest = ("alive", 0.0, 1.0, 0.0, 0.0, 1.0, 256, 1.0, 0)
      >>> image_name(UnitRecord("conv5", 3, *rest, variant=2), variants=4)
      'conv5/0003/variant2'
    """
    name = f"{record.layer}/{record.channel:04d}"
    return name if variants == 1 else f"{name}/variant{record.variant}"


def library(asked: bool) -> Any | None:
    """The library that writes events.

    Args:
      asked: Whether it is wanted; otherwise it is None.

    Raises:
      ValueError: It is missing.
    """
    if not asked:
        return None
    try:
        return importlib.import_module("tensorboardX")
    except ImportError as error:
        raise ValueError(
            "`tensorboard` needs the package tensorboardX: install it with "
            "python -m pip install -e '.[tensorboard]', or leave it out."
        ) from error


@contextlib.contextmanager
def events(out: Path, *, asked: bool) -> Iterator[Events]:
    """Open a log in a directory of results for the length of a `with` block.

    Args:
      out: The directory of the results.
      asked: Whether there is to be one.
    """
    found = library(asked)
    if found is None:
        yield Events(None)
        return
    # Each process appends to a file of its own; a reader joins them by step.
    with found.SummaryWriter(str(out / "tensorboard")) as writer:
        yield Events(writer)
