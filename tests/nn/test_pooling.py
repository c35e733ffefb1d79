"""Pooling and its derivatives of any order against `jax.lax`, and a loop in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax import export, lax
from jax.test_util import check_grads

from featvis_jax.nn import ops
from featvis_jax.nn.ops import Windows

# Compiling takes nearly all of the time here, and a program of a few voxels gains nothing by it.
QUICK_JIT = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def elements(images, windows, outside):
    """Every element of every window in float64, ``(elements, batch, *out, channels)``."""
    counts = windows.counts(images.shape[1:-1])
    taps = []
    for tap in np.ndindex(*windows.size):
        seen = images.astype(np.float64)
        for axis, t in enumerate(tap):
            start = np.arange(counts[axis]) * windows.strides[axis]
            index = start + t * windows.dilations[axis] - windows.pads[axis][0]
            inside = (index >= 0) & (index < images.shape[axis + 1])
            place = [1] * images.ndim
            place[axis + 1] = -1
            seen = np.take(seen, np.clip(index, 0, images.shape[axis + 1] - 1), axis + 1)
            seen = np.where(inside.reshape(place), seen, outside)
        taps.append(seen)
    return np.stack(taps)


def numbers(images):
    """Of every voxel, its number."""
    return np.arange(images.size).reshape(images.shape)


def reference(images, windows, out):
    """In float64: maxima, sums, and what `out`, a gradient of either, gives for the images.

    The first maximum of every window gets all of it.
    """
    seen = elements(images, windows, -np.inf)
    chosen = seen.argmax(axis=0)
    sums = np.where(np.isneginf(seen), 0, seen).sum(axis=0)
    sources = elements(numbers(images), windows, -1).astype(int)
    first = np.take_along_axis(sources, chosen[None], axis=0)
    return seen.max(axis=0), sums, given_to(images, first, out), given_to(images, sources, out)


def given_to(images, sources, out):
    """Images in which every source of an element has that of `out`."""
    gradient = np.zeros(images.size)
    inside = sources >= 0
    np.add.at(gradient, sources[inside], np.broadcast_to(out, sources.shape)[inside])
    return gradient.reshape(images.shape)


def draw(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def tied(rng, *shape):
    """Few values, so that most windows hold their maximum more than once."""
    return rng.integers(0, 3, shape).astype(np.float32)


def computed(images, windows, out):
    """Maxima, sums, and the gradients that `out` gives for the images, from one program."""

    def run(images, out):
        (maxima, sums), pull_back = jax.vjp(
            lambda images: [pool(images, windows=windows) for pool in (ops.max_pool, ops.sum_pool)],
            images,
        )
        zeros = jnp.zeros_like(out)
        return maxima, sums, *pull_back([out, zeros]), *pull_back([zeros, out])

    return jax.device_get(QUICK_JIT(run)(images, out))


@st.composite
def geometries(draw):
    """A spatial shape and windows that fit it; pads never hold a window alone, nor cut all."""
    rank = draw(st.integers(1, 3))
    axes = []
    for _ in range(rank):
        size, stride, dilation = (draw(st.integers(1, most)) for most in (4, 4, 3))
        extent = (size - 1) * dilation + 1
        low, high = (draw(st.integers(-1, extent - 1)) for _ in range(2))
        least = max(extent - low - high, 1 - min(low, 0) - min(high, 0))
        axes.append((least + draw(st.integers(0, 5)), size, stride, dilation, (low, high)))
    spatial, *entries = zip(*axes, strict=True)
    return spatial, Windows(*entries)


EXAMPLES = [
    ((6, 5), Windows((3, 3), (2, 2), (1, 1), ((1, 1), (1, 1)))),
    ((7, 7), Windows((7, 7), (1, 1), (1, 1), ((0, 0), (0, 0)))),
    ((3, 9, 2), Windows((3, 9, 2), (9, 1, 2), (1,) * 3, ((0, 0),) * 3)),
]


@given(geometry=geometries(), seed=st.integers(0, 2**16))
@example(geometry=EXAMPLES[0], seed=0)
@example(geometry=EXAMPLES[1], seed=0)
@example(geometry=EXAMPLES[2], seed=0)
@settings(max_examples=12)
def test_values_and_gradients_match_float64(geometry, seed):
    spatial, windows = geometry
    rng = np.random.default_rng(seed)
    images = np.concatenate([draw(rng, 1, *spatial, 3), tied(rng, 1, *spatial, 3)])
    out = draw(rng, 2, *windows.counts(spatial), 3)
    found = computed(images, windows, out)
    for value, expected in zip(found, reference(images, windows, out), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)
        assert value.dtype == np.float32


LIKE_LAX = [
    ((9, 8), Windows((3, 3), (2, 2), (1, 1), ((1, 1), (1, 0)))),
    ((7, 6, 5), Windows((2, 2, 2), (1, 1, 1), (1, 1, 1), ((0, 0),) * 3)),
    ((7, 6, 4), Windows((2, 2, 2), (2, 2, 2), (1, 1, 1), ((0, 0),) * 3)),
]


def maxima_of_lax(images, windows):
    return lax.reduce_window(
        images,
        -jnp.inf,
        lax.max,
        (1, *windows.size, 1),
        (1, *windows.strides, 1),
        ((0, 0), *windows.pads, (0, 0)),
    )


@pytest.mark.parametrize(("spatial", "windows"), LIKE_LAX)
def test_ties_are_broken_as_jax_breaks_them_in_both_modes(rng, spatial, windows):
    images, tangent = tied(rng, 2, *spatial, 3), draw(rng, 2, *spatial, 3)

    def derivatives(pool):
        def run(images, tangent):
            pool_here = functools.partial(pool, windows=windows)
            value, forward = jax.jvp(pool_here, (images,), (tangent,))
            return value, forward, *jax.vjp(pool_here, images)[1](jnp.cos(value))

        return jax.device_get(QUICK_JIT(run)(images, tangent))

    for found, expected in zip(derivatives(ops.max_pool), derivatives(maxima_of_lax), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_nan_wins_wherever_it_is_in_a_window_and_infinities_are_numbers(rng):
    windows = Windows((3, 3), (2, 1), (1, 1), ((1, 1), (0, 1)))
    images = draw(rng, 1, 6, 7, 2)
    images[0, 3, 3, 0] = np.nan
    images[0, :, :, 1] = -np.inf
    images[0, 5, 6, 1] = np.inf
    out = np.ones((1, *windows.counts((6, 7)), 2), np.float32)
    found, _, gradient, _ = computed(images, windows, out)
    expected = elements(images, windows, -np.inf).max(axis=0)  # In which NaN wins too.
    np.testing.assert_array_equal(found, expected)
    assert np.isnan(expected).sum() == 6
    assert gradient[0, 3, 3, 0] == 6


@pytest.mark.parametrize(
    "windows", [LIKE_LAX[0][1], Windows((2, 1), (2, 3), (3, 1), ((0, 2), (0, 0)))]
)
def test_derivatives_of_any_order_in_both_modes(rng, windows):
    with jax.enable_x64(True):
        images = jnp.asarray(rng.permutation(np.arange(9 * 8 * 2.0)).reshape(1, 9, 8, 2)) / 99
        for pool in (ops.max_pool, ops.sum_pool):
            curved = jax.jit(lambda x, pool=pool: jnp.sin(pool(jnp.square(x), windows=windows)))
            check_grads(curved, (images,), order=2, modes=("fwd", "rev"))


def test_linearized_it_is_its_derivative(rng):
    windows = LIKE_LAX[0][1]
    images, tangent = draw(rng, 1, 9, 8, 2), draw(rng, 1, 9, 8, 2)
    pool = functools.partial(ops.max_pool, windows=windows)
    value, linear = jax.linearize(pool, images)
    expected, forward = jax.jvp(pool, (images,), (tangent,))
    np.testing.assert_array_equal(value, expected)
    np.testing.assert_allclose(linear(tangent), forward, rtol=1e-6)


@pytest.mark.parametrize("pool", [ops.max_pool, ops.sum_pool])
def test_vmap_is_a_loop(rng, pool):
    windows = LIKE_LAX[0][1]
    images = draw(rng, 3, 2, 9, 8, 2)
    tangents = draw(rng, 2, 2, 9, 8, 2)

    def derivatives(images, tangents):
        """Of a batch, with several tangents of the same images: places have no such axis."""
        value, linear = jax.linearize(lambda x: jnp.square(pool(x, windows=windows)), images)
        transposed = jax.linear_transpose(linear, images)
        moved = jax.vmap(linear)(tangents)
        return value, moved, jax.vmap(transposed)(moved)

    batched = QUICK_JIT(jax.vmap(derivatives, in_axes=(0, None)))(images, tangents)
    for i, own in enumerate(images):
        alone = QUICK_JIT(derivatives)(own, tangents)
        for found, expected in zip(jax.tree.leaves(batched), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(found[i], expected, rtol=1e-5, atol=1e-5)


def test_maxima_of_integers_are_integers(rng):
    images = rng.integers(-9, 9, (1, 6, 5, 2)).astype(np.int32)
    windows = EXAMPLES[0][1]
    found = ops.max_pool(jnp.asarray(images), windows=windows)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, elements(images, windows, -np.inf).max(axis=0))


def test_an_accelerator_gets_operations_of_xla_alone(rng):
    windows = EXAMPLES[0][1]

    def everything(images):
        value = ops.max_pool(images, windows=windows) + ops.sum_pool(images, windows=windows)
        return jnp.square(value).sum()

    def text(function, platform):
        exported = export.export(jax.jit(function), platforms=[platform])
        return exported(jax.ShapeDtypeStruct((1, 6, 5, 2), jnp.float32)).mlir_module()

    forward = text(everything, "cuda")
    assert forward.count("stablehlo.reduce_window") == 2
    assert "stablehlo.slice" not in forward
    derivatives = text(lambda x: jax.jvp(jax.grad(everything), (x,), (x,)), "cuda")
    for program in (forward, derivatives):
        assert "custom_call" not in program
        # Which keeps loops apart on CPU.
        assert "stablehlo.case" not in program
        assert "stablehlo.if" not in program


@pytest.mark.parametrize("pool", [ops.max_pool, ops.sum_pool])
@pytest.mark.parametrize("spatial", [(2, 9), (9, 2, 9)])
def test_a_window_larger_than_the_image_is_refused(pool, spatial):
    rank = len(spatial)
    windows = Windows((3,) * rank, (1,) * rank, (1,) * rank, ((0, 0),) * rank)
    with pytest.raises(ValueError, match=r"windows of \(3, 3.* shape \(.*2.*larger input grid"):
        pool(jnp.zeros((1, *spatial, 1)), windows=windows)
