"""Batches of labelled images, streamed from cached volumes by grain.

Every element is a function of the data, the seed and its own position, so that a training run that
was interrupted goes on with the very batches it would have seen.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypedDict, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int

from featvis_jax.data.augmentation import Augmentation
from featvis_jax.data.cache import CachedVolume
from featvis_jax.data.cohorts import Cohort
from featvis_jax.data.grids import Grid, GridError, Placement, centred, described, placement
from featvis_jax.data.lesions import NoRoomError
from featvis_jax.data.masks import usable_slices

# Batches that are read ahead, and what they may take in all.
_READ_AHEAD, _READ_AHEAD_BYTES = 8, 2**28
# More than any run takes; without an end grain's lengths overflow in batches of one element.
_EPOCHS = 2**31

Difficulty = Callable[[int], float]
"""Maps a training step to the difficulty of its lesions (`featvis_jax.data.lesions`)."""


class Examples(TypedDict):
    """Images ``(n, *spatial, 1)`` and their class numbers ``(n,)``, or what else is learned.

    Numbers that are to be estimated are floats: the type of the labels tells which of the two.

    Intensities lie on [0, 1], save in the easy lesions that a curriculum begins with: these may
    lie outside by as much as their contrast (`featvis_jax.data.lesions.Lesions.easy_contrast`).
    """

    image: Float32[np.ndarray, "n *spatial 1"]
    label: Int[np.ndarray, " n"] | Float32[np.ndarray, " n"]


@dataclasses.dataclass(frozen=True, eq=False)
class Slices:
    """The usable axial slices of some subjects, as a random-access source of images.

    Attributes:
      volumes: The subjects' cached volumes.
      shape: Of every slice.
      placement: How it is cut out of a subject's axial slice; from the centre by default.
      index: ``(volume number, z)`` of every slice.
    """

    volumes: Sequence[CachedVolume]
    shape: tuple[int, int]
    placement: Placement | None = None
    index: Sequence[tuple[int, int]] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        """List the slices."""
        index = [
            (number, int(z))
            for number, volume in enumerate(self.volumes)
            for z in usable_slices(volume.brain_fraction)
        ]
        object.__setattr__(self, "index", tuple(index))

    def __len__(self) -> int:
        """Number of slices over all subjects."""
        return len(self.index)

    def __getitem__(self, position: int) -> Float32[np.ndarray, "x y 1"]:
        """One slice, read from disk."""
        return self.plane(*self.index[position])

    def plane(self, number: int, z: int) -> Float32[np.ndarray, "x y 1"]:
        """The slice of a volume at an index along its third axis, usable or not."""
        volume = self.volumes[number]
        plane = np.asarray(volume.open()[z], np.float32)
        placed = self.placement or centred(plane.shape, self.shape)
        return placed(plane, outside=volume.outside)[..., None]

    def owner(self, position: int) -> str:
        """The participant whose slice this is."""
        return self.volumes[self.index[position][0]].participant_id

    def place(self, position: int) -> str:
        """What the slice is called in a message."""
        return f"{self.owner(position)}, axial slice {self.index[position][1]}"


@dataclasses.dataclass(frozen=True, eq=False)
class Volumes:
    """Whole volumes of some subjects, as a random-access source of images.

    Attributes:
      volumes: The subjects' cached volumes.
      shape: Of every volume.
      placement: How it is cut out of a subject's; from the centre by default.
    """

    volumes: Sequence[CachedVolume]
    shape: tuple[int, int, int]
    placement: Placement | None = None

    def __len__(self) -> int:
        """Number of subjects."""
        return len(self.volumes)

    def __getitem__(self, position: int) -> Float32[np.ndarray, "x y z 1"]:
        """One volume, read from disk."""
        volume = self.volumes[position]
        data = np.moveaxis(np.asarray(volume.open(), np.float32), 0, -1)
        placed = self.placement or centred(data.shape, self.shape)
        return placed(data, outside=volume.outside)[..., None]

    def owner(self, position: int) -> str:
        """The participant whose volume this is."""
        return self.volumes[position].participant_id

    def place(self, position: int) -> str:
        """What the volume is called in a message."""
        return self.owner(position)


@dataclasses.dataclass(frozen=True, eq=False)
class Contrasts:
    """Several scans of each subject, as the channels of one image.

    Attributes:
      sources: One for each contrast, all slices or all volumes, of the same subjects in one order
        and on one grid. Which slices are usable, the first one decides.
    """

    sources: Sequence[Slices | Volumes]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.sources[0])

    def __getitem__(self, position: int) -> Float32[np.ndarray, "*spatial channels"]:
        """One image of all contrasts, read from disk."""
        first = self.sources[0]
        if isinstance(first, Slices):
            number, z = first.index[position]
            planes = (each.plane(number, z) for each in self.sources if isinstance(each, Slices))
            return np.concatenate(list(planes), axis=-1)
        return np.concatenate([each[position] for each in self.sources], axis=-1)

    @property
    def volumes(self) -> Sequence[CachedVolume]:
        """The volumes of all subjects and contrasts."""
        return [volume for each in self.sources for volume in each.volumes]

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial shape of every image."""
        return self.sources[0].shape

    def owner(self, position: int) -> str:
        """The participant whose image this is."""
        return self.sources[0].owner(position)

    def place(self, position: int) -> str:
        """What the image is called in a message."""
        return self.sources[0].place(position)


