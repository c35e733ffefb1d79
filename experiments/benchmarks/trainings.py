"""Training steps, compiled and ready to be timed."""

import time

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.benchmarks.ascents import Compiled
from featvis_jax import training
from featvis_jax.nn.cnn import CNN
from featvis_jax.visualize import planning


def training_job(module: CNN, image_shape: tuple[int, ...], *, batch: int) -> Compiled:
    """Training steps on random images.

    Args:
      module: The network.
      image_shape: ``(*spatial, 1)``.
      batch: Images.
    """
    optimizer = training.Schedule().optimizer()
    variables = training.initialize(module, image_shape, mean=0.5, std=0.25, seed=0)
    devices = training.devices_for(batch)
    copied, dealt = NamedSharding(devices, P()), NamedSharding(devices, P("images"))
    params = jax.device_put(variables["params"], copied)
    opt_state = jax.device_put(optimizer.init(params), copied)
    images = jax.random.uniform(jax.random.key(1), (batch, *image_shape))
    images, labels = jax.device_put((images, jnp.arange(batch) % module.num_classes), dealt)
    step = training.training_step(module, optimizer, variables["statistics"])
    started = time.perf_counter()
    program = (
        jax.jit(step, donate_argnums=(0, 1)).lower(params, opt_state, images, labels).compile()
    )
    compile_seconds = time.perf_counter() - started

    def run(steps: int) -> float:
        nonlocal params, opt_state
        started = time.perf_counter()
        for _ in range(steps):
            params, opt_state, _ = program(params, opt_state, images, labels)
        jax.block_until_ready(params)
        return time.perf_counter() - started

    return Compiled(run, compile_seconds, devices.size * planning.program_bytes(program))
