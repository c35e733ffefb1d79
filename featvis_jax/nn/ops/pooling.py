"""Max-pooling: it remembers each maximum's place in one byte, and routes gradients by slices."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float

from featvis_jax.nn.ops.fusion import apart
from featvis_jax.nn.ops.windows import shifted, taps

Batch = Float[Array, "batch *spatial channels"]

# A place in a max-pooling window that no tap has.
_NOWHERE = 255


def max_pool(images: Batch, *, window: int, strides: int) -> Float[Array, "batch *out channels"]:
    """Take the maximum over cubic windows, without padding.

    Where several elements of a window are equal, the first in row-major order gets the gradient,
    as `jax.lax`'s select-and-scatter has it.

    Args:
      images: ``(batch, *spatial, channels)``.
      window: Side of the window, the same along every axis, at most 15 in 2-D and 6 in 3-D.
      strides: The step between two windows.

    Returns:
      ``(batch, *out, channels)`` with ``out = (spatial - window) // strides + 1``.

    Raises:
      ValueError: The window is too large, or does not fit into the image.

    Example:
      >>> import jax.numpy as jnp
      >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1), window=2, strides=2)[0, :, :, 0].tolist()
      [[5.0, 7.0], [13.0, 15.0]]
    """
    if min(images.shape[1:-1]) < window:
        raise ValueError(
            f"Max-pooling with window {window} does not fit into an image of shape "
            f"{images.shape[1:-1]}: use a larger input grid."
        )
    rank = images.ndim - 2
    if window**rank > _NOWHERE:
        raise ValueError(
            f"A max-pooling window of {window} has {window**rank} elements in {rank}-D; at most "
            f"{_NOWHERE} fit the byte that remembers the maximum's place: use a smaller window."
        )
    return _max_pool(images, window, strides)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _max_pool(images: Array, window: int, strides: int) -> Array:
    return _pooled(images, window, strides)[0]


def _pooled(images: Array, window: int, strides: int) -> tuple[Array, Array]:
    """`_max_and_place` of a batch, or of a batch of batches under `jax.vmap`."""

    @custom_vmap
    def pool(images: Array) -> tuple[Array, Array]:
        here, elsewhere = (
            functools.partial(compute, window=window, strides=strides)
            for compute in (_on_cpu, _max_and_place)
        )
        return lax.platform_dependent(images, cpu=here, default=elsewhere)

    @pool.def_vmap
    def fold(size: int, is_batched: list[bool], images: Array) -> tuple[tuple[Array, Array], Any]:
        del is_batched
        results = pool(images.reshape(-1, *images.shape[2:]))
        return tuple(r.reshape(size, -1, *r.shape[1:]) for r in results), (True, True)

    return pool(images)


def _max_and_place(images: Array, *, window: int, strides: int) -> tuple[Array, Array]:
    """The maximum of every window, and the number of the tap (uint8) that it came from."""
    rank = images.ndim - 2
    shape = [(n - window) // strides + 1 for n in images.shape[1:-1]]
    best, place = jnp.zeros(()), jnp.zeros((), jnp.uint8)
    for number, tap in enumerate(taps((window,) * rank)):
        stop = [t + strides * (n - 1) + 1 for t, n in zip(tap, shape, strict=True)]
        candidate = lax.slice(
            images,
            (0, *tap, 0),
            (images.shape[0], *stop, images.shape[-1]),
            (1, *(strides,) * rank, 1),
        )
        if number == 0:
            best, place = candidate, jnp.zeros(candidate.shape, jnp.uint8)
            continue
        wins = _wins(candidate, best)
        best = jnp.where(wins, candidate, best)
        place = jnp.where(wins, jnp.uint8(number), place)
    return best, place


def _on_cpu(images: Array, *, window: int, strides: int) -> tuple[Array, Array]:
    """`_max_and_place`, computed once, and with stride 1 along one axis after the other.

    That takes 3 taps per axis in place of all 27. With larger strides XLA does not vectorize it.
    """
    if strides > 1:
        return apart(functools.partial(_max_and_place, window=window, strides=strides), images)
    best, place = images, jnp.zeros(images.shape, jnp.uint8)
    for axis in reversed(range(1, images.ndim - 1)):
        along = functools.partial(_max_along, axis=axis, window=window)
        best, place = apart(along, best, place)
    return best, place


def _max_along(images: Array, places: Array, *, axis: int, window: int) -> tuple[Array, Array]:
    """The maximum along one axis, and its place among those along it and the axes behind it."""
    number = window ** (images.ndim - 2 - axis)
    length = images.shape[axis] - window + 1

    def part(tap: int) -> tuple[Array, Array]:
        candidate, place = (
            lax.slice_in_dim(each, tap, tap + length, axis=axis) for each in (images, places)
        )
        return candidate, place + jnp.uint8(tap * number)

    best, place = part(0)
    for tap in range(1, window):
        candidate, its_place = part(tap)
        wins = _wins(candidate, best)
        best, place = jnp.where(wins, candidate, best), jnp.where(wins, its_place, place)
    return best, place


def _wins(candidate: Array, best: Array) -> Array:
    # NaN wins, so that a diverged activation is not hidden by its neighbours.
    return (candidate > best) | jnp.isnan(candidate)


def _max_pool_forward(
    images: Array, window: int, strides: int
) -> tuple[Array, tuple[Array, tuple[int, ...]]]:
    best, place = _pooled(images, window, strides)
    return best, (place, images.shape[1:-1])


def _max_pool_backward(
    window: int, strides: int, saved: tuple[Array, tuple[int, ...]], out: Array
) -> tuple[Array]:
    place, spatial = saved
    rank = len(spatial)
    # Seen in blocks of `strides` inputs, an input at `phase` within its block is reached only by
    # the taps with tap % strides == phase, from the output tap // strides blocks before its own.
    # Padded once, every such reach is a plain slice, which XLA fuses and vectorizes.
    blocks = [-(-n // strides) for n in spatial]
    reach = (window - 1) // strides
    pads = [(reach, max(b - m, 0)) for b, m in zip(blocks, out.shape[1:-1], strict=True)]
    out = jnp.pad(out, ((0, 0), *pads, (0, 0)))
    place = jnp.pad(place, ((0, 0), *pads, (0, 0)), constant_values=_NOWHERE)
    out, place = lax.optimization_barrier((out, place))

    phases = []
    for phase in itertools.product(range(strides), repeat=rank):
        total = jnp.zeros((), out.dtype)
        for number, tap in enumerate(taps((window,) * rank)):
            if all(t % strides == p for t, p in zip(tap, phase, strict=True)):
                start = [reach - t // strides for t in tap]
                hit = shifted(place, start, blocks) == number
                total = total + jnp.where(hit, shifted(out, start, blocks), 0)
        phases.append(jnp.broadcast_to(total, (out.shape[0], *blocks, out.shape[-1])))
    gradient = jnp.stack(phases).reshape(*(strides,) * rank, *phases[0].shape)
    interleaved = [rank, *(a for i in range(rank) for a in (rank + 1 + i, i)), 2 * rank + 1]
    gradient = gradient.transpose(interleaved)
    gradient = gradient.reshape(out.shape[0], *(b * strides for b in blocks), out.shape[-1])
    return (shifted(gradient, (0,) * rank, spatial),)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)
