"""Convolutions of few channels with small windows and stride 1, on CPU.

XLA hands a SAME convolution in 2-D to a fast library, which unfolds within the caches what
`cpu_products` has to copy. Everything here leads there:

* a VALID convolution is a SAME one whose border is cut off, and an image gradient one with the
  mirrored kernel;
* of 16 channels or fewer the library is not asked: neighbouring columns, taken for channels, make
  them enough;
* a 3-D convolution is a 2-D one whose leading axis moved into the batch (its position) and into
  the channels (its taps), or, of many channels, four in place of six by Winograd's way;
* a convolution of one channel, or to one channel, is a memory-bound job that shifted slices do
  about ten times faster.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from featvis_jax.nn.ops.fusion import apart
from featvis_jax.nn.ops.windows import Windows, shifted, taps

# Planes of a volume that are computed at once; more are no faster.
_PLANES = 8
# Bytes of a batch of volumes, taps along the leading axis taken for channels, beyond which it goes
# a few planes at a time too.
_LARGEST_FOLD = 2**28
# Windows and channels beyond which products are faster.
_WIDEST, _MOST_CHANNELS = 3, 64


def are_served(kernel: Array, windows: Windows) -> bool:
    """Whether convolutions of this kind are fastest here."""
    return (
        {*windows.strides, *windows.dilations} == {1}
        and len(windows.size) in (2, 3)
        and 1 < max(windows.size) <= _WIDEST
        and max(kernel.shape[-2:]) <= _MOST_CHANNELS
    )


def conv(images: Array, kernel: Array) -> Array:
    """A VALID convolution with stride 1."""
    window, (inputs, outputs) = kernel.shape[:-2], kernel.shape[-2:]
    shape = [n - w + 1 for n, w in zip(images.shape[1:-1], window, strict=True)]
    if inputs == 1:
        return apart(lambda kernel, images: _shifted_sum(images, kernel), kernel, images)
    if outputs == 1:
        # All taps in one matrix product, each as a channel of its own; then add them up, shifted.
        products = images @ jnp.moveaxis(kernel[..., 0], -1, 0).reshape(inputs, -1)
        return functools.reduce(
            jnp.add,
            [shifted(products[..., i : i + 1], tap, shape) for i, tap in enumerate(taps(window))],
        )
    if _winograd_pays(kernel):
        return _winograd(images, kernel, conv)
    if len(window) == 3:
        if window[0] * images.nbytes > _LARGEST_FOLD:
            return _by_planes(functools.partial(_folded_conv, kernel=kernel), images, window[0])
        return _folded_conv(images, kernel)
    return _flat_conv(images, kernel)


def _folded_conv(images: Array, kernel: Array) -> Array:
    """A VALID convolution of volumes, by one in 2-D of all their planes."""
    (depth, *window), (inputs, outputs) = kernel.shape[:-2], kernel.shape[-2:]
    flat_kernel = jnp.moveaxis(kernel, 0, 2).reshape(*window, depth * inputs, outputs)
    found = conv(fold_leading_axis(images, depth), flat_kernel)
    return found.reshape(len(images), -1, *found.shape[1:])


def _by_planes(conv: Callable[[Array], Array], images: Array, width: int) -> Array:
    """A VALID convolution of volumes, a few planes of its result at a time.

    Args:
      conv: What it is of a part of the volumes.
      images: ``(batch, *spatial, channels)``.
      width: Of the window along that axis.
    """
    length = images.shape[1] - width + 1
    if length <= _PLANES:
        return conv(images)

    def add(found: Array, part: Array) -> tuple[Array, None]:
        # The last part begins early enough to be whole; where it meets the one before it, both
        # find the same.
        start = jnp.minimum(part * _PLANES, length - _PLANES)
        seen = lax.dynamic_slice_in_dim(images, start, _PLANES + width - 1, axis=1)
        return lax.dynamic_update_slice_in_dim(found, conv(seen), start, axis=1), None

    result = jax.eval_shape(conv, images[:, : _PLANES + width - 1])
    empty = jnp.zeros((len(images), length, *result.shape[2:]), result.dtype)
    return lax.scan(add, empty, jnp.arange(-(-length // _PLANES)))[0]


def _winograd_pays(kernel: Array) -> bool:
    """Whether a third of the products is worth two more passes over the activations."""
    return kernel.ndim == 5 and kernel.shape[0] == 3 and math.prod(kernel.shape[-2:]) >= 512


def _winograd(images: Array, kernel: Array, flat_conv: Callable[[Array, Array], Array]) -> Array:
    """A convolution in 3-D by ones in 2-D, four for every two results along the leading axis.

    The fold has six products there, Winograd's F(2, 3) four.

    Args:
      images: ``(batch, *spatial, channels)``.
      kernel: ``(3, *window, in_channels, out_channels)``.
      flat_conv: What is done along the other axes.

    References:
      Winograd, Arithmetic complexity of computations, 1980
      Lavin and Gray, Fast algorithms for convolutional neural networks, 2016
    """
    batch, length = images.shape[0], images.shape[1] - 2
    first, second, third = kernel
    sums = (first + second + third) / 2, (first - second + third) / 2
    m, n, o, p = (
        flat_conv(part.reshape(-1, *part.shape[2:]), filters)
        for part, filters in zip(differences(images), (first, *sums, third), strict=True)
    )
    found = jnp.stack([m + n + o, n - o - p], axis=1)
    return found.reshape(batch, -1, *found.shape[2:])[:, :length]


def _flat_conv(images: Array, kernel: Array) -> Array:
    """A VALID convolution in 2-D, by XLA's library for SAME ones."""
    (rows, columns), (inputs, outputs) = kernel.shape[:2], kernel.shape[2:]
    if rows == columns == 1:  # Of a volume whose window has more along the leading axis alone.
        return _product(images, kernel)
    block = columns_per_block(inputs, outputs)
    height, width = images.shape[1] - rows + 1, images.shape[2] - columns + 1
    filters = block_filters(kernel, block)
    # Blocks of results, and the blocks of inputs that each of them sees.
    blocks, reach = -(-width // block), filters.shape[1]
    # The last of them may see columns behind the image, but such results are cut off.
    seen = in_blocks(images, block, blocks + reach - 1)
    found = shifted(
        _same_conv(seen, filters), ((rows - 1) // 2, (reach - 1) // 2), (height, blocks)
    )
    return found.reshape(-1, height, blocks * block, outputs)[:, :, :width]


def _shifted_sum(images: Array, kernel: Array) -> Array:
    """A convolution of one channel: shifted images, each times its tap, added up."""
    window = kernel.shape[:-2]
    shape = [n - w + 1 for n, w in zip(images.shape[1:-1], window, strict=True)]
    return functools.reduce(
        jnp.add,
        [
            shifted(images, tap, shape) * _filters(kernel[(*tap, 0)], images.ndim)
            for tap in taps(window)
        ],
    )


def _filters(weights: Array, rank: int) -> Array:
    """One weight per output channel, ready to multiply a batch."""
    return weights.reshape((1,) * (rank - 1) + (-1,))


def _same_conv(images: Array, kernel: Array) -> Array:
    return lax.conv_general_dilated(
        images,
        kernel,
        window_strides=(1,) * (images.ndim - 2),
        padding="SAME",
        dimension_numbers=("NXYC", "XYIO", "NXYC"),
    )


def image_gradient(out: Array, kernel: Array) -> Array:
    """Its transpose in the images."""
    window, (inputs, outputs) = kernel.shape[:-2], kernel.shape[-2:]
    spatial = [n + w - 1 for n, w in zip(out.shape[1:-1], window, strict=True)]
    if inputs == 1 and len(window) == 2:
        products = out @ kernel.reshape(-1, outputs).T
        return functools.reduce(
            jnp.add,
            [_placed(products[..., i : i + 1], tap, spatial) for i, tap in enumerate(taps(window))],
        )
    if outputs == 1:
        placed = jnp.concatenate([_placed(out, tap, spatial) for tap in taps(window)], axis=-1)
        return placed @ kernel.reshape(-1, inputs)
    if _winograd_pays(kernel):
        # What an input gets is a convolution, along the leading axis with the mirrored kernel.
        out = jnp.pad(out, ((0, 0), (2, 2), (0, 0), (0, 0), (0, 0)))
        return _winograd(out, jnp.flip(kernel, 0), image_gradient)
    if len(window) == 3:
        flat_kernel = jnp.moveaxis(kernel, 0, 2).reshape(*window[1:], -1, outputs)
        folded = image_gradient(out.reshape(-1, *out.shape[2:]), flat_kernel)
        parts = folded.reshape(*out.shape[:2], *folded.shape[1:-1], window[0], inputs)
        return functools.reduce(
            jnp.add,
            [_placed(parts[..., t, :], (t, 0, 0), spatial) for t in range(window[0])],
        )
    # A convolution of `out` with the mirrored kernel; half of its border is what SAME adds.
    mirrored = jnp.flip(kernel, (0, 1)).swapaxes(-1, -2)
    if set(window) == {1}:
        return _product(out, mirrored)
    if columns_per_block(inputs, outputs) == 1:
        pads = [(w // 2, (w - 1) // 2) for w in window]
        # Behind the barrier XLA cannot move the border into the convolution, which its fast
        # library would then not take.
        out = lax.optimization_barrier(jnp.pad(out, ((0, 0), *pads, (0, 0))))
        return _same_conv(out, mirrored)
    # Apart, since XLA would route the gradient of a pooling into blocks of columns one by one.
    out = jnp.pad(out, ((0, 0), *((w - 1, w - 1) for w in window), (0, 0)))
    return apart(lambda kernel, images: _flat_conv(images, kernel), mirrored, out)


def _placed(part: Array, tap: Sequence[int], shape: Sequence[int]) -> Array:
    """The transpose of `shifted`: `part` at `tap` within zeros of the spatial shape `shape`."""
    pads = [(t, n - t - m) for t, n, m in zip(tap, shape, part.shape[1:], strict=False)]
    return jnp.pad(part, ((0, 0), *pads, (0, 0)))


def _product(images: Array, kernel: Array) -> Array:
    """A convolution whose window is one voxel."""
    return images @ kernel.reshape(kernel.shape[-2:])


def fold_leading_axis(images: Array, width: int) -> Array:
    """(batch, x, ..., c) -> (batch * (x - width + 1), ..., width * c): leading taps as channels."""
    length = images.shape[1] - width + 1
    stacked = jnp.concatenate([images[:, t : t + length] for t in range(width)], axis=-1)
    return stacked.reshape(-1, *stacked.shape[2:])


def block_filters(kernel: Array, block: int) -> Array:
    """What a kernel is where `block` columns are one, with the channels of all of them.

    Each column of a block of results has a filter: the kernel, so many columns further right.
    """
    rows, columns, inputs, outputs = kernel.shape
    reach = -(-(columns - 1) // block) + 1
    moved = [
        jnp.pad(kernel, ((0, 0), (i, reach * block - columns - i), (0, 0), (0, 0)))
        for i in range(block)
    ]
    return jnp.stack(moved, axis=3).reshape(rows, reach, block * inputs, block * outputs)


def in_blocks(images: Array, block: int, count: int) -> Array:
    """The columns of images, padded, in blocks: ``(batch, rows, count, block * channels)``."""
    pad = count * block - images.shape[2]
    images = jnp.pad(images, ((0, 0), (0, 0), (0, pad), (0, 0)))
    return images.reshape(*images.shape[:2], count, -1)


def columns_per_block(inputs: int, outputs: int) -> int:
    """How many neighbouring columns to take for channels, until there are the library's 32.

    Each result of a block then has products with columns that it does not see, and zeros for them:
    with a window of 3 a block of two columns meets 4, a block of four 8.
    """
    most = max(inputs, outputs)
    return 1 if most > 16 else 2 if most > 8 else 4


def differences(images: Array) -> tuple[Array, Array, Array, Array]:
    """What Winograd multiplies, from each four images along the leading axis that two results see.

    The leading axis is padded to an even length.
    """
    images = even_along_leading_axis(images)
    pairs = images.shape[1] // 2 - 1
    a, b, c, d = (images[:, i : i + 2 * pairs - 1 : 2] for i in range(4))
    return a - c, b + c, c - b, b - d


def even_along_leading_axis(images: Array) -> Array:
    """Padded behind to an even length."""
    return jnp.pad(images, ((0, 0), (0, images.shape[1] % 2), *((0, 0),) * (images.ndim - 2)))
