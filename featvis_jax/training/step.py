"""One optimizer step on a batch, in parts that fit into memory."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from featvis_jax import memory
from featvis_jax.data.pipeline import Examples
from featvis_jax.nn.programs import fast
from featvis_jax.training import microbatches

Variables = PyTree[Array]


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """A compiled optimizer step on batches of one size.

    The gradient of a batch is the mean over its parts, the microbatches, which run one after the
    other on each device. How many devices share them decides time and memory, and not the weights.

    Attributes:
      batch_size: Images of a batch.
      microbatch: Images of a part.
      devices: What shares the parts.
      program: ``(params, opt_state, images, labels) -> (params, opt_state, loss)``; the first two
        are donated.
      compile_seconds: Time that compilation took.
      estimates: Whether labels are numbers, not classes.
    """

    batch_size: int
    microbatch: int
    devices: jax.sharding.Mesh
    program: jax.stages.Compiled
    compile_seconds: float
    estimates: bool = False

    @property
    def memory_bytes(self) -> int:
        """What a step needs at its peak on each device, as the compiler says."""
        return memory.program_bytes(self.program)

    def __call__(
        self, params: Variables, opt_state: optax.OptState, batch: Examples
    ) -> tuple[Variables, optax.OptState, Array]:
        """Take the step.

        Args:
          params: Weights, donated.
          opt_state: The optimizer's state, donated.
          batch: Images and labels.

        Returns:
          Weights, state, and the mean loss before the step.
        """
        state = microbatches.copied((params, opt_state), self.devices)
        images = microbatches.dealt((batch["image"], batch["label"]), self.devices)
        return self.program(*state, *images)


def compile_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    variables: dict[str, Variables],
    image_shape: Sequence[int],
    *,
    batch_size: int,
    microbatch: int | None = None,
    num_devices: int | None = None,
    estimates: bool = False,
) -> Step:
    """Compile a step, whatever memory it takes.

    Args:
      model: A network with a ``"statistics"`` collection.
      optimizer: From optax.
      variables: Weights, of which only the shapes count here, and input statistics.
      image_shape: ``(*spatial, channels)``.
      batch_size: Images of a batch.
      microbatch: Images of a part, a divisor of that; by default `microbatches.default_size`.
      num_devices: Devices to take at most; by default `microbatches.most_devices`.
      estimates: Whether labels are numbers that the one output estimates, and no classes.

    Raises:
      ValueError: The batch cannot be cut into such parts.
    """
    started = time.monotonic()
    size = microbatch or microbatches.default_size(batch_size, image_shape)
    microbatches.check_size(size, batch_size)
    most = num_devices or microbatches.most_devices(size, image_shape)
    devices = microbatches.devices_for(batch_size // size, most=most)
    statistics, apply = variables["statistics"], fast(model.apply)

    def of_part(params: Variables, images: Array, labels: Array) -> tuple[Array, Variables]:
        def loss(params: Variables) -> Array:
            weights = {"params": params, "statistics": statistics}
            return _loss(cast(Array, apply(weights, images)), labels)

        return jax.value_and_grad(loss)(params)

    def update(
        params: Variables, opt_state: optax.OptState, images: Array, labels: Array
    ) -> tuple[Variables, optax.OptState, Array]:
        value, gradient = microbatches.each(
            of_part,
            params,
            (images, labels),
            size=size,
            devices=devices,
            together=microbatches.mean,
        )
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    params = jax.eval_shape(lambda: variables["params"])
    state = microbatches.shapes((params, jax.eval_shape(optimizer.init, params)), devices)
    images = jax.ShapeDtypeStruct((batch_size, *image_shape), jnp.float32)
    labels = jax.ShapeDtypeStruct((batch_size,), jnp.float32 if estimates else jnp.int32)
    batch = microbatches.shapes((images, labels), devices, dealt=True)
    program = jax.jit(update, donate_argnums=(0, 1)).lower(*state, *batch).compile()
    return Step(batch_size, size, devices, program, time.monotonic() - started, estimates)


def _loss(outputs: Array, labels: Array) -> Array:
    """Mean squared error where labels are numbers, cross-entropy where they are classes."""
    if jnp.issubdtype(labels.dtype, jnp.floating):
        return optax.squared_error(outputs[:, 0], labels).mean()
    return optax.softmax_cross_entropy_with_integer_labels(outputs, labels).mean()


def fitting_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    variables: dict[str, Variables],
    image_shape: Sequence[int],
    *,
    batch_size: int,
    microbatch: int | None = None,
    memory_bytes: int | None = None,
    estimates: bool = False,
) -> Step:
    """Compile a step that fits into memory.

    Where devices share a memory that does not hold a part for each, fewer of them run. Where each
    has its own, parts get smaller, unless `microbatch` says how large they are.

    Args:
      model: As in `compile_step`.
      optimizer: Likewise.
      variables: Likewise.
      image_shape: Likewise.
      batch_size: Likewise.
      microbatch: Likewise.
      memory_bytes: What a step may take at most on each device; by default what is free.
      estimates: As in `compile_step`.

    Raises:
      ValueError: The batch cannot be cut into such parts.
      MemoryError: Not even one part on one device fits.
    """
    first = microbatch or microbatches.default_size(batch_size, image_shape)
    microbatches.check_size(first, batch_size)
    most = microbatches.most_devices(first, image_shape)
    choices = _choices(first, batch_size, most, is_fixed=microbatch is not None)
    while True:
        size, num_devices = choices.pop(0)
        step = compile_step(
            model,
            optimizer,
            variables,
            image_shape,
            batch_size=batch_size,
            microbatch=size,
            num_devices=num_devices,
            estimates=estimates,
        )
        free = memory.free_bytes(num_devices=num_devices) if memory_bytes is None else memory_bytes
        if step.memory_bytes <= free:
            return step
        if not choices:
            raise MemoryError(
                f"Training on {'one image' if size == 1 else f'{size} images'} at once needs "
                f"{step.memory_bytes / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free: use "
                f"smaller images{'' if size == 1 else ', fewer at once'} or a larger machine."
            )


def _choices(first: int, batch_size: int, most: int, *, is_fixed: bool) -> list[tuple[int, int]]:
    """Sizes of a part with numbers of devices, those that take less memory later."""
    if jax.default_backend() == "cpu":
        most = microbatches.devices_for(batch_size // first, most=most).size
        numbers = microbatches.divisors(batch_size // first)
        return [(first, number) for number in reversed(numbers) if number <= most]
    sizes = [size for size in microbatches.divisors(batch_size) if size <= first]
    return [
        (size, microbatches.devices_for(batch_size // size).size)
        for size in ([first] if is_fixed else reversed(sizes))
    ]
