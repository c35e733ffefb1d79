"""Visualize the channels of one layer: from a recipe to finished images, batch by batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
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
    """

    channel: int
    image: Float[np.ndarray, "*spatial channels"]
    finite: bool
    initial_objective: float
    final_objective: float
    penalty: float
    objective_trace: Float[np.ndarray, " steps"]
    penalty_trace: Float[np.ndarray, " steps"]


class FinishedBatch(NamedTuple):
    """Units that ran together, and the wall time of their ascent without compilation."""

    units: tuple[FinishedUnit, ...]
    seconds: float


class LayerProgram:
    """The compiled ascent for the channels of one layer.

    Compiled once, for one batch size; every channel of the layer runs through it.

    Attributes:
      batch_size: Units per batch.
      compile_seconds: Time that compilation took.
    """

    def __init__(
        self,
        network: Network,
        recipe: Recipe,
        *,
        num_units: int,
        batch_size: int | None = None,
    ):
        """Compile.

        Args:
          network: The trained network.
          recipe: What to do.
          num_units: Units to run.
          batch_size: Units per batch; by default the largest that pays and fits.

        Raises:
          ValueError: The recipe or the batch size cannot work.
          MemoryError: Not even one unit fits into memory.
        """
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; expected at least 1.")
        started = time.monotonic()
        self._network, self._recipe = network, recipe
        init = jax.jit(jax.vmap(lambda key: ascent.init(key, recipe, network.image_shape)))
        advance = jax.jit(ascent.advance(network, recipe), donate_argnums=1)
        measure = jax.jit(ascent.measure(network, recipe))

        def keys(size: int) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((size,), jax.random.key(0).dtype)

        def arguments(size: int) -> tuple[State, Unit]:
            states = jax.eval_shape(init, keys(size))
            return states, Unit(jax.ShapeDtypeStruct((size,), jnp.int32))  # pyright: ignore

        def compile_batch(size: int) -> jax.stages.Compiled:
            bound = jax.ShapeDtypeStruct((), jnp.int32)
            return advance.lower(network.variables, *arguments(size), bound, bound).compile()

        if batch_size is None:
            self.batch_size, self._advance = planning.largest_batch(
                compile_batch,
                num_units=num_units,
                memory_bytes=planning.free_memory_bytes(),
            )
        else:
            self.batch_size, self._advance = batch_size, compile_batch(batch_size)
        self._init = init.lower(keys(self.batch_size)).compile()
        self._measure = measure.lower(network.variables, *arguments(self.batch_size)).compile()
        self.compile_seconds = time.monotonic() - started

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
        variables, total = self._network.variables, self._recipe.steps
        units = Unit(jnp.asarray(batch.channels, jnp.int32))
        states = self._init(keys)
        first = self._measure(variables, states, units)
        done, chunk = 0, 1
        while done < total:
            stop = min(done + chunk, total)
            chunk_started = time.monotonic()
            states = self._advance(variables, states, units, jnp.int32(done), jnp.int32(stop))
            jax.block_until_ready(states.finite)
            seconds_per_step = (time.monotonic() - chunk_started) / (stop - done)
            chunk = max(1, min(2 * chunk, int(_SECONDS_PER_CHUNK / max(seconds_per_step, 1e-6))))
            on_steps(stop - done)
            done = stop
        last = self._measure(variables, states, units)
        states, initial, last = jax.device_get(
            (states._replace(key=None, parameters=None, optimizer=None), first.objective, last)
        )
        finished = tuple(
            FinishedUnit(
                channel=batch.channels[i],
                image=last.image[i],
                finite=bool(states.finite[i]),
                initial_objective=float(initial[i]),
                final_objective=float(last.objective[i]),
                penalty=float(last.penalty[i]),
                objective_trace=states.objective[i],
                penalty_trace=states.penalty[i],
            )
            for i in range(batch.count)
        )
        return FinishedBatch(finished, time.monotonic() - started)


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
      >>> from featvis_jax.visualize import objectives, parameterizations, transforms
      >>> module = CNN(rank=2, features=(2, 4, 4, 4, 4))
      >>> variables = module.init(jax.random.key(0), jnp.zeros((40, 44, 1)))
      >>> network = linen_network(module, variables, (40, 44, 1))
      >>> recipe = Recipe(
      ...     objective=objectives.channel("conv2"), penalty=None, penalty_weight=0.0,
      ...     parameterization=parameterizations.pixels(), optimizer=optax.adam(0.02),
      ...     robustness=transforms.identity(), projection=transforms.identity(), steps=5)
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
