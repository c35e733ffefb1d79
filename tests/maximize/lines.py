"""Ascents that can be written down: their recipe, and a network that is one matrix product."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from featvis_jax.maximize import (
    ascent,
    objectives,
)
from featvis_jax.maximize.ascent import Recipe, State
from featvis_jax.maximize.objectives import Unit
from featvis_jax.maximize.parameterizations import pixels
from featvis_jax.nn.tracing import Layer, Network

# For programs that take longer to compile than to run.
QUICK_JIT = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
STEPS = 20
RANKS = pytest.mark.parametrize("spatial", [(5, 6), (4, 3, 5)], ids=["2-D", "3-D"])


def make_recipe(**changes) -> Recipe:
    recipe = Recipe(
        objective=objectives.channel("line"),
        parameterization=pixels(),
        optimizer=optax.sgd(0.5),
        steps=STEPS,
    )
    return recipe._replace(**changes)


def units(channels) -> Unit:
    return Unit(jnp.asarray(channels, jnp.int32))


def bounds(first, stop):
    return jnp.int32(first), jnp.int32(stop)


@functools.partial(QUICK_JIT, static_argnums=(1, 2))
def init_batch(keys, recipe, image_shape) -> State:
    return jax.vmap(lambda key: ascent.init(key, recipe, image_shape))(keys)


def start(network, recipe, channels, *, seed=0, layer="layer") -> State:
    return init_batch(ascent.unit_keys(seed, layer, channels), recipe, network.image_shape)


def assert_same_bits(found, expected):
    """Equal to the last bit, NaN and keys included."""
    for leaf, reference in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf, reference = jax.random.key_data(leaf), jax.random.key_data(reference)
        np.testing.assert_array_equal(leaf, reference)


def unit_of(states, number):
    return jax.tree.map(lambda leaf: leaf[number], states)


def line_network(spatial, channels=3) -> Network:
    """A network so simple that an ascent on it can be written down: a = image @ weights."""
    rng = np.random.default_rng(8)
    weights = jnp.asarray(rng.standard_normal((1, channels)), jnp.float32)

    def activations(variables, image, layers):
        return {name: image @ variables for name in layers}

    def one_channel(variables, image, layer, channel):
        return {layer: image @ lax.dynamic_slice_in_dim(variables, channel, 1, axis=1)}

    layer = Layer("line", "Line", (*spatial, channels), 1, 1, True)
    return Network(activations, one_channel, weights, (*spatial, 1), (layer,))


def dimmed_with_the_step(key, image, step):
    del key
    return image * (1 - jnp.asarray(step, jnp.float32) / 40)


def all_keys(key):
    return [tuple(row) for row in np.asarray(jax.random.key_data(key)).reshape(-1, 2).tolist()]
