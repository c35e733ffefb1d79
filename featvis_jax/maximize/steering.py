"""From what a step has found to its gradient: what the image costs, and how a drive weighs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from featvis_jax.maximize import drive
from featvis_jax.maximize.drive import Pressure
from featvis_jax.maximize.objectives import Objective, Unit
from featvis_jax.maximize.parameterizations import Parameters
from featvis_jax.maximize.reading import reader, response_of
from featvis_jax.maximize.recipe import Recipe
from featvis_jax.nn.network import Network, Variables
from featvis_jax.types import Image, Key, Scalar, Step


class Found(NamedTuple):
    """What a step knows of where it stands.

    Attributes:
      image: The image.
      on_image: Gradient on it of what is minimized, without what parameters cost.
      to_parameters: From a gradient on the image to one on the parameters.
      on_cost: Gradient of what the parameters cost; ``None`` where they cost nothing.
      objective: f of it, as the network was shown it.
      first: f in the first step.
      response: Of the unit to what the network was shown; nothing without a drive.
    """

    image: Image
    on_image: Image
    to_parameters: Callable[[Image], tuple[Parameters]]
    on_cost: Parameters | None
    objective: Scalar
    first: Scalar
    response: list[Scalar]


Steer = Callable[
    [Key, Variables, Unit, Step, Pressure | None, Found], tuple[Parameters, Pressure | None]
]


def terms(recipe: Recipe) -> list[Objective]:
    """What a drive needs to know beside the recipe's terms, read off the same activations.

    Args:
      recipe: The recipe.
    """
    return [] if recipe.drive is None else [response_of(recipe.objective)]


def cost(recipe: Recipe, parameters: Parameters) -> tuple[Scalar, Parameters | None]:
    """What parameters cost, and its gradient; 0 and ``None`` where they cost nothing.

    Args:
      recipe: The recipe.
      parameters: Of an image.
    """
    if recipe.parameterization.cost is None:
        return jnp.zeros(()), None
    return jax.value_and_grad(recipe.parameterization.cost)(parameters)


def target(unit: Unit) -> Scalar:
    """The response that a unit aims at; NaN for one that has to find it.

    Args:
      unit: The unit.
    """
    return jnp.full((), jnp.nan) if unit.target is None else unit.target


def steering(network: Network, recipe: Recipe) -> Steer:
    """Make the function that tells the gradient of a step, and the pressure of the next.

    Args:
      network: The trained network.
      recipe: The recipe.

    Returns:
      ``(key, variables, unit, step, pressure, found) -> gradient, pressure``.
    """
    respond_plainly = reader(network, terms(recipe))
    hold = recipe.parameterization.hold

    def steered(
        key: Key,
        variables: Variables,
        unit: Unit,
        step: Step,
        pressure: Pressure | None,
        found: Found,
    ) -> tuple[Parameters, Pressure | None]:
        given, image = recipe.drive, found.image
        if given is None or pressure is None:
            (gradient,) = found.to_parameters(found.on_image)
            if found.on_cost is None:
                return gradient, None
            due = _due(recipe, found)
            return jax.tree.map(lambda g, c: g + due * c, gradient, found.on_cost), None
        plain = lax.cond(
            step % drive.PLAIN_EVERY == 0,
            lambda: respond_plainly(variables, image, unit)[0],
            lambda: pressure.plain,
        )
        wander = jax.random.normal(jax.random.fold_in(key, 2), image.shape, image.dtype)
        if found.on_cost is None:
            against = jax.grad(lambda image: given.cost.value({}, hold(image), unit))(image)
            direction = drive.directed(given, found.on_image, against, wander, pressure)
            (gradient,) = found.to_parameters(direction)
        else:
            # Of parameters that know what they cost, all directions are told there.
            ascent, back = ravel_pytree(found.to_parameters(found.on_image)[0])
            against, _ = ravel_pytree(found.on_cost)
            astray, _ = ravel_pytree(found.to_parameters(wander)[0])
            gradient = back(drive.directed(given, ascent, against, astray, pressure))
        seen = pressure._replace(plain=plain)
        return gradient, drive.after_step(
            given, seen, found.response[0], target(unit), step, recipe.steps
        )

    return steered


def _due(recipe: Recipe, found: Found) -> Scalar | float:
    """The share of a cost that counts in a step without a drive."""
    most = recipe.objective.most
    if most is None or not recipe.parameterization.deferred:
        return 1.0
    way = most - found.first
    behind = (found.objective - found.first) / jnp.where(way > 0, way, 1.0)
    # A start beyond the end has nothing to wait for.
    return jnp.where(way > 0, jnp.square(jnp.clip(behind, 0.0, 1.0)), 1.0)
