"""Does a picture move another network as the lesion does? Transfer and insertion.

Both ask a network B that was trained on its own: what drives the network that a picture was made
for may be its peculiarity, and what drives B as well is what the two have in common, their task.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy import stats

from featvis_jax.data.masks import brain_mask
from featvis_jax.data.pipeline import Examples
from featvis_jax.evaluation.energy import phase_scrambled, soft_mask, strongest_windows, window
from featvis_jax.nn.network import Network, Variables
from featvis_jax.types import Activations, Image

Detector = Callable[[Float[np.ndarray, "n *spatial 1"]], Float[np.ndarray, "n classes"]]
"""Logits of images."""


class Yardstick(NamedTuple):
    """What a detector says of clean and of lesioned images of held-out subjects, on average.

    Attributes:
      label: The lesion's class.
      clean: Mean lead of that class on images of the other classes.
      lesion: Mean lead on images of the class.
    """

    label: int
    clean: float
    lesion: float

    def standing(self, logits: Float[np.ndarray, "n classes"]) -> Float[np.ndarray, " n"]:
        """Where images stand between clean, 0, and lesion, 1.

            T(x) = (f(x) - mean f(clean)) / (mean f(lesion) - mean f(clean))

        Args:
          logits: Of the images.

        Example:
          >>> Yardstick(1, clean=-3.0, lesion=5.0).standing(np.array([[1.0, 2.0]]))
          array([0.5])
        """
        return (lead(logits, self.label) - self.clean) / (self.lesion - self.clean)


def lead(logits: Float[np.ndarray, "n classes"], label: int) -> Float[np.ndarray, " n"]:
    """The logit of a class minus the largest of the others.

    Args:
      logits: Of images.
      label: The class.

    Example:
      >>> lead(np.array([[1.0, 4.0, 2.0]]), 1)
      array([2.])
    """
    return logits[:, label] - np.delete(logits, label, axis=1).max(axis=1)


def detector(network: Network, layer: str, *, batch_size: int) -> Detector:
    """The logits of a network, for any number of images.

    Args:
      network: The network.
      layer: Its last one.
      batch_size: Images per call; one program is compiled for it.
    """

    def logits(images: Float[np.ndarray, "n *spatial 1"]) -> Float[np.ndarray, "n classes"]:
        found = []
        for start in range(0, len(images), batch_size):
            part = np.asarray(images[start : start + batch_size], np.float32)
            padding = [(0, batch_size - len(part))] + [(0, 0)] * (part.ndim - 1)
            outputs = _outputs(network.activations, layer, network.variables, np.pad(part, padding))
            found.append(np.asarray(outputs, np.float64)[: len(part)])
        return np.concatenate(found)

    return logits


def yardstick(detect: Detector, batches: Iterable[Examples], label: int) -> Yardstick:
    """Measure a detector on labelled images of held-out subjects.

    Args:
      detect: The detector.
      batches: The images.
      label: The lesion's class.

    Raises:
      ValueError: The detector does not tell the classes apart.
    """
    leads, labels = [], []
    for batch in batches:
        leads.append(lead(detect(batch["image"]), label))
        labels.append(batch["label"])
    values, is_lesion = np.concatenate(leads), np.concatenate(labels) == label
    clean, lesion = float(values[~is_lesion].mean()), float(values[is_lesion].mean())
    if not lesion > clean:
        raise ValueError(
            f"The detector gives class {label} a mean lead of {lesion:.3g} on its own images and "
            f"of {clean:.3g} on all others: it does not know the task. Take a network that was "
            "trained on the same one."
        )
    return Yardstick(label, clean, lesion)


class InsertionSite(NamedTuple):
    """A clean image, and where a patch is pasted into it.

    Attributes:
      image: ``(*spatial, 1)``.
      center: The voxel that the patch's middle comes to lie on.
    """

    image: Float[np.ndarray, "*spatial 1"]
    center: Int[np.ndarray, " rank"]


def insertion_sites(
    images: Iterable[Float[np.ndarray, "*spatial 1"]], side: int, rng: np.random.Generator
) -> list[InsertionSite]:
    """A place in the brain of every image that has room for a patch.

    Args:
      images: Clean images of held-out subjects.
      side: Of the patch, in voxels.
      rng: Where the places come from.

    Raises:
      ValueError: No image has room.
    """
    found = []
    for image in images:
        brain = brain_mask(image[..., 0])
        inside = np.zeros_like(brain)
        room = tuple(slice(side // 2, n - side + side // 2 + 1) for n in brain.shape)
        inside[room] = brain[room]
        places = np.argwhere(inside)
        if len(places):
            found.append(InsertionSite(image, places[rng.integers(len(places))]))
    if not found:
        raise ValueError(
            f"None of the clean images has room for a patch of {side} voxels along each axis."
        )
    return found


class Insertions(NamedTuple):
    """Clean images with a picture's strongest patches in them, and with the same scrambled."""

    patched: Float[np.ndarray, "n *spatial 1"]
    scrambled: Float[np.ndarray, "n *spatial 1"]


