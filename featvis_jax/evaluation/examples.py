"""The real images that drive each channel of a layer most, beside which its picture can be read.

A channel's picture shows what it could ask for; the images of a cohort show what it gets. Their
largest activation is also the measure of a picture's: a channel driven far beyond all real images
was shown something that no scan holds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int

from featvis_jax.data.sources import Source
from featvis_jax.nn.network import Layer, Network, Variables
from featvis_jax.nn.tokens import Tokens
from featvis_jax.types import Activations, Image


class TopExamples(NamedTuple):
    """For each channel the images that drive it most, strongest first, one of each subject.

    Nothing here names a subject. The number of an image still leads to one, so it should stay in
    memory: what is published is the picture, if anything.

    Attributes:
      score: What the images are ranked by, ``(channels, examples)``.
      image: Which images of the source, ``(channels, examples)``.
      place: Where in the layer's output the channel is strongest, ``(channels, examples, rank)``;
        `receptive_box` tells which voxels that is. The last axis is empty for a layer that has no
        space.
      largest: The largest single activation of each channel over all images, ``(channels,)``.
    """

    score: Float32[np.ndarray, "channels examples"]
    image: Int[np.ndarray, "channels examples"]
    place: Int[np.ndarray, "channels examples rank"]
    largest: Float32[np.ndarray, " channels"]


def top_examples(
    network: Network,
    layer: str,
    images: Source,
    *,
    count: int = 9,
    rank_by: Literal["mean", "largest"] = "mean",
    batch_size: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> TopExamples:
    """Find the images that drive each channel of a layer most.

    The images stream through the network once, whatever their number, and each subject keeps its
    strongest image alone: neighbouring slices of one brain would fill the list otherwise.

    Args:
      network: The network.
      layer: One of its layers; ``NAME/relu`` is layer NAME after a ReLU.
      images: Slices or volumes of some subjects, of the shape that the network takes.
      count: Examples per channel; fewer where there are fewer subjects.
      rank_by: ``"mean"`` of a channel's activation over space, as in activation maximization, or
        its ``"largest"`` single activation.
      batch_size: Images per call of the network; one program is compiled for it.
      progress: Called with (images done, images in all) after each batch.

    Returns:
      The examples.

    Raises:
      ValueError: An option is out of range, the layer does not exist, there is no image, the
        images are not of the network's shape, or an activation is not finite.
    """
    shape = network.layer(layer).shape
    if count < 1 or batch_size < 1:
        raise ValueError(f"count is {count}, batch_size is {batch_size}; expected at least 1.")
    if rank_by not in ("mean", "largest"):
        raise ValueError(f"rank_by is {rank_by!r}; expected 'mean' or 'largest'.")
    if len(images) == 0:
        raise ValueError("There is no image to look at: the source is empty.")
    if images[0].shape != network.image_shape:
        raise ValueError(
            f"The images are of shape {images[0].shape}, the network takes {network.image_shape}: "
            "crop and resample them to the grid that it was trained on."
        )
    best = _Best(count, channels=shape[-1])
    largest = np.full(shape[-1], -np.inf, np.float32)
    starts = range(0, len(images), batch_size)
    running = _submit(network, layer, images, starts[0], batch_size)
    for start in starts:
        batch, means, maxima, places = running
        if start + batch_size < len(images):
            # The network works on the next batch while this one is ranked.
            running = _submit(network, layer, images, start + batch_size, batch_size)
        means, maxima, places = (np.asarray(x)[: len(batch)] for x in (means, maxima, places))
        if not (np.isfinite(means).all() and np.isfinite(maxima).all()):
            raise ValueError(
                f"Layer {layer!r} gives activations that are not finite for one of images "
                f"{batch[0]} to {batch[-1]} of the source: look at its weights and at the images."
            )
        largest = np.maximum(largest, maxima.max(axis=0))
        for i, index in enumerate(batch):
            score = means[i] if rank_by == "mean" else maxima[i]
            best.add(images.owner(index), score, index, places[i])
        if progress is not None:
            progress(batch[-1] + 1, len(images))
    score, image, flat = best.finish()
    place = np.empty((*flat.shape, len(shape) - 1), int)
    # A layer without space has one place, and no coordinates to name it by.
    if len(shape) > 1:
        np.stack(np.unravel_index(flat, shape[:-1]), axis=-1, out=place)
    return TopExamples(score, image, place, largest)


def receptive_box(
    layer: Layer, place: Sequence[int] | Int[np.ndarray, " rank"], image_shape: Sequence[int]
) -> Int[np.ndarray, "rank 2"]:
    """The voxels that one output of a layer sees, as a box to draw around.

    Of a layer of tokens it is the box of the token's place on their grid.

    Along an axis of n voxels and m outputs with stride s and receptive field r, output i sees the
    r voxels from ``i s - p``, where ``p = max(0, (m - 1) s + r - n) // 2`` is the padding before
    the first voxel: none in a network without padding, half of what is padded in any other.

    Args:
      layer: The layer, of `Network.layer`.
      place: Index of the output along each spatial axis.
      image_shape: ``(*spatial, channels)`` of the network's input.

    Returns:
      First voxel and the one after the last along each axis, cut at the image's border; the whole
      image for a layer without a receptive field, and for a token without a place.

    Example:
      >>> layer = Layer("conv1", "Conv", (8, 10, 4), 5, 2, True)
      >>> receptive_box(layer, (0, 3), (20, 24, 1)).tolist()
      [[0, 5], [6, 11]]
    """
    sizes = np.array(image_shape[:-1])
    grid, index = _on_grid(layer, place)
    if layer.receptive_field is None or layer.stride is None or len(index) != len(sizes):
        return np.stack([np.zeros_like(sizes), sizes], axis=1)
    outputs = np.array(grid)
    padding = ((outputs - 1) * layer.stride + layer.receptive_field - sizes).clip(0) // 2
    start = np.array(index) * layer.stride - padding
    stop = start + layer.receptive_field
    return np.stack([start.clip(0), np.minimum(stop, sizes)], axis=1)


def cell_box(
    layer: Layer, place: Sequence[int] | Int[np.ndarray, " rank"], image_shape: Sequence[int]
) -> Int[np.ndarray, "rank 2"]:
    """The voxels where one output of a layer lies, whatever it sees: its share of the image.

    After attention every token sees all of the image, and still has its own patch.

    Args:
      layer: The layer, of `Network.layer`.
      place: Index of the output along each spatial axis.
      image_shape: ``(*spatial, channels)`` of the network's input.

    Returns:
      First voxel and the one after the last along each axis; the whole image for what has no place.

    Example:
      >>> from featvis_jax.nn.tokens import Tokens
      >>> layer = Layer("block1", "Block", (13, 8), None, None, True, Tokens(1, (4, 3), 0))
      >>> cell_box(layer, (6,), (20, 24, 1)).tolist(), cell_box(layer, (0,), (20, 24, 1)).tolist()
      ([[5, 10], [16, 24]], [[0, 20], [0, 24]])
    """
    sizes = np.array(image_shape[:-1])
    grid, index = _on_grid(layer, place)
    if len(index) != len(sizes):
        return np.stack([np.zeros_like(sizes), sizes], axis=1)
    start, outputs = np.array(index), np.array(grid)
    return np.stack([start * sizes // outputs, -(-(start + 1) * sizes // outputs)], axis=1)


def _on_grid(
    layer: Layer, place: Sequence[int] | Int[np.ndarray, " rank"]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A layer's grid in the image, and where on it an output lies; no index where it has none."""
    index = tuple(int(i) for i in place)
    if layer.tokens is None:
        return layer.shape[:-1], index
    return layer.tokens.grid, layer.tokens.place(*index) or ()


