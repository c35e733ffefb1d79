"""Channels that are taken away: against the network whose next layer does not read them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from featvis_jax.evaluation.ablation import as_many_others, silenced
from featvis_jax.nn.cnn import CNN
from featvis_jax.nn.tracing import linen_network

SHAPE = (40, 44, 1)
MODULE = CNN(rank=2, features=(3, 4, 4, 4, 5))
APPLY = jax.jit(MODULE.apply)


@pytest.fixture(scope="module")
def variables():
    made = jax.eval_shape(MODULE.init, jax.random.key(3), jnp.zeros(SHAPE))
    # Random everywhere, since zero biases and a zero head would hide a mistake; and biased upwards,
    # since channels that are silent already would too.
    keys = iter(jax.random.split(jax.random.key(4), 100))

    def drawn(leaf):
        return 0.3 * jax.random.normal(next(keys), leaf.shape) + float(leaf.ndim == 1)

    params = jax.tree.map(drawn, made["params"])
    return {"params": params, "statistics": {"mean": jnp.zeros(()), "std": jnp.ones(())}}


@pytest.fixture(scope="module")
def image():
    return jax.random.uniform(jax.random.key(5), SHAPE)


@pytest.mark.parametrize(("layer", "after"), [("conv1", "conv2"), ("conv3", "conv4")])
def test_a_silent_channel_is_one_that_nobody_reads(variables, image, layer, after):
    found = APPLY(silenced(variables, {layer: [0, 2]}), image)
    deaf = jax.tree.map(np.array, variables)
    deaf["params"][after]["kernel"][..., [0, 2], :] = 0
    np.testing.assert_allclose(
        found, APPLY(jax.tree.map(jnp.asarray, deaf), image), rtol=1e-4, atol=1e-5
    )
    assert not np.allclose(found, APPLY(variables, image), rtol=1e-3)


def test_the_head_reads_nothing_of_a_silent_channel(variables, image):
    found = APPLY(silenced(variables, {"conv5": [1]}), image)
    deaf = jax.tree.map(np.array, variables)
    kernel = deaf["params"]["logits"]["kernel"]
    kernel.reshape(-1, 5, 2)[:, 1] = 0
    np.testing.assert_allclose(
        found, APPLY(jax.tree.map(jnp.asarray, deaf), image), rtol=1e-4, atol=1e-5
    )


def test_only_the_channels_that_were_named_fall_silent(variables, image):
    before = jax.tree.map(np.array, variables)
    network = linen_network(MODULE, silenced(variables, {"conv2": [3]}), SHAPE)
    found = network.activations(network.variables, image, ("conv2",))["conv2"]
    whole = network.activations(variables, image, ("conv2",))["conv2"]
    assert (found[..., 3] == 0).all()
    np.testing.assert_allclose(found[..., :3], whole[..., :3], rtol=1e-5)
    # The variables that came are as they were.
    jax.tree.map(np.testing.assert_array_equal, before, variables)


@pytest.mark.parametrize("channels", [{"conv9": [0]}, {"conv1": [3]}, {"conv1": [-1]}])
def test_what_is_not_there_is_refused(variables, channels):
    with pytest.raises(ValueError, match=r"There is no layer 'conv9'|conv1 has channels 0 to 2"):
        silenced(variables, channels)


def test_a_comparison_takes_as_many_of_each_layer_from_the_pool_alone(rng):
    chosen, pool = (
        {"conv1": [0, 1], "conv2": [5, 6, 7], "conv3": [1]},
        {
            "conv1": [2, 3, 4],
            "conv2": [0, 1],
        },
    )
    drawn = [as_many_others(rng, chosen, pool) for _ in range(30)]
    assert all(len(one["conv1"]) == 2 and set(one["conv1"]) < {2, 3, 4} for one in drawn)
    assert all(one["conv2"] == [0, 1] and one["conv3"] == [] for one in drawn)
    assert len({tuple(one["conv1"]) for one in drawn}) == 3
