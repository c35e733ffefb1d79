"""Objectives on directions: combinations of a layer's channels."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from featvis_jax.maximize.objectives.base import Check, Numbers, Objective, Unit, fingerprint
from featvis_jax.maximize.objectives.constancy import MeanCheck
from featvis_jax.nn.tracing import Network
from featvis_jax.types import Activations, Image, Scalar


def direction(layer: str, *, vector: Numbers | None = None) -> Objective:
    """How far a layer's output reaches along a direction: f(x) = mean over space of a . v.

    A channel is the direction along one axis. Concept vectors, principal components and the
    difference of two classes' mean activations are others.

    Args:
      layer: Name of a layer; ``NAME/relu`` takes it after its ReLU.
      vector: v, one number for each channel; its length scales the objective. By default
        `Unit.direction`, which is data.

    Raises:
      ValueError: The vector is not one row of finite numbers, or zero. Where its length is not
        that of the layer, `featvis_jax.maximize.ascent.check` says so.

    Example:
      >>> activations = {"conv1": jnp.array([[[1.0, 2.0]], [[3.0, 4.0]]])}
      >>> image, unit = jnp.zeros((4, 3, 1)), Unit(jnp.int32(0))
      >>> float(direction("conv1", vector=[1, -1]).value(activations, image, unit))
      -1.0
      >>> unit = unit._replace(direction=jnp.array([0.0, 2.0]))
      >>> float(direction("conv1").value(activations, image, unit))
      6.0
    """
    fixed, shown = _read("direction", vector)
    description = f"direction({layer!r}{shown})"

    def value(activations: Activations, image: Image, unit: Unit) -> Scalar:
        along, _ = _along(activations[layer], fixed, unit, description)
        return jnp.mean(along)

    def places(activations: Activations, image: Image, unit: Unit) -> Float[Array, "*grid"]:
        return _along(activations[layer], fixed, unit, description)[0]

    return Objective(
        description,
        (layer,),
        value,
        checks=(*_length_check(layer, fixed, description), MeanCheck(layer, description)),
        reads_whole=(layer,),
        places=places,
        places_of=layer,
    )


def cosine_direction(layer: str, *, vector: Numbers | None = None, power: float = 2.0) -> Objective:
    """The same, favouring places where the output points along the direction and nowhere else.

        f(x) = mean over space of (a . v) max(0.1, cos(a, v))^k

    An image can reach far along v by driving all channels at once; the cosine lowers the worth of
    that.

    Args:
      layer: Name of a layer; ``NAME/relu`` takes it after its ReLU.
      vector: v, one number for each channel. By default `Unit.direction`, which is data.
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
    fixed, shown = _read("cosine_direction", vector)
    description = f"cosine_direction({layer!r}{shown}, power={power})"

    def value(activations: Activations, image: Image, unit: Unit) -> Scalar:
        activation = activations[layer]
        along, v = _along(activation, fixed, unit, description)
        squares = jnp.sum(jnp.square(activation), axis=-1) * jnp.sum(jnp.square(v))
        # The smallest term keeps the root's derivative finite where nothing is active.
        cosine = along / jnp.sqrt(squares + 1e-12)
        return jnp.mean(along * jnp.maximum(cosine, 0.1) ** power)

    checks = _length_check(layer, fixed, description)
    return Objective(description, (layer,), value, checks=checks, reads_whole=(layer,))


def _read(factory: str, vector: Numbers | None) -> tuple[np.ndarray | None, str]:
    """The vector as an array, and as an argument of a description."""
    if vector is None:
        return None, ""
    values = np.asarray(vector, np.float32)
    if values.ndim != 1 or not np.isfinite(values).all() or not values.any():
        raise ValueError(
            f"{factory}: vector has shape {values.shape}; expected one row of finite numbers, not "
            "all 0, one for each channel."
        )
    return values, f", vector={fingerprint(values)}"


def _length_check(layer: str, fixed: np.ndarray | None, description: str) -> tuple[Check, ...]:
    def check(network: Network) -> None:
        channels = network.layer(layer).channels
        if fixed is not None and len(fixed) != channels:
            raise ValueError(
                f"{description}: the vector has {len(fixed)} numbers, but layer {layer!r} has "
                f"{channels} channels: give one number for each channel."
            )

    return (check,)


def _along(
    activation: Float[Array, "*shape"], fixed: np.ndarray | None, unit: Unit, description: str
) -> tuple[Any, Float[Array, " channels"]]:
    """The products a . v over the grid, and v."""
    vector = unit.direction if fixed is None else jnp.asarray(fixed)
    channels = activation.shape[-1]
    if vector is None or vector.shape != (channels,):
        found = "none" if vector is None else f"one of shape {vector.shape}"
        raise ValueError(
            f"{description}: expected a direction of {channels} numbers, one for each channel of "
            f"the layer, and there is {found}: pass vector=..., or set Unit.direction."
        )
    return jnp.sum(activation * vector.reshape((1,) * (activation.ndim - 1) + (-1,)), -1), vector
