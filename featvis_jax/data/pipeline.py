"""Batches of labelled images, streamed from cached volumes by grain.

Every element is a function of the data, the seed and its own position, so that a training run that
was interrupted goes on with the very batches it would have seen.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypedDict, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int

from featvis_jax.data.augmentation import Augmentation
from featvis_jax.data.lesions import NoRoomError
from featvis_jax.data.patches import Patches
from featvis_jax.data.sources import Source

# Batches that are read ahead, and what they may take in all.
_READ_AHEAD, _READ_AHEAD_BYTES = 8, 2**28
# Random patches that are tried where the first have no room for a lesion.
_PATCHES = 20
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
      source: Where images come from. Of `Patches` every element takes a random one, which depends
        on the seed and the element's number alone, and others after it where a task finds no room.
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
    _check_noise(noise)
    elements = _elements_per_batch(source, task, batch_size)

    def examples(index: int, position: int) -> Examples:
        rng = np.random.default_rng([seed, 0, index])
        made = fitting(index, position, rng)
        return _seen_through_noise(made, noise, rng) if noise else made

    def fitting(index: int, position: int, rng: np.random.Generator) -> Examples:
        owner, hardness = source.owner(position), difficulty(index // elements)
        if not isinstance(source, Patches):
            return drawn(rng, source[position], owner, hardness)
        places = np.random.default_rng([seed, 2, index])
        for _ in range(_PATCHES):
            with contextlib.suppress(NoRoomError):
                return drawn(rng, source.drawn(position, places), owner, hardness)
        return drawn(rng, source[position], owner, hardness)  # A fixed one, which has room.

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
    source: Source,
    task: Task,
    *,
    batch_size: int,
    seed: int,
    max_images: int | None = None,
    noise: float = 0.0,
) -> Iterator[Examples]:
    """Every image of the source once, in order, in batches; the last may be smaller.

    Lesions are of the final difficulty and depend on the seed and the image's position alone.

    Args:
      source: Where images come from.
      task: Makes labelled examples of an image.
      batch_size: Images per batch; a multiple of the task's images per element.
      seed: Fixes the draws. They differ from those of training with the same seed.
      max_images: Take at most this many images, spread evenly over the source.
      noise: As in `training_batches`; it changes nothing else of an image.

    Raises:
      ValueError: The batch size or the number of images does not fit the task, the source is empty
        or the noise negative.
    """
    _check_noise(noise)
    elements = _elements_per_batch(source, task, batch_size)

    def examples(index: int, position: int) -> Examples:
        rng = np.random.default_rng([seed, 1, position])
        made = task.examples(source[position], source.owner(position), rng, 1.0)
        return _seen_through_noise(made, noise, rng) if noise else made

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


def _check_noise(noise: float) -> None:
    if not 0 <= noise < np.inf:
        raise ValueError(f"noise is {noise}; expected a number from 0.")


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
