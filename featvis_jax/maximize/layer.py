"""Visualize the channels of one layer: from a recipe to finished images, batch by batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from featvis_jax import memory
from featvis_jax.maximize import ascent, planning
from featvis_jax.maximize.recipe import Recipe, check_channels, check_units
from featvis_jax.maximize.sharding import ShardedAscent
from featvis_jax.nn.tracing import Network

# A call to the device should be long enough to hide its cost, and short enough that progress is
# seen and a run can be stopped.
_SECONDS_PER_CHUNK = 2.0


class FinishedUnit(NamedTuple):
    """One unit after its ascent.

    Attributes:
      channel: Its number.
      start: The first image, ``(*spatial, channels)``.
      image: The last one.
      finite: Whether the ascent stayed finite.
      initial_objective: f of the first image.
      final_objective: f of `image`.
      penalty: R of `image`.
      response: How strongly the unit responds to `image`, wherever in it (`Objective.response`).
      objective_trace: f before every step, ``(steps,)``; NaN after a divergence.
      penalty_trace: R before every step.
      variant: Which of the unit's variants.
      transparency: ``(*spatial, channels)``, where the recipe asks for it.
      target: The response that was aimed at, where there is one.
      maps: By name, what the parameters stand for beside the image, ``(*spatial, components)``.
    """

    channel: int
    start: Float[np.ndarray, "*spatial channels"]
    image: Float[np.ndarray, "*spatial channels"]
    finite: bool
    initial_objective: float
    final_objective: float
    penalty: float
    response: float
    objective_trace: Float[np.ndarray, " steps"]
    penalty_trace: Float[np.ndarray, " steps"]
    variant: int = 0
    transparency: Float[np.ndarray, "*spatial channels"] | None = None
    target: float | None = None
    maps: dict[str, Float[np.ndarray, "*spatial components"]] | None = None


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
      num_devices: Devices that share a batch.
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
        devices = _devices(num_devices)

        def compile_batch(size: int) -> jax.stages.Compiled:
            return ShardedAscent(network, recipe, size, devices).compile_advance()

        if batch_size is None:
            self.batch_size, self._advance = planning.largest_batch(
                compile_batch, num_units=num_units, num_devices=len(devices)
            )
        else:
            self.batch_size, self._advance = batch_size, compile_batch(batch_size)
        self._sharded = ShardedAscent(network, recipe, self.batch_size, devices)
        self._init, self._measure = self._sharded.compile_init(), self._sharded.compile_measure()
        self._variables = self._sharded.copied(network.variables)
        self._network, self._recipe = network, recipe
        self._steps, self._variants = recipe.steps, recipe.variants
        self.num_devices = self._sharded.num_devices
        self.compile_seconds = time.monotonic() - started
        self.memory_bytes = memory.program_bytes(self._advance)

    def run(
        self,
        batch: planning.Batch,
        keys: Array,
        *,
        targets: Float[np.ndarray, " channels"] | None = None,
        on_steps: Callable[[int], None] = lambda steps: None,
    ) -> FinishedBatch:
        """Take one batch of units all the way.

        Args:
          batch: The channels, padded to the program's batch size.
          keys: A random key for each (`featvis_jax.maximize.ascent.unit_keys`).
          targets: The response that each of them aims at, NaN where none is known.
          on_steps: Called after each call to the device with the steps that it took.

        Raises:
          ValueError: A layer that the recipe reads has no such channel.
        """
        check_channels(self._recipe, self._network, batch.channels)
        started = time.monotonic()
        units = self._sharded.units(np.array(batch.channels), targets)
        key_data = self._sharded.dealt(jax.device_get(jax.random.key_data(keys)))
        states = self._init(jax.random.wrap_key_data(key_data))
        first = self._measure(self._variables, states, units)
        done, chunk = 0, 1
        while done < self._steps:
            stop = min(done + chunk, self._steps)
            bounds = self._sharded.copied((np.int32(done), np.int32(stop)))
            chunk_started = time.monotonic()
            states = self._advance(self._variables, states, units, *bounds)
            jax.block_until_ready(states.finite)
            seconds_per_step = (time.monotonic() - chunk_started) / (stop - done)
            chunk = max(1, min(2 * chunk, int(_SECONDS_PER_CHUNK / max(seconds_per_step, 1e-6))))
            on_steps(stop - done)
            done = stop
        last = self._measure(self._variables, states, units)
        results = (states.finite, states.objective, states.penalty, first, last)
        variants = self._variants
        if variants > 1:  # Those of one unit follow each other.
            results = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), results)
        results = (*results[:3], results[3]._replace(maps=None), results[4])
        finite, objective, penalty, first, last = jax.device_get(results)
        finished = tuple(
            FinishedUnit(
                channel=batch.channels[i // variants],
                start=first.image[i],
                image=last.image[i],
                finite=bool(finite[i]),
                initial_objective=float(first.objective[i]),
                final_objective=float(last.objective[i]),
                penalty=float(last.penalty[i]),
                response=float(last.response[i]),
                objective_trace=objective[i],
                penalty_trace=penalty[i],
                variant=i % variants,
                transparency=None if last.transparency is None else last.transparency[i],
                target=_known(float(last.target[i])),
                maps=None if last.maps is None else {k: v[i] for k, v in last.maps.items()},
            )
            for i in range(batch.count * variants)
        )
        return FinishedBatch(finished, time.monotonic() - started)


def _known(target: float) -> float | None:
    """A target that there is; one that was never looked for, or not found, is none."""
    return target if np.isfinite(target) else None


def _devices(wanted: int | None) -> list[Any]:
    """That many devices of this process, or all."""
    present = jax.local_devices()
    if wanted is not None and not 1 <= wanted <= len(present):
        raise ValueError(
            f"num_devices is {wanted}; this process sees {len(present)} ({present[0].platform}): "
            "expected a number from 1 to that."
        )
    return present[:wanted]


def visualize(
    network: Network,
    recipe: Recipe,
    layer: str,
    channels: Sequence[int],
    *,
    targets: Sequence[float] | Float[np.ndarray, " channels"] | None = None,
    seed: int = 0,
    batch_size: int | None = None,
) -> Iterator[FinishedUnit]:
    """Visualize some channels of a layer.

    Args:
      network: The trained network.
      recipe: Its objective reads `layer`.
      layer: Name of the layer.
      channels: Channel numbers.
      targets: The response that each of them aims at, in a recipe with a drive; NaN where it is not
        known, as by default (`featvis_jax.maximize.reference` measures those of real inputs).
      seed: Of all random draws.
      batch_size: Units per batch; by default the largest that pays and fits.

    Yields:
      Finished units, in order.

    Raises:
      ValueError: There is no such layer or channel, the objective is about another layer, the
        targets are not one for each channel, or the recipe cannot work.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from featvis_jax.nn.cnn import CNN
      >>> from featvis_jax.nn.tracing import linen_network
      >>> from featvis_jax.maximize import objectives
      >>> module = CNN(rank=2, features=(2, 4, 4, 4, 4))
      >>> variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((40, 44, 1)))
      >>> network = linen_network(module, variables, (40, 44, 1))
      >>> recipe = Recipe(objectives.channel("conv2"), steps=5)
      >>> units = list(visualize(network, recipe, "conv2", [0, 3]))
      >>> [unit.channel for unit in units], units[0].image.shape
      ([0, 3], (40, 44, 1))
      >>> all(unit.final_objective > unit.initial_objective for unit in units)
      True
    """
    check_units(recipe, network, layer, channels)
    known = np.full(len(channels), np.nan) if targets is None else np.asarray(targets, np.float64)
    if known.shape != (len(channels),):
        raise ValueError(
            f"targets has shape {known.shape}; expected one for each of {len(channels)} channels."
        )
    aims = dict(zip(channels, known, strict=True))
    program = LayerProgram(network, recipe, num_units=len(channels), batch_size=batch_size)
    for batch in planning.batches(channels, batch_size=program.batch_size):
        keys = ascent.unit_keys(seed, layer, batch.channels)
        aimed = np.array([aims[channel] for channel in batch.channels])
        yield from program.run(batch, keys, targets=aimed).units
