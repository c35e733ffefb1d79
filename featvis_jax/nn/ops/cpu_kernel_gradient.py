"""Kernel gradients of convolutions, written for CPU.

* With stride 1 they are fastest one image at a time: the patches of one image fit in the cache and
  meet the output gradient in a single matrix product;
* of 16 channels or fewer, neighbouring columns are taken for channels, to make them enough;
* a 3-D one is a 2-D one whose leading axis moved into the batch (its position) and into the
  channels (its taps), a few planes at a time: of a whole volume the unfolded copies would be the
  largest part of a training's memory;
* minimal filtering along the leading axis saves a third of the products and of the unfolding: in
  3-D always, in 2-D where channels are many.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from featvis_jax.nn.ops import plain_convolution
from featvis_jax.nn.ops.cpu_products import padded
from featvis_jax.nn.ops.cpu_small_windows import (
    block_filters,
    columns_per_block,
    differences,
    even_along_leading_axis,
    fold_leading_axis,
    in_blocks,
)
from featvis_jax.nn.ops.fusion import apart
from featvis_jax.nn.ops.windows import Windows, taps

# Planes of a volume whose part of a weight gradient is computed at once; more are no faster.
_PLANES = 8


def kernel_gradient(images: Array, out: Array, *, windows: Windows, groups: int) -> Array:
    """The transpose of `conv` in its kernel, on CPU."""
    if not _has_unit_steps(windows, groups):
        return plain_convolution.kernel_gradient(images, out, windows=windows, groups=groups)
    return _cpu_kernel_gradient(padded(images, windows.pads), out)


def _has_unit_steps(windows: Windows, groups: int) -> bool:
    steps = {*windows.strides, *windows.dilations}
    return groups == 1 and steps == {1} and len(windows.size) in (2, 3)


def _cpu_kernel_gradient(images: Array, out: Array) -> Array:
    window = tuple(n - m + 1 for n, m in zip(images.shape[1:-1], out.shape[1:-1], strict=True))
    if len(window) == 3:
        return _sum_over_planes(_kernel_gradient_of_volume, images, out)
    return _flat_kernel_gradient(images, out, window)


def _sum_over_planes(gradient: Callable[[Array, Array], Array], images: Array, out: Array) -> Array:
    """A kernel gradient of volumes, added up over a few planes of `out` at a time."""
    length, width = out.shape[1], images.shape[1] - out.shape[1] + 1
    planes = _PLANES if length >= 2 * _PLANES else length
    parts = -(-length // planes)

    def add(total: Array, number: Array) -> tuple[Array, None]:
        image, part = number // parts, number % parts
        # The last part begins early enough to be whole; what it shares with the one before it
        # counts there.
        start = jnp.minimum(part * planes, length - planes)
        seen = lax.dynamic_slice_in_dim(images[image][None], start, planes + width - 1, axis=1)
        own = lax.dynamic_slice_in_dim(out[image][None], start, planes, axis=1)
        is_new = start + jnp.arange(planes) >= part * planes
        own = jnp.where(is_new.reshape(1, -1, 1, 1, 1), own, 0)
        return total + gradient(seen, own), None

    kernel = jax.eval_shape(gradient, images, out)
    numbers = jnp.arange(len(images) * parts)
    return lax.scan(add, jnp.zeros(kernel.shape, kernel.dtype), numbers)[0]


def _kernel_gradient_of_volume(images: Array, out: Array) -> Array:
    """The kernel gradient in 3-D, by ones in 2-D."""
    width = images.shape[1] - out.shape[1] + 1
    if width == 3:
        return _winograd_kernel_gradient(images, out, _cpu_kernel_gradient)
    flat = _cpu_kernel_gradient(fold_leading_axis(images, width), out.reshape(-1, *out.shape[2:]))
    channels = images.shape[-1], out.shape[-1]
    return jnp.moveaxis(flat.reshape(*flat.shape[:2], width, *channels), 2, 0)


def _flat_kernel_gradient(images: Array, out: Array, window: tuple[int, ...]) -> Array:
    """The kernel gradient in 2-D, of few channels with neighbouring columns taken for channels."""
    kernel = jax.ShapeDtypeStruct((*window, images.shape[-1], out.shape[-1]), out.dtype)
    # Blocks of a single channel take longer than its few patches.
    block = 1 if images.shape[-1] == 1 else columns_per_block(*kernel.shape[2:])
    as_filters = functools.partial(block_filters, block=block)
    filters = jax.eval_shape(as_filters, kernel)
    (rows, reach), blocks = filters.shape[:2], -(-out.shape[2] // block)
    images, out = in_blocks(images, block, blocks + reach - 1), in_blocks(out, block, blocks)

    def of_image(image: Array, out: Array) -> Array:
        if rows == 3 and math.prod(filters.shape[2:]) >= 2048:
            # Its factors are images too, whose windows are one row high.
            found = _winograd_kernel_gradient(image[None], out[None], _product_of_patches)
            return found.reshape(filters.shape)
        return _product_of_patches(image, out)

    def add(total: Array, pair: tuple[Array, Array]) -> tuple[Array, None]:
        return total + of_image(*pair), None

    total, _ = lax.scan(add, jnp.zeros(filters.shape, out.dtype), (images, out))
    (gradient,) = jax.linear_transpose(as_filters, kernel)(total)
    return gradient


def _product_of_patches(image: Array, out: Array) -> Array:
    """The kernel gradient of one image in 2-D, by a single matrix product.

    With `out` zero-padded to rows of the image's length, every tap of the flattened image is one
    contiguous run, so that the patches cost no strided copies.
    """
    (rows, columns, inputs), outputs = image.shape, out.shape[-1]
    window, length = (rows - out.shape[0] + 1, columns - out.shape[1] + 1), rows * columns
    starts = [row * columns + column for row, column in taps(window)]

    def flattened(image: Array, out: Array) -> tuple[Array, Array]:
        row = jnp.pad(image.reshape(length, inputs).T, ((0, 0), (0, starts[-1])))
        padded = jnp.pad(out, (*((0, w - 1) for w in window), (0, 0)))
        return row, padded.reshape(length, outputs)

    # Apart, since XLA would transpose the image anew for every tap.
    row, gradient = apart(flattened, image, out)
    patches = jnp.concatenate([row[:, s : s + length] for s in starts])
    return (patches @ gradient).reshape(*window, inputs, outputs)


def _winograd_kernel_gradient(
    images: Array, out: Array, flat_gradient: Callable[[Array, Array], Array]
) -> Array:
    """The kernel gradient that goes with `_winograd`, by F(3, 2).

    Args:
      images: ``(batch, *spatial, in_channels)``.
      out: ``(batch, *out, out_channels)``, two shorter along the leading axis.
      flat_gradient: What is done along the other axes.
    """

    def factors(images: Array, out: Array) -> tuple[tuple[Array, ...], ...]:
        out = even_along_leading_axis(out)
        even, odd = out[:, ::2], out[:, 1::2]
        pairs = zip(
            differences(images), (even, (even + odd) / 2, (even - odd) / 2, odd), strict=True
        )
        return tuple(tuple(each.reshape(-1, *each.shape[2:]) for each in pair) for pair in pairs)

    m, n, o, p = (flat_gradient(*pair) for pair in apart(factors, images, out))
    return jnp.stack([m + n + o, n - o, n + o - p])
