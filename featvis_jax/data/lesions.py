"""Artificial lesions of any shape, in slices and volumes, drawn on the fly from a seed.

A lesion replaces tissue by a constant grey level. By default that level is one that the same brain
shows elsewhere, brighter or darker than the tissue under it, so that no single intensity and no
histogram gives a lesion away: a network has to look at shape (`featvis_jax.evaluation.baselines`
measures how far shape-blind classifiers get).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int
from scipy import ndimage

from featvis_jax.data.masks import brain_mask
from featvis_jax.data.shapes import Shape

# Attempts at a place and a grey level that fit; a brain offers one within the first few.
_MAX_TRIES = 1000
# An image that needs more than these is refused beforehand: where one attempt in fifty fits, all of
# a thousand fail once in 500 million lesions.
_TRIES_WITH_ROOM = 50
# Lesions stay inside the brain; at its border they may lose at most this share of their extent.
_MAX_CUT = 0.25


class _Tissue(NamedTuple):
    """An image, where its brain is with holes filled, the voxels in it, and their grey levels."""

    image: Float32[np.ndarray, "*spatial"]
    mask: Bool[np.ndarray, "*spatial"]
    places: Int[np.ndarray, "n rank"]
    levels: Float32[np.ndarray, " m"]

    @classmethod
    def of(cls, image: Float32[np.ndarray, "*spatial"]) -> _Tissue:
        """Find the brain of an image."""
        brain = brain_mask(image)
        if not brain.any():
            raise NoRoomError(
                "A lesion needs a brain, but the image is empty: leave such slices out "
                "(featvis_jax.data.masks.usable_slices)."
            )
        filled = np.asarray(ndimage.binary_fill_holes(brain), bool)
        return cls(image, filled, np.argwhere(filled), image[brain])


class NoRoomError(ValueError):
    """An image that has no place for a lesion, or no grey level that differs enough."""


@dataclasses.dataclass(frozen=True)
class Lesions:
    """How lesions are drawn into an image.

    Attributes:
      shape: Maps coordinates, centre and size to a mask; one of `SHAPES` or your own function.
      voxel_size_mm: Distance between neighbouring voxels.
      count: Fewest and most lesions in one image, both included.
      size_mm: Smallest and largest size.
      min_contrast: Least difference between a lesion's level and the mean of the tissue that it
        covers, on [0, 1].
      polarity: ``"both"``, ``"bright"`` (brighter than the tissue) or ``"dark"``.
      easy_contrast: Range of the difference that an easy lesion has instead; a curriculum begins
        with these. Such a level may lie below 0 or above 1: cut off there, a bright lesion in
        bright tissue would be the faintest of all.
      whole: Whether the border of the image may cut none of them: a square of which a patch of a
        brain shows a part would be a bar.

    Raises:
      ValueError: A range is empty or an option unknown.

    Example:
      >>> from featvis_jax.data.shapes import square
      >>> rng = np.random.default_rng(0)
      >>> brain = 0.5 + 0.2 * rng.random((64, 64, 1), dtype=np.float32)
      >>> brain[:, :32] += 0.25
      >>> damaged, mask = Lesions(square).add(brain, rng)
      >>> damaged.shape, bool((damaged != brain)[mask == 0].any())
      ((64, 64, 1), False)
    """

    shape: Shape
    voxel_size_mm: float = 1.0
    count: tuple[int, int] = (1, 5)
    size_mm: tuple[float, float] = (9.0, 17.0)
    min_contrast: float = 0.3
    polarity: str = "both"
    easy_contrast: tuple[float, float] = (0.8, 0.8)
    whole: bool = False

    def __post_init__(self) -> None:
        """Check the options once, before anything is drawn."""
        if not 1 <= self.count[0] <= self.count[1]:
            raise ValueError(f"count is {self.count}; expected 1 <= fewest <= most.")
        if not 0 < self.size_mm[0] <= self.size_mm[1] < math.inf:
            raise ValueError(f"size_mm is {self.size_mm}; expected 0 < smallest <= largest.")
        if not 0 <= self.min_contrast < 1:
            raise ValueError(f"min_contrast is {self.min_contrast}; expected 0 <= it < 1.")
        if not 0 < self.easy_contrast[0] <= self.easy_contrast[1] < math.inf:
            raise ValueError(
                f"easy_contrast is {self.easy_contrast}; expected 0 < smallest <= largest."
            )
        if self.polarity not in ("both", "bright", "dark"):
            raise ValueError(f"polarity is {self.polarity!r}; expected 'both', 'bright' or 'dark'.")
        if not 0 < self.voxel_size_mm < math.inf:
            raise ValueError(f"voxel_size_mm is {self.voxel_size_mm}; expected a positive number.")

    def add(
        self,
        image: Float32[np.ndarray, "*spatial 1"],
        rng: np.random.Generator,
        *,
        difficulty: float = 1.0,
    ) -> tuple[Float32[np.ndarray, "*spatial 1"], Float32[np.ndarray, "*spatial 1"]]:
        """Draw lesions into a copy of an image.

        Lesions stay inside the brain. Centres are uniform over its voxels, sizes over their range,
        counts over theirs.

        Args:
          image: Intensities on [0, 1], ``(*spatial, 1)``.
          rng: Where all draws come from.
          difficulty: Chance of each lesion to be of the final kind; the others are easy ones.

        Returns:
          The image with lesions, on [0, 1] but for easy ones, and the largest of their masks at
          every voxel.

        Raises:
          NoRoomError: The image has no brain, or no lesion fits into it.
        """
        ((result, masks),) = self.add_each((self.shape,), image, rng, difficulty=difficulty)
        return result, masks

    def add_each(
        self,
        shapes: Sequence[Shape],
        image: Float32[np.ndarray, "*spatial 1"],
        rng: np.random.Generator,
        *,
        difficulty: float = 1.0,
    ) -> list[tuple[Float32[np.ndarray, "*spatial 1"], Float32[np.ndarray, "*spatial 1"]]]:
        """Draw the same lesions once for every one of several shapes, each into its own copy.

        Places, sizes and grey levels fit all shapes together and are the same in every copy, so
        that copies differ in the lesions' outlines and in nothing else.

        Args:
          shapes: One shape for every copy, in place of `shape`.
          image: Intensities on [0, 1], ``(*spatial, 1)``.
          rng: Where all draws come from.
          difficulty: Chance of each lesion to be of the final kind; the others are easy ones.

        Returns:
          For every shape what `add` returns.

        Raises:
          NoRoomError: The image has no brain, or no lesion fits into it.

        Example:
          >>> from featvis_jax.data.shapes import disc, square
          >>> rng = np.random.default_rng(0)
          >>> brain = rng.random((64, 64, 1), dtype=np.float32)
          >>> (a, _), (b, _) = Lesions(square).add_each((square, disc), brain, rng)
          >>> bool(0 < (a != b).sum() < min((a != brain).sum(), (b != brain).sum()))
          True
        """
        tissue = _Tissue.of(image[..., 0])
        results = [tissue.image.copy() for _ in shapes]
        masks = [np.zeros(tissue.image.shape, np.float32) for _ in shapes]
        for _ in range(rng.integers(self.count[0], self.count[1] + 1)):
            easy = rng.random() >= difficulty
            window, drawn, level = self._draw(shapes, tissue, rng, easy, _MAX_TRIES)
            for result, total, mask in zip(results, masks, drawn, strict=True):
                result[window] += mask * (level - result[window])
                total[window] = np.maximum(total[window], mask)
        return [(r[..., None], m[..., None]) for r, m in zip(results, masks, strict=True)]

    def check_room(
        self, image: Float32[np.ndarray, "*spatial 1"], rng: np.random.Generator
    ) -> None:
        """Make sure that `add` will find a place in an image, whatever is drawn.

        A place for one lesion of the final kind is searched with far fewer attempts than `add`
        makes, so that an image that passes will not fail later.

        Args:
          image: Intensities on [0, 1], ``(*spatial, 1)``.
          rng: Where all draws come from.

        Raises:
          NoRoomError: The image has no brain, or too few places for a lesion.
        """
        self._draw((self.shape,), _Tissue.of(image[..., 0]), rng, False, _TRIES_WITH_ROOM)

    def _draw(
        self,
        shapes: Sequence[Shape],
        brain: _Tissue,
        rng: np.random.Generator,
        easy: bool,
        max_tries: int,
    ) -> tuple[tuple[slice, ...], list[Float32[np.ndarray, "*window"]], float]:
        """One lesion: the window it lies in, its mask there in every shape, and its grey level."""
        for _ in range(max_tries):
            center = brain.places[rng.integers(len(brain.places))]
            size = rng.uniform(*self.size_mm)
            # A mask may reach past its nominal size (a soft edge); 1.5 sizes hold all of it.
            reach = math.ceil(1.5 * size / self.voxel_size_mm)
            box = tuple(slice(c - reach, c + reach + 1) for c in center)
            window, inside = _overlap(box, brain.image.shape)
            may_be_cut = self.whole and window != box
            if may_be_cut and any(self._sticks_out(s, box, inside, center, size) for s in shapes):
                continue
            drawn = [self._mask(shape, box, center, size) for shape in shapes]
            whole = [mask[inside] for mask in drawn]
            if may_be_cut and any(
                np.count_nonzero(part) < np.count_nonzero(mask)
                for part, mask in zip(whole, drawn, strict=True)
            ):
                continue
            masks = [mask * brain.mask[window] for mask in whole]
            if any(
                cut.sum() <= 0 or cut.sum() < (1 - _MAX_CUT) * mask.sum()
                for cut, mask in zip(masks, whole, strict=True)
            ):
                continue
            # The tissue under all shapes together, so that no level tells them apart.
            mask = np.maximum.reduce(masks)
            tissue = float((mask * brain.image[window]).sum() / mask.sum())
            brighter = self.polarity == "bright" or (self.polarity == "both" and rng.random() < 0.5)
            if easy:
                contrast = rng.uniform(*self.easy_contrast)
                return window, masks, tissue + (contrast if brighter else -contrast)
            # One of the brain's own grey levels, from the first of a few that are far enough.
            candidates = brain.levels[rng.integers(len(brain.levels), size=64)]
            contrast = candidates - tissue if brighter else tissue - candidates
            fitting = candidates[contrast >= self.min_contrast]
            if len(fitting):
                return window, masks, float(fitting[0])
        raise NoRoomError(
            f"No place for a lesion of {self.size_mm} mm with contrast {self.min_contrast} was "
            f"found in an image of shape {brain.image.shape} in {max_tries} tries: allow smaller "
            "lesions or less contrast."
        )

    def _sticks_out(
        self,
        shape: Shape,
        box: tuple[slice, ...],
        inside: tuple[slice, ...],
        center: np.ndarray,
        size: float,
    ) -> bool:
        """Whether a shape reaches out of a part of a box along an axis through its centre.

        It tells most of those that are cut, and a line is soon drawn.
        """
        middle = tuple(slice(c, c + 1) for c in center)
        for axis, (line, kept) in enumerate(zip(box, inside, strict=True)):
            along = (*middle[:axis], line, *middle[axis + 1 :])
            mask = self._mask(shape, along, center, size).ravel()
            if mask[: kept.start].any() or mask[kept.stop :].any():
                return True
        return False

    def _mask(
        self, shape: Shape, window: Sequence[slice], center: np.ndarray, size: float
    ) -> Float32[np.ndarray, "*window"]:
        axes = [np.arange(s.start, s.stop) * self.voxel_size_mm for s in window]
        coordinates = np.empty((len(axes), *map(len, axes)))
        for axis, positions in enumerate(np.ix_(*axes)):
            coordinates[axis] = positions
        mask = np.asarray(shape(coordinates, center * self.voxel_size_mm, size))
        expected = coordinates.shape[1:]
        is_numeric = mask.shape == expected and mask.dtype.kind in "biuf"
        if not (is_numeric and mask.min() >= 0 and mask.max() <= 1):
            values = f" on [{mask.min()}, {mask.max()}]" if is_numeric else ""
            raise ValueError(
                f"The lesion shape {getattr(shape, '__name__', shape)!r} returned an "
                f"array of {mask.dtype} and shape {mask.shape}{values}; expected a mask of shape "
                f"{expected} on [0, 1]."
            )
        return mask.astype(np.float32)


def _overlap(
    box: Sequence[slice], shape: Sequence[int]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """The part of a box that lies in an image, in voxels of the image and of the box."""
    ends = [(max(s.start, 0), min(s.stop, n)) for s, n in zip(box, shape, strict=True)]
    window = tuple(slice(*each) for each in ends)
    inside = tuple(slice(a - s.start, b - s.start) for (a, b), s in zip(ends, box, strict=True))
    return window, inside