Source = Slices | Volumes | Contrasts


def source(
    volumes: Sequence[CachedVolume], shape: Sequence[int], *, placement: Placement | None = None
) -> Slices | Volumes:
    """The images of some subjects: axial slices for a shape of two numbers, volumes for three.

    Args:
      volumes: The subjects' cached volumes.
      shape: Spatial shape of an image.
      placement: Where an image's voxels are in a volume (`cohort_placement`); by default images are
        cut from the centre, and whoever does so has to know that this is their place.
    """
    if len(shape) == 2:
        return Slices(volumes, (shape[0], shape[1]), placement)
    return Volumes(volumes, (shape[0], shape[1], shape[2]), placement)


def cohort_placement(cohort: Cohort, grid: Grid) -> Placement:
    """Where the images of a network's grid are in a cohort's volumes, by their places in the world.

    Args:
      cohort: The cohort.
      grid: Of the network's input. One of slices stands for slices at any height; without an affine
        it has to have the shape of the cohort's images.

    Returns:
      What `source` takes.

    Raises:
      GridError: The voxels of the two do not coincide, or are nowhere near each other.
    """
    have, rank = cohort.shape, len(grid.shape)
    if grid.affine is None:
        if have[:rank] != grid.shape:
            raise GridError(
                f"the network takes {described(grid)} and does not tell where it looks: give "
                "--grid with an image of its grid"
            )
        return centred(have, grid.shape)
    placed = placement(Grid(have, cohort.affine), grid, any_slice=True)
    placed = placed.in_plane() if rank == 2 else placed
    if any(n >= m for n, m in zip(placed.outside(have), placed.shape, strict=True)):
        raise GridError("they lie beside the network's grid, not on it")
    return placed


@runtime_checkable
class Task(Protocol):
    """Makes labelled examples of the images of a source (`featvis_jax.data.tasks`)."""

    @property
    def images_per_element(self) -> int:
        """How many examples one image of the source gives."""
        ...

    def examples(
        self,
        image: Float32[np.ndarray, "*spatial 1"],
        owner: str,
        rng: np.random.Generator,
        difficulty: float,
    ) -> Examples:
        """The examples made from one image of a participant."""
        ...


