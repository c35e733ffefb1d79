"""A neuron sees its receptive field alone, and its ascent is the one on the whole image."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from featvis_jax.nn.cnn import CNN
from featvis_jax.nn.taps import linen_network
from featvis_jax.visualize import ascent, objectives, penalties, transforms
from featvis_jax.visualize.objectives import Unit
from featvis_jax.visualize.parameterizations import fourier, pixels
from tests.visualize.lines import assert_same_bits, bounds, make_recipe, start
from tests.visualize.test_rising import cnn_network

STEPS = 4
# In the gradient, also with what it keeps: what is rounded otherwise stays as small.
LINEAR = optax.sgd(0.5, momentum=0.9)
PLACES = {"centre": None, "corner": 0, "far corner": -1}
CHANGES = {
    "pixels": {},
    "all at once": {
        "robustness": transforms.jitter(strength=0.5),
        "projection": transforms.gaussian_blur(sigma=0.6),
        "penalty": penalties.image_l1(),
        "penalty_weight": 0.1,
        "optimizer": optax.chain(optax.normalize_by_update_norm(), LINEAR),
        "transparency": True,
    },
    "frequencies": {"parameterization": fourier()},
}


def assert_close(found, expected):
    for leaf, reference in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(leaf, reference, rtol=1e-5, atol=1e-5)


def unit_at(position):
    channels = jnp.asarray([1, 2], jnp.int32)
    if position is None:
        return Unit(channels)
    return Unit(channels, jnp.tile(jnp.asarray(position, jnp.int32), (2, 1)))


CASES = [  # Every place, every change, both ways to name a position, both ranks.
    (2, False, "centre", "pixels"),
    (2, False, "corner", "all at once"),
    (2, True, "centre", "frequencies"),
    (2, True, "far corner", "all at once"),
    (3, False, "far corner", "pixels"),
    (3, True, "corner", "pixels"),
]


@pytest.mark.optax
@pytest.mark.parametrize(("rank", "as_data", "place", "changes"), CASES)
def test_an_ascent_of_a_neuron_is_that_on_the_whole_image(rank, as_data, place, changes):
    network = cnn_network(rank)
    assert network.may_be_cropped
    grid = network.layer("conv3").shape[:-1]
    position = {"centre": [n // 2 for n in grid], "corner": [0] * rank}.get(
        place, [n - 1 for n in grid]
    )
    objective = -objectives.neuron("conv3", position=None if as_data else position)
    unit = unit_at(position if as_data else None)
    recipe = make_recipe(
        objective=objective, optimizer=LINEAR, steps=STEPS, parameterization=pixels()
    )._replace(**CHANGES[changes])
    whole = network._replace(may_be_cropped=False)
    advance, advance_whole = (jax.jit(ascent.advance(each, recipe)) for each in (network, whole))
    measure, measure_whole = (jax.jit(ascent.measure(each, recipe)) for each in (network, whole))
    states = start(network, recipe, [1, 2], layer="conv3")
    # Step by step from the same states, since a ReLU that switches would lead elsewhere.
    for step in range(STEPS):
        expected = advance_whole(network.variables, states, unit, *bounds(step, step + 1))
        found = advance(network.variables, states, unit, *bounds(step, step + 1))
        assert_same_bits(found.key, expected.key)
        assert_close(found._replace(key=None), expected._replace(key=None))
        states = expected
    seen = measure(network.variables, states, unit)
    assert_close(seen, measure_whole(network.variables, states, unit))
    assert (seen.objective != states.objective[:, 0]).all()


def test_it_computes_the_box_alone():
    network = cnn_network(2)
    seen = []

    def one_channel(variables, image, layer, channel):
        seen.append(image.shape)
        return network.one_channel(variables, image, layer, channel)

    watched = network._replace(one_channel=one_channel)

    def shapes(objective, *penalty, network=watched):
        seen.clear()
        read = ascent.reader(network, [objective, *penalty])
        jax.eval_shape(read, network.variables, jnp.zeros(network.image_shape), Unit(jnp.int32(1)))
        return seen

    neuron = objectives.neuron("conv3")
    assert shapes(neuron) == shapes(2 * neuron, penalties.image_l1()) == [(13, 13, 1)]
    assert shapes(objectives.channel("conv3")) == [(28, 30, 1)]
    # What reads more than the place sees the whole image.
    for more in (objectives.channel("conv3"), objectives.neuron("conv3", position=(0, 0))):
        assert shapes(neuron + more) == shapes(neuron, more) == [(28, 30, 1)]
    assert shapes(neuron, network=watched._replace(may_be_cropped=False)) == [(28, 30, 1)]


def test_a_padded_network_is_not_cut():
    module = CNN(rank=2, features=(2, 4, 4, 4, 4), padding="SAME")
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((28, 30, 1)))
    assert not linen_network(module, variables, (28, 30, 1)).may_be_cropped


def test_a_subclass_is_not_cut():
    class Changed(CNN):
        """Nobody knows what it computes."""

    module = Changed(rank=2, features=(2, 4, 4, 4, 4))
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((28, 30, 1)))
    assert not linen_network(module, variables, (28, 30, 1)).may_be_cropped


def test_a_position_beyond_the_grid_is_still_no_number():
    network = cnn_network(2)
    read = jax.jit(ascent.reader(network, [objectives.neuron("conv3")]))
    image = jax.random.uniform(jax.random.key(0), network.image_shape)
    side = network.layer("conv3").shape[0]

    def at(*position):
        unit = Unit(jnp.int32(1), jnp.asarray(position, jnp.int32))
        return float(read(network.variables, image, unit)[0])

    assert np.isnan(at(side, 0))
    whole = ascent.reader(network._replace(may_be_cropped=False), [objectives.neuron("conv3")])
    last = Unit(jnp.int32(1), jnp.asarray([-1, 0], jnp.int32))
    assert at(-1, 0) == pytest.approx(float(whole(network.variables, image, last)[0]), rel=1e-5)
