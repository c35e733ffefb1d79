"""Functions of JAX as networks: what they name, in any layout, and on any devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh, PartitionSpec

from featvis_jax.nn.programs import fast
from featvis_jax.nn.tracing import function_network

SHAPE = (8, 9, 1)


def channels_first(weights, images):
    """As PyTorch has its axes, with a ReLU whose derivative is its own."""
    x = lax.conv(images.transpose(0, 3, 1, 2), weights["first"], (1, 1), "SAME")
    x = jax.nn.relu(checkpoint_name(x, "first"))
    x = checkpoint_name(lax.conv(x, weights["second"], (2, 2), "SAME"), "second")
    return checkpoint_name(x.mean(axis=(2, 3)), "pooled")


@pytest.fixture
def weights(rng):
    shapes = {"first": (4, 1, 3, 3), "second": (3, 4, 3, 3)}
    return {k: jnp.asarray(rng.standard_normal(s), jnp.float32) for k, s in shapes.items()}


def test_named_values_are_layers_with_channels_last(rng, weights):
    network = function_network(channels_first, weights, SHAPE)
    found = {layer.name: (layer.shape, layer.receptive_field) for layer in network.layers}
    assert found == {"first": ((8, 9, 4), 3), "second": ((4, 5, 3), 5), "pooled": ((3,), None)}
    image = jnp.asarray(rng.standard_normal(SHAPE), jnp.float32)
    values = network.activations(weights, image, ("first", "second", "pooled"))
    first = lax.conv(image.transpose(2, 0, 1)[None], weights["first"], (1, 1), "SAME")
    second = lax.conv(jax.nn.relu(first), weights["second"], (2, 2), "SAME")
    for name, expected in (("first", first), ("second", second)):
        expected = np.moveaxis(np.asarray(expected[0]), 0, -1)
        np.testing.assert_allclose(values[name], expected, rtol=1e-5, atol=1e-5)
        alone = network.one_channel(weights, image, name, jnp.int32(2))[name]
        np.testing.assert_allclose(alone, expected[..., 2:3], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(values["pooled"], second.mean((0, 2, 3)), rtol=1e-5, atol=1e-5)


def test_what_is_made_of_a_layer_reaches_whoever_reads_it(rng, weights):
    network = function_network(channels_first, weights, SHAPE)
    image = jnp.asarray(rng.standard_normal(SHAPE), jnp.float32)

    def without_channel(first):
        return first.at[..., 1].set(0.0)

    layers = ("first", "second")
    found = network.activations(weights, image, layers, {"first": without_channel})
    silent = {**weights, "first": weights["first"].at[1].set(0.0)}
    expected = network.activations(silent, image, layers)
    for name in layers:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-5)


def test_a_gradient_in_the_middle_is_that_of_what_follows(rng, weights):
    network = function_network(channels_first, weights, SHAPE)
    image = jnp.asarray(rng.standard_normal(SHAPE), jnp.float32)

    def through(added):
        changes = {"first": lambda first: first + added}
        return network.activations(weights, image, ("second",), changes)["second"][1, 2, 0]

    def rest(first):
        relu = jax.nn.relu(first.transpose(2, 0, 1)[None])
        return lax.conv(relu, weights["second"], (2, 2), "SAME")[0, 0, 1, 2]

    first = network.activations(weights, image, ("first",))["first"]
    found = jax.grad(through)(jnp.zeros_like(first))
    np.testing.assert_allclose(found, jax.grad(rest)(first), rtol=1e-5, atol=1e-6)


def test_changes_of_copies_under_a_vmap_keep_to_their_copy(rng):
    kernels = jnp.asarray(rng.standard_normal((2, 3, 1, 3, 3)), jnp.float32)

    def function(weights, images):
        x = images.transpose(0, 3, 1, 2)
        both = jax.vmap(
            lambda kernel: checkpoint_name(lax.conv(x, kernel, (1, 1), "SAME"), "branch")
        )(weights)
        return checkpoint_name(both.sum(axis=0), "sum")

    network = function_network(function, kernels, SHAPE)
    names = [layer.name for layer in network.layers]
    image = jnp.asarray(rng.standard_normal(SHAPE), jnp.float32)
    plain = network.activations(kernels, image, tuple(names))
    second = names[1]
    found = network.activations(kernels, image, ("sum",), {second: jnp.zeros_like})["sum"]
    np.testing.assert_allclose(found, plain["sum"] - plain[second], rtol=1e-5, atol=1e-5)


def test_elements_that_see_everything_keep_their_place(rng):
    """Channels first on a cube, through a group normalization that flattens the grid."""
    kernels = rng.standard_normal((3, 4, 4, 3, 3, 3)).astype(np.float32)
    first = rng.standard_normal((4, 1, 3, 3, 3)).astype(np.float32)

    def function(weights, images):
        x = jnp.moveaxis(images, -1, 1)
        for number, kernel in enumerate([weights[0], *weights[1]]):
            x = lax.conv(x, kernel, (1, 1, 1), "SAME")
            groups = x.reshape(x.shape[0], 2, -1)
            x = (groups - groups.mean(-1, keepdims=True)).reshape(x.shape)
            x = checkpoint_name(x, f"{number}")
        return x

    network = function_network(function, (first, kernels), (4, 4, 4, 1))
    image = jnp.asarray(rng.standard_normal((4, 4, 4, 1)), jnp.float32)
    expected = np.moveaxis(np.asarray(function((first, kernels), image[None])[0]), 0, -1)
    found = network.activations(network.variables, image, ("3",))["3"]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_it_runs_on_one_set_of_devices_after_the_other(weights):
    network = function_network(channels_first, weights, SHAPE)

    def gradient(image):
        return jax.grad(lambda x: network.activations(weights, x, ("second",))["second"].sum())(
            image
        )

    expected = gradient(jnp.ones(SHAPE))
    for name in ("units", "others"):
        mesh, everywhere = Mesh(np.array(jax.devices()[:1]), (name,)), PartitionSpec()
        on_mesh = jax.shard_map(gradient, mesh=mesh, in_specs=everywhere, out_specs=everywhere)
        np.testing.assert_allclose(jax.jit(on_mesh)(jnp.ones(SHAPE)), expected, rtol=1e-5)


def test_large_arrays_that_it_closes_over_are_weights(rng):
    table = jnp.asarray(rng.standard_normal((300, 300)), jnp.float32)

    def apply(scale, images):
        return checkpoint_name(scale * images.reshape(1, -1) @ table[:72], "mixed")

    network = function_network(apply, jnp.float32(2), SHAPE)
    assert {leaf.shape for leaf in jax.tree.leaves(network.variables)} == {(), (300, 300)}
    image = jnp.asarray(rng.standard_normal(SHAPE), jnp.float32)
    found = network.activations(network.variables, image, ("mixed",))["mixed"]
    np.testing.assert_allclose(found, 2 * image.reshape(-1) @ table[:72], rtol=1e-4, atol=1e-4)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, network.variables)
    again = network.activations(doubled, image, ("mixed",))["mixed"]
    np.testing.assert_allclose(again, 4 * found, rtol=1e-5)


def test_each_platform_keeps_its_own_branch(rng):
    kernel = jnp.asarray(rng.standard_normal((2, 1, 3, 3)), jnp.float32)

    def conv(x):
        return lax.conv(x, kernel, (1, 1), "SAME")

    def function(x):
        return lax.platform_dependent(x, cpu=conv, default=lambda x: 0 * conv(x))

    image = jnp.asarray(rng.standard_normal((1, 1, 5, 6)), jnp.float32)
    np.testing.assert_array_equal(jax.jit(fast(function))(image), jax.jit(function)(image))


def branches(weights, images):
    return checkpoint_name(images if images.sum() > 0 else -images, "it")


def prints(weights, images):
    jax.debug.print("{}", images.sum())
    return checkpoint_name(images, "it")


def wrong_shape(weights, images):
    return checkpoint_name(images @ weights["first"], "it")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (branches, r"test_functions\.py:\d+: Python decides by a value .*lax\.cond"),
        (prints, r"test_functions\.py:\d+: it has a side effect \(debug_\w+\).*remove it"),
        (wrong_shape, r"test_functions\.py:\d+: TypeError: dot_general"),
        (lambda weights, images: images, r"calls nothing a layer: write .*checkpoint_name"),
    ],
)
def test_what_is_no_network_is_refused_with_its_line(weights, function, message):
    with pytest.raises(ValueError, match=message):
        function_network(function, weights, SHAPE)
