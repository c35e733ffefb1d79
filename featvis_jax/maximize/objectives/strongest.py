"""Where a unit responds most, in place of everywhere."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from featvis_jax.maximize.objectives.base import Objective
from featvis_jax.maximize.objectives.constancy import MeanCheck
from featvis_jax.maximize.objectives.units import Unit
from featvis_jax.types import Activations, Image, Scalar


def strongest(objective: Objective, *, softness: float = 1.0) -> Objective:
    """The same at the places where it is largest: a soft maximum instead of the mean.

        f(x) = t log mean exp(a / t),   t = softness * standard deviation of a over its places

    lies between the mean, for a large t, and the maximum, for a small one; with t in proportion to
    what there is, no scale has to be found for a network. The mean is raised by a faint response
    everywhere, which textures give, and of a channel that is silent nearly everywhere it has no
    useful gradient; the maximum follows a single place, and forgets what begins elsewhere.

    Args:
      objective: One that is about places: of a channel, alone or under a mask, or a direction.
        What has a single value stays as it is: logits, neurons, whole layers.
      softness: Above 0.

    Raises:
      ValueError: The softness is not a positive number, or the objective ends somewhere (`up_to`).

    Example:
      >>> from featvis_jax.maximize.objectives import channel
      >>> activations = {"conv1": jnp.array([[[0.0], [0.0], [0.0], [4.0]]])}
      >>> image, unit = jnp.zeros((3, 6, 1)), Unit(jnp.int32(0))
      >>> mean, most = channel("conv1"), strongest(channel("conv1"))
      >>> [round(float(each.value(activations, image, unit)), 2) for each in (mean, most)]
      [1.0, 2.05]
    """
    if not 0 < softness < float("inf"):
        raise ValueError(f"strongest: softness is {softness}; expected a number above 0.")
    if objective.most is not None:
        raise ValueError(
            f"strongest: {objective.description} would lose its end; expected it outside: "
            f"up_to(strongest(...), {objective.most:g})."
        )
    read = objective.places
    if read is None or objective.place is not None:
        return objective

    def value(activations: Activations, image: Image, unit: Unit) -> Scalar:
        places = read(activations, image, unit).ravel()
        if places.size == 1:
            return places[0]
        # The temperature is a scale and nothing to climb. Where all places are alike, so is any.
        spread = lax.stop_gradient(softness * places.std())
        temperature = jnp.where(spread > 0, spread, 1.0)
        most = jax.nn.logsumexp(places / temperature) - jnp.log(places.size)
        return temperature * most

    shown = "" if softness == 1 else f", softness={softness:g}"
    return dataclasses.replace(
        objective,
        description=f"strongest({objective.description}{shown})",
        value=value,
        # The mean alone may be the same for every image.
        checks=tuple(check for check in objective.checks if not isinstance(check, MeanCheck)),
    )
