"""What a place sees of a layer below and of the image, against gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from featvis_jax.evidence import pasting
from featvis_jax.evidence.observing import Window, observer
from featvis_jax.evidence.paths import Pair, contributor, layers_below
from featvis_jax.maximize.objectives import channel
from featvis_jax.maximize.reference import Asked
from featvis_jax.nn.tracing import function_network


def network_of(rank, *, padding, stride):
    rng = np.random.default_rng(rank)
    letters = "DHW"[-rank:]
    layout = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
    shapes = {"first": (1, 3), "second": (3, 4), "third": (4, 5)}
    weights = {
        name: rng.uniform(0.1, 1.0, (3,) * rank + shape).astype(np.float32)
        for name, shape in shapes.items()
    }

    def apply(weights, images):
        x = images
        for name, step in (("first", 1), ("second", stride), ("third", 1)):
            x = lax.conv_general_dilated(
                x, weights[name], (step,) * rank, padding, dimension_numbers=layout
            )
            x = jax.nn.relu(checkpoint_name(x, name))
            x = checkpoint_name(x * jnp.ones_like(x), f"{name}/scaled")
        return x

    return function_network(apply, weights, (*(17, 18, 19)[:rank], 1))


CASES = [(2, "SAME", 2), (2, "VALID", 1), (3, "VALID", 2), (2, "VALID", 2)]


@pytest.mark.parametrize(("rank", "padding", "stride"), CASES)
def test_a_window_is_what_has_a_gradient(rank, padding, stride):
    network, objective = network_of(rank, padding=padding, stride=stride), channel("third")
    image = jnp.asarray(np.random.default_rng(0).random(network.image_shape), jnp.float32)
    grid = network.layer("third").shape[:-1]
    place = tuple(side // 2 for side in grid)
    flat = int(np.ravel_multi_index(place, grid))

    def through(added):
        changes = {"first": lambda first: first + added}
        found = network.activations(network.variables, image, ("third",), changes)["third"]
        return found[place][2]

    shape = network.layer("first").shape
    seen = np.asarray(jax.grad(through)(jnp.zeros(shape))).any(axis=-1)
    first = network.activations(network.variables, image, ("first",))["first"]
    window = Window.between(network, objective, "first")
    found = window.mean(first, jnp.int32(flat))
    np.testing.assert_allclose(found, np.asarray(first)[seen].mean(axis=0), rtol=1e-5)

    image_seen = np.asarray(
        jax.grad(
            lambda x: network.activations(network.variables, x, ("third",))["third"][place][2]
        )(jnp.asarray(image))
    )
    mask = pasting.patch_mask(network, objective, flat)
    if mask is not None:
        assert (mask[image_seen != 0] == 1).all()
        assert mask.sum() < 4 * (image_seen != 0).sum()


def test_contributions_of_a_layer_add_up_to_the_response():
    network = network_of(2, padding="SAME", stride=2)
    images = np.random.default_rng(0).random((3, *network.image_shape)).astype(np.float32)
    asked = Asked(channel("third"), range(5))
    below = layers_below(network, asked.objective, images[0])
    # A layer that passes each channel on by itself is no way; nor is one of the same field.
    assert below == ("second/scaled", "first/scaled")
    pairs = [Pair(unit, number, 7) for number in range(3) for unit in (4, 0)]
    found = contributor(network, asked, below, batch_size=4)(images, pairs)
    for name in below:
        for pair, response, channels in zip(pairs, *found[name], strict=True):
            expected = network.activations(
                network.variables, jnp.asarray(images[pair.image]), ("third",)
            )
            value = np.asarray(expected["third"]).reshape(-1, 5)[7, pair.unit]
            np.testing.assert_allclose(response, value, rtol=1e-5)
            np.testing.assert_allclose(channels.sum(), value, rtol=1e-4)


def test_layers_below_are_found_where_the_first_unit_is_silent():
    network = network_of(2, padding="SAME", stride=2)
    silent = dict(network.variables)
    silent["third"] = -silent["third"].at[..., 1:].multiply(-1.0)
    network = network._replace(variables=silent)
    image = np.random.default_rng(0).random(network.image_shape).astype(np.float32)
    assert layers_below(network, channel("third/relu"), image) == ("second/scaled", "first/scaled")
    assert layers_below(network, channel("first"), image) == ()


def test_what_is_observed_is_the_largest_value_and_where_it_is():
    network = network_of(2, padding="SAME", stride=2)
    images = np.random.default_rng(0).random((5, *network.image_shape)).astype(np.float32)
    observe = observer(
        network, Asked(channel("third"), range(5)), "second", featured=[1], batch_size=2
    )
    found = observe(images)
    for image, response, place in zip(images, found.response, found.place, strict=True):
        values = network.activations(network.variables, jnp.asarray(image), ("third",))["third"]
        values = np.asarray(values).reshape(-1, 5)
        np.testing.assert_allclose(response, values.max(axis=0), rtol=1e-5)
        np.testing.assert_array_equal(place, values.argmax(axis=0))
    assert found.features.shape == (5, 1, 4)
