"""Reads a file as the launcher does that a flag names it for."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from absl import flags
from absl.testing import flagsaver

from experiments import graded_pictures, grid_flags, image_flags, objective_flags
from featvis_jax.data.grids import Grid

FLAGS_OF_FILES = ("mask", "attention", "start_image", "images")
# Defined where they are imported.
assert image_flags and objective_flags


def read_by_flag(flag: str, path: Path, grid: Grid, channels: int) -> np.ndarray:
    """What the flag makes of a file, `(*grid.shape, channels)`.

    Args:
      flag: One of `FLAGS_OF_FILES`.
      path: The file, alone in its folder.
      grid: Of the network's input.
      channels: Of its images.
    """
    if flag == "images":
        (picture,) = graded_pictures.of_directory(str(path.parent), "square", grid)
        return picture.load()
    model: Any = SimpleNamespace(grid=grid, image_shape=(*grid.shape, channels))
    saved = flagsaver.save_flag_values(flags.FLAGS)
    try:
        flags.FLAGS[flag].value = str(path)
        return grid_flags.read_image(flag, model, channels=channels)
    finally:
        flagsaver.restore_flag_values(saved, flags.FLAGS)
