"""One ascent on several devices: the units of a batch are dealt out, and never meet again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, PyTree

from featvis_jax.maximize import ascent, planning
from featvis_jax.maximize.ascent import Advance, Measure, Measurement, State
from featvis_jax.maximize.objectives import Unit
from featvis_jax.maximize.recipe import Recipe
from featvis_jax.nn.network import Network


class ShardedAscent:
    """The functions of `ascent` for batches of one size, each device with units of its own.

    Attributes:
      num_devices: Devices that share a batch; one without a unit of its own would repeat another.
    """

    def __init__(self, network: Network, recipe: Recipe, size: int, devices: Sequence[Any]):
        """Deal out; nothing is compiled yet.

        Args:
          network: The trained network.
          recipe: What to do.
          size: Units of a batch.
          devices: The devices that there are.

        Raises:
          ValueError: The recipe cannot work.
        """
        mesh = jax.sharding.Mesh(np.array(devices[:size]), ("units",))
        own, shared = P("units"), P()
        self._own, self._shared = (NamedSharding(mesh, spec) for spec in (own, shared))
        self.num_devices = mesh.size
        self._size = -(-size // mesh.size) * mesh.size
        self._variables = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self._shared),
            network.variables,
        )

        def sharded(function: Callable[..., Any], *arguments: P, donate: int | None = None) -> Any:
            mapped = jax.shard_map(
                function, mesh=mesh, in_specs=arguments, out_specs=own, check_vma=False
            )
            return jax.jit(mapped, donate_argnums=donate)

        def init(keys: Array) -> State:
            return jax.vmap(lambda key: ascent.init(key, recipe, network.image_shape))(keys)

        advance, measure = ascent.advance(network, recipe), ascent.measure(network, recipe)
        if devices[0].platform == "cpu":
            advance = _in_groups(advance)
        self._init = sharded(init, own)
        self._advance = sharded(advance, shared, own, own, shared, shared, donate=1)
        # What is read at a neuron's place would be rounded otherwise in one program with the
        # response of the whole image.
        self._is_apart = recipe.objective.place is not None
        self._objective = recipe.objective
        self._respond = sharded(ascent.respond(network, recipe), shared, own, own)
        if self._is_apart:
            measure = _without_response(measure)
        self._measure = sharded(measure, shared, own, own)

    def compile_init(self) -> jax.stages.Compiled:
        """Compile ``keys -> states``."""
        return self._init.lower(self._keys()).compile()

    def compile_advance(self) -> jax.stages.Compiled:
        """Compile ``(variables, states, units, first, stop) -> states``; `states` is donated."""
        bound = jax.ShapeDtypeStruct((), jnp.int32, sharding=self._shared)
        return self._advance.lower(self._variables, *self._units(), bound, bound).compile()

    def compile_measure(self) -> Measure:
        """Compile ``(variables, states, units) -> measurements``."""
        states, units = self._units()
        measure = self._measure.lower(self._variables, states, units).compile()
        if not self._is_apart:
            return measure
        images = jax.eval_shape(self._measure, self._variables, states, units).image
        images = jax.ShapeDtypeStruct(images.shape, images.dtype, sharding=self._own)
        respond = self._respond.lower(self._variables, images, units).compile()

        def run(variables: PyTree[Array], states: State, units: Unit) -> Measurement:
            found = measure(variables, states, units)
            return found._replace(response=respond(variables, found.image, units))

        return run

    def units(
        self, channels: np.ndarray, targets: Float[np.ndarray, " channels"] | None = None
    ) -> Unit:
        """A batch's units, each on its device.

        Args:
          channels: Their numbers.
          targets: What each aims at; by default unknown to all.
        """
        return jax.tree.map(self.dealt, self._objective.units(channels, targets=targets))

    def dealt(self, values: np.ndarray) -> Array:
        """Values of a batch's units, each on its unit's device; the last one fills up.

        Args:
          values: ``(units, ...)``, at most as many as a batch has.
        """
        filling = np.repeat(values[-1:], self._size - len(values), axis=0)
        return jax.device_put(np.concatenate([values, filling]), self._own)

    def copied(self, values: PyTree[Any]) -> PyTree[Array]:
        """Values that all devices need, on each of them.

        Args:
          values: Weights, or a step's number.
        """
        return jax.device_put(values, self._shared)

    def _keys(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((self._size,), jax.random.key(0).dtype, sharding=self._own)

    def _units(self) -> tuple[State, Unit]:
        states = jax.eval_shape(self._init, self._keys())
        units = self._objective.units(np.zeros(self._size, np.int32))
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self._own),
            (states, units),
        )


def _without_response(measure: Measure) -> Measure:
    nothing = jnp.zeros(0)
    return lambda *arguments: measure(*arguments)._replace(response=nothing)


def _in_groups(advance: Advance) -> Advance:
    """The same, a few units after the other: so many as stay near the caches of a core."""

    def run(
        variables: PyTree[Array], states: State, units: Unit, first: Array, stop: Array
    ) -> State:
        count = len(units.channel)
        most = planning.largest_useful_size(num_devices=1)
        size = max(n for n in range(1, most + 1) if count % n == 0)
        if size == count:
            return advance(variables, states, units, first, stop)
        groups = jax.tree.map(lambda leaf: leaf.reshape(-1, size, *leaf.shape[1:]), (states, units))
        done = lax.map(lambda group: advance(variables, group[0], group[1], first, stop), groups)
        return jax.tree.map(lambda leaf: leaf.reshape(count, *leaf.shape[2:]), done)

    return run
