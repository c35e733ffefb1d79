"""Regions of the brain, by the numbers in a label image: which one does a point lie in?"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Float64, Int32

from featvis_jax.data.errors import VolumeError
from featvis_jax.data.grids import Grid
from featvis_jax.data.headers import NIFTI_SUFFIXES
from featvis_jax.data.participants import number
from featvis_jax.data.volumes import load_volume


class Regions(NamedTuple):
    """A label image.

    Attributes:
      labels: A whole number at every voxel, 0 outside of all regions.
      affine: Voxel indices to mm.
      names: Of the numbers, as far as they are known.
    """

    labels: Float32[np.ndarray, "x y z"]
    affine: Float64[np.ndarray, "4 4"]
    names: Mapping[int, str]

    def at(self, points_mm: Float[np.ndarray, "points 3"]) -> list[str | None]:
        """The region that each point lies in: that of the nearest voxel; None for none.

        Args:
          points_mm: In the space of the image.

        Example:
          >>> labels = np.zeros((4, 4, 4), np.float32)
          >>> labels[2:] = 17
          >>> regions = Regions(labels, np.diag([2.0, 2, 2, 1]), {17: "Left-Hippocampus"})
          >>> regions.at(np.array([[5.2, 0, 0], [1, 0, 0], [90, 0, 0]]))
          ['Left-Hippocampus', None, None]
        """
        numbers = self._numbers(np.moveaxis(points_mm, -1, 0), np.linalg.inv(self.affine))
        return [self.name(int(label)) if label else None for label in numbers]

    def on(self, grid: Grid) -> Int32[np.ndarray, "*spatial"]:
        """The number of the region at each voxel of a grid, by its middle; 0 for none.

        Args:
          grid: In the space of the image, with an affine.

        Example:
          >>> labels = np.zeros((4, 4, 4), np.float32)
          >>> labels[2:] = 17
          >>> regions = Regions(labels, np.diag([2.0, 2, 2, 1]), {})
          >>> regions.on(Grid((5, 1), np.eye(4))).ravel().tolist()
          [0, 0, 0, 17, 17]
        """
        assert grid.affine is not None
        voxels = np.meshgrid(*(np.arange(n, dtype=np.float64) for n in grid.box), indexing="ij")
        found = self._numbers(voxels, np.linalg.inv(self.affine) @ grid.affine)
        return found.reshape(grid.shape)

    def name(self, label: int) -> str:
        """What a number stands for, or itself.

        Args:
          label: The number.
        """
        return self.names.get(label, str(label))

    def _numbers(
        self, places: Sequence[np.ndarray] | np.ndarray, to_voxels: Float64[np.ndarray, "4 4"]
    ) -> Int32[np.ndarray, ...]:
        """The labels at places along three axes, 0 beyond the image."""
        inside, flat = np.bool_(True), np.int64(0)
        for row, side in zip(to_voxels[:3], self.labels.shape, strict=True):
            along = sum(weight * place for weight, place in zip(row, places, strict=False)) + row[3]
            index = np.rint(along).astype(np.int64)
            inside = inside & (index >= 0) & (index < side)
            flat = flat * side + np.clip(index, 0, side - 1)
        labels = self.labels.reshape(-1)[flat]
        return np.where(inside, labels, 0).astype(np.int32)


def commonest(names: Sequence[str | None]) -> str | None:
    """The region that most points lie in, with how many; None if most lie in none.

    Args:
      names: Of `Regions.at`.

    Example:
      >>> commonest(["thalamus", None, "thalamus"]), commonest([None])
      ('thalamus (2 of 3)', None)
    """
    if not names:
        return None
    name, count = Counter(names).most_common(1)[0]
    return None if name is None else f"{name} ({count} of {len(names)})"


def read_regions(path: str | Path) -> Regions:
    """Read a label image, and the names of its numbers where a table of them lies beside it.

    Args:
      path: A NIfTI file of whole numbers. ``NAME.tsv`` beside ``NAME.nii.gz`` has the columns
        ``index`` and ``name``, as segmentations of BIDS have them.

    Raises:
      FileNotFoundError: There is no such file.
      VolumeError: It cannot be read, or holds other numbers; the message begins with the file.
    """
    path = Path(path)
    volume = load_volume(path)
    if not np.array_equal(volume.data, np.rint(volume.data)):
        raise VolumeError(
            f"{path}: its voxels are not whole numbers; expected a label image, with a number for "
            "each region and 0 elsewhere"
        )
    suffix = next(s for s in sorted(NIFTI_SUFFIXES, key=len)[::-1] if path.name.endswith(s))
    return Regions(
        volume.data, volume.affine, _names(path.with_name(path.name[: -len(suffix)] + ".tsv"))
    )


def _names(table: Path) -> dict[int, str]:
    """What a table calls the numbers; nothing where there is none."""
    if not table.is_file():
        return {}
    with table.open(newline="", encoding="utf-8-sig") as opened:
        rows = list(csv.DictReader(opened, dialect="excel-tab"))
    named = {}
    for line, row in enumerate(rows, start=2):
        index = number(row.get("index") or "")
        if index is None or not row.get("name"):
            raise VolumeError(
                f"{table}, line {line}: expected the columns index, a whole number, and name; got "
                f"{dict(row)}"
            )
        named[int(index)] = str(row["name"])
    return named
