"""What decides a training's memory, time and last bits: threads, parts of a batch; a dry run."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from featvis_jax import memory, training
from featvis_jax.data.pipeline import Examples
from featvis_jax.progress import duration
from featvis_jax.runs.training_job import Job


def begun(out: Path) -> dict[str, Any]:
    """The settings of a training that was begun; a damaged file is told of later.

    Args:
      out: Directory of the training.
    """
    try:
        kept = json.loads((out / "settings.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _microbatch(job: Job, out: Path) -> int | None:
    """Images of a part, as asked or as in the training that goes on; None: the machine decides."""
    return job.options.microbatch or begun(out).get("microbatch")


def settings(job: Job, out: Path, *, threads: int | None) -> dict[str, Any]:
    """What a training keeps and compares, since it decides the last bits of the weights.

    Args:
      job: The training.
      out: Its directory.
      threads: Of computations on a CPU, where somebody has fixed them.

    Raises:
      ValueError: The batch cannot be cut into parts of that size.
    """
    batch = job.batch_size
    size = _microbatch(job, out) or training.default_size(batch, job.image_shape)
    try:
        training.check_size(size, batch)
    except ValueError as error:
        raise ValueError(f"`microbatch={size}`: {error}") from error
    return {
        "microbatch": size,
        "cpu_threads": threads if jax.default_backend() == "cpu" else None,
    }


def fitting_step(job: Job, variables: Mapping[str, Any], *, out: Path) -> training.Step:
    """Compile a step that fits into memory, or say what would help.

    Args:
      job: The training.
      variables: Weights and statistics.
      out: Directory of the training.

    Raises:
      MemoryError: Not even one part fits.
    """
    microbatch = _microbatch(job, out)
    try:
        return training.fitting_step(
            job.module,
            job.schedule.optimizer(),
            dict(variables),
            job.image_shape,
            batch_size=job.batch_size,
            microbatch=microbatch,
            estimates=job.estimates,
        )
    except MemoryError as error:
        raise MemoryError(
            f"{error} `crop` or `patch` takes a part of each image"
            + (", `microbatch=1` one at a time." if (microbatch or 1) > 1 else ".")
        ) from error


def try_step(
    step: training.Step,
    optimizer: Any,
    variables: Mapping[str, Any],
    image_shape: tuple[int, ...],
    *,
    calls: int = 1,
) -> float:
    """Take steps on blank images, and forget them: what does not fit after all ends here.

    Args:
      step: The step.
      optimizer: The schedule's.
      variables: Weights; the step gets a copy.
      image_shape: ``(*spatial, channels)``.
      calls: How often.

    Returns:
      Seconds of the fastest.
    """
    params = jax.tree.map(jnp.array, variables["params"])
    state, seconds = optimizer.init(params), []
    batch = _blank(step, image_shape)
    for _ in range(calls):
        started = time.monotonic()
        params, state, loss = step(params, state, batch)
        jax.block_until_ready(loss)
        seconds.append(time.monotonic() - started)
    return min(seconds)


def text(job: Job, step: training.Step, variables: Mapping[str, Any]) -> str:
    """Say what a training would need, from a short trial; nothing is written.

    Args:
      job: The training.
      step: Its step.
      variables: Weights and statistics.
    """
    schedule, image_shape = job.schedule, job.image_shape
    images = job.validation_images
    per_step = try_step(step, schedule.optimizer(), variables, image_shape, calls=2)
    per_image = _seconds_of_evaluation(job, step, variables) / step.batch_size
    evaluations = -(-schedule.steps // schedule.evaluate_every)
    total = schedule.steps * per_step + evaluations * images * per_image
    devices = step.devices.size
    shared = jax.default_backend() == "cpu"  # There all devices have the machine's memory.
    needed = step.memory_bytes * (devices if shared else 1)
    free = memory.free_bytes(num_devices=1 if shared else devices)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(variables["params"]))
    shape = "x".join(map(str, image_shape[:-1]))
    return "\n".join(
        [
            f"Images of {shape} voxels, {step.batch_size} per step, `microbatch={step.microbatch}` "
            f"on {devices} device{'s' if devices > 1 else ''}.",
            f"Memory: {needed / 2**30:.1f} GiB{'' if shared else ' on each'}; "
            f"{free / 2**30:.1f} GiB may be used.",
            f"Time: {per_step:.3g} s per step, {duration(images * per_image)} per "
            f"evaluation; at most {duration(total)} for {schedule.steps} steps and {evaluations} "
            "evaluations.",
            # Weights, the best of them and Adam's two moments, twice while one checkpoint takes
            # the place of another; and the model.
            f"Disk: about {9 * size / 2**20:.0f} MiB in {job.options.out}.",
            "Nothing was written there; leave out `dry_run` to begin.",
        ]
    )


def _seconds_of_evaluation(job: Job, step: training.Step, variables: Mapping[str, Any]) -> float:
    """Time an evaluation of as many images as a step has."""
    sizes = {"microbatch": step.microbatch, "num_devices": step.devices.size}
    seconds = []
    for _ in range(2):  # The first time it is compiled.
        started = time.monotonic()
        training.measured(job.module, dict(variables), [_blank(step, job.image_shape)], **sizes)
        seconds.append(time.monotonic() - started)
    return seconds[-1]


def _blank(step: training.Step, image_shape: tuple[int, ...]) -> Examples:
    """A batch without content."""
    images = np.zeros((step.batch_size, *image_shape), np.float32)
    kind = np.float32 if step.estimates else np.int32
    return {"image": images, "label": (np.arange(step.batch_size) % 2).astype(kind)}
