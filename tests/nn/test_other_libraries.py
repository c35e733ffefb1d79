"""Networks written with Equinox and Haiku, as their own documentation writes them."""

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

from featvis_jax.nn.tracing import function_network

SHAPE = (12, 11, 10, 1)


class Block(eqx.Module):
    conv: eqx.nn.Conv3d
    norm: eqx.nn.GroupNorm
    project: eqx.nn.Conv3d

    def __init__(self, in_channels, out_channels, key):
        first, second = jax.random.split(key)
        self.conv = eqx.nn.Conv3d(in_channels, out_channels, 3, stride=2, padding=1, key=first)
        self.norm = eqx.nn.GroupNorm(2, out_channels)
        self.project = eqx.nn.Conv3d(in_channels, out_channels, 1, stride=2, key=second)

    def __call__(self, x):
        y = jax.nn.relu(self.norm(self.conv(x)))
        return y + self.project(x)


class Residual(eqx.Module):
    """Channels first, for one image."""

    blocks: list[Block]
    pool: eqx.nn.AdaptiveAvgPool3d
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.blocks = [Block(1, 4, keys[0]), Block(4, 6, keys[1])]
        self.pool = eqx.nn.AdaptiveAvgPool3d(1)
        self.head = eqx.nn.Linear(6, 2, key=keys[2])

    def __call__(self, x):
        for number, block in enumerate(self.blocks):
            x = checkpoint_name(block(x), f"blocks.{number}")
        return checkpoint_name(self.head(self.pool(x).ravel()), "head")


class Regularized(eqx.Module):
    """With a state of normalization, and dropout that is off in inference."""

    conv: eqx.nn.Conv3d
    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout
    second: eqx.nn.Conv3d

    def __init__(self, key):
        first, second = jax.random.split(key)
        self.conv = eqx.nn.Conv3d(1, 4, 3, padding="SAME", key=first)
        self.norm = eqx.nn.BatchNorm(4, axis_name="batch", mode="batch")
        self.dropout = eqx.nn.Dropout(0.5)
        self.second = eqx.nn.Conv3d(4, 5, 3, dilation=2, key=second)

    def __call__(self, x, state):
        x, state = self.norm(checkpoint_name(self.conv(x), "conv"), state)
        return checkpoint_name(self.second(self.dropout(jax.nn.gelu(x))), "second"), state


def residual():
    model = Residual(jax.random.key(0))
    return lambda model, images: jax.vmap(model)(jnp.moveaxis(images, -1, 1)), model


def regularized():
    model, state = eqx.nn.make_with_state(Regularized)(jax.random.key(1))

    def apply(weights, images):
        one = jax.vmap(weights[0], in_axes=(0, None), out_axes=(0, None), axis_name="batch")
        return one(jnp.moveaxis(images, -1, 1), weights[1])[0]

    return apply, (eqx.nn.inference_mode(model), state)


def haiku():
    def forward(images, is_training):
        x = checkpoint_name(hk.Conv3D(4, 3, stride=2)(images), "conv")
        x = hk.BatchNorm(True, True, 0.9)(x, is_training)
        x = hk.MaxPool((2, 2, 2, 1), (2, 2, 2, 1), "VALID")(jax.nn.relu(x))
        x = checkpoint_name(hk.Conv3DTranspose(3, 3, stride=2)(x), "up")
        return checkpoint_name(hk.Linear(2)(x.mean((1, 2, 3))), "head")

    pure = hk.without_apply_rng(hk.transform_with_state(forward))
    weights = pure.init(jax.random.key(2), jnp.zeros((1, *SHAPE)), is_training=True)
    return lambda weights, images: pure.apply(*weights, images, is_training=False)[0], weights


LAYERS = {
    residual: {"blocks.0": (6, 6, 5, 4), "blocks.1": (3, 3, 3, 6), "head": (2,)},
    regularized: {"conv": (12, 11, 10, 4), "second": (8, 7, 6, 5)},
    haiku: {"conv": (6, 6, 5, 4), "up": (6, 6, 4, 3), "head": (2,)},
}


@pytest.mark.optax  # Equinox mixes dtypes, too.
@pytest.mark.parametrize("made", LAYERS, ids=lambda made: made.__name__)
def test_each_layer_and_each_of_its_channels_is_what_the_library_computes(rng, made):
    function, weights = made()
    network = function_network(function, weights, SHAPE)
    assert {layer.name: layer.shape for layer in network.layers} == LAYERS[made]
    image = jnp.asarray(rng.standard_normal(SHAPE), jnp.float32)
    names = tuple(LAYERS[made])
    values = network.activations(network.variables, image, names)
    last = np.asarray(function(weights, image[None])[0])
    expected = np.moveaxis(last, 0, -1) if made is regularized else last
    np.testing.assert_allclose(values[names[-1]], expected, rtol=1e-4, atol=1e-5)
    for name in names:
        channel = values[name].shape[-1] - 1
        alone = network.one_channel(network.variables, image, name, jnp.int32(channel))[name]
        np.testing.assert_allclose(alone, values[name][..., -1:], rtol=1e-4, atol=1e-5)
