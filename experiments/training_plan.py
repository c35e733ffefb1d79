"""What decides a training's memory, time and last bits: threads, parts of a batch; --dry_run."""

import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import linen as nn

from experiments import allocator
from experiments.progress import duration
from featvis_jax import memory, training
from featvis_jax.data.pipeline import Examples

FLAGS = flags.FLAGS
_THREADS = 8
# Bytes of a step whose memory is worth taking anew each time, so that no other lies beside it.
_LARGE = 2**29
flags.DEFINE_integer(
    "microbatch",
    None,
    "Images whose gradient is computed at once on a device; that of a batch is put together from "
    "such parts. By default few on a CPU, and on a GPU its share of the batch, if that fits.",
    lower_bound=1,
)
flags.DEFINE_integer(
    "cpu_threads",
    None,
    f"Threads of a training on a CPU, {_THREADS} unless told otherwise whatever the machine has, "
    "since sums are rounded by their number. It takes more to use more cores.",
    lower_bound=1,
)
flags.DEFINE_bool(
    "dry_run", False, "Tell memory, time and disk of the training; write nothing to --out."
)


def _begun(out: Path) -> dict[str, Any]:
    """What a training that was begun here has kept; a damaged file is told of later."""
    try:
        kept = json.loads((out / "settings.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def threads(out: Path) -> int:
    """Threads of the flag, or of the training that goes on."""
    return FLAGS.cpu_threads or _begun(out).get("cpu_threads") or _THREADS


def _microbatch(out: Path) -> int | None:
    """Images of a part, by the flag or the training that goes on; None: the machine decides."""
    return FLAGS.microbatch or _begun(out).get("microbatch")


def settings(out: Path, batch: int, image_shape: tuple[int, ...]) -> dict[str, Any]:
    """What a training keeps and compares, since it decides the last bits of the weights.

    Args:
      out: Directory of the training.
      batch: Images of a step.
      image_shape: ``(*spatial, channels)``.

    Raises:
      ValueError: The batch cannot be cut into parts of that size.
    """
    size = _microbatch(out) or training.default_size(batch, image_shape)
    try:
        training.check_size(size, batch)
    except ValueError as error:
        raise ValueError(f"--microbatch={size}: {error}") from error
    return {
        "microbatch": size,
        "cpu_threads": threads(out) if jax.default_backend() == "cpu" else None,
    }


def fitting_step(
    model: nn.Module,
    optimizer: Any,
    variables: dict[str, Any],
    image_shape: tuple[int, ...],
    *,
    batch: int,
    out: Path,
) -> training.Step:
    """Compile a step that fits into memory, or say what would help.

    Args:
      model: The network.
      optimizer: The schedule's.
      variables: Weights and statistics.
      image_shape: ``(*spatial, channels)``.
      batch: Images of a step.
      out: Directory of the training.

    Raises:
      MemoryError: Not even one part fits.
    """
    microbatch = _microbatch(out)
    sizes = {"batch_size": batch, "microbatch": microbatch}
    try:
        step = training.fitting_step(model, optimizer, variables, image_shape, **sizes)
    except MemoryError as error:
        raise MemoryError(
            f"{error} --crop takes a part of each image"
            + (", --microbatch=1 one at a time." if (microbatch or 1) > 1 else ".")
        ) from error
    if step.memory_bytes > _LARGE:
        allocator.return_large_blocks()
    return step


def try_step(
    step: training.Step,
    optimizer: Any,
    variables: dict[str, Any],
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


def text(
    step: training.Step,
    schedule: training.Schedule,
    model: nn.Module,
    variables: dict[str, Any],
    image_shape: tuple[int, ...],
    *,
    validation_images: int,
) -> str:
    """Say what a training would need, from a short trial; nothing is written.

    Args:
      step: The step.
      schedule: How long.
      model: The network.
      variables: Weights and statistics.
      image_shape: ``(*spatial, channels)``.
      validation_images: Images of each evaluation.
    """
    per_step = try_step(step, schedule.optimizer(), variables, image_shape, calls=2)
    per_image = _seconds_of_evaluation(step, model, variables, image_shape) / step.batch_size
    evaluations = -(-schedule.steps // schedule.evaluate_every)
    total = schedule.steps * per_step + evaluations * validation_images * per_image
    devices = step.devices.size
    shared = jax.default_backend() == "cpu"  # There all devices have the machine's memory.
    needed = step.memory_bytes * (devices if shared else 1)
    free = memory.free_bytes(num_devices=1 if shared else devices)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(variables["params"]))
    shape = "x".join(map(str, image_shape[:-1]))
    return "\n".join(
        [
            f"Images of {shape} voxels, {step.batch_size} per step, --microbatch={step.microbatch} "
            f"on {devices} device{'s' if devices > 1 else ''}.",
            f"Memory: {needed / 2**30:.1f} GiB{'' if shared else ' on each'}; "
            f"{free / 2**30:.1f} GiB may be used.",
            f"Time: {per_step:.3g} s per step, {duration(validation_images * per_image)} per "
            f"evaluation; at most {duration(total)} for {schedule.steps} steps and {evaluations} "
            "evaluations.",
            # Weights, the best of them and Adam's two moments, twice while one checkpoint takes
            # the place of another; and the model.
            f"Disk: about {9 * size / 2**20:.0f} MiB in {FLAGS.out}.",
            "Nothing was written there; leave out --dry_run to begin.",
        ]
    )


def _seconds_of_evaluation(
    step: training.Step,
    model: nn.Module,
    variables: dict[str, Any],
    image_shape: tuple[int, ...],
) -> float:
    """Time an evaluation of as many images as a step has."""
    sizes = {"microbatch": step.microbatch, "num_devices": step.devices.size}
    seconds = []
    for _ in range(2):  # The first time it is compiled.
        started = time.monotonic()
        training.evaluate(model, variables, [_blank(step, image_shape)], **sizes)
        seconds.append(time.monotonic() - started)
    return seconds[-1]


def _blank(step: training.Step, image_shape: tuple[int, ...]) -> Examples:
    """A batch without content."""
    images = np.zeros((step.batch_size, *image_shape), np.float32)
    return {"image": images, "label": np.arange(step.batch_size, dtype=np.int32) % 2}
