"""Layers of traced modules: their values against a float64 forward pass, and what is left out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from numpy.lib.stride_tricks import sliding_window_view

from featvis_jax.nn.cnn import CNN
from featvis_jax.nn.tracing import Network, linen_network

# Compiling takes nearly all of the time here, and what is compiled runs once.
QUICK_JIT = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
MEAN, STD = 0.4, 0.25
POOLS = {1: (3, 1), 2: (3, 2), 5: (4, 2)}


def random_weights(rng, module, shape):
    """Variables for any module, every leaf drawn."""
    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)

    def draw(leaf):
        scale = np.sqrt(2 / max(np.prod(leaf.shape[:-1]), 1))
        return jnp.asarray(scale * rng.standard_normal(leaf.shape), jnp.float32)

    return jax.tree.map(draw, jax.eval_shape(module.init, jax.random.key(0), image))


def random_cnn(rng, shape, features=(2, 3, 4, 4, 4)) -> Network:
    module = CNN(rank=len(shape) - 1, features=features)
    variables = dict(random_weights(rng, module, shape))
    variables["statistics"] = {"mean": jnp.float32(MEAN), "std": jnp.float32(STD)}
    return linen_network(module, variables, shape)


@pytest.fixture(scope="module", params=[(40, 44, 1), (28, 29, 30, 1)], ids=["2-D", "3-D"])
def cnn(request) -> Network:
    """A network with drawn weights, small enough to go through by hand."""
    return random_cnn(np.random.default_rng(3), request.param)


def by_hand(variables, image):
    """Every layer of the CNN in float64, with windows that NumPy cuts out."""
    variables = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables)
    spatial = tuple(range(image.ndim - 1))
    x = (image.astype(np.float64) - MEAN) / STD
    layers = {}
    for number in range(1, 6):
        weights = variables["params"][f"conv{number}"]
        windows = sliding_window_view(x, (3,) * len(spatial), axis=spatial)
        windows = np.moveaxis(windows, len(spatial), -1)  # channels last, as the kernel has them
        x = np.tensordot(windows, weights["kernel"], len(spatial) + 1) + weights["bias"]
        layers[f"conv{number}"] = x
        x = np.maximum(x, 0)
        if number in POOLS:
            window, stride = POOLS[number]
            windows = sliding_window_view(x, (window,) * len(spatial), axis=spatial)
            windows = windows[(slice(None, None, stride),) * len(spatial)]
            x = windows.max(axis=tuple(range(-len(spatial), 0)))
            layers[f"pool{number}"] = x
    head = variables["params"]["logits"]
    layers["logits"] = x.reshape(-1) @ head["kernel"] + head["bias"]
    return layers


def test_every_layer_is_what_a_forward_pass_by_hand_gives(rng, cnn):
    image = rng.random(cnn.image_shape, np.float32)
    names = tuple(layer.name for layer in cnn.layers)
    assert " ".join(names) == "conv1 pool1 conv2 pool2 conv3 conv4 conv5 pool5 logits"
    asked = (*names, "conv2/relu", "conv4/relu", "logits/relu")
    found = QUICK_JIT(cnn.activations, static_argnums=2)(cnn.variables, image, asked)
    assert set(found) == set(asked)
    expected = by_hand(cnn.variables, image)
    for name in asked:
        base = name.removesuffix("/relu")
        reference = expected[base] if base == name else np.maximum(expected[base], 0)
        scale = np.abs(reference).max()
        np.testing.assert_allclose(found[name], reference, atol=2e-5 * scale, err_msg=name)
        assert cnn.layer(name).shape == reference.shape
        assert cnn.layer(name).channels == reference.shape[-1]


def test_one_channel_is_that_channel_of_the_layer_for_every_layer(rng, cnn):
    image = rng.random(cnn.image_shape, np.float32)
    names = (*(layer.name for layer in cnn.layers), "conv2/relu", "conv5/relu", "logits/relu")

    @QUICK_JIT
    def read(variables, image):
        alone = {}
        for name in names:
            channels = jnp.arange(cnn.layer(name).channels)
            # The channel is data, and under vmap it is a different one for each unit.
            alone[name] = jax.vmap(cnn.one_channel, in_axes=(None, None, None, 0))(
                variables, image, name, channels
            )[name]
        return alone, cnn.activations(variables, image, names)

    alone, together = read(cnn.variables, image)
    for name in names:
        stacked = np.moveaxis(alone[name][..., 0], 0, -1)
        scale = np.abs(together[name]).max()
        assert alone[name].shape[-1] == 1
        np.testing.assert_allclose(stacked, together[name], atol=1e-5 * scale, err_msg=name)


@pytest.mark.parametrize("shape", [(140, 192, 1), (182, 218, 182, 1)], ids=["2-D", "3-D"])
def test_receptive_fields_and_strides_of_the_papers_network(shape):
    layers = []

    def trace(key, image):
        module = CNN(rank=len(shape) - 1)
        layers.extend(linen_network(module, module.init(key, image), shape).layers)

    # By shapes alone: the weights of the volume's network fill 40 MB, its activations gigabytes.
    jax.eval_shape(trace, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))
    found = {layer.name: (layer.receptive_field, layer.stride) for layer in layers}
    assert found == {
        "conv1": (3, 1),
        "pool1": (5, 1),
        "conv2": (7, 1),
        "pool2": (9, 2),
        "conv3": (13, 2),
        "conv4": (17, 2),
        "conv5": (21, 2),
        "pool5": (27, 4),
        "logits": (None, None),
    }
    operators = {layer.name: (layer.operator, layer.has_weights) for layer in layers}
    assert operators["conv5"] == ("Conv", True)
    assert operators["pool5"] == ("MaxPool", False)
    assert operators["logits"] == ("Dense", True)


def test_a_gradient_reaches_as_far_as_the_receptive_field_says_and_moves_by_the_stride(rng):
    network = random_cnn(rng, (31, 35, 1), features=(3, 4, 6, 6, 6))
    names = tuple(layer.name for layer in network.layers if layer.receptive_field is not None)

    @QUICK_JIT
    def supports(variables, images):
        def corners(image):
            """The first output of each layer, and the one after it along both axes."""
            found = network.activations(variables, image, names)
            return jnp.stack([found[name][i, i].sum() for name in names for i in (0, 1)])

        def support(image):
            outputs, pull_back = jax.vjp(corners, image)
            return jax.vmap(lambda row: pull_back(row)[0])(jnp.eye(outputs.size)) != 0

        # A maximum passes the gradient to one place; over many images to all of them.
        return jax.lax.map(support, images).any(axis=0)

    found = np.asarray(supports(network.variables, rng.random((24, 31, 35, 1), np.float32)))
    for number, name in enumerate(names):
        layer = network.layer(name)
        field, stride = layer.receptive_field, layer.stride
        for position in (0, 1):
            for axis in (0, 1):
                reached = np.flatnonzero(found[2 * number + position, :, :, 0].any(axis=1 - axis))
                assert (reached[0], reached[-1]) == (
                    position * stride,
                    position * stride + field - 1,
                ), f"{name}, output {position}, axis {axis}"


class Chain(nn.Module):
    """Four layers, of which each can be told by what it does."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(3, (3, 3), name="first")(x)
        x = nn.PReLU(name="between")(jnp.sin(x))
        x = nn.Conv(4, (3, 3), name="second")(x)
        return nn.Dense(2, name="after")(jnp.cos(x))


