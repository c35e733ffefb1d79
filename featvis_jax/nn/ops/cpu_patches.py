"""Convolution with any window by one matrix product, for CPU.

Forward, each tap of the window is a slice of the images, and all taps together, taken for channels,
meet the kernel in one product. Backward it is the other way round: one product gives what every tap
sends back, and slices of that are added up.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from featvis_jax.nn.ops.windows import Windows, shifted, taps


def padded(images: Array, pads: Sequence[tuple[int, int]]) -> Array:
    """With zeros around it, or cut."""
    zero = jnp.zeros((), images.dtype)
    return lax.pad(images, zero, [(0, 0, 0), *((*pair, 0) for pair in pads), (0, 0, 0)])


def patches(images: Array, windows: Windows, shape: Sequence[int]) -> Array:
    """What each window sees, tap after tap: ``(batch, *shape, taps * channels)``."""
    images = padded(images, windows.pads)
    steps = (1, *windows.strides, 1)
    seen = []
    for tap in taps(windows.size):
        start = [t * d for t, d in zip(tap, windows.dilations, strict=True)]
        stop = [a + (n - 1) * s + 1 for a, n, s in zip(start, shape, windows.strides, strict=True)]
        limits = (images.shape[0], *stop, images.shape[-1])
        seen.append(lax.slice(images, (0, *start, 0), limits, steps))
    return jnp.concatenate(seen, axis=-1)


def conv(images: Array, kernel: Array, windows: Windows) -> Array:
    """A convolution, of all taps in one product."""
    shape = windows.counts(images.shape[1:-1])
    return patches(images, windows, shape) @ kernel.reshape(-1, kernel.shape[-1])


def image_gradient(out: Array, kernel: Array, windows: Windows, spatial: Sequence[int]) -> Array:
    """The transpose of `conv` in its images."""
    (inputs, outputs), rank = kernel.shape[-2:], len(spatial)
    sent = out @ kernel.reshape(-1, outputs).T
    # Seen in blocks of `strides` inputs, an input at `phase` within its block is reached only by
    # the taps that lie a multiple of the stride from it, from the output so many blocks before.
    strides, lows = windows.strides, [low for low, _ in windows.pads]
    blocks = [-(-(low + n) // s) for low, n, s in zip(lows, spatial, strides, strict=True)]
    reach = [(extent - 1) // s for extent, s in zip(windows.extents, strides, strict=True)]
    sent = padded(
        sent, [(r, b - m) for r, b, m in zip(reach, blocks, out.shape[1:-1], strict=True)]
    )
    phases = []
    for phase in taps(strides):
        parts = []
        for number, tap in enumerate(taps(windows.size)):
            ahead = [t * d - p for t, d, p in zip(tap, windows.dilations, phase, strict=True)]
            if any(a % s for a, s in zip(ahead, strides, strict=True)):
                continue
            start = [r - a // s for r, a, s in zip(reach, ahead, strides, strict=True)]
            part = sent[..., number * inputs : (number + 1) * inputs]
            parts.append(shifted(part, start, blocks))
        nothing = jnp.zeros((out.shape[0], *blocks, inputs), out.dtype)
        phases.append(functools.reduce(jnp.add, parts) if parts else nothing)
    found = jnp.concatenate(phases, axis=-1) if len(phases) > 1 else phases[0]
    found = found.reshape(-1, *blocks, *strides, inputs)
    order = [0, *(axis for i in range(1, rank + 1) for axis in (i, rank + i)), 2 * rank + 1]
    found = found.transpose(order).reshape(
        -1, *(b * s for b, s in zip(blocks, strides, strict=True)), inputs
    )
    return shifted(found, lows, spatial)
