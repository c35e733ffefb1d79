"""Convolution and max-pooling for 2-D and 3-D images, with the semantics of `jax.lax`.

Both take a batch ``(batch, *spatial, channels)`` and work for any number of spatial axes. On
accelerators they are what `jax.lax` offers. On CPU, XLA's own choices lose most of the machine, so
forward and backward passes are written out there (`jax.lax.platform_dependent` picks while
lowering; see `docs/performance.md` for the measurements):

* a VALID convolution is several times slower than a SAME one whose border is cut off;
* a convolution of one channel, or to one channel, is a memory-bound job that shifted slices do
  about ten times faster;
* the weight gradient is fastest one image at a time: the patches of one image fit in the cache and
  meet the output gradient in a single matrix product;
* a 3-D convolution is a 2-D one whose leading axis moved into the batch (its position) and into
  the channels (its taps);
* max-pooling remembers each maximum's place in one byte, and routes gradients by plain slices.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Batch = Float[Array, "batch *spatial channels"]
Kernel = Float[Array, "*window in_channels out_channels"]

# A place in a max-pooling window that no tap has.
_NOWHERE = 255


def conv(
    images: Batch, kernel: Kernel, *, padding: str = "VALID", strides: int = 1
) -> Float[Array, "batch *out out_channels"]:
    """Cross-correlate images with a kernel, as deep learning's "convolution" does.

    Args:
      images: ``(batch, *spatial, in_channels)``.
      kernel: ``(*window, in_channels, out_channels)``, as Flax stores it.
      padding: ``"VALID"`` or ``"SAME"`` (zeros).
      strides: The step between two outputs, the same along every axis.

    Returns:
      ``(batch, *out, out_channels)``.

    Raises:
      ValueError: The padding is unknown, or the window does not fit into the image.

    Example:
      >>> import jax.numpy as jnp
      >>> conv(jnp.ones((2, 9, 8, 7, 1)), jnp.ones((3, 3, 3, 1, 4))).shape
      (2, 7, 6, 5, 4)
    """
    window, spatial = kernel.shape[:-2], images.shape[1:-1]
    if padding == "SAME":
        pads = lax.padtype_to_pads(spatial, window, (strides,) * len(window), "SAME")
        images = jnp.pad(images, ((0, 0), *pads, (0, 0)))
    elif padding != "VALID":
        raise ValueError(f"padding is {padding!r}; expected 'VALID' or 'SAME'.")
    if any(n < w for n, w in zip(images.shape[1:-1], window, strict=True)):
        raise ValueError(
            f"A convolution with window {window} does not fit into an image of shape {spatial}: "
            "use a larger input grid, fewer layers, or padding='SAME'."
        )
    if strides != 1:
        return _lax_conv(images, kernel, strides=strides)
    return _valid_conv(images, kernel)


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


# ------------------------------------------------------------------------------- convolution


def _lax_conv(images: Array, kernel: Array, *, strides: int = 1) -> Array:
    axes = "XYZ"[: images.ndim - 2]
    return lax.conv_general_dilated(
        images,
        kernel,
        window_strides=(strides,) * len(axes),
        padding="VALID",
        dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
    )


@jax.custom_vjp
def _valid_conv(images: Array, kernel: Array) -> Array:
    return lax.platform_dependent(images, kernel, cpu=_cpu_conv, default=_lax_conv)


def _valid_conv_forward(images: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _valid_conv(images, kernel), (images, kernel)


def _valid_conv_backward(saved: tuple[Array, Array], out: Array) -> tuple[Array, Array]:
    images, kernel = saved
    image_gradient = lax.platform_dependent(
        out, kernel, cpu=_cpu_image_gradient, default=_lax_image_gradient
    )
    kernel_gradient = lax.platform_dependent(
        images, out, cpu=_cpu_kernel_gradient, default=_lax_kernel_gradient
    )
    return image_gradient, kernel_gradient


_valid_conv.defvjp(_valid_conv_forward, _valid_conv_backward)


def _lax_image_gradient(out: Array, kernel: Array) -> Array:
    window = kernel.shape[:-2]
    spatial = tuple(n + w - 1 for n, w in zip(out.shape[1:-1], window, strict=True))
    images = jax.ShapeDtypeStruct((out.shape[0], *spatial, kernel.shape[-2]), out.dtype)
    (gradient,) = jax.linear_transpose(lambda x: _lax_conv(x, kernel), images)(out)
    return gradient


def _lax_kernel_gradient(images: Array, out: Array) -> Array:
    window = tuple(n - m + 1 for n, m in zip(images.shape[1:-1], out.shape[1:-1], strict=True))
    kernel = jax.ShapeDtypeStruct((*window, images.shape[-1], out.shape[-1]), out.dtype)
    (gradient,) = jax.linear_transpose(lambda k: _lax_conv(images, k), kernel)(out)
    return gradient


def _taps(window: Sequence[int]) -> list[tuple[int, ...]]:
    return list(itertools.product(*(range(w) for w in window)))


def _shifted(images: Array, tap: Sequence[int], shape: Sequence[int]) -> Array:
    """The part of a batch that starts at `tap` and has the spatial shape `shape`."""
    stop = tuple(t + n for t, n in zip(tap, shape, strict=True))
    return images[(slice(None), *(slice(a, b) for a, b in zip(tap, stop, strict=True)))]


def _placed(part: Array, tap: Sequence[int], shape: Sequence[int]) -> Array:
    """The transpose of `_shifted`: `part` at `tap` within zeros of the spatial shape `shape`."""
    pads = [(t, n - t - m) for t, n, m in zip(tap, shape, part.shape[1:], strict=False)]
    return jnp.pad(part, ((0, 0), *pads, (0, 0)))


def _filters(weights: Array, rank: int) -> Array:
    """One weight per output channel, ready to multiply a batch."""
    return weights.reshape((1,) * (rank - 1) + (-1,))


def _fold_leading_axis(images: Array, taps: int) -> Array:
    """(batch, x, ..., c) -> (batch * (x - taps + 1), ..., taps * c): leading taps as channels."""
    length = images.shape[1] - taps + 1
    stacked = jnp.concatenate([images[:, t : t + length] for t in range(taps)], axis=-1)
    return stacked.reshape(-1, *stacked.shape[2:])


def _cpu_conv(images: Array, kernel: Array) -> Array:
    window, (inputs, outputs) = kernel.shape[:-2], kernel.shape[-2:]
    shape = [n - w + 1 for n, w in zip(images.shape[1:-1], window, strict=True)]
    if inputs == 1:
        return functools.reduce(
            jnp.add,
            [
                _shifted(images, tap, shape) * _filters(kernel[(*tap, 0)], images.ndim)
                for tap in _taps(window)
            ],
        )
    if outputs == 1:
        # All taps in one matrix product, each as a channel of its own; then add them up, shifted.
        taps = _taps(window)
        products = images @ jnp.moveaxis(kernel[..., 0], -1, 0).reshape(inputs, len(taps))
        return functools.reduce(
            jnp.add,
            [_shifted(products[..., i : i + 1], tap, shape) for i, tap in enumerate(taps)],
        )
    if len(window) == 3:
        folded = _fold_leading_axis(images, window[0])
        flat_kernel = jnp.moveaxis(kernel, 0, 2).reshape(*window[1:], -1, outputs)
        return _cpu_conv(folded, flat_kernel).reshape(images.shape[0], *shape, outputs)
    axes = "XYZ"[: len(window)]
    same = lax.conv_general_dilated(
        images,
        kernel,
        window_strides=(1,) * len(axes),
        padding="SAME",
        dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
    )
    return _shifted(same, [(w - 1) // 2 for w in window], shape)


def _cpu_image_gradient(out: Array, kernel: Array) -> Array:
    window, (inputs, outputs) = kernel.shape[:-2], kernel.shape[-2:]
    spatial = [n + w - 1 for n, w in zip(out.shape[1:-1], window, strict=True)]
    taps = _taps(window)
    if inputs == 1:
        products = out @ kernel.reshape(len(taps), outputs).T
        return functools.reduce(
            jnp.add,
            [_placed(products[..., i : i + 1], tap, spatial) for i, tap in enumerate(taps)],
        )
    if outputs == 1:
        placed = jnp.concatenate([_placed(out, tap, spatial) for tap in taps], axis=-1)
        return placed @ kernel.reshape(len(taps), inputs)
    if len(window) == 3:
        flat_kernel = jnp.moveaxis(kernel, 0, 2).reshape(*window[1:], -1, outputs)
        folded = _cpu_image_gradient(out.reshape(-1, *out.shape[2:]), flat_kernel)
        parts = folded.reshape(*out.shape[:2], *folded.shape[1:-1], window[0], inputs)
        return functools.reduce(
            jnp.add,
            [_placed(parts[..., t, :], (t, 0, 0), spatial) for t in range(window[0])],
        )
    return _lax_image_gradient(out, kernel)


def _cpu_kernel_gradient(images: Array, out: Array) -> Array:
    (inputs, outputs), spatial = (images.shape[-1], out.shape[-1]), images.shape[1:-1]
    window = tuple(n - m + 1 for n, m in zip(spatial, out.shape[1:-1], strict=True))
    if len(window) == 3:
        folded = _fold_leading_axis(images, window[0])
        flat = _cpu_kernel_gradient(folded, out.reshape(-1, *out.shape[2:]))
        return jnp.moveaxis(flat.reshape(*window[1:], window[0], inputs, outputs), 2, 0)
    if inputs == 1:
        return _lax_kernel_gradient(images, out)
    # With `out` zero-padded to rows of the input's length, every tap of a flattened image is one
    # contiguous run, so that the patches cost no strided copies.
    length = math.prod(spatial)
    starts = [
        sum(t * math.prod(spatial[i + 1 :]) for i, t in enumerate(tap)) for tap in _taps(window)
    ]
    out = jnp.pad(out, ((0, 0), *((0, w - 1) for w in window), (0, 0)))

    def one_image(total: Array, pair: tuple[Array, Array]) -> tuple[Array, None]:
        image, gradient = pair
        flat = jnp.pad(image.reshape(length, inputs), ((0, starts[-1]), (0, 0))).T
        patches = jnp.concatenate([flat[:, s : s + length] for s in starts])
        return total + patches @ gradient.reshape(length, outputs), None

    zero = jnp.zeros((len(starts) * inputs, outputs), out.dtype)
    total, _ = lax.scan(one_image, zero, (images, out))
    return total.reshape(*window, inputs, outputs)


# ------------------------------------------------------------------------------- max-pooling


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _max_pool(images: Array, window: int, strides: int) -> Array:
    return _max_and_place(images, window, strides)[0]


def _max_and_place(images: Array, window: int, strides: int) -> tuple[Array, Array]:
    """The maximum of every window, and the number of the tap (uint8) that it came from."""
    rank = images.ndim - 2
    shape = [(n - window) // strides + 1 for n in images.shape[1:-1]]
    best, place = jnp.zeros(()), jnp.zeros((), jnp.uint8)
    for number, tap in enumerate(_taps((window,) * rank)):
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
        # NaN wins, so that a diverged activation is not hidden by its neighbours.
        wins = (candidate > best) | jnp.isnan(candidate)
        best = jnp.where(wins, candidate, best)
        place = jnp.where(wins, jnp.uint8(number), place)
    return best, place


def _max_pool_forward(
    images: Array, window: int, strides: int
) -> tuple[Array, tuple[Array, tuple[int, ...]]]:
    best, place = _max_and_place(images, window, strides)
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
        for number, tap in enumerate(_taps((window,) * rank)):
            if all(t % strides == p for t, p in zip(tap, phase, strict=True)):
                start = [reach - t // strides for t in tap]
                hit = _shifted(place, start, blocks) == number
                total = total + jnp.where(hit, _shifted(out, start, blocks), 0)
        phases.append(jnp.broadcast_to(total, (out.shape[0], *blocks, out.shape[-1])))
    gradient = jnp.stack(phases).reshape(*(strides,) * rank, *phases[0].shape)
    interleaved = [rank, *(a for i in range(rank) for a in (rank + 1 + i, i)), 2 * rank + 1]
    gradient = gradient.transpose(interleaved)
    gradient = gradient.reshape(out.shape[0], *(b * strides for b in blocks), out.shape[-1])
    return (_shifted(gradient, (0,) * rank, spatial),)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)
