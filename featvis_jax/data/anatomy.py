"""Planted anatomy: a place that grows or shrinks in one class, and elsewhere in the other.

Lesions are textures that no healthy brain has. Most of what networks read from brains is anatomy:
which structure is larger, which is thinner. Here a scan is warped so that what lies at a place
takes more room, or less, and nothing else tells the classes apart: both are seen through a random
smooth warp, and both have as many places that change. A picture of such a network can be held
against what was planted, place by place (`featvis_jax.evaluation.growth`).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64
from nibabel.affines import apply_affine, voxel_sizes
from scipy import ndimage

from featvis_jax.data.grids import Grid
from featvis_jax.data.lesions import NoRoomError
from featvis_jax.data.masks import brain_mask
from featvis_jax.data.pipeline import Examples

CUES = ("shape", "brightness", "pattern")
"""What tells the classes apart: how large a place is, how bright, or sizes all over the brain."""

# The random warp that every image is seen through: from one of its points to the next, and how far
# they move.
_POINTS_MM, _MOVES_MM = 30.0, 1.5
# The warp all over the brain that is one class's.
_PATTERN_MM = 3.0
# How far from the middle of a place an axial slice may lie, as a share of the radius.
_SLICE_REACH = 0.3
_MAX_TRIES = 1000
_CHANGES = {"shape": (0.3, 1.0), "brightness": (0.1, 0.4), "pattern": (0.5, 1.0)}

Point = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class PlantedAnatomy:
    """What tells two classes apart.

    Attributes:
      grows: Places that grow in the class that has them, or get brighter, in mm of the world.
      shrinks: Places that shrink, or get darker.
      radius_mm: Beyond it nothing changes.
      change: Smallest and largest change at the middle of a place, as a share: 0.5 makes a volume
        (the area of a slice) half as large again, or the brightness; where it shrinks, it is
        divided by that. Of a pattern, its share of a displacement of 3 mm (root mean square). None
        takes what is usual for the cue.
      cue: One of `CUES`. A network that learns brightness is a control: it knows nothing of shape.
      decoys: Fewest and most further places in images of both classes that change in the same way,
        each somewhere else in every image.
      seed: Of the pattern.

    Raises:
      ValueError: A number is out of range, or there is no place.

    Example:
      >>> PlantedAnatomy(grows=((0.0, 18.0, 8.0),)).usual_change
      (0.3, 1.0)
    """

    grows: tuple[Point, ...] = ()
    shrinks: tuple[Point, ...] = ()
    radius_mm: float = 26.0
    change: tuple[float, float] | None = None
    cue: str = "shape"
    decoys: tuple[int, int] = (0, 2)
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers once."""
        if self.cue not in CUES:
            raise ValueError(f"cue is {self.cue!r}; expected one of {', '.join(CUES)}.")
        if bool(self.places) == (self.cue == "pattern"):
            raise ValueError(
                f"cue is {self.cue!r} with {len(self.places)} places that grow or shrink; expected "
                + ("none." if self.places else "one or more.")
            )
        if not 0 < self.radius_mm < math.inf:
            raise ValueError(f"radius_mm is {self.radius_mm}; expected a positive number.")
        low, high = self.usual_change
        if not 0 < low <= high <= 2:
            raise ValueError(f"change is {self.change}; expected 0 < smallest <= largest <= 2.")
        if not 0 <= self.decoys[0] <= self.decoys[1]:
            raise ValueError(f"decoys is {self.decoys}; expected 0 <= fewest <= most.")

    @property
    def places(self) -> tuple[tuple[Point, int], ...]:
        """Every place with 1 if it grows and -1 if it shrinks."""
        return (*((each, 1) for each in self.grows), *((each, -1) for each in self.shrinks))

    @property
    def usual_change(self) -> tuple[float, float]:
        """Smallest and largest change."""
        return self.change or _CHANGES[self.cue]

    @property
    def slices_mm(self) -> tuple[float, float] | None:
        """Between which heights axial slices show the places; None for all heights."""
        heights = [place[2] for place, _ in self.places]
        if not heights:
            return None
        reach = _SLICE_REACH * self.radius_mm
        return min(heights) - reach, max(heights) + reach


