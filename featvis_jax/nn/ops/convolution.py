"""Convolution with any window, stride, dilation, padding and groups, and its gradients.

A convolution is linear in the images and in the kernel. With the gradients that go to either, it is
one trilinear form seen from three sides: each is the derivative of the others, so that derivatives
of any order, in both modes, are made of these three alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jax.interpreters import ad
from jaxtyping import Array, Float

from featvis_jax.nn.ops import cpu_convolution, plain_convolution
from featvis_jax.nn.ops.primitives import batch_by_folding, define
from featvis_jax.nn.ops.windows import Windows

Batch = Float[Array, "batch *spatial channels"]
Kernel = Float[Array, "*window in_channels out_channels"]


def conv(
    images: Batch, kernel: Kernel, *, windows: Windows, groups: int = 1, precision: Any = None
) -> Array:
    """Cross-correlate images with a kernel, as deep learning's "convolution" does.

    Args:
      images: ``(batch, *spatial, in_channels)``.
      kernel: ``(*window, in_channels / groups, out_channels)``, as Flax stores it.
      windows: Where the kernel is applied.
      groups: Parts of the channels that do not see each other.
      precision: As `jax.lax` takes it; a CPU has one.

    Returns:
      ``(batch, *out, out_channels)``.

    Example:
      >>> import jax.numpy as jnp
      >>> windows = Windows((3, 3), (2, 2), (1, 1), ((1, 1), (0, 0)))
      >>> conv(jnp.ones((2, 9, 8, 1)), jnp.ones((3, 3, 1, 4)), windows=windows).shape
      (2, 5, 3, 4)
    """
    return _conv.bind(images, kernel, windows=windows, groups=groups, precision=precision, lanes=0)


def image_gradient(
    out: Array,
    kernel: Kernel,
    *,
    windows: Windows,
    groups: int = 1,
    spatial: Sequence[int],
    precision: Any = None,
) -> Array:
    """The transpose of `conv` in its images: what each input gets from the outputs that see it.

    A transposed convolution is this with the kernel's channels swapped and its taps mirrored.

    Args:
      out: ``(batch, *out, out_channels)``.
      kernel: As `conv` takes it.
      windows: Likewise.
      groups: Likewise.
      spatial: Spatial shape of the images.
      precision: As `jax.lax` takes it; a CPU has one.

    Returns:
      ``(batch, *spatial, in_channels)``.
    """
    return _image_gradient.bind(
        out,
        kernel,
        windows=windows,
        groups=groups,
        spatial=tuple(spatial),
        precision=precision,
        lanes=0,
    )


def _on_cpu(implementation: Any) -> Any:
    return lambda *operands, precision, **parameters: implementation(*operands, **parameters)


_conv = define("fast_conv", plain_convolution.conv, on_cpu=_on_cpu(cpu_convolution.conv))
_image_gradient = define(
    "fast_conv_image_gradient",
    plain_convolution.image_gradient,
    on_cpu=_on_cpu(cpu_convolution.image_gradient),
)
_kernel_gradient = define(
    "fast_conv_kernel_gradient",
    plain_convolution.kernel_gradient,
    on_cpu=_on_cpu(cpu_convolution.kernel_gradient),
)


def _spatial(images: Any, lanes: int) -> tuple[int, ...]:
    """Of an operand, or of the linear one that a transposition asks for."""
    return tuple(images.aval.shape[lanes + 1 : -1])


# What a product is differentiated by gives the other factor's place to the cotangent.
ad.defbilinear(
    _conv,
    lambda out, images, kernel, *, lanes, **parameters: _image_gradient.bind(
        out, kernel, spatial=_spatial(images, lanes), lanes=lanes, **parameters
    ),
    lambda out, images, kernel, **parameters: _kernel_gradient.bind(images, out, **parameters),
)
ad.defbilinear(
    _image_gradient,
    lambda images, out, kernel, *, spatial, **parameters: _conv.bind(images, kernel, **parameters),
    lambda images, out, kernel, *, spatial, **parameters: _kernel_gradient.bind(
        images, out, **parameters
    ),
)
ad.defbilinear(
    _kernel_gradient,
    lambda kernel, images, out, *, lanes, **parameters: _image_gradient.bind(
        out, kernel, spatial=_spatial(images, lanes), lanes=lanes, **parameters
    ),
    lambda kernel, images, out, **parameters: _conv.bind(images, kernel, **parameters),
)
# Images of one kernel are one batch; of a kernel for each, or with a kernel as the result, not.
for _primitive, _foldable in (
    (_conv, lambda batched: not batched[1]),
    (_image_gradient, lambda batched: not batched[1]),
    (_kernel_gradient, lambda batched: False),
):
    batch_by_folding(_primitive, foldable=_foldable)
