"""A recipe needs no more than an objective."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.ad_checkpoint import checkpoint_name

from featvis_jax.maximize import objectives, parameterizations
from featvis_jax.maximize.layer import visualize
from featvis_jax.maximize.recipe import Recipe
from featvis_jax.nn.tracing import function_network


@pytest.mark.optax
def test_what_is_left_out_is_adam_at_the_rate_of_the_parameterization():
    def scaled(weights, images):
        return checkpoint_name(images * weights, "scaled")

    network = function_network(scaled, jnp.ones(()), (12, 10, 1))
    made = parameterizations.fourier()
    left_out = Recipe(objectives.channel("scaled"), steps=3)
    spelled = Recipe(objectives.channel("scaled"), made, optax.adam(made.learning_rate), steps=3)
    found = [next(visualize(network, each, "scaled", [0])) for each in (left_out, spelled)]
    np.testing.assert_array_equal(found[0].image, found[1].image)
    assert found[0].final_objective > found[0].initial_objective
    assert Recipe(objectives.channel("scaled")).steps == 256
