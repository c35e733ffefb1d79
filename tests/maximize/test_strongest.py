"""The soft maximum over places, against its formula in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from featvis_jax.maximize import objectives
from featvis_jax.maximize.objectives import Unit, channel, strongest
from featvis_jax.nn.tracing import linen_network

UNIT = Unit(jnp.int32(1))
IMAGE = jnp.zeros((8, 9, 1))


def formula(places, softness=1.0):
    places = np.asarray(places, np.float64).ravel()
    scale = softness * places.std()
    return scale * np.log(np.mean(np.exp(places / scale)))


@pytest.mark.parametrize("shape", [(6, 7, 3), (4, 5, 6, 3)], ids=["2d", "3d"])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_soft_maximum_over_all_places(shape, sign):
    activation = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    given = {"conv": jnp.asarray(activation)}
    own = sign * activation[..., 1]
    for softness in (0.25, 1.0, 4.0):
        found = strongest(sign * channel("conv"), softness=softness)
        value = float(found.value(given, IMAGE, UNIT))
        assert value == pytest.approx(formula(own, softness), abs=1e-5)
        assert own.mean() < value < own.max()
        assert float(found.response(given, IMAGE, UNIT)) == own.max()


def test_values_of_any_size_stay_finite_and_keep_their_scale():
    places = np.random.default_rng(1).normal(size=(5, 5, 2)).astype(np.float32)
    objective = strongest(channel("conv"))
    plain = float(objective.value({"conv": jnp.asarray(places)}, IMAGE, UNIT))
    for scale in (1e-6, 1e6):
        found = float(objective.value({"conv": jnp.asarray(scale * places)}, IMAGE, UNIT))
        assert found == pytest.approx(scale * plain, rel=1e-4)


def test_where_all_places_are_alike_it_is_their_value_and_climbs_evenly():
    objective = strongest(channel("conv"))

    def value(activation):
        return objective.value({"conv": activation}, IMAGE, UNIT)

    found, gradient = jax.value_and_grad(value)(jnp.full((4, 5, 2), 3.0))
    assert float(found) == pytest.approx(3.0)
    np.testing.assert_allclose(gradient[..., 1], np.full((4, 5), 1 / 20), rtol=1e-5)
    assert not gradient[..., 0].any()


def test_its_gradient_leans_on_the_strongest_places():
    activation = jnp.asarray(np.random.default_rng(2).normal(size=(6, 7, 2)), jnp.float32)
    gradient = jax.grad(lambda a: strongest(channel("conv")).value({"conv": a}, IMAGE, UNIT))(
        activation
    )[..., 1]
    np.testing.assert_array_equal(
        np.argsort(gradient.ravel()), np.argsort(activation[..., 1].ravel())
    )
    assert float(gradient.sum()) == pytest.approx(1.0, rel=1e-5)


def test_what_has_one_value_stays_as_it_is():
    for objective in (objectives.neuron("conv"), objectives.logit("out"), objectives.layer("conv")):
        assert strongest(objective) is objective
    logits = {"out": jnp.array([1.0, -4.0])}
    assert float(strongest(channel("out")).value(logits, IMAGE, UNIT)) == -4.0


def test_a_mean_that_no_image_changes_is_no_obstacle():
    module = nn.Sequential([nn.Conv(3, (3, 3)), nn.InstanceNorm()])
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 12, 10, 1)))
    network = linen_network(module, variables, (12, 10, 1))
    with pytest.raises(ValueError, match="take its strongest places"):
        [check(network) for check in channel("layers_1").checks]
    assert not strongest(channel("layers_1")).checks


@pytest.mark.parametrize("softness", [0.0, -1.0, float("inf"), float("nan")])
def test_a_softness_that_is_none_is_refused(softness):
    with pytest.raises(ValueError, match="expected a number above 0"):
        strongest(channel("conv"), softness=softness)
