"""Objectives on two things at once, and on several variants of one unit.

The variants of a unit run under a `jax.vmap` whose axis is named `VARIANTS`. What couples them is a
collective over it; the gradient that each variant gets is that of the sum over all variants.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from featvis_jax.maximize.objectives.base import (
    ANYWHERE,
    VARIANTS,
    Objective,
    Value,
    responses_together,
)
from featvis_jax.maximize.objectives.units import Unit
from featvis_jax.types import Activations, Image, Scalar


def interpolation(first: Objective, second: Objective, *, share: float | None = 0.5) -> Objective:
    """Between two objectives: f(x) = (1 - t) f1(x) + t f2(x).

    Args:
      first: f1.
      second: f2; ``channel("conv3").of(7)`` makes it another channel than the unit's.
      share: t, in [0, 1]; ``None`` spreads the unit's variants evenly from f1 to f2.

    Raises:
      ValueError: The share is out of range.

    Example:
      >>> from featvis_jax.maximize.objectives import channel
      >>> between = interpolation(channel("logits"), channel("logits").of(1), share=0.25)
      >>> logits = {"logits": jnp.array([4.0, 8.0])}
      >>> float(between.value(logits, jnp.zeros((3, 3, 1)), Unit(jnp.int32(0))))
      5.0
    """
    if share is not None and not 0 <= share <= 1:
        raise ValueError(
            f"interpolation: share is {share}; expected a number in [0, 1], or None to spread the "
            "variants."
        )

    def between(first: Value, second: Value) -> Value:
        def read(activations: Activations, image: Image, unit: Unit) -> Float[Array, "*places"]:
            if share is None:
                number = lax.axis_index(VARIANTS).astype(jnp.float32)
                t = number / (lax.axis_size(VARIANTS) - 1)
            else:
                t = share
            start, end = (value(activations, image, unit) for value in (first, second))
            return (1 - t) * start + t * end

        return read

    both = first + second
    return Objective(
        f"interpolation({first.description}, {second.description}, share={share})",
        both.layers,
        between(first.value, second.value),
        both.reads_one_channel,
        both.reads_variants or share is None,
        both.checks,
        reads_whole=both.reads_whole,
        directions=both.directions,
        **responses_together(first, second, between),
    )


def diversity(layer: str) -> Objective:
    """How unlike the unit's variants are to one another in what they make of a layer.

    With A_i the activations of variant i, ``(positions, channels)``, and G_i = A_i^T A_i divided
    by its length, the sum over all B variants is

        f = - sum over i != j of <G_i, G_j> / B

    of which every variant has the terms with its own i. It lies between -(B - 1), where all are
    alike, and, after a ReLU, 0. To be added to another objective with a weight:
    ``channel("conv3") + 2 * diversity("conv3")``, in a recipe with ``variants`` above 1.

    Args:
      layer: Name of a layer; ``NAME/relu`` takes it after its ReLU.

    References:
      Olah, Mordvintsev, Schubert, Feature visualization, Distill 2017.
      Gatys, Ecker, Bethge, Texture synthesis using convolutional neural networks, NeurIPS 2015.

    Example:
      >>> import jax
      >>> def value(activation):
      ...     image, unit = jnp.zeros((3, 3, 1)), Unit(jnp.int32(0))
      ...     return diversity("conv1").value({"conv1": activation}, image, unit)
      >>> two = jnp.array([[[[1.0, 0.0]]], [[[0.0, 3.0]]]])  # No channel in common.
      >>> jax.vmap(value, axis_name=VARIANTS)(two).tolist()
      [-0.0, -0.0]
      >>> jax.vmap(value, axis_name=VARIANTS)(jnp.ones((4, 2, 2, 3))).round(4).tolist()
      [-0.75, -0.75, -0.75, -0.75]
    """

    def value(activations: Activations, image: Image, unit: Unit) -> Scalar:
        flat = activations[layer].reshape(-1, activations[layer].shape[-1])
        gram = jnp.matmul(flat.T, flat, precision=lax.Precision.HIGHEST) / flat.shape[0]
        # Where a layer is silent it is like none, and its length has no derivative.
        gram = gram * lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(gram)), 1e-20))
        others = lax.psum(gram, VARIANTS) - gram
        return -jnp.sum(gram * others) / lax.axis_size(VARIANTS)

    description = f"diversity({layer!r})"
    return Objective(
        description,
        (layer,),
        value,
        reads_variants=True,
        reads_whole=(layer,),
        places=_nothing,
        places_of=ANYWHERE,
        alone=_nothing,
    )


def _nothing(activations: Activations, image: Image, unit: Unit) -> Scalar:
    return jnp.zeros(())
