"""Activation maximization: gradient ascent on many units at once.

A `Recipe` says what happens in a step, `init` makes the state of each unit, and the function that
`advance` returns takes a whole batch of units some steps further in one call to the device:

    for every unit, in parallel (vmap):
        image      = decode(parameters)
        f, R       = objective, penalty of network(robustness(image))
        parameters = optimizer's step along the gradient of f - weight * R
        parameters = constrain(projection(parameters))

Units share nothing but the weights. Each owns its randomness: what a unit draws is a function of
the seed, its layer and its channel, whatever it is batched with. The batch is a map over one unit's
program, so a unit that diverges is frozen at its last finite image and disturbs no other.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jaxtyping
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from featvis_jax.nn.taps import Network
from featvis_jax.types import Activations, Image, Key, Scalar, Step, Transform
from featvis_jax.visualize.objectives import Objective, Unit
from featvis_jax.visualize.parameterizations import Parameterization
from featvis_jax.visualize.transforms import is_differentiable, is_identity

Parameters = PyTree[Array]
Variables = PyTree[Array]


class Recipe(NamedTuple):
    """Everything that an ascent does, and for how long.

    Attributes:
      objective: f, what to maximize.
      penalty: R, what to keep low, or ``None``.
      penalty_weight: lambda.
      parameterization: What is optimized.
      optimizer: From optax; it minimizes, and is handed the gradient of lambda R - f.
      robustness: Applied to the image before the network; gradients flow through it.
      projection: Applied to the image after each update. Needs pixels.
      steps: Number of steps.
    """

    objective: Objective
    penalty: Objective | None
    penalty_weight: float
    parameterization: Parameterization
    optimizer: optax.GradientTransformation
    robustness: Transform
    projection: Transform
    steps: int


class State(NamedTuple):
    """One unit's ascent; a batch of them has a leading axis everywhere.

    Attributes:
      key: The unit's own random key.
      parameters: Of the image; the last finite ones if the unit diverged.
      optimizer: The optimizer's state.
      finite: False from the step on at which something was no longer finite.
      objective: f before each step, ``(steps,)``, NaN where not reached.
      penalty: R before each step, likewise.
    """

    key: Key
    parameters: Parameters
    optimizer: optax.OptState
    finite: Bool[Array, ""]
    objective: Float[Array, " steps"]
    penalty: Float[Array, " steps"]


class Measurement(NamedTuple):
    """A unit's image and what the network makes of it, untransformed.

    Attributes:
      image: ``(*spatial, channels)``.
      objective: f.
      penalty: R, 0 without one.
    """

    image: Image
    objective: Scalar
    penalty: Scalar


Advance = Callable[[Variables, State, Unit, Int[Array, ""], Int[Array, ""]], State]
Measure = Callable[[Variables, State, Unit], Measurement]


def check(recipe: Recipe) -> None:
    """Refuse a recipe that cannot work, before anything is compiled.

    Raises:
      ValueError: A slot holds something that it cannot take.
    """
    if recipe.steps < 1:
        raise ValueError(f"steps is {recipe.steps}; expected at least 1.")
    if not is_differentiable(recipe.robustness):
        raise ValueError(
            f"The robustness transform {recipe.robustness} has no useful gradient, and the ascent "
            "needs one there: use it as a projection instead."
        )
    if not recipe.parameterization.is_image and not is_identity(recipe.projection):
        raise ValueError(
            f"The projection {recipe.projection} works on the image itself, but the "
            f"parameterization is {recipe.parameterization.description}: use pixels, or move the "
            "transform to the robustness slot."
        )


def unit_keys(seed: int, layer: str, channels: Sequence[int]) -> jaxtyping.Key[Array, " channels"]:
    """The random keys of some units of a layer.

    Args:
      seed: The run's seed.
      layer: The layer's name. It enters by its checksum, so that other layers change nothing.
      channels: Channel numbers.

    Returns:
      Keys ``(len(channels),)``.

    Example:
      >>> alone, together = unit_keys(0, "conv3", [7]), unit_keys(0, "conv3", [2, 7])
      >>> bool((jax.random.key_data(alone[0]) == jax.random.key_data(together[1])).all())
      True
    """
    layer_key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(layer.encode()))
    return jax.vmap(lambda channel: jax.random.fold_in(layer_key, channel))(
        jnp.asarray(channels, jnp.uint32)
    )


def init(key: Key, recipe: Recipe, image_shape: tuple[int, ...]) -> State:
    """The state of one unit before its first step. `jax.vmap` over keys makes a batch.

    Args:
      key: The unit's key.
      recipe: The recipe.
      image_shape: ``(*spatial, channels)``.
    """
    parameters = recipe.parameterization.init(jax.random.fold_in(key, 0), image_shape)
    trace = jnp.full((recipe.steps,), jnp.nan, jnp.float32)
    return State(
        key=key,
        parameters=parameters,
        optimizer=recipe.optimizer.init(parameters),
        finite=jnp.array(True),
        objective=trace,
        penalty=trace,
    )


def advance(network: Network, recipe: Recipe) -> Advance:
    """Make the function that takes a batch of units some steps further.

    Args:
      network: The trained network.
      recipe: What happens in a step.

    Returns:
      ``(variables, states, units, first, stop) -> states``, which runs the steps from ``first`` up
      to but without ``stop``. To be jitted, with `states` donated. Both bounds are data: chunks of
      any length are one program. The weights are an argument, since XLA would fold constants for
      minutes.

    Raises:
      ValueError: The recipe cannot work (`check`), or a layer does not exist.
    """
    check(recipe)
    read = _reader(network, recipe)

    def step_one_unit(variables: Variables, state: State, unit: Unit, step: Step) -> State:
        key = jax.random.fold_in(jax.random.fold_in(state.key, 1), step)

        def loss(parameters: Parameters) -> tuple[Scalar, tuple[Scalar, Scalar]]:
            image = recipe.parameterization.decode(parameters)
            seen = recipe.robustness(jax.random.fold_in(key, 0), image, step)
            objective, penalty = read(variables, seen, unit)
            return recipe.penalty_weight * penalty - objective, (objective, penalty)

        gradient, (objective, penalty) = jax.grad(loss, has_aux=True)(state.parameters)
        updates, optimizer = recipe.optimizer.update(gradient, state.optimizer, state.parameters)
        parameters = optax.apply_updates(state.parameters, updates)
        if recipe.parameterization.is_image:
            parameters = recipe.projection(jax.random.fold_in(key, 1), parameters, step)  # pyright: ignore
        parameters = recipe.parameterization.constrain(parameters)

        finite = state.finite & jnp.isfinite(objective) & jnp.isfinite(penalty)
        for leaf in jax.tree.leaves((gradient, parameters)):
            finite = finite & jnp.isfinite(leaf).all()
        parameters, optimizer = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (parameters, optimizer),
            (state.parameters, state.optimizer),
        )
        return State(
            key=state.key,
            parameters=parameters,
            optimizer=optimizer,
            finite=finite,
            objective=state.objective.at[step].set(jnp.where(finite, objective, jnp.nan)),
            penalty=state.penalty.at[step].set(jnp.where(finite, penalty, jnp.nan)),
        )

    # The step is not batched: under vmap a `lax.cond` on it stays a cond, and a costly transform
    # that acts every 50th step costs nothing on the others.
    step_all_units = jax.vmap(step_one_unit, in_axes=(None, 0, 0, None))

    def run(
        variables: Variables,
        states: State,
        units: Unit,
        first: Int[Array, ""],
        stop: Int[Array, ""],
    ) -> State:
        return lax.fori_loop(
            first, stop, lambda step, s: step_all_units(variables, s, units, step), states
        )

    return run


def measure(network: Network, recipe: Recipe) -> Measure:
    """Make the function that reads off a batch of units where they stand.

    Args:
      network: The trained network.
      recipe: The recipe.

    Returns:
      ``(variables, states, units) -> measurements``, to be jitted.
    """
    read = _reader(network, recipe)

    def one_unit(variables: Variables, state: State, unit: Unit) -> Measurement:
        image = recipe.parameterization.decode(state.parameters)
        return Measurement(image, *read(variables, image, unit))

    return jax.vmap(one_unit, in_axes=(None, 0, 0))


def _reader(
    network: Network, recipe: Recipe
) -> Callable[[Variables, Image, Unit], tuple[Scalar, Scalar]]:
    """F and R of one image, computing no more of the network than they read."""
    terms = [recipe.objective] if recipe.penalty is None else [recipe.objective, recipe.penalty]
    layers = tuple(dict.fromkeys(name for term in terms for name in term.layers))
    for name in layers:
        network.layer(name)
    narrow = len(layers) == 1 and all(term.reads_one_channel for term in terms)

    def read(variables: Variables, image: Image, unit: Unit) -> tuple[Scalar, Scalar]:
        activations: Activations
        if narrow:
            activations = network.one_channel(variables, image, layers[0], unit.channel)
            unit = unit._replace(channel=jnp.zeros_like(unit.channel))
        else:
            activations = network.activations(variables, image, layers)
        values = [term.value(activations, image, unit) for term in terms]
        return values[0], values[1] if len(values) > 1 else jnp.zeros_like(values[0])

    return read
