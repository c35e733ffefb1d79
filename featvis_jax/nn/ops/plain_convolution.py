"""Convolution and its gradients as `jax.lax` has them: what accelerators run."""

from __future__ import annotations

import jax
from jax import lax
from jaxtyping import Array

from featvis_jax.nn.ops.windows import Windows


def conv(images: Array, kernel: Array, *, windows: Windows, groups: int) -> Array:
    """`featvis_jax.nn.ops.convolution.conv`."""
    axes = "XYZUVW"[: images.ndim - 2]
    return lax.conv_general_dilated(
        images,
        kernel,
        window_strides=windows.strides,
        padding=windows.pads,
        rhs_dilation=windows.dilations,
        feature_group_count=groups,
        dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
    )


def image_gradient(
    out: Array, kernel: Array, *, windows: Windows, groups: int, spatial: tuple[int, ...]
) -> Array:
    """`featvis_jax.nn.ops.convolution.image_gradient`."""
    shape = (out.shape[0], *spatial, kernel.shape[-2] * groups)
    (gradient,) = jax.linear_transpose(
        lambda images: conv(images, kernel, windows=windows, groups=groups),
        jax.ShapeDtypeStruct(shape, out.dtype),
    )(out)
    return gradient


def kernel_gradient(images: Array, out: Array, *, windows: Windows, groups: int) -> Array:
    """The transpose of `conv` in its kernel."""
    shape = (*windows.size, images.shape[-1] // groups, out.shape[-1])
    (gradient,) = jax.linear_transpose(
        lambda kernel: conv(images, kernel, windows=windows, groups=groups),
        jax.ShapeDtypeStruct(shape, out.dtype),
    )(out)
    return gradient
