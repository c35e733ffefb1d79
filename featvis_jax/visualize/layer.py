"""Visualize the channels of one layer: from a recipe to finished images, batch by batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from featvis_jax.nn.taps import Network
from featvis_jax.visualize import ascent, planning
from featvis_jax.visualize.ascent import Recipe, State
from featvis_jax.visualize.objectives import Unit

# A call to the device should be long enough to hide its cost, and short enough that progress is
# seen and a run can be stopped.
_SECONDS_PER_CHUNK = 2.0


class FinishedUnit(NamedTuple):
    """One unit after its ascent.

    Attributes:
      channel: Its number.
      image: ``(*spatial, channels)``.
      finite: Whether the ascent stayed finite.
      initial_objective: f of the first image.
      final_objective: f of `image`.
      penalty: R of `image`.
      objective_trace: f before every step, ``(steps,)``; NaN after a divergence.
      penalty_trace: R before every step.
      variant: Which of the unit's variants.
      transparency: ``(*spatial, channels)``, where the recipe asks for it.
    """

    channel: int
    image: Float[np.ndarray, "*spatial channels"]
    finite: bool
    initial_objective: float
    final_objective: float
    penalty: float
    objective_trace: Float[np.ndarray, " steps"]
    penalty_trace: Float[np.ndarray, " steps"]
    variant: int = 0
    transparency: Float[np.ndarray, "*spatial channels"] | None = None


class FinishedBatch(NamedTuple):
    """Units that ran together, and the wall time of their ascent without compilation."""

    units: tuple[FinishedUnit, ...]
    seconds: float


class LayerProgram:
    """The compiled ascent for the channels of one layer.

    Compiled once, for one batch size; every channel of the layer runs through it. A batch is dealt
    out to the devices, each of which runs its units by itself: nothing passes between them.

    Attributes:
      batch_size: Units per batch, on all devices together.
      compile_seconds: Time that compilation took.
      memory_bytes: What a step of a batch needs at its peak on a device, as the compiler says.
    """

    def __init__(
        self,
        network: Network,
        recipe: Recipe,
        *,
        num_units: int,
        batch_size: int | None = None,
        num_devices: int | None = None,
    ):
        """Compile.

        Args:
          network: The trained network.
          recipe: What to do.
          num_units: Units to run.
          batch_size: Units per batch; by default the largest that pays and fits.
          num_devices: Devices to run on; by default all of this process.

        Raises:
          ValueError: The recipe or the batch size cannot work.
          MemoryError: Not even one unit fits into memory.
        """
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; expected at least 1.")
        started = time.monotonic()
        devices = _devices(num_devices, num_units if batch_size is None else batch_size)
        mesh = jax.sharding.Mesh(np.array(devices), ("units",))
        own, shared = P("units"), P()
        self._own, self._shared = (NamedSharding(mesh, spec) for spec in (own, shared))
        self._steps, self._variants = recipe.steps, recipe.variants
        self._variables = jax.device_put(network.variables, self._shared)

        def on_devices(function: Callable[..., Any], *arguments: P) -> Callable[..., Any]:
            return jax.shard_map(
                function, mesh=mesh, in_specs=arguments, out_specs=own, check_vma=False
            )

        init = on_devices(jax.vmap(lambda key: ascent.init(key, recipe, network.image_shape)), own)
        advance = on_devices(ascent.advance(network, recipe), shared, own, own, shared, shared)
        measure = on_devices(ascent.measure(network, recipe), shared, own, own)

        def keys(size: int) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((size,), jax.random.key(0).dtype, sharding=self._own)

        def arguments(size: int) -> tuple[State, Unit]:
            def owned(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
                return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self._own)

            states = jax.eval_shape(init, keys(size))
            unit = Unit(jax.ShapeDtypeStruct((size,), jnp.int32))  # pyright: ignore
            return jax.tree.map(owned, (states, unit))

        def compile_batch(size: int) -> jax.stages.Compiled:
            bound = jax.ShapeDtypeStruct((), jnp.int32, sharding=self._shared)
            lowered = jax.jit(advance, donate_argnums=1).lower(
                self._variables, *arguments(self._padded(size)), bound, bound
            )
            return lowered.compile()

        if batch_size is None:
            self.batch_size, self._advance = planning.largest_batch(
                compile_batch, num_units=num_units, num_devices=len(devices)
            )
        else:
            self.batch_size, self._advance = batch_size, compile_batch(batch_size)
        size = self._padded(self.batch_size)
        self._init = jax.jit(init).lower(keys(size)).compile()
        self._measure = jax.jit(measure).lower(self._variables, *arguments(size)).compile()
        self.compile_seconds = time.monotonic() - started
        self.memory_bytes = planning.program_bytes(self._advance)

    def _padded(self, size: int) -> int:
        """The next multiple of the number of devices."""
        count = self._own.num_devices
        return -(-size // count) * count

    def _dealt(self, values: np.ndarray, size: int) -> Array:
        """Values of a batch's units dealt out to the devices; the last one fills up."""
        filled = np.concatenate([values, np.repeat(values[-1:], size - len(values), axis=0)])
        return jax.device_put(filled, self._own)

    def run(
        self,
        batch: planning.Batch,
        keys: Array,
        *,
        on_steps: Callable[[int], None] = lambda steps: None,
    ) -> FinishedBatch:
        """Take one batch of units all the way.

        Args:
          batch: The channels, padded to the program's batch size.
          keys: A random key for each (`featvis_jax.visualize.ascent.unit_keys`).
          on_steps: Called after each call to the device with the steps that it took.
        """
        started = time.monotonic()
        size = self._padded(len(batch.channels))
        units = Unit(self._dealt(np.array(batch.channels, np.int32), size))
        key_data = self._dealt(jax.device_get(jax.random.key_data(keys)), size)
        states = self._init(jax.random.wrap_key_data(key_data))
        first = self._measure(self._variables, states, units)
        done, chunk = 0, 1
        while done < self._steps:
            stop = min(done + chunk, self._steps)
            bounds = jax.device_put((np.int32(done), np.int32(stop)), self._shared)
            chunk_started = time.monotonic()
            states = self._advance(self._variables, states, units, *bounds)
            jax.block_until_ready(states.finite)
            seconds_per_step = (time.monotonic() - chunk_started) / (stop - done)
            chunk = max(1, min(2 * chunk, int(_SECONDS_PER_CHUNK / max(seconds_per_step, 1e-6))))
            on_steps(stop - done)
            done = stop
        last = self._measure(self._variables, states, units)
        results = (states.finite, states.objective, states.penalty, first.objective, last)
        variants = self._variants
        if variants > 1:  # Those of one unit follow each other.
            results = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), results)
        finite, objective, penalty, initial, last = jax.device_get(results)
        finished = tuple(
            FinishedUnit(
                channel=batch.channels[i // variants],
                image=last.image[i],
                finite=bool(finite[i]),
                initial_objective=float(initial[i]),
                final_objective=float(last.objective[i]),
                penalty=float(last.penalty[i]),
                objective_trace=objective[i],
                penalty_trace=penalty[i],
                variant=i % variants,
                transparency=None if last.transparency is None else last.transparency[i],
            )
            for i in range(batch.count * variants)
        )
        return FinishedBatch(finished, time.monotonic() - started)


def _devices(wanted: int | None, num_units: int) -> list[Any]:
    """That many devices of this process, or all, but no more than there are units."""
    present = jax.local_devices()
    if wanted is not None and not 1 <= wanted <= len(present):
        raise ValueError(
            f"num_devices is {wanted}; this process sees {len(present)} ({present[0].platform}): "
            "expected a number from 1 to that."
        )
    return present[: min(num_units, len(present) if wanted is None else wanted)]


def visualize(
    network: Network,
    recipe: Recipe,
    layer: str,
    channels: Sequence[int],
    *,
    seed: int = 0,
    batch_size: int | None = None,
) -> Iterator[FinishedUnit]:
    """Visualize some channels of a layer.

    Args:
      network: The trained network.
      recipe: Its objective and penalty read `layer`.
      layer: Name of the layer.
      channels: Channel numbers.
      seed: Of all random draws.
      batch_size: Units per batch; by default the largest that pays and fits.

    Yields:
      Finished units, in order.

    Raises:
      ValueError: There is no such layer or channel, or the recipe cannot work.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from featvis_jax.nn.cnn import CNN
      >>> from featvis_jax.nn.taps import linen_network
      >>> from featvis_jax.visualize import objectives, parameterizations
      >>> module = CNN(rank=2, features=(2, 4, 4, 4, 4))
      >>> variables = module.init(jax.random.key(0), jnp.zeros((40, 44, 1)))
      >>> network = linen_network(module, variables, (40, 44, 1))
      >>> recipe = Recipe(
      ...     objective=objectives.channel("conv2"), steps=5,
      ...     parameterization=parameterizations.pixels(), optimizer=optax.adam(0.02))
      >>> units = list(visualize(network, recipe, "conv2", [0, 3]))
      >>> [unit.channel for unit in units], units[0].image.shape
      ([0, 3], (40, 44, 1))
      >>> all(unit.final_objective > unit.initial_objective for unit in units)
      True
    """
    count = network.layer(layer).channels
    if not channels or not all(0 <= channel < count for channel in channels):
        raise ValueError(
            f"channels is {list(channels)}; layer {layer!r} has channels 0 to {count - 1}: name at "
            "least one of them."
        )
    program = LayerProgram(network, recipe, num_units=len(channels), batch_size=batch_size)
    for batch in planning.batches(channels, batch_size=program.batch_size):
        yield from program.run(batch, ascent.unit_keys(seed, layer, batch.channels)).units
