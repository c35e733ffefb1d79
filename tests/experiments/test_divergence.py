"""One channel that runs away: the others of its batch do not change by a bit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from featvis_jax.maximize import ascent, objectives, parameterizations
from featvis_jax.maximize.layer import visualize
from featvis_jax.nn.cnn import CNN
from featvis_jax.nn.tracing import linen_network

FAULTY = 17
SHAPE = (40, 40, 1)


@pytest.mark.optax
def test_no_channel_notices_that_one_of_64_diverges():
    module = CNN(rank=2, features=(64, 2, 2, 2, 2))
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros(SHAPE))
    recipe = ascent.Recipe(
        objective=objectives.channel("conv1"),
        parameterization=parameterizations.pixels(),
        optimizer=optax.adam(0.02),
        steps=4,
    )
    found = []
    for value in (0.0, np.nan):
        bias = variables["params"]["conv1"]["bias"].at[FAULTY].add(value)
        conv1 = {**variables["params"]["conv1"], "bias": bias}
        faulty = {**variables, "params": {**variables["params"], "conv1": conv1}}
        network = linen_network(module, faulty, SHAPE)
        found.append(list(visualize(network, recipe, "conv1", range(64), batch_size=64)))
    for clean, other in zip(*found, strict=True):
        if clean.channel == FAULTY:
            assert clean.finite
            assert not other.finite
            assert np.isfinite(other.image).all()
        else:
            np.testing.assert_array_equal(other.image, clean.image)
            np.testing.assert_array_equal(other.objective_trace, clean.objective_trace)
