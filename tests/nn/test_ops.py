"""Convolution against float64 references, `jax.lax`, and themselves under vmap."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from jax import lax
from numpy.lib.stride_tricks import sliding_window_view

from featvis_jax.nn import ops

# (spatial shape, window, input channels, output channels).
CONVOLUTIONS = [
    ((9, 8), (3, 3), 1, 1),
    ((9, 8), (3, 3), 1, 5),
    ((9, 8), (3, 3), 5, 1),
    ((9, 8), (3, 3), 4, 3),
    ((5, 8), (5, 2), 3, 2),
    # Up to 16 channels: neighbouring columns taken for channels, also where they do not come out.
    ((6, 7), (3, 3), 8, 16),
    ((5, 9), (2, 4), 16, 8),
    ((4, 5), (1, 1), 9, 2),
    ((6, 5), (3, 3), 17, 16),
    # Enough for Winograd's products in the kernel gradient, with an even and an odd number of rows.
    ((6, 7), (3, 3), 64, 32),
    ((5, 6), (3, 2), 32, 64),
    ((7, 6, 5), (2, 2, 3), 1, 4),
    ((7, 6, 5), (3, 2, 2), 4, 1),
    ((7, 6, 5), (3, 3, 3), 3, 2),
    ((5, 6, 7), (3, 3, 3), 1, 8),
    # Enough channels for Winograd's products, with an even and an odd number of results.
    ((6, 4, 5), (3, 2, 3), 16, 32),
    ((5, 4, 3), (3, 3, 3), 32, 17),
    ((5, 4, 4), (3, 3, 3), 64, 32),
    ((5, 4, 3), (1, 1, 1), 1, 1),
]


# Compiling takes nearly all of the time here, and a program of a few voxels gains nothing by it.
QUICK_JIT = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def draw(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def reference_windows(images, window):
    """Every window of a batch, (batch, *out, channels, *window), in float64."""
    axes = tuple(range(1, images.ndim - 1))
    return sliding_window_view(images.astype(np.float64), window, axis=axes)


def reference_conv(images, kernel):
    """Float64 cross-correlation, one tap after the other."""
    windows = reference_windows(images, kernel.shape[:-2])
    total = 0.0
    for tap in np.ndindex(*kernel.shape[:-2]):
        total = total + windows[(..., *tap)] @ kernel[tap].astype(np.float64)
    return total


def reference_conv_gradients(images, kernel, out):
    """What `out`, a gradient of the output, gives for images and kernel."""
    windows = reference_windows(images, kernel.shape[:-2])
    kernel_gradient = np.zeros(kernel.shape)
    image_gradient = np.zeros(images.shape)
    for tap in np.ndindex(*kernel.shape[:-2]):
        place = (slice(None), *(slice(t, t + n) for t, n in zip(tap, out.shape[1:-1], strict=True)))
        image_gradient[place] += out @ kernel[tap].T.astype(np.float64)
        seen = windows[(..., *tap)]
        kernel_gradient[tap] = seen.reshape(-1, seen.shape[-1]).T @ out.reshape(-1, out.shape[-1])
    return image_gradient, kernel_gradient


def value_and_gradients(function, *arguments):
    """The value, and for a drawn gradient of it that of every argument, from one program."""
    shape = jax.eval_shape(function, *arguments).shape
    out = draw(np.random.default_rng(7), *shape)

    def run(out, *arguments):
        value, pull_back = jax.vjp(function, *arguments)
        return value, pull_back(out)

    value, gradients = jax.device_get(QUICK_JIT(run)(out, *arguments))
    return out, value, gradients


@pytest.mark.parametrize(("shape", "window", "inputs", "outputs"), CONVOLUTIONS)
def test_conv_and_its_gradients_match_float64(rng, shape, window, inputs, outputs):
    images, kernel = draw(rng, 2, *shape, inputs), draw(rng, *window, inputs, outputs)
    out, value, gradients = value_and_gradients(ops.conv, images, kernel)
    tolerance = dict(rtol=1e-5, atol=1e-5 * math.sqrt(math.prod(window) * inputs))
    np.testing.assert_allclose(value, reference_conv(images, kernel), **tolerance)
    expected = reference_conv_gradients(images, kernel, out)
    np.testing.assert_allclose(gradients[0], expected[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(gradients[1], expected[1], rtol=1e-4, atol=1e-4)
    assert value.dtype == gradients[0].dtype == gradients[1].dtype == np.float32


@pytest.mark.parametrize("shape", [(9, 8), (7, 6, 5)])
def test_conv_is_the_cross_correlation_of_scipy(rng, shape):
    window = (3,) * len(shape)
    image, kernel = draw(rng, *shape, 2), draw(rng, *window, 2, 3)
    value = ops.conv(jnp.asarray(image)[None], jnp.asarray(kernel))[0]
    for output in range(3):
        expected = sum(
            scipy.signal.correlate(
                image[..., i].astype(np.float64),
                kernel[..., i, output].astype(np.float64),
                mode="valid",
                method="direct",
            )
            for i in range(2)
        )
        np.testing.assert_allclose(value[..., output], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "window", "padding", "strides"),
    [
        ((2, 8), (4, 3), "SAME", 1),
        ((9, 8), (3, 3), "SAME", 2),
        ((9, 8), (3, 3), "VALID", 2),
        ((6, 5, 7), (2, 3, 2), "SAME", 1),
        ((6, 5, 7), (3, 3, 3), "SAME", 2),
    ],
)
def test_padding_and_strides_are_those_of_lax(rng, shape, window, padding, strides):
    images, kernel = draw(rng, 2, *shape, 2), draw(rng, *window, 2, 3)
    axes = "XYZ"[: len(shape)]

    def of_lax(images, kernel):
        return lax.conv_general_dilated(
            images,
            kernel,
            (strides,) * len(shape),
            padding,
            dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
        )

    def ours(images, kernel):
        return ops.conv(images, kernel, padding=padding, strides=strides)

    _, value, gradients = value_and_gradients(ours, images, kernel)
    _, expected, expected_gradients = value_and_gradients(of_lax, images, kernel)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)
    for gradient, reference in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(gradient, reference, rtol=1e-4, atol=1e-4)


# A unit of the ascent has its own filter of the target layer, and the batch of units is a vmap.
@pytest.mark.parametrize(
    ("shape", "inputs", "outputs", "batched_images"),
    [
        ((8, 7), 3, 1, True),
        ((8, 7), 3, 1, False),
        ((8, 7), 1, 2, True),
        ((5, 4, 6), 3, 1, True),
        ((5, 4, 6), 2, 3, False),
    ],
)
def test_conv_with_a_kernel_for_each_unit_is_a_loop_over_units(
    rng, shape, inputs, outputs, batched_images
):
    units = 3
    images = draw(rng, *(units,) * batched_images, 1, *shape, inputs)
    kernels = draw(rng, units, *(3, 2, 2)[: len(shape)], inputs, outputs)
    batched = jax.vmap(ops.conv, in_axes=(0 if batched_images else None, 0))
    out, value, (image_gradient, kernel_gradient) = value_and_gradients(batched, images, kernels)
    expected_image_gradient = np.zeros(images.shape)
    for unit in range(units):
        own = unit if batched_images else ...
        np.testing.assert_allclose(
            value[unit], reference_conv(images[own], kernels[unit]), rtol=1e-4, atol=1e-4
        )
        to_image, to_kernel = reference_conv_gradients(images[own], kernels[unit], out[unit])
        expected_image_gradient[own] += to_image
        np.testing.assert_allclose(kernel_gradient[unit], to_kernel, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(image_gradient, expected_image_gradient, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("inputs", "outputs"), [(2, 1), (2, 3), (17, 3)])
def test_a_nan_reaches_the_outputs_that_see_it_and_no_other_image(rng, inputs, outputs):
    for shape in [(8, 7), (6, 5, 7)]:
        images = draw(rng, 2, *shape, inputs)
        images[(0, *(2,) * len(shape), 1)] = np.nan
        kernel = draw(rng, *(3,) * len(shape), inputs, outputs)
        value = ops.conv(jnp.asarray(images), jnp.asarray(kernel))
        seen = np.zeros(value.shape, bool)
        seen[(0, *(slice(0, 3),) * len(shape))] = True
        assert np.isnan(value[seen]).all()
        # Columns that are taken for channels meet in one product, and NaN times zero is NaN.
        if inputs > 16 or outputs == 1:
            assert not np.isnan(value[~seen]).any()
        assert not np.isnan(value[1]).any()


@pytest.mark.parametrize("shape", [(2, 9, 1), (9, 2, 9, 1)])
def test_a_window_larger_than_the_image_is_refused(shape):
    images = jnp.zeros((1, *shape))
    kernel = jnp.zeros((*(3,) * (len(shape) - 1), 1, 1))
    with pytest.raises(ValueError, match=r"window \(3, 3.* shape \(.*2.*larger input grid"):
        ops.conv(images, kernel)


def test_unknown_padding_is_refused():
    with pytest.raises(ValueError, match=r"'CIRCULAR'; expected 'VALID' or 'SAME'"):
        ops.conv(jnp.zeros((1, 4, 4, 1)), jnp.zeros((3, 3, 1, 1)), padding="CIRCULAR")


def maxima_of_cubes(images):
    """Maxima over cubes of two voxels, as `flax.linen.max_pool` computes them."""
    window = (1, 2, 2, 2, 1)
    return lax.reduce_window(images, -jnp.inf, lax.max, window, window, "VALID")


@pytest.mark.parametrize("window", [(1, 1, 1), (2, 1, 1)])
def test_a_wide_convolution_with_a_pooling_behind_it_is_still_a_convolution(rng, window):
    """JAX 0.10.2 computes both in one kernel on CPU, if it may, and errs by its size."""
    images, kernel = draw(rng, 1, 6 + window[0] - 1, 6, 6, 512), draw(rng, *window, 512, 256)
    found = jax.jit(lambda x, k: maxima_of_cubes(ops.conv(x, k)))(images, kernel)
    convolved = sum(
        images[:, i : i + 6].astype(np.float64) @ kernel[i, 0, 0] for i in range(window[0])
    )
    cubes = convolved.reshape(1, 3, 2, 3, 2, 3, 2, 256).max(axis=(2, 4, 6))
    np.testing.assert_allclose(found, cubes, atol=1e-3)


@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("shape", [(2, 7, 6, 3), (1, 5, 6, 7, 3)], ids=["2-D", "3-D"])
def test_a_window_of_one_voxel_is_a_matrix_product(rng, shape, strides):
    images, kernel = draw(rng, *shape), draw(rng, *(1,) * (len(shape) - 2), 3, 4)
    every = (slice(None), *(slice(None, None, strides),) * (len(shape) - 2))
    found = ops.conv(jnp.asarray(images), jnp.asarray(kernel), strides=strides)
    np.testing.assert_allclose(found, images[every] @ kernel.reshape(3, 4), atol=1e-5)
    jaxpr = str(jax.make_jaxpr(lambda x, k: ops.conv(x, k, strides=strides))(images, kernel))
    assert "conv_general_dilated" not in jaxpr
