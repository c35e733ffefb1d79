"""Activation maximization: gradient ascent on many units at once.

A `Recipe` says what happens in a step, `init` makes the state of each unit, and the function that
`advance` returns takes a whole batch of units some steps further in one call to the device:

    for every unit, in parallel (vmap):
        image      = decode(parameters)
        f, R       = objective, penalty of network(robustness(image))
        parameters = optimizer's step along the gradient of f - weight * R - cost(parameters)
        parameters = constrain(projection(parameters))

A recipe with a drive applies its transforms in part, at a pressure of each unit's own that
`featvis_jax.maximize.drive` steers.

Units share nothing but the weights. Each owns its randomness: what a unit draws is a function of
the seed, its layer and its channel, whatever it is batched with. The batch is a map over one unit's
program, so a unit that diverges is frozen at its last finite image and disturbs no other. Compiled
for another batch size or processor, a step rounds otherwise: its gradient agrees to a millionth of
its maximum, and images stay together until a ReLU or a pooling chooses otherwise.

A unit of several variants is a map over one variant's program in turn, with starts and draws of
their own. Only an objective that asks for the others (`diversity`) couples them, through the named
axis of that map.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxtyping
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from featvis_jax.maximize import drive, steering
from featvis_jax.maximize.objectives import VARIANTS, Unit
from featvis_jax.maximize.reading import Read, Respond, reader, responder
from featvis_jax.maximize.recipe import Recipe, check
from featvis_jax.maximize.transforms import in_part
from featvis_jax.nn.tracing import Network
from featvis_jax.types import Image, Key, Scalar, Step, Transform

__all__ = [
    "Advance",
    "Measure",
    "Measurement",
    "Read",
    "Recipe",
    "Respond",
    "State",
    "advance",
    "check",
    "init",
    "measure",
    "reader",
    "respond",
    "responder",
    "unit_keys",
]

Parameters = PyTree[Array]
Variables = PyTree[Array]


class State(NamedTuple):
    """One unit's ascent; a batch of them has a leading axis everywhere.

    In a recipe of several variants a unit's state has a leading axis over them everywhere.

    Attributes:
      key: The unit's own random key.
      parameters: Of the image; the last finite ones if the unit diverged.
      optimizer: The optimizer's state.
      finite: False from the step on at which something was no longer finite.
      objective: f before each step, ``(steps,)``, NaN where not reached.
      penalty: R before each step, likewise; with the cost of the parameters, where they have one.
      transparency: Sum over the steps of |d(f - lambda R) / d image|, ``None`` if not asked for.
      pressure: How strong regularization is, ``None`` in a recipe without a drive.
    """

    key: Key
    parameters: Parameters
    optimizer: optax.OptState
    finite: Bool[Array, ""]
    objective: Float[Array, " steps"]
    penalty: Float[Array, " steps"]
    transparency: Image | None = None
    pressure: drive.Pressure | None = None


class Measurement(NamedTuple):
    """A unit's image and what the network makes of it, untransformed.

    In a recipe of several variants every array has a leading axis over them.

    Attributes:
      image: ``(*spatial, channels)``.
      objective: f.
      penalty: R, 0 without one; with the cost of the parameters, where they have one.
      response: How strongly the unit responds, wherever in the image (`Objective.response`).
      target: The response that it aims at, NaN where there is none.
      transparency: As in `State`.
      maps: What the parameters stand for beside the image (`Parameterization.maps`).
    """

    image: Image
    objective: Scalar
    penalty: Scalar
    response: Scalar
    target: Scalar
    transparency: Image | None = None
    maps: dict[str, Float[Array, ...]] | None = None


Advance = Callable[[Variables, State, Unit, Int[Array, ""], Int[Array, ""]], State]
Measure = Callable[[Variables, State, Unit], Measurement]


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

    def init_variant(key: Key) -> State:
        parameters = recipe.parameterization.init(jax.random.fold_in(key, 0), image_shape)
        trace = jnp.full((recipe.steps,), jnp.nan, jnp.float32)
        return State(
            key=key,
            parameters=parameters,
            optimizer=recipe.transformation.init(parameters),
            finite=jnp.array(True),
            objective=trace,
            penalty=trace,
            transparency=jnp.zeros(image_shape) if recipe.transparency else None,
            pressure=None if recipe.drive is None else drive.relaxed(),
        )

    if recipe.variants == 1:
        return init_variant(key)
    # The first variant draws what the unit would draw alone. 0 and 1 are taken, by its start and
    # its steps.
    others = [jax.random.fold_in(key, 1 + number) for number in range(1, recipe.variants)]
    return jax.vmap(init_variant)(jnp.stack([key, *others]))


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
      ValueError: The recipe cannot work, or not with this network (`check`).
    """
    check(recipe, network=network)
    # The step is not batched: under vmap a `lax.cond` on it stays a cond, and a costly transform
    # that acts every 50th step costs nothing on the others.
    step_one_unit = _over_variants(_step(network, recipe), recipe, in_axes=(None, 0, None, None))
    step_all_units = jax.vmap(step_one_unit, in_axes=(None, 0, 0, None))

    def run(variables: Variables, states: State, units: Unit, first: Step, stop: Step) -> State:
        return lax.fori_loop(
            first, stop, lambda step, s: step_all_units(variables, s, units, step), states
        )

    return run


