"""Convolution with any window, stride, dilation, padding and groups, written for CPU.

XLA's own are fast for stride 1 in 2-D alone. What makes the others so is, for

* any window: matrix products of a few planes at a time, with fewer multiplications where neighbours
  share them (`cpu_products`). A product is also what XLA computes rightly: JAX 0.10.2 computes
  a wide convolution in 2-D and a pooling in 3-D that reads its images as planes in one kernel,
  and errs by its size;
* few channels and small windows with stride 1: XLA's fast convolution in 2-D (`cpu_small_windows`);
* an image gradient with stride 1: it is a convolution with the mirrored kernel;
* an image gradient with a larger stride: inputs at the same place between two windows see the same
  taps, so that it is a convolution with stride 1 that has the inputs of one stride as channels; or,
  of many channels, one product gives what each tap sends back, and slices of that are added up;
* a dilation: every so many voxels are an image of their own, in the batch;
* few channels in and a stride: a convolution with stride 1 that has the inputs of one stride as
  channels;
* one output channel: a product gives each tap as a channel of its own, to be shifted and added up;
* groups of one channel: shifted images, each times its tap, added up.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from featvis_jax.nn.ops import cpu_products, cpu_small_windows, plain_convolution
from featvis_jax.nn.ops.cpu_kernel_gradient import kernel_gradient
from featvis_jax.nn.ops.cpu_products import in_parts, padded
from featvis_jax.nn.ops.windows import Windows, shifted, taps

__all__ = ["conv", "image_gradient", "kernel_gradient"]

# Channels of the input up to which those of one stride are taken together.
_FEW_INPUTS = 4
# Channels of the output from which on it pays to send each tap back by itself, with a stride.
_MANY_OUTPUTS = 32


def conv(images: Array, kernel: Array, *, windows: Windows, groups: int) -> Array:
    """`featvis_jax.nn.ops.convolution.conv` on CPU."""
    if not _is_served(images, windows):
        return plain_convolution.conv(images, kernel, windows=windows, groups=groups)
    if groups > 1:
        if kernel.shape[-2] == kernel.shape[-1] // groups == 1:
            return _channel_by_channel(images, kernel, windows)
        return _group_by_group(functools.partial(conv, windows=windows), images, kernel, groups)
    if set(windows.size) == {1}:
        return _at_windows(padded(images, windows.pads), windows) @ kernel.reshape(
            kernel.shape[-2:]
        )
    if set(windows.strides) == {1} and max(windows.dilations) > 1:
        return _conv_of_interleaved(images, kernel, windows)
    if cpu_small_windows.are_served(kernel, windows):
        return cpu_small_windows.conv(padded(images, windows.pads), kernel)
    if kernel.shape[-1] == 1 and kernel.shape[-2] > 1 and set(windows.strides) == {1}:
        return _conv_to_one_channel(images, kernel, windows)
    is_strided = max(windows.strides) > 1 == max(windows.dilations)
    if is_strided and kernel.shape[-2] <= _FEW_INPUTS:
        return _conv_of_strides(images, kernel, windows)
    return cpu_products.conv(images, kernel, windows)


def image_gradient(
    out: Array, kernel: Array, *, windows: Windows, groups: int, spatial: tuple[int, ...]
) -> Array:
    """`featvis_jax.nn.ops.convolution.image_gradient` on CPU."""
    if not _is_served(out, windows):
        return plain_convolution.image_gradient(
            out, kernel, windows=windows, groups=groups, spatial=spatial
        )
    if groups == 1 and cpu_small_windows.are_served(kernel, windows):
        gradient = cpu_small_windows.image_gradient(out, kernel)
        return padded(gradient, [(-low, -high) for low, high in windows.pads])
    if set(windows.strides) == {1}:
        mirrored = _swapped(jnp.flip(kernel, range(kernel.ndim - 2)), groups)
        reach = [extent - 1 for extent in windows.extents]
        pads = tuple(
            (r - low, n + low - m)
            for r, (low, _), n, m in zip(reach, windows.pads, spatial, out.shape[1:-1], strict=True)
        )
        return conv(out, mirrored, windows=windows._replace(pads=pads), groups=groups)
    back = functools.partial(image_gradient, windows=windows, spatial=spatial)
    if groups > 1:
        return _group_by_group(back, out, kernel, groups)
    if set(windows.size) == {1}:
        return _at_inputs(out @ kernel.reshape(kernel.shape[-2:]).T, windows, spatial)
    if max(windows.dilations) == 1 and kernel.shape[-1] < _MANY_OUTPUTS:
        return _gradient_by_strides(out, kernel, windows, spatial)
    return _gradient_by_taps(out, kernel, windows, spatial)


def _is_served(images: Array, windows: Windows) -> bool:
    return len(windows.size) <= 3 and images.dtype in (jnp.float32, jnp.float64)


def _swapped(kernel: Array, groups: int) -> Array:
    """With input and output channels swapped, in each group."""
    *window, inputs, outputs = kernel.shape
    grouped = kernel.reshape(*window, inputs, groups, outputs // groups)
    return grouped.swapaxes(-1, -3).reshape(*window, outputs // groups, groups * inputs)


def _at_windows(images: Array, windows: Windows, tap: Sequence[int] | None = None) -> Array:
    """What one tap of every window sees, the first unless said otherwise, of padded images."""
    shape = windows.counts(
        [n - sum(pair) for n, pair in zip(images.shape[1:-1], windows.pads, strict=True)]
    )
    start = [t * d for t, d in zip(tap or (0,) * len(shape), windows.dilations, strict=True)]
    index = (
        slice(a, a + (n - 1) * s + 1, s)
        for a, n, s in zip(start, shape, windows.strides, strict=True)
    )
    return images[(slice(None), *index)]


def _at_inputs(parts: Array, windows: Windows, spatial: Sequence[int]) -> Array:
    """The transpose of `_at_windows` of images of that spatial shape, with the padding's."""
    zero = jnp.zeros((), parts.dtype)
    pads = [
        (-low, n + low - (m - 1) * s - 1, s - 1)
        for (low, _), n, m, s in zip(
            windows.pads, spatial, parts.shape[1:-1], windows.strides, strict=True
        )
    ]
    return lax.pad(parts, zero, [(0, 0, 0), *pads, (0, 0, 0)])


