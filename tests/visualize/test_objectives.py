"""Objectives: what they read, how they combine, and that an ascent makes each of them rise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from featvis_jax.visualize import penalties
from featvis_jax.visualize.objectives import Objective, Unit, channel

# Compiling takes nearly all of the time here, and what is compiled runs once.
QUICK_JIT = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
SHAPES = pytest.mark.parametrize("spatial", [(5, 6), (4, 5, 6)], ids=["2-D", "3-D"])
A, B, C = channel("a"), channel("b"), channel("c")
COMBINATIONS = {
    "channel": A,
    "sum": A + B,
    "multiple": 2.5 * A,
    "multiple from the right": A * 0.5,
    "difference": A - 0.5 * B,
    "opposite": -A,
    "difference from a sum": A - (B + C),
    "difference from a difference": A - (B - 2 * C),
    "multiple of a difference": 3 * (A - B),
    "opposite of a multiple": -(2 * A),
    "minus a negative": A - -1.5 * B,
    "long": 2 * (A + B) - 0.25 * (C - A) - B,
}


def draw(rng, spatial):
    """Activations of three layers and an image."""
    shapes = {"a": (*spatial, 3), "b": (*spatial, 5), "c": (4,)}
    activations = {
        name: jnp.asarray(rng.standard_normal(shape), jnp.float32) for name, shape in shapes.items()
    }
    return activations, jnp.asarray(rng.random((*spatial, 1), np.float32))


def unit(number):
    return Unit(jnp.int32(number))


@SHAPES
def test_channel_is_the_mean_of_its_own_channel(rng, spatial):
    activations, image = draw(rng, spatial)
    for layer, count in [("a", 3), ("b", 5), ("c", 4)]:
        values = np.asarray(activations[layer], np.float64)
        read = QUICK_JIT(jax.vmap(channel(layer).value, in_axes=(None, None, 0)))
        found = read(activations, image, Unit(jnp.arange(count)))
        expected = values.reshape(-1, count).mean(axis=0)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
        assert found.dtype == jnp.float32


def test_the_gradient_is_the_mean_on_the_channel_and_nothing_elsewhere(rng):
    activations, image = draw(rng, (5, 6))
    read = QUICK_JIT(jax.grad(lambda a: channel("b").value(a, image, unit(2))))
    gradient = read(activations)
    expected = np.zeros((5, 6, 5))
    expected[..., 2] = 1 / 30
    np.testing.assert_allclose(gradient["b"], expected, rtol=1e-6)
    assert not gradient["a"].any()


@pytest.mark.parametrize("name", COMBINATIONS)
def test_combinations_compute_what_they_say(rng, name):
    activations, image = draw(rng, (5, 6))
    means = {
        layer: float(np.asarray(values, np.float64)[..., 1].mean())
        for layer, values in activations.items()
    }
    objective = COMBINATIONS[name]
    # The description is the call that makes the objective: numbers in, the same number out.
    expected = eval(objective.description, {"channel": means.get})
    remade = eval(objective.description, {"channel": channel})
    found, again = QUICK_JIT(
        lambda *given: (objective.value(*given, unit(1)), remade.value(*given, unit(1)))
    )(activations, image)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(again, expected, rtol=1e-4, atol=1e-6)


def test_descriptions_read_well():
    assert (A - 0.5 * B).description == "channel('a') - 0.5 * channel('b')"
    assert (2 * (A + B)).description == "2 * (channel('a') + channel('b'))"
    assert (A - (B + C)).description == "channel('a') - (channel('b') + channel('c'))"
    assert (-A).description == "(-1.0) * channel('a')"
    with_penalty = A - 10 * penalties.layer_l1("a")
    assert with_penalty.description == "channel('a') - 10 * layer_l1('a')"


def test_layers_are_named_once_and_in_order():
    assert (A + B + A - C).layers == ("a", "b", "c")
    assert (B + A).layers == ("b", "a")
    assert (A - penalties.image_l1()).layers == ("a",)


def test_only_what_reads_a_channel_alone_says_so():
    assert A.reads_one_channel
    assert (2 * A - B).reads_one_channel
    assert (A - 0.1 * penalties.image_l2()).reads_one_channel
    assert not (A - penalties.layer_l1("a")).reads_one_channel
    assert not (penalties.off_target_l1("a") + A).reads_one_channel
    assert not (-penalties.layer_l1("a")).reads_one_channel
    assert not Objective(
        "own", ("a",), lambda activations, image, unit: jnp.zeros(())
    ).reads_one_channel


def test_another_unit_is_other_data_and_the_same_program(rng):
    activations, image = draw(rng, (5, 6))
    traced = []

    def value(activations, image, unit):
        traced.append(unit)
        return (A + B).value(activations, image, unit)

    batched = QUICK_JIT(jax.vmap(value, in_axes=(None, None, 0)))
    for numbers in ([0, 1], [2, 0]):
        found = batched(activations, image, Unit(jnp.asarray(numbers, jnp.int32)))
        expected = [
            np.asarray(activations["a"])[..., n].mean()
            + np.asarray(activations["b"])[..., n].mean()
            for n in numbers
        ]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert len(traced) == 1


# ------------------------------------------------------------------------ three steps of ascent

RISING = {
    **COMBINATIONS,
    **{
        f"away from {name}": -1.0 * make("a")
        for name, make in penalties.PENALTIES.items()
        if make is not None
    },
    "towards layer_l1": penalties.layer_l1("a"),
    "channel under a penalty": A - 10 * penalties.off_target_l1("a"),
    "away from cohort_mean": -penalties.cohort_mean(jnp.full((6, 7, 1), 0.25)),
}


@pytest.mark.parametrize("name", RISING)
def test_every_objective_rises_in_three_steps(rng, name):
    weights = {
        layer: jnp.asarray(rng.standard_normal((1, channels)), jnp.float32)
        for layer, channels in [("a", 3), ("b", 5), ("c", 4)]
    }

    def read(image):
        """Three layers of tanh: smooth, with channels of both signs."""
        activations = {layer: jnp.tanh(image @ kernel - 0.1) for layer, kernel in weights.items()}
        return RISING[name].value(activations, image, unit(1))

    @QUICK_JIT
    def step(image):
        value, gradient = jax.value_and_grad(read)(image)
        return value, image + 0.2 * gradient

    image = jnp.asarray(rng.random((6, 7, 1), np.float32))
    values = []
    for _ in range(4):
        value, image = step(image)
        values.append(float(value))
    assert np.isfinite(values).all()
    assert (np.diff(values) > 0).all(), values
