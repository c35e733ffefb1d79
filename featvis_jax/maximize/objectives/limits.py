"""As much of something as is wanted, in place of the most there can be."""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp

from featvis_jax.maximize.objectives.base import Objective
from featvis_jax.maximize.objectives.units import Unit
from featvis_jax.types import Activations, Image, Scalar


def up_to(objective: Objective, most: float) -> Objective:
    """The same, but no more than so much: min(f, most).

    From there on it has no gradient, and what an image costs decides. The largest logit asks for
    all that speaks for a class, several times of what any scan has; a target asks how much is
    needed for it. How strongly the unit responds (`Objective.response`) is told without the end.

    Args:
      objective: f, one number.
      most: Where it ends.

    Raises:
      ValueError: The end is not finite.

    Example:
      >>> from featvis_jax.maximize.objectives import logit
      >>> enough, image = up_to(logit("logits"), 8.0), jnp.zeros((3, 3, 1))
      >>> logits = [{"logits": jnp.array([each])} for each in (5.0, 9.0)]
      >>> [float(enough.value(each, image, Unit(jnp.int32(0)))) for each in logits]
      [5.0, 8.0]
      >>> float(enough.response(logits[1], image, Unit(jnp.int32(0))))
      9.0
    """
    if not math.isfinite(most):
        raise ValueError(f"up_to: most is {most}; expected a finite number.")
    read = objective.value

    def value(activations: Activations, image: Image, unit: Unit) -> Scalar:
        found = read(activations, image, unit)
        # Not a minimum, which shares the gradient where both are alike.
        return jnp.where(found < most, found, jnp.full_like(found, most))

    return dataclasses.replace(
        objective,
        description=f"up_to({objective.description}, {most:g})",
        value=value,
        alone=objective.alone or read,
        most=float(most),
    )
