"""What inputs do to units of a layer: how strongly, where, and what the layer below has there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float32, Int, Int32

from featvis_jax.maximize.objectives import Objective, Unit
from featvis_jax.maximize.reference import Asked
from featvis_jax.nn.network import Layer, Network, Variables
from featvis_jax.types import Activations, Image

Images = Sequence[np.ndarray] | Float32[np.ndarray, "_ *spatial channels"]
"""Images by their numbers: an array of them, or what reads each when it is asked for."""


class Observed(NamedTuple):
    """What images do to units.

    Attributes:
      response: The largest value of each unit, ``(images, units)``.
      place: Where that is, as a flat index into the unit's places; 0 for one without any.
      features: What the layer below has there: mean over the window that the place sees of every
        channel, ``(images, units, features)``, for the units that are `featured`.
    """

    response: Float32[np.ndarray, "images units"]
    place: Int32[np.ndarray, "images units"]
    features: Float32[np.ndarray, "images units features"]


Observe = Callable[[Images, Callable[[int], None] | None], Observed]
"""``(images, progress) -> what they do``; progress is called with the number of images done."""


def observer(
    network: Network,
    asked: Asked,
    below: str | None,
    *,
    featured: Sequence[int],
    batch_size: int = 8,
) -> Observe:
    """Make the function that shows images to some units; nothing is kept of an image itself.

    Args:
      network: The network.
      asked: The units.
      below: The layer whose channels are the features; None for none.
      featured: Places among the units of those whose features are wanted.
      batch_size: Images per call of the network, in one program.

    Returns:
      A function that raises `ValueError` if there is no image, or a response is not finite.
    """
    objective = asked.objective
    units, chosen = objective.units(asked.channels), np.asarray(featured, np.int32)
    program = jax.jit(_observing(network, objective, below))

    def observe(images: Images, progress: Callable[[int], None] | None = None) -> Observed:
        if len(images) == 0:
            raise ValueError("There is no image to look at.")
        found: list[Observed] = []
        for start in range(0, len(images), batch_size):
            batch = [images[i] for i in range(start, min(start + batch_size, len(images)))]
            filled = np.stack(batch + batch[-1:] * (batch_size - len(batch))).astype(np.float32)
            seen = program(network.variables, units, chosen, filled)
            found.append(Observed(*(np.asarray(each)[: len(batch)] for each in seen)))
            if not np.isfinite(found[-1].response).all():
                raise ValueError(
                    f"Layer {objective.layers[0]!r} gives responses that are not finite for one of "
                    f"images {start} to {start + len(batch) - 1}: look at its weights and at them."
                )
            if progress is not None:
                progress(start + len(batch))
        return Observed(*(np.concatenate(each) for each in zip(*found, strict=True)))

    return observe


def _observing(network: Network, objective: Objective, below: str | None) -> Callable[..., Any]:
    """What is computed for a batch of images."""
    layers = tuple(dict.fromkeys([*objective.layers, *([] if below is None else [below])]))

    def of_image(variables: Variables, units: Unit, featured: Array, image: Image) -> Observed:
        activations = network.activations(variables, image, layers)

        def of_unit(unit: Unit) -> tuple[Array, Array]:
            values = at_places(objective, activations, image, unit)
            place = jnp.argmax(values)
            return values[place], place.astype(jnp.int32)

        response, place = jax.vmap(of_unit)(units)
        if below is None:
            return Observed(response, place, jnp.zeros((len(featured), 0)))  # pyright: ignore
        window, lower = Window.between(network, objective, below), activations[below]
        features = jax.vmap(lambda each: window.mean(lower, each))(place[featured])
        return Observed(response, place, features)  # pyright: ignore

    return jax.vmap(of_image, in_axes=(None, None, None, 0))


def at_places(
    objective: Objective, activations: Activations, image: Image, unit: Unit
) -> Float[Array, " places"]:
    """The values of a unit at all its places, or the one that it has.

    Args:
      objective: What the unit is asked for.
      activations: Of the layers that it reads.
      image: Their image.
      unit: The unit.
    """
    read = objective.places or objective.alone or objective.value
    return jnp.ravel(read(activations, image, unit))


class Window(NamedTuple):
    """What a place of a layer sees of a layer below it.

    Attributes:
      grid: Of the places; empty where there is one alone, which sees everything.
      start: First element below that place 0 sees, along each axis.
      stride: Elements below from one place to the next.
      size: Elements below that a place sees.
    """

    grid: tuple[int, ...]
    start: tuple[int, ...]
    stride: tuple[float, ...]
    size: tuple[int, ...]

    @classmethod
    def between(cls, network: Network, objective: Objective, below: str) -> Window:
        """The window of a unit's places in a layer below.

        It follows from the receptive fields of both. Where one of them sees all of the image, or a
        unit has no places, the window is the whole layer.

        Args:
          network: The network.
          objective: What the units are asked for.
          below: The layer below.
        """
        lower = network.layer(below)
        upper = place_layer(network, objective)
        if upper is None or len(upper.shape) != len(lower.shape):
            return cls((), (), (), ())
        field, stride = upper.receptive_field, upper.stride
        lower_field, lower_stride = lower.receptive_field, lower.stride
        if field is None or stride is None or lower_field is None or lower_stride is None:
            return cls((), (), (), ())
        spatial = network.image_shape[:-1]
        size = max(1, (field - lower_field) // lower_stride + 1)
        paddings = zip(padding(upper, spatial), padding(lower, spatial), strict=True)
        return cls(
            grid=upper.shape[:-1],
            start=tuple((after - before) // lower_stride for before, after in paddings),
            stride=(stride / lower_stride,) * len(spatial),
            size=tuple(min(size, side) for side in lower.shape[:-1]),
        )

    def mean(
        self, activations: Float[Array, "*grid channels"], place: Int[Array, ""]
    ) -> Float[Array, " channels"]:
        """Mean over the window of every channel, at one place.

        Args:
          activations: Of the layer below.
          place: A flat index into the grid.
        """
        if not self.grid:
            return activations.reshape(-1, activations.shape[-1]).mean(axis=0)
        index = jnp.unravel_index(place, self.grid)
        first = [
            jnp.clip((i.astype(jnp.float32) * stride).astype(jnp.int32) + start, 0, side - size)
            for i, stride, start, size, side in zip(
                index, self.stride, self.start, self.size, activations.shape, strict=False
            )
        ]
        channels = activations.shape[-1]
        window = lax.dynamic_slice(activations, [*first, 0], (*self.size, channels))
        return window.reshape(-1, channels).mean(axis=0)


def place_layer(network: Network, objective: Objective) -> Layer | None:
    """The layer whose grid the places of a unit are; None where it has none, as tokens have.

    Args:
      network: The network.
      objective: What the unit is asked for.
    """
    if objective.places is None or len(objective.layers) != 1:
        return None
    layer = network.layer(objective.layers[0])
    return layer if len(layer.shape) == len(network.image_shape) else None


def padding(layer: Layer, spatial: Sequence[int]) -> list[int]:
    """Voxels that a layer's first output sees before the first of the image, along each axis.

    Args:
      layer: One with a receptive field and a stride.
      spatial: Sides of the image.
    """
    assert layer.receptive_field is not None and layer.stride is not None
    return [
        max(0, (outputs - 1) * layer.stride + layer.receptive_field - side) // 2
        for outputs, side in zip(layer.shape[:-1], spatial, strict=True)
    ]
