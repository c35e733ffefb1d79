"""Convolution against float64 references, `jax.lax`, and itself under vmap."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from jax import lax
from jax.test_util import check_grads

from featvis_jax.nn import ops

# Compiling takes nearly all of the time here, and a program of a few voxels gains nothing by it.
QUICK_JIT = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def draw(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def windows_of(size, strides=1, dilations=1, pads=(0, 0)):
    """With the same stride, dilation and padding along every axis."""
    rank = len(size)
    return ops.Windows(size, (strides,) * rank, (dilations,) * rank, (pads,) * rank)


def padded(images, pads):
    """With zeros around it, or cut."""
    images = np.pad(images, ((0, 0), *(np.maximum(pair, 0) for pair in pads), (0, 0)))
    cut = (
        slice(max(-low, 0), n - max(-high, 0))
        for (low, high), n in zip(pads, images.shape[1:-1], strict=True)
    )
    return images[(slice(None), *cut)]


def seen_by(tap, windows, shape):
    """The part of padded images that one tap of every window sees, as an index."""
    starts = (t * d for t, d in zip(tap, windows.dilations, strict=True))
    return (
        slice(None),
        *(
            slice(start, start + (n - 1) * stride + 1, stride)
            for start, n, stride in zip(starts, shape, windows.strides, strict=True)
        ),
    )


def reference_conv(images, kernel, windows, groups=1):
    """Float64 cross-correlation, one tap after the other, with the gradients' function."""
    images, kernel = images.astype(np.float64), kernel.astype(np.float64)
    shape = windows.counts(images.shape[1:-1])
    filters = kernel.reshape(*windows.size, kernel.shape[-2], groups, -1)

    def grouped(array):
        return array.reshape(*array.shape[:-1], groups, -1)

    inputs = grouped(padded(images, windows.pads))
    value = 0.0
    for tap in np.ndindex(*windows.size):
        value = value + np.einsum(
            "...gi,igo->...go", inputs[seen_by(tap, windows, shape)], filters[tap]
        )

    def gradients(out):
        """What `out`, a gradient of the value, gives for images and kernel."""
        out = grouped(out.astype(np.float64))
        of_images, of_kernel = np.zeros(inputs.shape), np.zeros(filters.shape)
        for tap in np.ndindex(*windows.size):
            place = seen_by(tap, windows, shape)
            of_images[place] += np.einsum("...go,igo->...gi", out, filters[tap])
            of_kernel[tap] = np.tensordot(inputs[place], out, [range(out.ndim - 2)] * 2)[
                np.arange(groups), :, np.arange(groups)
            ].swapaxes(0, 1)
        back = tuple((-low, -high) for low, high in windows.pads)
        of_images = padded(of_images.reshape(*of_images.shape[:-2], -1), back)
        return of_images, of_kernel.reshape(kernel.shape)

    return value.reshape(*value.shape[:-2], -1), gradients


def value_and_gradients(function, *arguments):
    """The value, and for a drawn gradient of it that of every argument, from one program."""
    shape = jax.eval_shape(function, *arguments).shape
    out = draw(np.random.default_rng(7), *shape)

    def run(out, *arguments):
        value, pull_back = jax.vjp(function, *arguments)
        return value, pull_back(out)

    value, gradients = jax.device_get(QUICK_JIT(run)(out, *arguments))
    return out, value, gradients