def _group_by_group(
    function: Callable[..., Array], images: Array, kernel: Array, groups: int
) -> Array:
    """What a function without groups makes of each group's images and kernel."""
    images = jnp.moveaxis(images.reshape(*images.shape[:-1], groups, -1), -2, 0)
    kernel = jnp.moveaxis(kernel.reshape(*kernel.shape[:-1], groups, -1), -2, 0)
    found = jax.vmap(functools.partial(function, groups=1))(images, kernel)
    found = jnp.moveaxis(found, 0, -2)
    return found.reshape(*found.shape[:-2], -1)


def _channel_by_channel(images: Array, kernel: Array, windows: Windows) -> Array:
    """A convolution of each channel with a filter of its own."""
    images = padded(images, windows.pads)
    shape = (1,) * (images.ndim - 1) + (-1,)
    parts = (
        _at_windows(images, windows, tap) * kernel[(*tap, 0)].reshape(shape)
        for tap in taps(windows.size)
    )
    return functools.reduce(jnp.add, parts)


def _conv_of_interleaved(images: Array, kernel: Array, windows: Windows) -> Array:
    """A dilated convolution, with every so many voxels for images of their own."""
    spatial, dilations = images.shape[1:-1], windows.dilations
    shape, rank = windows.counts(spatial), len(spatial)
    # As many of each as the last of them has.
    counts = [
        -(-(low + n + high) // d)
        for n, (low, high), d in zip(spatial, windows.pads, dilations, strict=True)
    ]
    ends = [
        count * d - low - n
        for n, (low, _), d, count in zip(spatial, windows.pads, dilations, counts, strict=True)
    ]
    images = padded(images, [(low, e) for (low, _), e in zip(windows.pads, ends, strict=True)])
    split = [x for pair in zip(counts, dilations, strict=True) for x in pair]
    images = images.reshape(len(images), *split, -1)
    axes = range(1, 1 + 2 * rank, 2)
    images = images.transpose(0, *(a + 1 for a in axes), *axes, 2 * rank + 1)
    batch = images.shape[: rank + 1]
    images = images.reshape(math.prod(batch), *counts, -1)
    ones = (1,) * rank
    found = cpu_products.conv(images, kernel, Windows(windows.size, ones, ones, ((0, 0),) * rank))
    parts = found.shape[1:-1]
    found = _interleaved(found.reshape(*batch, *parts, -1), dilations)
    return shifted(found, (0,) * rank, shape)


def _interleaved(parts: Array, steps: Sequence[int]) -> Array:
    """``(batch, *steps, *spatial, channels)``, each of the parts every so many voxels of one."""
    rank = len(steps)
    order = (axis for i in range(1, rank + 1) for axis in (rank + i, i))
    whole = [n * step for n, step in zip(parts.shape[rank + 1 : -1], steps, strict=True)]
    return parts.transpose(0, *order, 2 * rank + 1).reshape(len(parts), *whole, -1)


def _conv_to_one_channel(images: Array, kernel: Array, windows: Windows) -> Array:
    filters = kernel.reshape(-1, kernel.shape[-2])
    # Each tap in front, so that the shifted parts are contiguous.
    products = jnp.einsum("ti,...i->t...", filters, images)[..., None]
    parts = (
        _at_windows(padded(product, windows.pads), windows, tap)
        for product, tap in zip(products, taps(windows.size), strict=True)
    )
    return functools.reduce(jnp.add, parts)


def _conv_of_strides(images: Array, kernel: Array, windows: Windows) -> Array:
    """A convolution as one with stride 1, which has the inputs of one stride as channels."""
    shape, strides = windows.counts(images.shape[1:-1]), windows.strides
    rank, ones = len(shape), (1,) * len(shape)
    size = [-(-k // s) for k, s in zip(windows.size, strides, strict=True)]
    ends = [
        (n + k - 1) * s - low - m
        for n, k, s, (low, _), m in zip(
            shape, size, strides, windows.pads, images.shape[1:-1], strict=True
        )
    ]
    images = padded(images, [(low, e) for (low, _), e in zip(windows.pads, ends, strict=True)])
    more = [k * s - old for k, s, old in zip(size, strides, windows.size, strict=True)]
    kernel = jnp.pad(kernel, (*((0, m) for m in more), (0, 0), (0, 0)))
    images = _strides_as_channels(images, strides, first=1)
    kernel = _strides_as_channels(kernel, strides, first=0)
    return conv(
        images, kernel, windows=Windows(tuple(size), ones, ones, ((0, 0),) * rank), groups=1
    )


def _strides_as_channels(array: Array, strides: Sequence[int], *, first: int) -> Array:
    """The axes from `first` on cut into strides, whose places are put before the next axis."""
    rank = len(strides)
    before, behind = array.shape[:first], array.shape[first + rank :]
    spatial = array.shape[first : first + rank]
    split = [x for n, s in zip(spatial, strides, strict=True) for x in (n // s, s)]
    array = array.reshape(*before, *split, *behind)
    blocks, places = range(first, first + 2 * rank, 2), range(first + 1, first + 2 * rank, 2)
    last = range(first + 2 * rank, array.ndim)
    array = array.transpose(*range(first), *blocks, *places, *last)
    inputs = math.prod(strides) * behind[0]
    counts = [n // s for n, s in zip(spatial, strides, strict=True)]
    return array.reshape(*before, *counts, inputs, *behind[1:])


class _Blocks(NamedTuple):
    """The inputs of one stride each, along every axis, counted from where the padding begins.

    Attributes:
      first: Number of the block where the images begin.
      counts: How many there are in the images.
      reach: Of the windows that see a block, the first begins so many blocks before it.
    """

    first: list[int]
    counts: list[int]
    reach: list[int]


def _blocks(windows: Windows, spatial: Sequence[int]) -> _Blocks:
    lows, strides = [low for low, _ in windows.pads], windows.strides
    first = [low // s for low, s in zip(lows, strides, strict=True)]
    count = [
        -(-(low + n) // s) - f for low, n, s, f in zip(lows, spatial, strides, first, strict=True)
    ]
    reach = [(extent - 1) // s for extent, s in zip(windows.extents, strides, strict=True)]
    return _Blocks(first, count, reach)


def _out_of_blocks(
    found: Array, windows: Windows, blocks: _Blocks, spatial: Sequence[int]
) -> Array:
    """``(batch, *blocks, inputs of a block * channels)`` as the images they are blocks of."""
    rank = len(spatial)
    found = found.reshape(*found.shape[: rank + 1], *windows.strides, -1)
    axes = range(1, rank + 1)
    found = found.transpose(0, *(rank + a for a in axes), *axes, 2 * rank + 1)
    start = [
        low - f * s
        for (low, _), f, s in zip(windows.pads, blocks.first, windows.strides, strict=True)
    ]
    return shifted(_interleaved(found, windows.strides), start, spatial)


def _pads_of_blocks(out: Array, blocks: _Blocks) -> tuple[tuple[int, int], ...]:
    """What makes each block see all windows that see it, from `reach` before its own."""
    return tuple(
        (r - f, count + f - m)
        for r, f, count, m in zip(
            blocks.reach, blocks.first, blocks.counts, out.shape[1:-1], strict=True
        )
    )


def _gradient_by_strides(
    out: Array, kernel: Array, windows: Windows, spatial: Sequence[int]
) -> Array:
    """An image gradient as a convolution of `out`, which has a block's inputs as channels."""
    blocks, strides, rank = _blocks(windows, spatial), windows.strides, len(spatial)
    size = [r + 1 for r in blocks.reach]
    more = [n * s - k for n, s, k in zip(size, strides, windows.size, strict=True)]
    kernel = jnp.pad(kernel, (*((0, m) for m in more), (0, 0), (0, 0)))
    split = [x for pair in zip(size, strides, strict=True) for x in pair]
    kernel = jnp.flip(kernel.reshape(*split, *kernel.shape[-2:]), range(0, 2 * rank, 2))
    kernel = kernel.transpose(
        *range(0, 2 * rank, 2), 2 * rank + 1, *range(1, 2 * rank, 2), 2 * rank
    )
    kernel = kernel.reshape(*size, out.shape[-1], -1)
    ones, pads = (1,) * rank, _pads_of_blocks(out, blocks)
    found = conv(out, kernel, windows=Windows(tuple(size), ones, ones, pads), groups=1)
    return _out_of_blocks(found, windows, blocks, spatial)


def _gradient_by_taps(out: Array, kernel: Array, windows: Windows, spatial: Sequence[int]) -> Array:
    """An image gradient from one product, which has what every tap sends back as channels."""
    (inputs, outputs), blocks = kernel.shape[-2:], _blocks(windows, spatial)
    kernel = kernel.reshape(-1, outputs).T

    def of_part(part: Array, planes: int) -> Array:
        sent = part @ kernel
        shape = (planes, *blocks.counts[1:])
        phases = []
        for phase in taps(windows.strides):
            total = jnp.zeros((len(part), *shape, inputs), out.dtype)
            for number, tap in enumerate(taps(windows.size)):
                ahead = [t * d - p for t, d, p in zip(tap, windows.dilations, phase, strict=True)]
                if any(a % s for a, s in zip(ahead, windows.strides, strict=True)):
                    continue
                start = [
                    r - a // s for r, a, s in zip(blocks.reach, ahead, windows.strides, strict=True)
                ]
                own = sent[..., number * inputs : (number + 1) * inputs]
                total = total + shifted(own, start, shape)
            phases.append(total)
        return jnp.stack(phases, axis=-2).reshape(len(part), *shape, -1)

    out = padded(out, _pads_of_blocks(out, blocks))
    found = in_parts(
        of_part,
        out,
        planes=blocks.counts[0],
        bytes_per_plane=math.prod(out.shape[2:-1]) * kernel.shape[1] * out.dtype.itemsize,
        stride=1,
        extent=blocks.reach[0] + 1,
    )
    return _out_of_blocks(found, windows, blocks, spatial)