class _Ranked(NamedTuple):
    """Scores, image numbers and flat places, ``(channels, n)`` each."""

    score: np.ndarray
    image: np.ndarray
    place: np.ndarray

    @classmethod
    def none(cls, channels: int, count: int) -> _Ranked:
        """Images that every other one is stronger than."""
        shape = channels, count
        return cls(np.full(shape, -np.inf, np.float32), np.zeros(shape, int), np.zeros(shape, int))


class _Best:
    """The strongest images of each channel so far, one of each owner."""

    def __init__(self, count: int, *, channels: int):
        """Begin with none."""
        self._count = count
        self._owner: str | None = None
        self._of_others = _Ranked.none(channels, 0)
        self._of_owner = _Ranked.none(channels, 1)

    def add(self, owner: str, score: np.ndarray, image: int, place: np.ndarray) -> None:
        """Take one image; those of an owner come one after the other."""
        if owner != self._owner:
            self.finish()
            self._owner = owner
        new = _Ranked(score[:, None], np.full((len(score), 1), image), place[:, None])
        is_stronger = new.score > self._of_owner.score
        pairs = zip(new, self._of_owner, strict=True)
        self._of_owner = _Ranked(*(np.where(is_stronger, *pair) for pair in pairs))

    def finish(self) -> _Ranked:
        """The strongest of all owners so far; of equal ones the earlier."""
        if self._owner is not None:
            pairs = zip(self._of_others, self._of_owner, strict=True)
            joined = [np.concatenate(pair, axis=1) for pair in pairs]
            order = np.argsort(-joined[0], axis=1, kind="stable")[:, : self._count]
            sorted_values = (np.take_along_axis(values, order, axis=1) for values in joined)
            self._of_others = _Ranked(*sorted_values)
            self._of_owner = _Ranked.none(len(order), 1)
        return self._of_others


def _submit(
    network: Network, layer: str, images: Source, start: int, batch_size: int
) -> tuple[range, Array, Array, Array]:
    """Start the network on one batch; a short one is filled up with copies of its last image."""
    batch = range(start, min(start + batch_size, len(images)))
    filled = [*batch, *[batch[-1]] * (batch_size - len(batch))]
    stack = np.stack([images[index] for index in filled])
    tokens = network.layer(layer).tokens
    return batch, *_statistics(network.activations, layer, tokens, network.variables, stack)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _statistics(
    activations: Callable[[Variables, Image, tuple[str, ...]], Activations],
    layer: str,
    tokens: Tokens | None,
    variables: Variables,
    images: Float[Array, "batch *spatial channels"],
) -> tuple[Array, Array, Array]:
    """Mean, largest value and its flat place of every channel, ``(batch, channels)`` each."""

    def one(image: Image) -> tuple[Array, Array, Array]:
        output = activations(variables, image, (layer,))[layer]
        flat = output.reshape(-1, output.shape[-1])
        first = 0
        if tokens is not None:  # As in activation maximization, those without a place do not count.
            first, flat = tokens.first, flat[tokens.first : tokens.stop]
        return jnp.mean(flat, axis=0), jnp.max(flat, axis=0), first + jnp.argmax(flat, axis=0)

    return jax.vmap(one)(images)
