"""Ascents and transforms, compiled and ready to be timed."""

import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from featvis_jax import memory
from featvis_jax.maximize import (
    ascent,
    objectives,
    parameterizations,
    penalties,
    presets,
)
from featvis_jax.maximize.objectives import Objective
from featvis_jax.maximize.sharding import ShardedAscent
from featvis_jax.nn.network import Network
from featvis_jax.nn.tracing import linen_network
from featvis_jax.types import Transform


class Compiled(NamedTuple):
    """A job that is ready to run.

    Attributes:
      run: Takes a number of steps and returns the seconds that they took.
      compile_seconds: What compilation took.
      peak_bytes: Arguments, results and temporaries of the compiled program, on all devices.
    """

    run: Callable[[int], float]
    compile_seconds: float
    peak_bytes: int


def random_network(module: nn.Module, image_shape: tuple[int, ...]) -> Network:
    """A network with random weights.

    Args:
      module: The network.
      image_shape: ``(*spatial, 1)``.
    """
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros(image_shape))
    return linen_network(module, variables, image_shape)


def ascent_job(
    network: Network,
    layer: str,
    *,
    batch: int,
    layer_l1: bool = False,
    regularization: str = "none",
    projection: Transform | None = None,
    learning_rate: float = 0.05,
    objective: Objective | None = None,
) -> Compiled:
    """An ascent on the first `batch` channels of a layer; `run` always starts afresh.

    Args:
      network: The network.
      layer: The target.
      batch: Units.
      layer_l1: Whether `penalties.layer_l1` is on, with a weight of 10.
      regularization: A strategy by name.
      projection: In place of the strategy's.
      learning_rate: Of Adam.
      objective: In place of the channel's mean.
    """
    strategy = presets.strategy(regularization)
    asked = objectives.channel(layer) if objective is None else objective
    image = parameterizations.pixels()
    if strategy.drive is not None:  # As launchers have it.
        asked = objectives.strongest(asked)
        image = parameterizations.fourier(**presets.CLOUDS)
    recipe = ascent.Recipe(
        objective=asked,
        penalty=penalties.layer_l1(layer) if layer_l1 else None,
        penalty_weight=10.0 if layer_l1 else 0.0,
        parameterization=image,
        optimizer=optax.adam(learning_rate),
        robustness=strategy.robustness,
        drive=strategy.drive,
        projection=strategy.projection if projection is None else projection,
        steps=256,
    )
    channels = np.arange(batch, dtype=np.int32) % network.layer(layer).channels
    sharded = ShardedAscent(network, recipe, batch, jax.local_devices())
    units, variables = sharded.units(channels), sharded.copied(network.variables)
    key_data = jax.device_get(jax.random.key_data(jax.random.split(jax.random.key(0), batch)))
    keys = jax.random.wrap_key_data(sharded.dealt(key_data))
    init = sharded.compile_init()
    started = time.perf_counter()
    program = sharded.compile_advance()
    compile_seconds = time.perf_counter() - started

    def run(steps: int) -> float:
        states = jax.block_until_ready(init(keys))
        bounds = sharded.copied((np.int32(0), np.int32(steps)))
        started = time.perf_counter()
        jax.block_until_ready(program(variables, states, units, *bounds))
        return time.perf_counter() - started

    return Compiled(run, compile_seconds, sharded.num_devices * memory.program_bytes(program))


def transform_job(transform: Transform, image_shape: tuple[int, ...], *, batch: int) -> Compiled:
    """A transform of a batch of images; a step is one application.

    Args:
      transform: What to apply.
      image_shape: ``(*spatial, 1)``.
      batch: Images.
    """
    images = jax.random.uniform(jax.random.key(0), (batch, *image_shape))
    keys = jax.random.split(jax.random.key(1), batch)
    started = time.perf_counter()
    apply = jax.jit(jax.vmap(transform, in_axes=(0, 0, None)))
    program = apply.lower(keys, images, jnp.int32(0)).compile()
    compile_seconds = time.perf_counter() - started

    def run(steps: int) -> float:
        started = time.perf_counter()
        for _ in range(steps):
            jax.block_until_ready(program(keys, images, jnp.int32(0)))
        return time.perf_counter() - started

    return Compiled(run, compile_seconds, memory.program_bytes(program))


def matmul_gflops(side: int = 2000, repeats: int = 5) -> float:
    """Rate of a large float32 matrix product on this machine, now: the best of a few."""
    matrix = jnp.ones((side, side), jnp.float32)
    product = jax.jit(jnp.matmul)
    jax.block_until_ready(product(matrix, matrix))
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(product(matrix, matrix))
        seconds.append(time.perf_counter() - started)
    return 2 * side**3 / min(seconds) / 1e9
