"""Means that no image changes: found in any normalization over space, and nowhere else."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

from featvis_jax.maximize import ascent, objectives, parameterizations
from featvis_jax.nn.tracing import linen_network, nnx_network

GRIDS = pytest.mark.parametrize("grid", [(14, 12), (8, 7, 9)], ids=["2-D", "3-D"])


class Standardized(nn.Module):
    """A block of the user's own, with a normalization by hand in it."""

    @nn.compact
    def __call__(self, x):
        space = tuple(range(1, x.ndim - 1))
        centred = x - x.mean(axis=space, keepdims=True)
        return 3 + 2 * centred / jnp.sqrt(
            jnp.square(centred).mean(axis=space, keepdims=True) + 1e-3
        )


class Normalized(nn.Module):
    """Every kind of normalization, behind one convolution."""

    @nn.compact
    def __call__(self, x):
        rank = x.ndim - 2
        space = tuple(range(1, x.ndim - 1))
        x = nn.Conv(4, (3,) * rank, name="conv")(x)
        made = [
            nn.InstanceNorm(name="instance")(x),
            nn.GroupNorm(num_groups=4, name="group_of_one")(x),
            nn.GroupNorm(num_groups=2, name="group_of_two")(x),
            nn.LayerNorm(reduction_axes=space, feature_axes=-1, name="space")(x),
            nn.LayerNorm(name="channels")(x),
            nn.BatchNorm(use_running_average=True, name="batch")(x),
            Standardized(name="block")(x),
        ]
        mixed = nn.Conv(5, (1,) * rank, name="mixed")(made[0])
        seen = nn.Conv(5, (3,) * rank, name="seen")(made[0])
        dead = nn.Conv(3, (1,) * rank, kernel_init=nn.initializers.zeros, name="dead")(made[0])
        return nn.Dense(2, name="head")(jnp.concatenate([*made, mixed, seen, dead], axis=-1))


CONSTANT = ("instance", "group_of_one", "space", "block", "mixed")
IN_3D = ("conv", "instance", "block", "seen")


@pytest.fixture(scope="module")
def networks():
    """The network in 2-D and 3-D."""
    found = {}
    for grid in ((14, 12), (8, 7, 9)):
        shape = (*grid, 1)
        variables = jax.jit(Normalized().init)(jax.random.key(0), jnp.zeros((1, *shape)))
        found[grid] = linen_network(Normalized(), variables, shape)
    return found


def refused(network, objective):
    """What the check of a recipe says; ``None`` where nothing."""
    recipe = ascent.Recipe(objective, parameterizations.pixels(), optimizer=optax.sgd(0.1), steps=1)
    try:
        ascent.check(recipe, network=network)
    except ValueError as error:
        return str(error)
    return None


@GRIDS
def test_the_mean_of_what_is_normalized_over_space_is_refused(networks, grid):
    network = networks[grid]
    said = {
        layer.name: refused(network, objectives.channel(layer.name)) for layer in network.layers
    }
    assert {name for name, message in said.items() if message} == set(CONSTANT)
    for name in CONSTANT:
        for part in (f"layer '{name}' is the same for every image", f"'{name}/relu'", "neuron"):
            assert part in said[name]
        assert "\n" not in said[name]
        # What the message says to take can be taken.
        assert refused(network, objectives.channel(f"{name}/relu")) is None
        assert refused(network, objectives.neuron(name)) is None


def test_a_direction_through_such_means_is_refused_too_and_so_is_a_sum(networks):
    network = networks[14, 12]
    constant = objectives.channel("instance")
    assert "direction('block'" in refused(
        network, objectives.direction("block", vector=[1, 0, 2, 0])
    )
    assert "channel('instance')" in refused(network, constant - objectives.channel("conv"))
    assert refused(network, objectives.direction("conv", vector=[1, 0, 2, 0])) is None


def test_what_is_refused_moves_by_rounding_and_what_is_not_moves(networks, rng):
    network = networks[14, 12]
    images = jnp.asarray(rng.random((8, *network.image_shape)), jnp.float32)
    names = tuple(layer.name for layer in network.layers if len(layer.shape) > 1)

    @jax.jit
    def means(variables, images):
        found = jax.lax.map(lambda x: network.activations(variables, x, names), images)
        return {name: (leaf.mean((1, 2)), leaf.std((1, 2))) for name, leaf in found.items()}

    for name, (mean, deviation) in means(network.variables, images).items():
        share = np.ptp(mean, axis=0).max() / max(deviation.max(), 1e-9)
        assert (share < 1e-5) == (name in CONSTANT or name == "dead"), (name, share)


def test_a_normalization_of_nnx_is_found(rng):
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs)
            self.norm = nnx.GroupNorm(4, num_groups=4, rngs=rngs)

        def __call__(self, x):
            return nnx.relu(self.norm(self.conv(x)))

    network = nnx_network(Net(nnx.Rngs(0)), (12, 10, 1))
    assert refused(network, objectives.channel("conv")) is None
    assert "layer 'norm' is the same" in refused(network, objectives.channel("norm"))


def test_a_network_without_a_normalization_computes_nothing_for_the_check(networks):
    def activations(variables, image, layers):
        assert isinstance(image, jax.core.Tracer)
        return network.activations(variables, image, layers)

    network = networks[14, 12]
    layers = tuple(layer for layer in network.layers if layer.name == "conv")
    watched = network._replace(activations=activations, layers=layers)
    assert refused(watched, objectives.channel("conv")) is None
