"""Which channels detect what the classes differ in: only their pictures can be asked to show it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from featvis_jax.data.pipeline import Examples
from featvis_jax.nn.network import Network, Variables
from featvis_jax.types import Activations, Image


class Selective(NamedTuple):
    """A channel that tells the classes apart.

    Attributes:
      channel: Its number.
      concept: The class that drives it more.
      effect: How surely, as Cohen's d of pairs, from 0.
    """

    channel: int
    concept: int
    effect: float


def class_effects(
    network: Network, layers: Sequence[str], batches: Iterable[Examples]
) -> dict[str, Float[np.ndarray, " channels"]]:
    """How much more an image of class 1 drives each channel than its twin of class 0.

    Mean over standard deviation of the difference within pairs, Cohen's d of repeated measures.
    Pairs show the same anatomy, which moves a channel's mean activation far more than a lesion
    does: compared across people, the best detectors look like chance.

    Args:
      network: The network.
      layers: Some of its layers.
      batches: Pairs of an image of class 0 and one of class 1 of held-out subjects, as lesion tasks
        make them; all batches of one size, the last may be smaller.

    Returns:
      For every layer the effect on each channel's mean activation over space; 0 where no pair
      differs.

    Raises:
      ValueError: The images do not come in pairs.

    References:
      Cohen, Statistical power analysis for the behavioral sciences, 1988
    """
    differences: dict[str, list[np.ndarray]] = {layer: [] for layer in layers}
    size = 0
    for batch in batches:
        labels = batch["label"]
        if not (len(labels) % 2 == 0 and (labels.reshape(-1, 2) == [0, 1]).all()):
            raise ValueError(
                f"The labels of a batch are {labels.tolist()}; expected pairs of 0 and 1, as "
                "lesion tasks make them."
            )
        size = max(size, len(labels))
        padding = [(0, size - len(labels))] + [(0, 0)] * (batch["image"].ndim - 1)
        images = np.pad(batch["image"], padding)
        found = _means(network.activations, tuple(layers), network.variables, images)
        for layer in layers:
            pairs = np.asarray(found[layer], np.float64)[: len(labels)]
            differences[layer].append(pairs[1::2] - pairs[::2])
    return {layer: _effects(np.concatenate(found)) for layer, found in differences.items()}


def _effects(differences: Float[np.ndarray, "pairs channels"]) -> Float[np.ndarray, " channels"]:
    """Mean over standard deviation; 0 where nothing differs."""
    spread = differences.std(axis=0, ddof=1)
    return np.divide(differences.mean(axis=0), spread, where=spread > 0, out=np.zeros(len(spread)))


def most_selective(
    effects: Float[np.ndarray, " channels"],
    *,
    best: int,
    concepts: Sequence[int],
    among: Iterable[int] | None = None,
) -> list[Selective]:
    """The channels that tell the classes apart best, in the direction of a concept.

    Args:
      effects: Of one layer, by `class_effects`.
      best: How many to keep; fewer where fewer have an effect.
      concepts: The classes that have a shape: ``(1,)`` where class 0 is clean, ``(0, 1)`` where
        each class has its own.
      among: Channels to choose from; all by default.

    Returns:
      The channels, best first.

    Example:
      >>> most_selective(np.array([-0.9, 0.7, 0.2]), best=2, concepts=(0, 1))
      [Selective(channel=0, concept=0, effect=0.9), Selective(channel=1, concept=1, effect=0.7)]
    """
    if best < 1:
        raise ValueError(f"best is {best}; expected at least 1.")
    chosen = range(len(effects)) if among is None else among
    found = [
        Selective(int(channel), int(effects[channel] > 0), abs(float(effects[channel])))
        for channel in chosen
        if effects[channel]
    ]
    wanted = [each for each in found if each.concept in concepts]
    return sorted(wanted, key=lambda each: (-each.effect, each.channel))[:best]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _means(
    activations: Callable[[Variables, Image, tuple[str, ...]], Activations],
    layers: tuple[str, ...],
    variables: Variables,
    images: Float[Array, "batch *spatial channels"],
) -> dict[str, Array]:
    """Mean over space of every channel, ``(batch, channels)`` for every layer."""

    def one(image: Image) -> dict[str, Array]:
        outputs = activations(variables, image, layers)
        return {
            name: jnp.mean(output.reshape(-1, output.shape[-1]), axis=0)
            for name, output in outputs.items()
        }

    return jax.vmap(one)(images)
