"""Pixels: where an ascent starts, and the bounds it stays in."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from featvis_jax.visualize.parameterizations import pixels

# Compiling takes nearly all of the time here, and what is compiled runs once.
QUICK_JIT = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
SHAPES = pytest.mark.parametrize("shape", [(60, 50, 1), (20, 15, 10, 1)], ids=["2-D", "3-D"])


def start(parameterization, seed, shape):
    init = QUICK_JIT(parameterization.init, static_argnums=1)
    return init(jax.random.key(seed), shape)


@pytest.mark.parametrize(
    ("shape", "intensity_range"), [((60, 50, 1), (0.0, 1.0)), ((20, 15, 10, 1), (-2.0, 6.0))]
)
def test_the_start_is_noise_about_the_middle_of_the_range(shape, intensity_range):
    low, high = intensity_range
    parameterization = pixels(intensity_range=intensity_range, noise=0.1)
    image = start(parameterization, 3, shape)
    assert image.shape == shape
    assert image.dtype == jnp.float32
    # 3000 draws: the mean is known to 2 % of a standard deviation, that to 1.3 %.
    deviation = 0.1 * (high - low)
    assert float(image.mean()) == pytest.approx((low + high) / 2, abs=0.08 * deviation)
    assert float(image.std()) == pytest.approx(deviation, rel=0.06)
    assert abs(float(np.corrcoef(image.ravel()[:-1], image.ravel()[1:])[0, 1])) < 0.08


@SHAPES
def test_the_same_key_starts_the_same_and_another_elsewhere(shape):
    first, again, other = (start(pixels(), seed, shape) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert float(jnp.abs(first - other).mean()) > 0.05


def test_no_noise_starts_grey_and_much_is_clipped():
    grey = start(pixels(intensity_range=(0.0, 3.0), noise=0), 0, (4, 5, 1))
    np.testing.assert_array_equal(grey, np.full((4, 5, 1), 1.5, np.float32))
    loud = start(pixels(noise=1), 0, (60, 50, 1))
    assert float(loud.min()) == 0
    assert float(loud.max()) == 1
    # Half a standard deviation to either side of the middle holds 38 % of the draws.
    inside = float(((loud > 0) & (loud < 1)).mean())
    assert inside == pytest.approx(0.383, abs=0.04)


@SHAPES
def test_steps_beyond_the_range_are_clipped_and_others_kept(rng, shape):
    parameterization = pixels(intensity_range=(-1.0, 2.0))
    image = (4 * rng.standard_normal(shape)).astype(np.float32)
    constrained = parameterization.constrain(jnp.asarray(image))
    np.testing.assert_array_equal(constrained, np.clip(image, -1, 2))
    assert constrained.dtype == jnp.float32
    np.testing.assert_array_equal(parameterization.decode(jnp.asarray(image)), image)
    assert parameterization.is_image


def test_a_voxel_that_is_no_number_stays_one():
    image = jnp.array([[[jnp.nan], [jnp.inf]]])
    assert np.isnan(pixels().constrain(image)[0, 0, 0])
    assert pixels().constrain(image)[0, 1, 0] == 1


def test_the_description_is_the_call():
    parameterization = pixels(intensity_range=(0.0, 1.5), noise=0.2)
    assert parameterization.description == "pixels(intensity_range=(0.0, 1.5), noise=0.2)"
    remade = eval(parameterization.description, {"pixels": pixels})
    shape = (60, 50, 1)
    np.testing.assert_array_equal(start(remade, 0, shape), start(parameterization, 0, shape))


@pytest.mark.parametrize(
    "intensity_range",
    [(1.0, 1.0), (1.0, 0.0), (0.0, float("nan")), (0.0, float("inf")), (-float("inf"), 1.0)],
)
def test_an_empty_or_endless_range_is_refused(intensity_range):
    with pytest.raises(
        ValueError, match=r"intensity_range is .*expected two finite numbers, low <"
    ):
        pixels(intensity_range=intensity_range)


@pytest.mark.parametrize("noise", [-0.1, 1.1, float("nan")])
def test_noise_that_is_no_share_of_the_range_is_refused(noise):
    with pytest.raises(ValueError, match=r"noise is .*share of the range in \[0, 1\]"):
        pixels(noise=noise)
