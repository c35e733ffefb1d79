"""Patches of cached volumes: boxes of one size from anywhere in a brain.

What is small against a brain can be seen on fine voxels without all of the brain: a patch of
48 x 48 x 48 voxels of 2 mm is an eighth of a head. Where a patch lies means nothing to a network of
patches, so that a scan gives any number of them.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int32

from featvis_jax.data.cache import CachedVolume
from featvis_jax.data.grids import Placement
from featvis_jax.data.masks import brain_mask, usable_slices

# Patches hold at least this share of the brain that the fullest one holds.
_LEAST_BRAIN = 0.5
# Brains are measured, and starts listed, on every so many-th voxel of a patch's shortest side.
_STEPS = 8
# Patches that stand for a scan: twice as many as would hold its brain, within these bounds.
_TIMES_COVERED, _FEWEST, _MOST = 2, 8, 64
# Starts among which they are chosen; more would be no better spread.
_CHOSEN_FROM = 4096


@dataclasses.dataclass(frozen=True, eq=False)
class Patches:
    """Patches of some subjects, as a random-access source of images.

    Every subject has fixed ones, spread over the brain, by number; `drawn` gives others. All hold
    at least half of the brain that the subject's fullest patch holds, and reach nowhere out of the
    scan.

    Attributes:
      volumes: The subjects' cached volumes.
      shape: Of every patch; with two numbers it is one of a usable axial slice.
      placement: Whose axes a patch has, and which way they run; as the scan's by default. Where it
        starts means nothing.
      index: ``(volume number, first voxel along x, y, z)`` of every fixed patch.

    Raises:
      ValueError: A patch is larger than a scan.
    """

    volumes: Sequence[CachedVolume]
    shape: tuple[int, ...]
    placement: Placement | None = None
    index: Sequence[tuple[int, tuple[int, ...]]] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        """Choose the fixed patches."""
        index = [
            (number, tuple(map(int, start)))
            for number, volume in enumerate(self.volumes)
            for start in self._room(volume).fixed
        ]
        object.__setattr__(self, "index", tuple(index))

    def __len__(self) -> int:
        """Number of fixed patches over all subjects."""
        return len(self.index)

    def __getitem__(self, position: int) -> Float32[np.ndarray, "*spatial 1"]:
        """One fixed patch, read from disk."""
        return self.patch(*self.index[position])

    def drawn(self, position: int, rng: np.random.Generator) -> Float32[np.ndarray, "*spatial 1"]:
        """A random patch of the subject whose fixed patch has a position, read from disk.

        Args:
          position: Of a fixed patch.
          rng: Where its place comes from.
        """
        number, _ = self.index[position]
        return self.patch(number, self._room(self.volumes[number]).draw(rng))

    def patch(self, number: int, start: Sequence[int]) -> Float32[np.ndarray, "*spatial 1"]:
        """The patch of a volume that starts at a voxel; no other voxel of it is read.

        Args:
          number: Of the volume.
          start: First voxel along x, y and z, on the scan turned to the patch's axes.
        """
        volume = self.volumes[number]
        axes, flips = self._axes
        placed = Placement(axes, flips, tuple(start), _box(self.shape))
        found = placed(np.moveaxis(volume.open(), 0, -1), outside=volume.outside)
        return np.asarray(found, np.float32).reshape(*self.shape, 1)

    def only(self, positions: Sequence[int]) -> Patches:
        """The source with some of its fixed patches; random ones are as before.

        Args:
          positions: Of those that are kept.
        """
        found = copy.copy(self)
        object.__setattr__(found, "index", tuple(self.index[position] for position in positions))
        return found

    def owner(self, position: int) -> str:
        """The participant whose patch this is."""
        return self.volumes[self.index[position][0]].participant_id

    def place(self, position: int) -> str:
        """What the patch is called in a message."""
        return f"{self.owner(position)}, patch from voxel {self.index[position][1]}"

    @property
    def _axes(self) -> tuple[tuple[int, ...], tuple[bool, ...]]:
        if self.placement is None:
            return (0, 1, 2), (False, False, False)
        # Of the slices of a scan, the third axis is that of their heights.
        return (*self.placement.axes, 2)[:3], (*self.placement.flips, False)[:3]

    def _room(self, volume: CachedVolume) -> _Room:
        return _room(volume, *self._axes, self.shape)


class _Room(NamedTuple):
    """Where patches of a volume may start.

    Attributes:
      starts: First voxels.
      fixed: Some of them, spread over the brain.
      steps: How far voxels about each start are from the next, along each axis.
      last: The last voxel that a patch can start at.
    """

    starts: Int32[np.ndarray, "n 3"]
    fixed: Int32[np.ndarray, "m 3"]
    steps: tuple[int, ...]
    last: tuple[int, ...]

    def draw(self, rng: np.random.Generator) -> tuple[int, ...]:
        """One of them, or a voxel between it and the next."""
        start = self.starts[rng.integers(len(self.starts))] + rng.integers(0, self.steps)
        return tuple(int(n) for n in np.minimum(start, self.last))


# Enough for the largest cohort that a patch is drawn from again and again.
@functools.lru_cache(maxsize=1024)
def _room(
    volume: CachedVolume,
    axes: tuple[int, ...],
    flips: tuple[bool, ...],
    shape: tuple[int, ...],
) -> _Room:
    box = _box(shape)
    scan = np.moveaxis(volume.open(), 0, -1)
    turned = Placement(axes, flips, (0, 0, 0), tuple(scan.shape[axis] for axis in axes))(scan)
    if any(want > have for want, have in zip(box, turned.shape, strict=True)):
        raise ValueError(
            f"A patch of {_times(shape)} voxels does not fit into the scan of "
            f"{volume.participant_id}, {_times(turned.shape)} voxels: ask for a smaller one."
        )
    step = max(1, min(shape) // _STEPS)
    steps = tuple(step if want > 1 else 1 for want in box)
    coarse = np.asarray(turned[tuple(slice(None, None, each) for each in steps)], np.float32)
    # The background is the darkest, where z-scores of the other voxels lie around it, too.
    brain = brain_mask(np.where(coarse == volume.outside, coarse.min(), coarse))
    held = _share(brain, [want // each for want, each in zip(box, steps, strict=True)])
    # The last of them may reach out of the scan by what the step does not divide.
    last = tuple(have - want for want, have in zip(box, turned.shape, strict=True))
    inside = tuple(slice(0, n // each + 1) for n, each in zip(last, steps, strict=True))
    held = held[inside]
    usable = held >= _LEAST_BRAIN * max(held.max(), 1e-9)
    if len(shape) == 2:
        heights = np.zeros(held.shape[2], bool)
        heights[usable_slices(volume.brain_fraction)] = True
        usable &= heights
    starts = np.argwhere(usable).astype(np.int32) * np.array(steps, np.int32)
    wanted = math.ceil(_TIMES_COVERED * brain.sum() * math.prod(steps) / math.prod(box))
    fixed = _spread(starts, held[usable], min(max(wanted, _FEWEST), _MOST))
    return _Room(starts, fixed, steps, last)


def _share(
    mask: Bool[np.ndarray, "*spatial"], window: Sequence[int]
) -> Float64[np.ndarray, "*starts"]:
    """The share of every window of a mask that is True, by running sums along each axis."""
    sums = mask.astype(np.float64)
    for axis, size in enumerate(window):
        before = np.zeros_like(sums.take([0], axis))
        running = np.concatenate([before, sums.cumsum(axis)], axis)
        ends = running.take(range(size, running.shape[axis]), axis)
        sums = ends - running.take(range(running.shape[axis] - size), axis)
    return sums / math.prod(window)


def _spread(
    starts: Int32[np.ndarray, "n 3"], held: Float[np.ndarray, " n"], count: int
) -> Int32[np.ndarray, "m 3"]:
    """Starts far from each other: the fullest patch, then always the farthest from all before.

    References:
      Gonzalez, Clustering to minimize the maximum intercluster distance, 1985
    """
    every = -(-len(starts) // _CHOSEN_FROM)
    places, held = starts[::every].astype(np.float64), held[::every]
    chosen = [int(held.argmax())]
    far = np.full(len(places), np.inf)
    while len(chosen) < min(count, len(places)):
        far = np.minimum(far, ((places - places[chosen[-1]]) ** 2).sum(axis=1))
        chosen.append(int(far.argmax()))
    return starts[::every][sorted(chosen)]


def _box(shape: Sequence[int]) -> tuple[int, ...]:
    return (*shape, 1)[:3]


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
