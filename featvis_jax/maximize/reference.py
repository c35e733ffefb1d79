"""How strongly images drive the units of a network; of real inputs, the reference for pictures.

*Response* is the largest activation of a unit in an image (`Objective.response`), *reference* its
response to the real input that drives it most. `featvis_jax.evaluation.strength` compares them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Float32

from featvis_jax.maximize.objectives import Objective, Unit
from featvis_jax.nn.network import Network, Variables
from featvis_jax.types import Image


class Asked(NamedTuple):
    """Units of one layer.

    Attributes:
      objective: What they are asked for.
      channels: Their numbers.
    """

    objective: Objective
    channels: Sequence[int]


def unit_responses(
    network: Network,
    asked: Mapping[str, Asked],
    images: Iterable[Float[np.ndarray, "*spatial channels"]],
    *,
    batch_size: int = 8,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Float32[np.ndarray, "images units"]]:
    """How strongly each of some units responds to each image.

    The images stream through the network once, in one program: every layer is computed once for an
    image, and all units read it.

    Args:
      network: The network.
      asked: Units, by the name of their layer.
      images: Of the shape that the network takes.
      batch_size: Images per call of the network.
      progress: Called with the number of images done, after each batch.

    Returns:
      For every layer the responses, a row for each image and a column for each unit.

    Raises:
      ValueError: There is no image, the images are not of the network's shape, a response is not
        finite, or it is not that of one image alone.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected at least 1.")
    layers = tuple(dict.fromkeys(name for one in asked.values() for name in one.objective.layers))
    units = {layer: one.objective.units(one.channels) for layer, one in asked.items()}

    def of_image(variables: Variables, units: Mapping[str, Unit], image: Image) -> dict[str, Array]:
        activations = network.activations(variables, image, layers)

        def of_units(objective: Objective, units: Unit) -> Array:
            return jax.vmap(lambda unit: objective.response(activations, image, unit))(units)

        return {layer: of_units(one.objective, units[layer]) for layer, one in asked.items()}

    program = jax.jit(jax.vmap(of_image, in_axes=(None, None, 0)))
    found: list[dict[str, np.ndarray]] = []
    stream, done = iter(images), 0
    while batch := list(itertools.islice(stream, batch_size)):
        if batch[0].shape != network.image_shape:
            raise ValueError(
                f"The images are of shape {batch[0].shape}, the network takes "
                f"{network.image_shape}: bring them onto the grid that it was trained on."
            )
        # The last batch is filled up with copies, so that there is one program.
        filled = np.stack(batch + batch[-1:] * (batch_size - len(batch))).astype(np.float32)
        try:
            responses = program(network.variables, units, filled)
        except NameError as error:  # The axis over variants, which a real input has not.
            described = " and ".join(one.objective.description for one in asked.values())
            raise ValueError(
                f"{described}: its response is that of several variants of a unit together, and a "
                "real input is one image: leave the reference out."
            ) from error
        found.append({layer: np.asarray(each)[: len(batch)] for layer, each in responses.items()})
        for layer, each in found[-1].items():
            if not np.isfinite(each).all():
                raise ValueError(
                    f"Layer {layer!r} gives responses that are not finite for one of images {done} "
                    f"to {done + len(batch) - 1}: look at its weights and at the images."
                )
        done += len(batch)
        if progress is not None:
            progress(done)
    if not found:
        raise ValueError("There is no image to look at: the source is empty.")
    return {layer: np.concatenate([each[layer] for each in found]) for layer in asked}


def reference_responses(
    network: Network,
    asked: Mapping[str, Asked],
    images: Iterable[Float[np.ndarray, "*spatial channels"]],
    *,
    percentile: float = 100.0,
    batch_size: int = 8,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Float32[np.ndarray, " units"]]:
    """The response of each unit to the real input that drives it most.

    Args:
      network: The network.
      asked: Units, by the name of their layer.
      images: Real inputs; of a network that looks for lesions, images with and without them.
      percentile: Of the responses to all images, in (0, 100]; 100 is the strongest.
      batch_size: Images per call of the network.
      progress: Called with the number of images done, after each batch.

    Returns:
      For every layer one response for each unit.

    Raises:
      ValueError: The percentile is out of range, or as in `unit_responses`.

    Example:
      >>> from featvis_jax.maximize.objectives import channel
      >>> network = Network(lambda v, image, layers: {"a": image}, None, {}, (1, 2, 2), ())
      >>> images = np.array([[[[0.0, 3.0], [1.0, 0.0]]], [[[0.5, 0.0], [0.0, 2.0]]]], np.float32)
      >>> reference_responses(network, {"a": Asked(channel("a"), [0, 1])}, images)
      {'a': array([1., 3.], dtype=float32)}
    """
    if not 0 < percentile <= 100:
        raise ValueError(f"percentile is {percentile}; expected a number above 0, at most 100.")
    found = unit_responses(network, asked, images, batch_size=batch_size, progress=progress)
    return {
        layer: np.percentile(each, percentile, axis=0).astype(np.float32)
        for layer, each in found.items()
    }