def test_what_lies_behind_the_target_is_not_computed(rng):
    module, shape = Chain(), (6, 7, 1)
    network = linen_network(module, random_weights(rng, module, shape), shape)
    image = jnp.zeros(shape)

    def made(function, *given):
        jaxpr = jax.make_jaxpr(function)(network.variables, image, *given)
        text = str(jaxpr)
        words = {"fast_conv[": "conv", " sin ": "sin", " cos ": "cos", "dot_general[": "dot"}
        return sorted(name for word, name in words.items() for _ in range(text.count(word)))

    for target, expected in [
        ("first", ["conv"]),
        ("first/relu", ["conv"]),
        ("between", ["conv", "sin"]),
        ("second", ["conv", "conv", "sin"]),
        ("after", ["conv", "conv", "cos", "dot", "sin"]),
    ]:
        assert made(lambda v, x, t=target: network.activations(v, x, (t,))) == expected, target
        alone = made(lambda v, x, c, t=target: network.one_channel(v, x, t, c), jnp.int32(0))
        assert alone == expected, target
    both = made(lambda v, x: network.activations(v, x, ("second", "first")))
    assert both == ["conv", "conv", "sin"]
    assert network.activations(network.variables, image, ()) == {}


def test_one_channel_computes_no_other_channel_of_the_target(rng):
    network = random_cnn(rng, (40, 44, 1), features=(2, 3, 11, 13, 17))

    def largest_last_axis(function, *arguments):
        text = str(jax.make_jaxpr(function)(network.variables, jnp.zeros((40, 44, 1)), *arguments))
        return {n for n in (11, 13, 17) if f",{n}]{{" in text or f",{n}] =" in text}

    whole = largest_last_axis(lambda v, x: network.activations(v, x, ("conv4",)))
    one = largest_last_axis(lambda v, x, c: network.one_channel(v, x, "conv4", c), jnp.int32(0))
    assert whole == {11, 13}
    assert one == {11}


