"""Objectives on directions: combinations of a layer's channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from featvis_jax.maximize.objectives.base import Check, Objective, fingerprint
from featvis_jax.maximize.objectives.constancy import MeanCheck
from featvis_jax.maximize.objectives.units import Directions, Numbers, Unit, directions_of
from featvis_jax.nn.tracing import Network
from featvis_jax.types import Activations, Image, Scalar

Given = Numbers | Mapping[str, Numbers] | Directions
"""One direction, or several: a vector, a matrix of them, or either by name."""


def direction(layer: str, vector: Given) -> Objective:
    """How far a layer's output reaches along a direction: f(x) = mean over space of a . v.

    A channel is the direction along one axis. Concept vectors, principal components and the
    difference of two classes' mean activations are others.

    Args:
      layer: Name of a layer; ``NAME/relu`` takes it after its ReLU.
      vector: v, one number for each channel; its length scales the objective. Several, as rows of
        a matrix or by name, are units that go by their numbers (`directions_of`): they are data,
        and one program serves all.

    Raises:
      ValueError: The vector is not one row of finite numbers, or zero. Where its length is not
        that of the layer, `featvis_jax.maximize.ascent.check` says so.

    Example:
      >>> import jax
      >>> activations = {"conv1": jnp.array([[[1.0, 2.0]], [[3.0, 4.0]]])}
      >>> image, unit = jnp.zeros((4, 3, 1)), Unit(jnp.int32(0))
      >>> float(direction("conv1", vector=[1, -1]).value(activations, image, unit))
      -1.0
      >>> several = direction("conv1", vector={"first": [1, 0], "second": [0, 2]})
      >>> units = several.units([0, 1])
      >>> jax.vmap(several.value, in_axes=(None, None, 0))(activations, image, units).tolist()
      [2.0, 6.0]
    """
    vectors, shown = _read("direction", vector)
    description = f"direction({layer!r}{shown})"

    def value(activations: Activations, image: Image, unit: Unit) -> Scalar:
        along, _ = _along(activations[layer], vectors, unit)
        return jnp.mean(along)

    def places(activations: Activations, image: Image, unit: Unit) -> Float[Array, "*grid"]:
        return _along(activations[layer], vectors, unit)[0]

    return Objective(
        description,
        (layer,),
        value,
        checks=(*_length_check(layer, vectors, description), MeanCheck(layer, description)),
        reads_whole=(layer,),
        places=places,
        places_of=layer,
        directions=vectors if isinstance(vectors, Directions) else None,
    )


def cosine_direction(layer: str, vector: Given, *, power: float = 2.0) -> Objective:
    """The same, favouring places where the output points along the direction and nowhere else.

        f(x) = mean over space of (a . v) max(0.1, cos(a, v))^k

    An image can reach far along v by driving all channels at once; the cosine lowers the worth of
    that.

    Args:
      layer: Name of a layer; ``NAME/relu`` takes it after its ReLU.
      vector: v, one number for each channel, or several, as for `direction`.
      power: k, from 0, where it is the plain direction.

    Raises:
      ValueError: The vector or the power cannot be used.

    References:
      Carter, Armstrong, Schubert, Johnson, Olah, Activation atlas, Distill 2019.

    Example:
      >>> activations = {"conv1": jnp.array([[[3.0, 4.0]]])}
      >>> objective = cosine_direction("conv1", vector=[1, 0])
      >>> unit = Unit(jnp.int32(0))
      >>> round(float(objective.value(activations, jnp.zeros((3, 3, 1)), unit)), 4)  # 3 * 0.6²
      1.08
    """
    if not 0 <= power < np.inf:
        raise ValueError(f"cosine_direction: power is {power}; expected a number from 0.")
    vectors, shown = _read("cosine_direction", vector)
    description = f"cosine_direction({layer!r}{shown}, power={power})"

    def value(activations: Activations, image: Image, unit: Unit) -> Scalar:
        activation = activations[layer]
        along, v = _along(activation, vectors, unit)
        squares = jnp.sum(jnp.square(activation), axis=-1) * jnp.sum(jnp.square(v))
        # The smallest term keeps the root's derivative finite where nothing is active.
        cosine = along / jnp.sqrt(squares + 1e-12)
        return jnp.mean(along * jnp.maximum(cosine, 0.1) ** power)

    checks = _length_check(layer, vectors, description)
    return Objective(
        description,
        (layer,),
        value,
        checks=checks,
        reads_whole=(layer,),
        directions=vectors if isinstance(vectors, Directions) else None,
    )


def _read(factory: str, given: Given) -> tuple[np.ndarray | Directions, str]:
    """The vector, or several, and what a description has as its argument."""
    try:
        vectors = directions_of(given)
    except ValueError as error:
        raise ValueError(f"{factory}: {error}") from error
    values = vectors.vectors if isinstance(vectors, Directions) else vectors
    return vectors, f", vector={fingerprint(values)}"


def _length_check(
    layer: str, vectors: np.ndarray | Directions, description: str
) -> tuple[Check, ...]:
    values = vectors.vectors if isinstance(vectors, Directions) else vectors

    def check(network: Network) -> None:
        channels = network.layer(layer).channels
        if values.shape[-1] != channels:
            raise ValueError(
                f"{description}: the vector has {values.shape[-1]} numbers, but layer {layer!r} "
                f"has {channels} channels: give one number for each channel."
            )

    return (check,)


def _along(
    activation: Float[Array, "*shape"], vectors: np.ndarray | Directions, unit: Unit
) -> tuple[Any, Float[Array, " channels"]]:
    """The products a . v over the grid, and v."""
    vector = unit.direction if isinstance(vectors, Directions) else jnp.asarray(vectors)
    if vector is None:
        raise ValueError("A unit of several directions needs one: take it from Objective.units.")
    return jnp.sum(activation * vector.reshape((1,) * (activation.ndim - 1) + (-1,)), -1), vector