@dataclasses.dataclass(frozen=True, eq=False)
class AnatomyTask:
    """Tell images in which a place has changed from those in which another one has.

    Every image of the source gives a pair under one random warp: the same change, somewhere else in
    the first and at the planted place in the second. What the whole head has of every tissue thus
    says nothing, and neither does a place that changes: only which one.

    Attributes:
      planted: What tells the classes apart.
      grid: Of the images.

    Raises:
      ValueError: A place is not on the grid.
    """

    planted: PlantedAnatomy
    grid: Grid
    class_names = ("elsewhere", "here")
    images_per_element = 2

    def __post_init__(self) -> None:
        """Refuse places that no image shows."""
        for place, _ in self.planted.places:
            voxel = self._voxel(place)
            if not all(0 <= at < side for at, side in zip(voxel, self.grid.shape, strict=True)):
                raise ValueError(
                    f"the place {_told(place)} mm lies outside of the images, which have "
                    f"{'x'.join(map(str, self.grid.shape))} voxels: give one inside, or a larger "
                    "crop."
                )

    @functools.cached_property
    def voxel_size_mm(self) -> float:
        """Distance between neighbouring voxels."""
        assert self.grid.affine is not None
        return float(voxel_sizes(self.grid.affine)[0])

    def examples(
        self,
        image: Float32[np.ndarray, "*spatial 1"],
        owner: str,
        rng: np.random.Generator,
        difficulty: float,
    ) -> Examples:
        """The pair made from one image; easy ones change as much as any may.

        Raises:
          NoRoomError: The brain is too small for as many places.
        """
        del owner
        low, high = self.planted.usual_change
        share = rng.uniform(low, high) if rng.random() < difficulty else high
        background = self._smooth(rng, _MOVES_MM)
        if self.planted.cue == "pattern":
            other = np.random.default_rng(rng.integers(2**32))
            moves = (self._smooth(other, share * _PATTERN_MM), share * self._pattern)
            pair = [_warped(image, background + each) for each in moves]
        else:
            here = self._here
            signs = [sign for _, sign in here]
            more = rng.integers(self.planted.decoys[0], self.planted.decoys[1] + 1)
            decoys = [*signs, *(int(sign) for sign in rng.choice(signs, more))]
            found = self._elsewhere(image, rng, [at for at, _ in here], len(decoys))
            elsewhere = list(zip(found, decoys, strict=True))
            both = elsewhere[len(here) :]
            pair = [
                self._changed(image, background, [*both, *own], share)
                for own in (elsewhere[: len(here)], here)
            ]
        return {"image": np.stack(pair), "label": np.array([0, 1], np.int32)}

    def check_room(
        self, image: Float32[np.ndarray, "*spatial 1"], rng: np.random.Generator
    ) -> None:
        """Make sure that an image has room for as many places as it may have to have.

        Raises:
          NoRoomError: It has not.
        """
        here = [middle for middle, _ in self._here]
        if here:
            self._elsewhere(image, rng, here, len(here) + self.planted.decoys[1])

    def changed(
        self, image: Float32[np.ndarray, "*spatial 1"], share: float
    ) -> Float32[np.ndarray, "*spatial 1"]:
        """An image with the planted change and nothing else.

        Args:
          image: Intensities on [0, 1].
          share: How large the change is, as in `PlantedAnatomy.change`.
        """
        if self.planted.cue == "pattern":
            return _warped(image, share * self._pattern)
        still = np.zeros((len(self.grid.shape), *self.grid.shape))
        return self._changed(image, still, self._here, share)

    def log_growth(self, share: float) -> Float64[np.ndarray, "*spatial"]:
        """What is planted: the logarithm of the ratio of volumes, or of the brightness, by place.

        Args:
          share: How large the change is, as in `PlantedAnatomy.change`.

        Returns:
          ``(*spatial,)``, at voxels of the changed image.
        """
        if self.planted.cue == "pattern":
            return _log_growth(share * self._pattern)
        if self.planted.cue == "brightness":
            return self._log_brightness(self._here, share)
        return _log_growth(self._growing(self._here, share))

    def within(self, place: Point, share: float = 1.0) -> Bool[np.ndarray, "*spatial"]:
        """Where a place is: within a share of its radius.

        Args:
          place: Its middle, in mm of the world.
          share: Of the radius.
        """
        return self._distance(self._voxel(place)) < share * self.planted.radius_mm

    @functools.cached_property
    def _here(self) -> list[tuple[np.ndarray, int]]:
        """The middle of every planted place, in voxels, with its sign."""
        return [(self._voxel(place), sign) for place, sign in self.planted.places]

    def _voxel(self, place: Point) -> np.ndarray:
        assert self.grid.affine is not None
        return apply_affine(np.linalg.inv(self.grid.affine), place)[: len(self.grid.shape)]

    def _distance(self, voxel: np.ndarray) -> np.ndarray:
        """Of every voxel from one, in mm."""
        return self.voxel_size_mm * np.sqrt((self._offsets(voxel) ** 2).sum(axis=0))

    def _offsets(self, voxel: np.ndarray) -> np.ndarray:
        """Of every voxel from one, in voxels: ``(rank, *spatial)``."""
        return np.indices(self.grid.shape) - voxel.reshape(-1, *[1] * len(self.grid.shape))

    def _changed(
        self,
        image: np.ndarray,
        background: np.ndarray,
        places: Sequence[tuple[np.ndarray, int]],
        share: float,
    ) -> np.ndarray:
        if self.planted.cue == "shape":
            return _warped(image, background + self._growing(places, share))
        ratio = np.exp(self._log_brightness(places, share)).astype(np.float32)
        return np.clip(_warped(image, background) * ratio[..., None], 0, 1)

    def _growing(self, places: Sequence[tuple[np.ndarray, int]], share: float) -> np.ndarray:
        """The displacement, in voxels, that makes places larger or smaller.

        Read a share a closer to the middle, what lies there is drawn larger: by 1 / (1 - a)^n.
        """
        rank = len(self.grid.shape)
        total = np.zeros((rank, *self.grid.shape))
        for middle, sign in places:
            closer = 1 - (1 + share) ** (-sign / rank)
            total -= closer * self._bump(middle) * self._offsets(middle)
        return total

    def _log_brightness(
        self, places: Sequence[tuple[np.ndarray, int]], share: float
    ) -> Float64[np.ndarray, "*spatial"]:
        total = np.zeros(self.grid.shape)
        for middle, sign in places:
            total += sign * math.log1p(share) * self._bump(middle)
        return total

    def _bump(self, middle: np.ndarray) -> np.ndarray:
        """1 in the middle of a place, and 0 from its radius on, with slopes that are smooth."""
        inside = np.clip(1 - (self._distance(middle) / self.planted.radius_mm) ** 2, 0, None)
        return inside**2

    def _elsewhere(
        self, image: np.ndarray, rng: np.random.Generator, here: list[np.ndarray], count: int
    ) -> list[np.ndarray]:
        """Places in the brain, a radius from the planted ones and from each other."""
        inside = np.argwhere(brain_mask(image[..., 0]))
        taken, found = list(here), []
        for _ in range(_MAX_TRIES if len(inside) else 0):
            if len(found) == count:
                break
            middle = inside[rng.integers(len(inside))].astype(np.float64)
            apart = [self.voxel_size_mm * np.linalg.norm(middle - other) for other in taken]
            if min(apart) >= self.planted.radius_mm:
                found.append(middle)
                taken.append(middle)
        if len(found) < count:
            raise NoRoomError(
                f"No room for {len(here)} planted places and {count} elsewhere with a radius of "
                f"{self.planted.radius_mm:g} mm in an image of {self.grid.shape} voxels: take a "
                "smaller radius or fewer decoys."
            )
        return found

    @functools.cached_property
    def _pattern(self) -> np.ndarray:
        """The displacement all over the brain, in voxels."""
        return self._smooth(np.random.default_rng([self.planted.seed, 7]), _PATTERN_MM)

    def _smooth(self, rng: np.random.Generator, rms_mm: float) -> np.ndarray:
        """A random smooth displacement, in voxels: ``(rank, *spatial)``."""
        rank = len(self.grid.shape)
        sides = [math.ceil(side * self.voxel_size_mm / _POINTS_MM) + 1 for side in self.grid.shape]
        points = rng.standard_normal((rank, *sides))
        zoom = [fine / coarse for fine, coarse in zip(self.grid.shape, sides, strict=True)]
        field = np.stack([np.asarray(ndimage.zoom(each, zoom, order=3)) for each in points])
        length = math.sqrt(float((field**2).sum(axis=0).mean()))
        return rms_mm / self.voxel_size_mm / length * field


