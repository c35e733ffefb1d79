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
from tests.visualize.lines import bounds, make_recipe, start
from tests.visualize.test_rising import cnn_network

STEPS = 4
PLACES = {"centre": None, "corner": 0, "far corner": -1}
CHANGES = {
    "pixels": {},
    "all at once": {
        "robustness": transforms.jitter(strength=0.5),
        "projection": transforms.gaussian_blur(sigma=0.6),
        "penalty": penalties.image_l1(),
        "penalty_weight": 0.1,
        "optimizer": optax.chain(optax.normalize_by_update_norm(), optax.adam(0.02)),
        "transparency": True,
    },
    "frequencies": {"parameterization": fourier()},
}


def finished(network, recipe, unit):
    states = start(network, recipe, [1, 2], layer="conv3")
    advance, measure = ascent.advance(network, recipe), ascent.measure(network, recipe)

    @jax.jit
    def run(variables, states, unit):
        states = advance(variables, states, unit, *bounds(0, STEPS))
        return states, measure(variables, states, unit)

    return run(network.variables, states, unit)


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
        objective=objective, optimizer=optax.adam(0.02), steps=STEPS, parameterization=pixels()
    )._replace(**CHANGES[changes])
    cut, seen = finished(network, recipe, unit)
    # The same by the whole network.
    whole, expected = finished(network._replace(may_be_cropped=False), recipe, unit)
    for leaf, reference in zip(
        jax.tree.leaves((cut._replace(key=None), seen)),
        jax.tree.leaves((whole._replace(key=None), expected)),
        strict=True,
    ):
        np.testing.assert_allclose(leaf, reference, rtol=1e-5, atol=1e-5)
    assert (seen.objective != whole.objective[:, 0]).all()


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
