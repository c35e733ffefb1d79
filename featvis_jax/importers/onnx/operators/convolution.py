"""Convolutions, their transposes, and products of matrices."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from featvis_jax.importers.onnx.operators.registry import Layout, Node, Operator, per_channel
from featvis_jax.importers.onnx.operators.windows import Windows, windows


def _numbers(rank: int) -> tuple[str, str, str]:
    axes = "XYZUVW"[:rank]
    return f"N{axes}C", f"OI{axes}", f"N{axes}C"


def _conv(node: Node, images: Array, kernel: Array, bias: Array | None = None) -> Array:
    rank, groups = images.ndim - 2, node.attributes.get("group", 1)
    if kernel.ndim != images.ndim or kernel.shape[1] * groups != images.shape[-1]:
        raise node.refuse(
            f"a kernel of shape {kernel.shape} in {groups} groups does not take the "
            f"{images.shape[-1]} channels of an image with spatial shape {images.shape[1:-1]}."
        )
    place = windows(node, images.shape[1:-1], tuple(kernel.shape[2:]))
    if groups == 1 and _are_patches(place):
        convolved = _of_patches(images, kernel)
    else:
        convolved = lax.conv_general_dilated(
            images,
            kernel,
            window_strides=place.strides,
            padding=place.pads,
            rhs_dilation=place.dilations,
            feature_group_count=groups,
            dimension_numbers=_numbers(rank),
        )
    return convolved if bias is None else convolved + per_channel(bias, convolved)


# Convolutions of smaller windows are as fast; one of 16 x 16 x 16 is thousands of products.
_SMALLEST_PATCH = 64


def _are_patches(place: Windows) -> bool:
    """Whether large windows lie side by side, as where a transformer takes up an image."""
    return (
        place.size == place.strides
        and set(place.dilations) == {1}
        and not any(map(any, place.pads))
        and math.prod(place.size) >= _SMALLEST_PATCH
    )


def _of_patches(images: Array, kernel: Array) -> Array:
    """A product of the voxels of each patch and the kernel."""
    rank, size = images.ndim - 2, kernel.shape[2:]
    counts = [n // k for n, k in zip(images.shape[1:-1], size, strict=True)]
    whole = tuple(slice(count * k) for count, k in zip(counts, size, strict=True))
    split = [n for pair in zip(counts, size, strict=True) for n in pair]
    patches = images[:, *whole].reshape(images.shape[0], *split, images.shape[-1])
    inside = [*range(2, 2 * rank + 1, 2), 2 * rank + 1]
    return jnp.tensordot(patches, kernel, axes=(inside, [*range(2, rank + 2), 1]))


def _conv_transpose(node: Node, images: Array, kernel: Array, bias: Array | None = None) -> Array:
    rank, groups = images.ndim - 2, node.attributes.get("group", 1)
    if kernel.ndim != images.ndim or kernel.shape[0] != images.shape[-1]:
        raise node.refuse(
            f"a kernel of shape {kernel.shape} does not take the {images.shape[-1]} channels of an "
            f"image with spatial shape {images.shape[1:-1]}."
        )
    size = tuple(kernel.shape[2:])
    strides = tuple(node.attributes.get("strides", (1,) * rank))
    dilations = tuple(node.attributes.get("dilations", (1,) * rank))
    extra = tuple(node.attributes.get("output_padding", (0,) * rank))
    pads = _transposed_pads(node, images.shape[1:-1], size, strides, dilations, extra)
    # The gradient of a convolution: zeros between the voxels, and the kernel mirrored.
    kernel = kernel.reshape(groups, -1, *kernel.shape[1:])
    kernel = jnp.flip(jnp.moveaxis(kernel, 2, 1), axis=range(3, 3 + rank))
    convolved = lax.conv_general_dilated(
        images,
        kernel.reshape(-1, *kernel.shape[2:]),
        window_strides=(1,) * rank,
        padding=tuple(
            ((k - 1) * d - low, (k - 1) * d - high + more)
            for k, d, (low, high), more in zip(size, dilations, pads, extra, strict=True)
        ),
        lhs_dilation=strides,
        rhs_dilation=dilations,
        feature_group_count=groups,
        dimension_numbers=_numbers(rank),
    )
    return convolved if bias is None else convolved + per_channel(bias, convolved)


def _transposed_pads(
    node: Node,
    spatial: tuple[int, ...],
    size: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    extra: tuple[int, ...],
) -> tuple[tuple[int, int], ...]:
    """What is cut off before and after; less than nothing where zeros are added."""
    rank = len(spatial)
    mode = node.attributes.get("auto_pad", "NOTSET")
    shape = node.attributes.get("output_shape")
    if shape is None and mode in ("NOTSET", "VALID"):
        flat = tuple(node.attributes.get("pads", (0,) * (2 * rank)))
        flat = flat if mode == "NOTSET" else (0,) * (2 * rank)
        return tuple(zip(flat[:rank], flat[rank:], strict=True))
    wanted = shape or [n * s for n, s in zip(spatial, strides, strict=True)]
    pads = []
    for n, k, s, d, more, out in zip(
        spatial, size, strides, dilations, extra, list(wanted)[-rank:], strict=True
    ):
        natural = s * (n - 1) + (k - 1) * d + 1
        if shape is not None and not 0 < out < natural + s:
            raise node.refuse(
                f"its output_shape is {list(shape)}; expected from 1 to {natural + s - 1} where "
                f"its image has {n} voxels."
            )
        total = max(natural + more - out, 0)
        small, large = total // 2, total - total // 2
        low, high = (small, large) if mode == "SAME_UPPER" else (large, small)
        # What the windows do not reach is zero, and comes behind.
        pads.append((low, natural + more - out - low if shape is not None else high))
    return tuple(pads)


def _gemm(node: Node, a: Array, b: Array, c: Array | None = None) -> Array:
    a = a.T if node.attributes.get("transA", 0) else a
    b = b.T if node.attributes.get("transB", 0) else b
    product = node.attributes.get("alpha", 1.0) * (a @ b)
    if c is None:
        return product
    return product + node.attributes.get("beta", 1.0) * c.reshape(
        (1,) * (2 - c.ndim) + c.shape if math.prod(c.shape) > 1 else ()
    )


def _matmul(node: Node, a: Array, b: Array) -> Array:
    return jnp.matmul(a, b)


def _einsum(node: Node, *xs: Array) -> Array:
    return jnp.einsum(node.attributes["equation"].replace(" ", ""), *xs)


OPERATORS = {
    "Conv": Operator(_conv, Layout.CHANNELS_LAST),
    "ConvTranspose": Operator(_conv_transpose, Layout.CHANNELS_LAST),
    "Einsum": Operator(_einsum),
    "Gemm": Operator(_gemm),
    "MatMul": Operator(_matmul),
}
