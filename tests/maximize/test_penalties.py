"""Penalties against float64, and the arithmetic of the paper's ambiguous one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from featvis_jax.maximize import penalties
from featvis_jax.maximize.objectives import Objective, Unit, channel

# Compiling takes nearly all of the time here, and what is compiled runs once.
QUICK_JIT = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
SHAPES = pytest.mark.parametrize("spatial", [(6, 5), (4, 3, 5)], ids=["2-D", "3-D"])


def unit(number):
    return Unit(jnp.int32(number))


def values(penalty: Objective, *, activations=None, image=None, units=1):
    """The penalty for the first so many units, a batch of them as the ascent has it."""
    activations = {} if activations is None else {"layer": jnp.asarray(activations)}
    image = jnp.zeros((2, 2, 1)) if image is None else jnp.asarray(image)
    read = QUICK_JIT(jax.vmap(penalty.value, in_axes=(None, None, 0)))
    found = read(activations, image, Unit(jnp.arange(units)))
    assert found.shape == (units,)
    assert found.dtype == jnp.float32
    return np.asarray(found)


@SHAPES
def test_layer_penalties_are_means_over_channels(rng, spatial):
    activations = rng.standard_normal((*spatial, 7)).astype(np.float32)
    exact = np.abs(activations.astype(np.float64))
    found = values(penalties.layer_l1("layer"), activations=activations, units=7)
    np.testing.assert_allclose(found, exact.mean(), rtol=1e-5)
    found = values(penalties.off_target_l1("layer"), activations=activations, units=7)
    expected = [np.delete(exact, number, axis=-1).mean() for number in range(7)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_layer_penalties_take_logits(rng):
    logits = rng.standard_normal(4).astype(np.float32)
    exact = np.abs(logits.astype(np.float64))
    found = values(penalties.layer_l1("layer"), activations=logits, units=4)
    np.testing.assert_allclose(found, exact.mean(), rtol=1e-5)
    found = values(penalties.off_target_l1("layer"), activations=logits, units=4)
    expected = [np.delete(exact, number).mean() for number in range(4)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_layer_of_one_channel_has_no_other_to_penalize(rng):
    activations = rng.standard_normal((4, 5, 1)).astype(np.float32)
    assert values(penalties.off_target_l1("layer"), activations=activations) == 0


@SHAPES
def test_image_penalties_are_means_over_voxels(rng, spatial):
    image = rng.standard_normal((*spatial, 1)).astype(np.float32)
    mean = rng.standard_normal((*spatial, 1)).astype(np.float32)
    exact = image.astype(np.float64)
    found = values(penalties.image_l1(), image=image)
    np.testing.assert_allclose(found, np.abs(exact).mean(), rtol=1e-5)
    found = values(penalties.image_l2(), image=image)
    np.testing.assert_allclose(found, np.square(exact).mean(), rtol=1e-5)
    found = values(penalties.contrast(grey=0.25), image=image)
    np.testing.assert_allclose(found, np.square(exact - 0.25).mean(), rtol=1e-5)
    found = values(penalties.cohort_mean(jnp.asarray(mean)), image=image)
    expected = np.square(exact - mean.astype(np.float64)).mean()
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert values(penalties.cohort_mean(jnp.asarray(mean)), image=mean) == 0


def gradient_length(image):
    """Length of the forward difference at every voxel, zero beyond the last, in float64."""
    image = image.astype(np.float64)
    squares = np.zeros(image.shape)
    for axis in range(image.ndim - 1):
        last = np.take(image, [-1], axis=axis)
        squares += np.square(np.diff(image, axis=axis, append=last))
    return np.sqrt(squares)


@SHAPES
def test_total_variation_is_the_mean_length_of_the_gradient(rng, spatial):
    image = rng.standard_normal((*spatial, 2)).astype(np.float32)
    length = gradient_length(image)
    found = values(penalties.total_variation(), image=image)
    np.testing.assert_allclose(found, (np.sqrt(length**2 + 1e-6) - 1e-3).mean(), rtol=1e-5)
    # Rounding off costs at most the length below which it acts.
    assert length.mean() - 1e-3 <= found <= length.mean()


@SHAPES
def test_total_variation_of_a_flat_image_is_zero_and_so_is_its_gradient(spatial):
    flat = jnp.full((*spatial, 1), 0.7, jnp.float32)
    # Not exactly zero: the root of 1e-6 is rounded to float32.
    assert abs(values(penalties.total_variation(), image=flat)) < 1e-9
    gradient = QUICK_JIT(jax.grad(lambda x: penalties.total_variation().value({}, x, unit(0))))(
        flat
    )
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("channels", [8, 64])
def test_the_literal_penalty_leaves_the_target_one_minus_ten_over_channels(rng, channels):
    # All positive, as where the target is active.
    activations = jnp.asarray(1 + rng.random((3, 4, channels), np.float32))
    net = channel("layer") - 10 * penalties.layer_l1("layer")
    gradient = QUICK_JIT(
        jax.grad(lambda a: net.value({"layer": a}, jnp.zeros((1, 1, 1)), unit(3)))
    )(activations)
    weight = 12 * np.asarray(gradient, np.float64)
    own = {8: -0.25, 64: 0.84375}[channels]
    np.testing.assert_allclose(weight[..., 3], own, rtol=1e-4)
    np.testing.assert_allclose(np.delete(weight, 3, axis=-1), -10 / channels, rtol=1e-4)


def test_off_target_leaves_the_target_alone(rng):
    activations = jnp.asarray(rng.standard_normal((3, 4, 8)), jnp.float32)
    penalty = penalties.off_target_l1("layer")
    gradient = QUICK_JIT(
        jax.grad(lambda a: penalty.value({"layer": a}, jnp.zeros((1, 1, 1)), unit(5)))
    )(activations)
    # The sum of all minus the own one: what cancels is rounded.
    np.testing.assert_allclose(gradient[..., 5], 0, atol=1e-8)
    others = np.delete(np.asarray(gradient), 5, axis=-1)
    signs = np.sign(np.delete(np.asarray(activations), 5, axis=-1))
    np.testing.assert_allclose(others, signs / (12 * 7), rtol=1e-5)


@pytest.mark.parametrize("name", [name for name, make in penalties.PENALTIES.items() if make])
def test_penalties_of_the_command_line_read_what_they_say(rng, name):
    make = penalties.PENALTIES[name]
    assert make is not None
    penalty = make("layer", (0.0, 2.0))
    of_layer = name in ("layer_l1", "off_target_l1")
    assert penalty.layers == (("layer",) if of_layer else ())
    # Only a penalty that leaves other channels alone lets the network compute one.
    assert penalty.reads_one_channel == (not of_layer)
    argument = "'layer'" if of_layer else "1" if name == "contrast" else ""
    assert penalty.description == f"{name}({argument})"
    image = rng.random((4, 5, 1)).astype(np.float32)
    activations = rng.standard_normal((4, 5, 3)).astype(np.float32)
    assert values(penalty, activations=activations, image=image) > 0


def test_there_is_a_way_to_have_none():
    assert penalties.PENALTIES["none"] is None
    assert penalties.cohort_mean(jnp.zeros((3, 4, 1))).description == "cohort_mean(shape=(3, 4, 1))"