def described_anatomy(description: Mapping[str, Any], grid: Grid) -> AnatomyTask | None:
    """What was planted in the images that a model was trained on, from what its card tells.

    Args:
      description: The card's entry ``data``.
      grid: Of the model's images.

    Returns:
      The task; ``None`` where no anatomy was planted.
    """
    told = description.get("planted")
    if told is None:
        return None
    options = {name: _as_tuples(value) for name, value in told.items()}
    return AnatomyTask(PlantedAnatomy(**options), grid)


def _as_tuples(value: Any) -> Any:
    """What JSON has made a list of, as it was."""
    return tuple(_as_tuples(each) for each in value) if isinstance(value, list) else value


def _warped(image: np.ndarray, displacement: np.ndarray) -> np.ndarray:
    """The image read at x + u(x), linearly, as `featvis_jax.maximize.warps` reads it."""
    places = np.indices(image.shape[:-1]) + displacement
    return np.stack(
        [
            ndimage.map_coordinates(image[..., channel], places, order=1, mode="nearest")
            for channel in range(image.shape[-1])
        ],
        axis=-1,
    )


def _log_growth(displacement: np.ndarray) -> Float64[np.ndarray, "*spatial"]:
    """The logarithm of 1 / det(d(x + u) / dx), by central differences."""
    rank = len(displacement)
    slopes = [
        np.stack([np.asarray(np.gradient(each, axis=axis)) for axis in range(rank)], axis=-1)
        for each in displacement
    ]
    matrices = np.stack(slopes, axis=-2) + np.eye(rank)
    return -np.log(np.linalg.det(matrices))


def _told(place: Sequence[float]) -> str:
    return ",".join(f"{at:g}" for at in place)
