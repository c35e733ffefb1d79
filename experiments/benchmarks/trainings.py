"""Training steps, compiled and ready to be timed."""

import time

import jax
import numpy as np

from experiments.benchmarks.ascents import Compiled
from featvis_jax import training
from featvis_jax.data.pipeline import Examples
from featvis_jax.nn.cnn import CNN


def training_job(module: CNN, image_shape: tuple[int, ...], *, batch: int) -> Compiled:
    """Training steps on random images.

    Args:
      module: The network.
      image_shape: ``(*spatial, 1)``.
      batch: Images.
    """
    optimizer = training.Schedule().optimizer()
    variables = training.initialize(module, image_shape, mean=0.5, std=0.25, seed=0)
    step = training.compile_step(module, optimizer, variables, image_shape, batch_size=batch)
    rng = np.random.default_rng(1)
    examples: Examples = {
        "image": rng.uniform(size=(batch, *image_shape)).astype(np.float32),
        "label": np.arange(batch, dtype=np.int32) % module.num_classes,
    }
    params, opt_state = variables["params"], optimizer.init(variables["params"])

    def run(steps: int) -> float:
        nonlocal params, opt_state
        started = time.perf_counter()
        for _ in range(steps):
            params, opt_state, _ = step(params, opt_state, examples)
        jax.block_until_ready(params)
        return time.perf_counter() - started

    return Compiled(run, step.compile_seconds, step.devices.size * step.memory_bytes)