class Block(nn.Module):
    """Looks like one layer of `features` channels, and mixes them."""

    features: int

    @nn.compact
    def __call__(self, x):
        return nn.LayerNorm()(nn.Conv(self.features, (3, 3))(x))


class PlainFlax(nn.Module):
    """Somebody's network: nothing of this package in it."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3), padding="VALID", name="stem")(x))
        x = nn.relu(Block(4, name="block")(x))
        x = nn.Conv(6, (3, 3), strides=(2, 2), feature_group_count=2, name="grouped")(x)
        x = nn.Conv(
            4, (3, 3), mask=np.tri(3)[..., None, None] * np.ones((3, 3, 6, 4)), name="mask"
        )(x)
        x = nn.BatchNorm(use_running_average=True, name="norm")(x)
        x = nn.Dense(5, use_bias=False, name="pointwise")(x)
        return nn.Dense(3, name="head")(x.mean(axis=(1, 2)))


def test_a_module_of_plain_flax_is_tapped_and_narrowed(rng):
    module, shape = PlainFlax(), (12, 13, 1)
    variables = random_weights(rng, module, shape)
    # A variance is not negative.
    variables = {**variables, "batch_stats": jax.tree.map(jnp.square, variables["batch_stats"])}
    network = linen_network(module, variables, shape)
    names = tuple(layer.name for layer in network.layers)
    parts = "stem block/Conv_0 block/LayerNorm_0 block grouped mask norm pointwise head"
    assert " ".join(names) == parts
    assert network.layer("stem").receptive_field == 3
    assert network.layer("mask").receptive_field == 11
    assert network.layer("mask").stride == 2

    image = jnp.asarray(rng.standard_normal(shape), jnp.float32)

    @QUICK_JIT
    def read(variables, image):
        narrowed = {}
        for name in names:
            channels = jnp.arange(network.layer(name).channels)
            narrowed[name] = jax.vmap(
                lambda channel, name=name: network.one_channel(variables, image, name, channel)[
                    name
                ]
            )(channels)
        return narrowed, network.activations(variables, image, names)

    _, state = QUICK_JIT(
        lambda v, x: module.apply(v, x, capture_intermediates=True, mutable="intermediates")
    )(variables, image[None])
    narrowed, found = read(variables, image)
    for name in names:
        captured = functools.reduce(
            lambda tree, part: tree[part], name.split("/"), state["intermediates"]
        )
        expected = np.asarray(captured["__call__"][0][0])
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-5, err_msg=name)
        alone = np.moveaxis(narrowed[name][..., 0], 0, -1)
        np.testing.assert_allclose(alone, expected, rtol=1e-4, atol=1e-5, err_msg=name)


def test_an_unknown_layer_is_answered_with_the_nearest_names(cnn):
    with pytest.raises(ValueError, match=r"no layer 'conv33'; the nearest are conv3, .*All layers"):
        cnn.layer("conv33")
    with pytest.raises(ValueError, match=r"no layer 'logit/relu'; the nearest are logits, "):
        cnn.layer("logit/relu")
    assert cnn.layer("conv3/relu").name == "conv3/relu"
    assert cnn.layer("conv3/relu")._replace(name="conv3") == cnn.layer("conv3")


def test_the_weights_are_an_argument_and_no_constant(cnn):
    image = jnp.zeros(cnn.image_shape)
    jaxpr = jax.make_jaxpr(lambda v, x: cnn.activations(v, x, ("conv2",)))(cnn.variables, image)
    assert not [leaf for leaf in jaxpr.consts if np.size(leaf) > 1]
    halved = jax.tree.map(lambda leaf: leaf / 2, cnn.variables["params"])
    variables = {**cnn.variables, "params": halved}
    one = QUICK_JIT(cnn.activations, static_argnums=2)
    original = one(cnn.variables, image, ("conv1",))["conv1"]
    np.testing.assert_allclose(one(variables, image, ("conv1",))["conv1"], original / 2, rtol=1e-6)