def _step(network: Network, recipe: Recipe) -> Callable[[Variables, State, Unit, Step], State]:
    """Make the function that takes one variant of a unit one step further."""
    read = reader(network, [*recipe.terms, *steering.terms(recipe)])
    if recipe.rematerialize:
        read = jax.checkpoint(read, policy=_is_costly)
    steered = steering.steering(network, recipe)

    def step_one_variant(variables: Variables, state: State, unit: Unit, step: Step) -> State:
        key = jax.random.fold_in(jax.random.fold_in(state.key, 1), step)

        def loss(image: Image) -> tuple[Scalar, tuple[Scalar, Scalar, list[Scalar]]]:
            held = recipe.parameterization.hold(image)
            seen = _applied(recipe.robustness, jax.random.fold_in(key, 0), held, step, state)
            values = read(variables, seen, unit)
            objective, penalty = _with_penalty(values[: len(recipe.terms)])
            response = values[len(recipe.terms) :]
            return recipe.penalty_weight * penalty - objective, (objective, penalty, response)

        # Of an objective that couples variants, this is the gradient of the sum over all of them:
        # the transpose of a psum is a psum.
        image, to_parameters = jax.vjp(recipe.parameterization.decode, state.parameters)
        on_image, (objective, penalty, response) = jax.grad(loss, has_aux=True)(image)
        cost, on_cost = steering.cost(recipe, state.parameters)
        first = jnp.where(step == 0, objective, state.objective[0])
        found = steering.Found(image, on_image, to_parameters, on_cost, objective, first, response)
        gradient, pressure = steered(key, variables, unit, step, state.pressure, found)
        penalty = penalty + cost
        updates, optimizer = recipe.transformation.update(
            gradient, state.optimizer, state.parameters
        )
        parameters = optax.apply_updates(state.parameters, updates)
        if recipe.parameterization.is_image:
            projection_key = jax.random.fold_in(key, 1)
            parameters = _applied(recipe.projection, projection_key, parameters, step, state)  # pyright: ignore
        parameters = recipe.parameterization.constrain(parameters)

        finite = state.finite & jnp.isfinite(objective) & jnp.isfinite(penalty)
        for leaf in jax.tree.leaves((gradient, parameters)):
            finite = finite & jnp.isfinite(leaf).all()
        seen = None if state.transparency is None else state.transparency + jnp.abs(on_image)
        moved = state._replace(
            parameters=parameters, optimizer=optimizer, transparency=seen, pressure=pressure
        )
        kept = _moved_if(finite, state, moved)
        return kept._replace(
            objective=state.objective.at[step].set(jnp.where(finite, objective, jnp.nan)),
            penalty=state.penalty.at[step].set(jnp.where(finite, penalty, jnp.nan)),
        )

    return step_one_variant