def insertions(
    image: Float[np.ndarray, "*spatial 1"],
    sites: Sequence[InsertionSite],
    side: int,
    rng: np.random.Generator,
) -> Insertions:
    """Paste the strongest patches of a picture into clean images, as they are and phase-scrambled.

    Every place gets a patch of its own, from the strongest down, as long as the picture has some of
    at least half of the strongest one's contrast, and then from the strongest again. One patch
    in all places would be a single draw: a peculiarity of it would pass for significant.
    Both kinds have soft edges, and before these are applied equal mean and standard deviation.

    Args:
      image: The picture.
      sites: Where to.
      side: Of a patch, in voxels.
      rng: Where the phases come from; every place has a scrambled patch of its own.
    """
    mask = soft_mask(side, image.ndim - 1)
    starts = strongest_windows(image, side, count=len(sites))
    stacks: tuple[list[np.ndarray], list[np.ndarray]] = [], []
    for number, site in enumerate(sites):
        patch = window(image, starts[number % len(starts)], side)
        first = site.center - side // 2
        here = tuple(slice(int(f), int(f) + side) for f in first)
        for stack, pasted in zip(stacks, (patch, phase_scrambled(patch, rng)), strict=True):
            result = np.array(site.image)
            result[here] = (1 - mask) * result[here] + mask * pasted
            stack.append(result)
    return Insertions(np.stack(stacks[0]), np.stack(stacks[1]))


def insertion_test(
    patched: Float[np.ndarray, " n"], scrambled: Float[np.ndarray, " n"]
) -> tuple[float, float]:
    """Mean change that a patch makes beyond its scrambled copy, and how sure that is.

    Args:
      patched: A detector's values with the patch.
      scrambled: Of the same images with the scrambled patch.

    Returns:
      The mean difference, and the one-sided p of Wilcoxon's signed-rank test; 1 where no pair
      differs.

    References:
      Wilcoxon, Individual comparisons by ranking methods, 1945

    Example:
      >>> insertion_test(np.arange(5.0) + 1, np.zeros(5))
      (3.0, 0.03125)
    """
    difference = patched - scrambled
    if not difference.any():
        return 0.0, 1.0
    p = stats.wilcoxon(difference, alternative="greater").pvalue  # pyright: ignore
    return float(difference.mean()), float(p)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _outputs(
    activations: Callable[[Variables, Image, tuple[str, ...]], Activations],
    layer: str,
    variables: Variables,
    images: Float[Array, "batch *spatial 1"],
) -> Float[Array, "batch classes"]:
    """The output of one layer for a batch."""

    def one(image: Image) -> Array:
        return jnp.asarray(activations(variables, image, (layer,))[layer])

    return jax.vmap(one)(images)
