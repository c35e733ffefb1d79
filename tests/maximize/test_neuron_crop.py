"""A neuron sees its receptive field alone, and its ascent is the one on the whole image."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax import lax

from featvis_jax.maximize import ascent, objectives, penalties, transforms
from featvis_jax.maximize.objectives import Unit
from featvis_jax.maximize.parameterizations import fourier, pixels
from featvis_jax.nn.tracing import linen_network
from tests.maximize.lines import assert_same_bits, bounds, make_recipe, start
from tests.maximize.test_rising import cnn_network

STEPS = 4
# In the gradient, also with what it keeps: what is rounded otherwise stays as small.
LINEAR = optax.sgd(0.5, momentum=0.9)
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


def uncut(network):
    """The same network, of which nobody knows how far a layer sees."""
    layers = tuple(layer._replace(receptive_field=None) for layer in network.layers)
    return network._replace(layers=layers)


CASES = [  # Every place, every change, both ranks.
    (2, "centre", "pixels"),
    (2, "corner", "all at once"),
    (2, "centre", "frequencies"),
    (2, "far corner", "all at once"),
    (3, "far corner", "pixels"),
    (3, "corner", "pixels"),
]


@pytest.mark.optax
@pytest.mark.parametrize(("rank", "place", "changes"), CASES)
def test_an_ascent_of_a_neuron_is_that_on_the_whole_image(rank, place, changes):
    network = cnn_network(rank)
    grid = network.layer("conv3").shape[:-1]
    position = {"centre": None, "corner": [0] * rank}.get(place, [n - 1 for n in grid])
    objective = -objectives.neuron("conv3", position=position)
    unit = Unit(jnp.asarray([1, 2], jnp.int32))
    recipe = make_recipe(
        objective=objective, optimizer=LINEAR, steps=STEPS, parameterization=pixels()
    )._replace(**CHANGES[changes])
    whole = uncut(network)
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

    def convolutions(objective, *penalty):
        """The spatial shapes of what is convolved."""
        read = ascent.reader(network, [objective, *penalty])
        unit, image = Unit(jnp.int32(1)), jnp.zeros(network.image_shape)
        jaxpr = jax.make_jaxpr(read)(network.variables, image, unit)
        return [
            equation.invars[0].aval.shape[1:-1]
            for equation in jaxpr.jaxpr.eqns
            if equation.primitive.name == "fast_conv"
        ]

    neuron = objectives.neuron("conv3")
    cut, whole = [(13, 13), (9, 9), (3, 3)], [(28, 30), (24, 26), (10, 11)]
    assert convolutions(neuron) == convolutions(2 * neuron, penalties.image_l1()) == cut
    assert convolutions(objectives.channel("conv3")) == whole
    # What reads more than the place sees the whole image.
    for more in (objectives.channel("conv3"), objectives.neuron("conv3", position=(0, 0))):
        assert convolutions(neuron + more) == convolutions(neuron, more) == whole


class Padded(nn.Module):
    """Padding, strides and dilation, a pooling that sees the border, and a branch around it."""

    rank: int

    @nn.compact
    def __call__(self, x):
        window = (3,) * self.rank
        x = nn.relu(nn.Conv(4, window, name="stem")(x))
        x = nn.max_pool(x, window, strides=(2,) * self.rank, padding="SAME")
        around = nn.Conv(4, (1,) * self.rank, strides=1, name="around")(x)
        x = nn.Conv(4, window, kernel_dilation=2, name="wide")(x)
        x = nn.pool(jnp.exp(x - 3), 0.0, lax.add, window, (1,) * self.rank, "SAME")
        return nn.Conv(3, window, feature_group_count=1, name="out")(x + around)


@pytest.mark.parametrize("shape", [(37, 41, 1), (33, 25, 29, 1)], ids=["2-D", "3-D"])
def test_at_every_place_of_a_padded_network_it_is_what_the_whole_has(rng, shape):
    module = Padded(len(shape) - 1)
    network = linen_network(module, module.init(jax.random.key(1), jnp.zeros((1, *shape))), shape)
    image = jnp.asarray(rng.standard_normal(shape), jnp.float32)
    grid = network.layer("out").shape[:-1]
    last = [n - 1 for n in grid]
    places = jnp.asarray([[0] * len(grid), last, [n // 2 for n in grid], [1, *last[1:]]])

    @jax.jit
    def compare(variables, image):
        def at(image, place):
            # The place is data here, so that one program serves all of them.
            one = network.one_channel(variables, image, "out", jnp.int32(2), tuple(place))
            return one["out"].reshape(())

        def in_whole(image, place):
            whole = network.activations(variables, image, ("out",))["out"]
            return whole[(*place, 2)]

        return tuple(
            jax.vmap(jax.value_and_grad(each), in_axes=(None, 0))(image, places)
            for each in (at, in_whole)
        )

    (value, gradient), (expected, whole) = compare(network.variables, image)
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gradient, whole, rtol=1e-4, atol=1e-5)