def _moved_if(finite: Bool[Array, ""], state: State, moved: State) -> State:
    """Where a step has led, or where the unit stood if something in it was not finite."""
    parameters, optimizer, transparency, pressure = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old),
        (moved.parameters, moved.optimizer, moved.transparency, moved.pressure),
        (state.parameters, state.optimizer, state.transparency, state.pressure),
    )
    return state._replace(
        parameters=parameters,
        optimizer=optimizer,
        finite=finite,
        transparency=transparency,
        pressure=pressure,
    )


def _applied(transform: Transform, key: Key, image: Image, step: Step, state: State) -> Image:
    """An image after a transform, or after as much of it as the unit's pressure says."""
    if state.pressure is None:
        return transform(key, image, step)
    return in_part(key, image, step, transform, state.pressure.share)


def _is_costly(primitive: Any, *_: Any, **__: Any) -> bool:
    """Whether a result is kept where everything else is computed again for the gradient."""
    return primitive.name in ("conv_general_dilated", "dot_general", "fast_conv")


def measure(network: Network, recipe: Recipe) -> Measure:
    """Make the function that reads off a batch of units where they stand.

    Args:
      network: The trained network.
      recipe: The recipe.

    Returns:
      ``(variables, states, units) -> measurements``, to be jitted.

    Raises:
      ValueError: The recipe cannot work, or not with this network (`check`).
    """
    check(recipe, network=network)
    read, respond_all = reader(network, recipe.terms), respond(network, recipe)

    def one_variant(variables: Variables, state: State, unit: Unit) -> Measurement:
        image = recipe.parameterization.decode(state.parameters)
        objective, penalty = _with_penalty(read(variables, image, unit))
        of_image, target = recipe.parameterization, steering.target(unit)
        if recipe.drive is not None and state.pressure is not None:
            target = drive.aimed_at(recipe.drive, target, state.pressure)
        if of_image.cost is not None:
            penalty = penalty + of_image.cost(state.parameters)
        maps = None if of_image.maps is None else of_image.maps(state.parameters)
        return Measurement(image, objective, penalty, objective, target, state.transparency, maps)

    one_unit = _over_variants(one_variant, recipe, in_axes=(None, 0, None))

    def all_units(variables: Variables, states: State, units: Unit) -> Measurement:
        found = jax.vmap(one_unit, in_axes=(None, 0, 0))(variables, states, units)
        return found._replace(response=respond_all(variables, found.image, units))

    return all_units


def respond(network: Network, recipe: Recipe) -> Respond:
    """Make the function that tells how strongly a batch of units responds to an image of each.

    It looks at the whole image, of a neuron too: its channel may respond elsewhere.

    Args:
      network: The trained network.
      recipe: The recipe.

    Returns:
      ``(variables, images, units) -> responses``, to be jitted.
    """
    one_variant = responder(network, recipe.objective)
    one_unit = _over_variants(one_variant, recipe, in_axes=(None, 0, None))

    def all_units(variables: Variables, images: Array, units: Unit) -> Array:
        def response(of_one: tuple[Array, Unit]) -> Array:
            return one_unit(variables, *of_one)

        if recipe.objective.place is None:
            return jax.vmap(response)((images, units))
        # As many neurons run at once as their receptive fields allow, and here each needs the
        # network over all of its image: one after the other.
        return lax.map(response, (images, units))

    return all_units


def _over_variants(
    function: Callable[..., Any], recipe: Recipe, *, in_axes: tuple[int | None, ...]
) -> Callable[..., Any]:
    """What a function of one variant is for a unit."""
    if recipe.variants == 1:
        return function
    return jax.vmap(function, in_axes=in_axes, axis_name=VARIANTS)


def _with_penalty(values: Sequence[Scalar]) -> tuple[Scalar, Scalar]:
    """F and R, where R is 0 without a penalty."""
    objective, *penalty = values
    return objective, penalty[0] if penalty else jnp.zeros_like(objective)