@st.composite
def convolutions(draw):
    """Windows of any kind over images that they fit into, with groups and channels."""
    rank = draw(st.integers(1, 3))

    def each(*values):
        return tuple(draw(st.sampled_from(values)) for _ in range(rank))

    if draw(st.booleans()):  # As most networks have them.
        size, strides = (draw(st.sampled_from([2, 3, 5, 7])),) * rank, (1,) * rank
        dilations = (draw(st.sampled_from([1, 1, 1, 2])),) * rank
        pads = tuple(((k - 1) * d // 2,) * 2 for k, d in zip(size, dilations, strict=True))
    else:
        size, strides, dilations = each(1, 2, 3, 3, 5), each(1, 1, 2, 3), each(1, 1, 2, 4)
        pads = tuple(zip(each(0, 1, 2, -1), each(0, 1, 3, -1), strict=True))
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    inputs, outputs = (draw(st.sampled_from([1, 2, 5, 8, 16, 33])) for _ in range(2))
    spatial = tuple(
        max(1, (k - 1) * d + 1 - low - high) + more
        for k, d, (low, high), more in zip(size, dilations, pads, each(*range(9)), strict=True)
    )
    return ops.Windows(size, strides, dilations, pads), spatial, groups, inputs, outputs


def assert_close(found, expected):
    """To 1e-5 of the largest value."""
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


# One channel of a first layer with a stride.
STEM = ops.Windows((7, 7, 7), (2, 2, 2), (1, 1, 1), ((3, 3),) * 3)
UNEVEN_STEM = ops.Windows((5, 4), (3, 2), (1, 1), ((2, 1), (-1, 3)))


@given(convolutions(), st.integers(0, 2**32 - 1))
@example((STEM, (8, 9, 7), 1, 1, 1), 0)
@example((UNEVEN_STEM, (11, 9), 1, 3, 1), 0)
@settings(phases=[Phase.explicit, Phase.generate])
def test_conv_and_its_gradients_match_float64(case, seed):
    windows, spatial, groups, inputs, outputs = case
    rng = np.random.default_rng(seed)
    images = draw(rng, 2, *spatial, inputs * groups)
    kernel = draw(rng, *windows.size, inputs, outputs * groups)
    ours = functools.partial(ops.conv, windows=windows, groups=groups)
    out, value, gradients = value_and_gradients(ours, images, kernel)
    expected, expected_gradients = reference_conv(images, kernel, windows, groups)
    for found, correct in zip(
        (value, *gradients), (expected, *expected_gradients(out)), strict=True
    ):
        assert_close(found, correct)
        assert found.dtype == np.float32


@pytest.mark.parametrize("shape", [(9, 8), (7, 6, 5)])
def test_conv_is_the_cross_correlation_of_scipy(rng, shape):
    window = (3,) * len(shape)
    image, kernel = draw(rng, *shape, 2), draw(rng, *window, 2, 3)
    value = ops.conv(jnp.asarray(image)[None], jnp.asarray(kernel), windows=windows_of(window))[0]
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
        assert_close(value[..., output], expected)


@pytest.mark.parametrize(("strides", "dilations", "groups"), [(1, 1, 1), (2, 1, 2), (1, 2, 1)])
def test_derivatives_of_any_order_are_those_of_a_product(rng, strides, dilations, groups):
    windows = windows_of((3, 2), strides, dilations, (1, 0))
    with jax.enable_x64(True):
        images, kernel = (
            rng.standard_normal((2, 5, 6, 4)),
            rng.standard_normal((3, 2, 4 // groups, 2)),
        )
        conv = jax.jit(functools.partial(ops.conv, windows=windows, groups=groups))
        check_grads(conv, (images, kernel), order=2, modes=("fwd", "rev"))


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
    units, windows = 3, windows_of((3, 2, 2)[: len(shape)])
    images = draw(rng, *(units,) * batched_images, 1, *shape, inputs)
    kernels = draw(rng, units, *windows.size, inputs, outputs)
    batched = jax.vmap(
        functools.partial(ops.conv, windows=windows), in_axes=(0 if batched_images else None, 0)
    )
    out, value, (image_gradient, kernel_gradient) = value_and_gradients(batched, images, kernels)
    expected_image_gradient = np.zeros(images.shape)
    for unit in range(units):
        own = unit if batched_images else ...
        expected, gradients = reference_conv(images[own], kernels[unit], windows)
        to_image, to_kernel = gradients(out[unit])
        assert_close(value[unit], expected)
        assert_close(kernel_gradient[unit], to_kernel)
        expected_image_gradient[own] += to_image
    assert_close(image_gradient, expected_image_gradient)


def test_images_of_one_kernel_under_vmap_are_one_batch(rng):
    windows = windows_of((3, 3), pads=(1, 1))
    images, kernel = draw(rng, 3, 2, 6, 5, 4), draw(rng, 3, 3, 4, 2)
    batched = jax.vmap(functools.partial(ops.conv, windows=windows), in_axes=(0, None))
    out, value, gradients = value_and_gradients(batched, images, kernel)
    expected, expected_gradients = reference_conv(images.reshape(6, 6, 5, 4), kernel, windows)
    assert_close(value, expected.reshape(value.shape))
    of_images, of_kernel = expected_gradients(out.reshape(6, *out.shape[2:]))
    assert_close(gradients[0], of_images.reshape(images.shape))
    assert_close(gradients[1], of_kernel)


@pytest.mark.parametrize(("inputs", "outputs"), [(2, 1), (2, 3), (17, 3)])
def test_a_nan_reaches_the_outputs_that_see_it_and_no_other_image(rng, inputs, outputs):
    for shape in [(8, 7), (6, 5, 7)]:
        images = draw(rng, 2, *shape, inputs)
        images[(0, *(2,) * len(shape), 1)] = np.nan
        kernel = draw(rng, *(3,) * len(shape), inputs, outputs)
        windows = windows_of(kernel.shape[:-2])
        value = ops.conv(jnp.asarray(images), jnp.asarray(kernel), windows=windows)
        seen = np.zeros(value.shape, bool)
        seen[(0, *(slice(0, 3),) * len(shape))] = True
        assert np.isnan(value[seen]).all()
        # What minimal filtering finds together meets in sums, and NaN less NaN is NaN.
        if outputs == 1:
            assert not np.isnan(value[~seen]).any()
        assert not np.isnan(value[1]).any()


def maxima_of_cubes(images):
    """Maxima over cubes of two voxels, as `flax.linen.max_pool` computes them."""
    window = (1, 2, 2, 2, 1)
    return lax.reduce_window(images, -jnp.inf, lax.max, window, window, "VALID")


@pytest.mark.parametrize("window", [(1, 1, 1), (2, 1, 1)])
def test_a_wide_convolution_with_a_pooling_behind_it_is_still_a_convolution(rng, window):
    """JAX 0.10.2 computes both in one kernel on CPU, if it may, and errs by its size."""
    images, kernel = draw(rng, 1, 6 + window[0] - 1, 6, 6, 512), draw(rng, *window, 512, 256)
    found = jax.jit(lambda x, k: maxima_of_cubes(ops.conv(x, k, windows=windows_of(window))))(
        images, kernel
    )
    convolved = sum(
        images[:, i : i + 6].astype(np.float64) @ kernel[i, 0, 0] for i in range(window[0])
    )
    cubes = convolved.reshape(1, 3, 2, 3, 2, 3, 2, 256).max(axis=(2, 4, 6))
    np.testing.assert_allclose(found, cubes, atol=1e-3)


@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("shape", [(2, 7, 6, 3), (1, 5, 6, 7, 3)], ids=["2-D", "3-D"])
def test_a_window_of_one_voxel_is_a_matrix_product(rng, shape, strides):
    rank = len(shape) - 2
    images, kernel = draw(rng, *shape), draw(rng, *(1,) * rank, 3, 4)
    every = (slice(None), *(slice(None, None, strides),) * rank)
    conv = jax.jit(functools.partial(ops.conv, windows=windows_of((1,) * rank, strides)))
    np.testing.assert_allclose(
        conv(images, kernel), images[every] @ kernel.reshape(3, 4), atol=1e-5
    )
    assert "convolution" not in conv.lower(images, kernel).as_text()