def training_batches(
    source: Source,
    task: Task,
    *,
    batch_size: int,
    seed: int,
    first_step: int = 0,
    difficulty: Difficulty = lambda step: 1.0,
    augmentation: Augmentation | None = None,
    noise: float = 0.0,
) -> Iterator[Examples]:
    """Endless shuffled batches, one per training step.

    Args:
      source: Where images come from.
      task: Makes labelled examples of an image.
      batch_size: Images per batch; a multiple of the task's images per element.
      seed: Fixes order and draws.
      first_step: The step of the first batch; the batches of a resumed run are those of an
        uninterrupted one.
      difficulty: Difficulty of a step's lesions.
      augmentation: Changes every image before the task makes examples of it. An image that has
        no room for a lesion once it is changed is taken as it is.
      noise: Largest standard deviation of the white noise that finished examples are seen through;
        each has its own, drawn evenly from 0. A network that has to see a shape through noise
        leans on all of its area, and its gradients show that (Kaur et al., Are perceptually-aligned
        gradients a general property of robust classifiers?, 2019).

    Raises:
      ValueError: The batch size does not fit the task, the source is empty or the noise negative.
    """
    if not 0 <= noise < np.inf:
        raise ValueError(f"noise is {noise}; expected a number from 0.")
    elements = _elements_per_batch(source, task, batch_size)

    def examples(index: int, position: int) -> Examples:
        rng = np.random.default_rng([seed, 0, index])
        made = drawn(rng, source[position], source.owner(position), difficulty(index // elements))
        return _seen_through_noise(made, noise, rng) if noise else made

    def drawn(rng: np.random.Generator, image: np.ndarray, owner: str, hardness: float) -> Examples:
        if augmentation is not None:
            # A shift may cut off, and a tone may flatten, the room that the image has as it is.
            with contextlib.suppress(NoRoomError):
                return task.examples(augmentation(image, rng), owner, rng, hardness)
        return task.examples(image, owner, rng, hardness)

    import grain  # When there is something to read: it takes its time to import.

    dataset = (
        grain.MapDataset.source(range(len(source)))
        .seed(seed)
        .shuffle()
        .repeat(_EPOCHS)
        .map_with_index(examples)
        .batch(elements, batch_fn=_join)
        .slice(slice(first_step, None))
    )
    return _read(dataset, batch_size * math.prod(source.shape))


def evaluation_batches(
    source: Source, task: Task, *, batch_size: int, seed: int, max_images: int | None = None
) -> Iterator[Examples]:
    """Every image of the source once, in order, in batches; the last may be smaller.

    Lesions are of the final difficulty and depend on the seed and the image's position alone.

    Args:
      source: Where images come from.
      task: Makes labelled examples of an image.
      batch_size: Images per batch; a multiple of the task's images per element.
      seed: Fixes the draws. They differ from those of training with the same seed.
      max_images: Take at most this many images, spread evenly over the source.

    Raises:
      ValueError: The batch size or the number of images does not fit the task, or the source is
        empty.
    """
    elements = _elements_per_batch(source, task, batch_size)

    def examples(index: int, position: int) -> Examples:
        rng = np.random.default_rng([seed, 1, position])
        return task.examples(source[position], source.owner(position), rng, 1.0)

    wanted = len(source) if max_images is None else max_images // task.images_per_element
    if wanted < 1:
        raise ValueError(
            f"max_images is {max_images}; this task makes {task.images_per_element} images of each "
            "one, so take at least that many."
        )
    import grain

    positions = np.linspace(0, len(source) - 1, min(len(source), wanted)).astype(int)
    dataset = (
        grain.MapDataset.source(positions.tolist())
        .map_with_index(examples)
        .batch(elements, drop_remainder=False, batch_fn=_join)
    )
    return _read(dataset, batch_size * math.prod(source.shape))


def intensity_statistics(source: Source, *, max_images: int = 500) -> tuple[float, float]:
    """Mean and standard deviation of the intensities, from images spread evenly over the source.

    Args:
      source: Where images come from.
      max_images: At most this many are read.
    """
    sums = np.zeros(3)
    for image in spread(source, max_images=max_images):
        image = image.astype(np.float64)
        sums += image.size, image.sum(), (image**2).sum()
    mean = sums[1] / sums[0]
    return float(mean), float(np.sqrt(sums[2] / sums[0] - mean**2))


def spread(
    source: Source, *, max_images: int
) -> Iterator[Float32[np.ndarray, "*spatial channels"]]:
    """Images spread evenly over a source.

    Args:
      source: Where images come from.
      max_images: At most this many are read.

    Yields:
      Images, ``(*spatial, channels)``.
    """
    for position in np.linspace(0, len(source) - 1, min(len(source), max_images)).astype(int):
        yield source[int(position)]


def _read(dataset: Any, voxels: int) -> Iterator[Examples]:
    """Read ahead in threads, in order; of large batches fewer."""
    import grain

    ahead = max(1, min(_READ_AHEAD, _READ_AHEAD_BYTES // (4 * voxels)))
    options = grain.ReadOptions(num_threads=min(2, ahead), prefetch_buffer_size=ahead)
    return iter(dataset.to_iter_dataset(options))


def _elements_per_batch(source: Source, task: Task, batch_size: int) -> int:
    if len(source) == 0:
        raise ValueError("There is no image to read: the cohort's part of the split is empty.")
    elements, rest = divmod(batch_size, task.images_per_element)
    if elements < 1 or rest:
        raise ValueError(
            f"batch_size is {batch_size}; this task makes {task.images_per_element} images of "
            "each one, so use a positive multiple of that."
        )
    return elements


def _seen_through_noise(examples: Examples, noise: float, rng: np.random.Generator) -> Examples:
    images = examples["image"]
    deviations = rng.uniform(0, noise, (len(images), *[1] * (images.ndim - 1)))
    seen = images + deviations * rng.standard_normal(images.shape)
    return {"image": seen.astype(np.float32), "label": examples["label"]}


def _join(elements: Sequence[Examples]) -> Examples:
    return {
        "image": np.concatenate([element["image"] for element in elements]),
        "label": np.concatenate([element["label"] for element in elements]),
    }
