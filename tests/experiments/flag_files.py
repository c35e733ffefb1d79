"""Reads a file as a run does whose option names it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from featvis_jax.data.grids import Grid
from featvis_jax.data.volumes import load_on_grid
from featvis_jax.models import Model
from featvis_jax.runs import graded_pictures
from featvis_jax.runs.channels import read_channels

FLAGS_OF_FILES = ("mask", "attention", "start_image", "images")


def read_by_flag(flag: str, path: Path, grid: Grid, channels: int) -> np.ndarray:
    """What the option makes of a file, `(*grid.shape, channels)`.

    Args:
      flag: One of `FLAGS_OF_FILES`.
      path: The file, alone in its folder.
      grid: Of the network's input.
      channels: Of its images.
    """
    if flag == "images":
        (picture,) = graded_pictures.of_directory(str(path.parent), "square", grid)
        return picture.load()
    if flag == "start_image":
        network: Any = SimpleNamespace(image_shape=(*grid.shape, channels))
        model = Model(network, {"name": "m"}, grid.affine)
        return read_channels(flag, str(path), model)
    return load_on_grid(str(path), grid)
