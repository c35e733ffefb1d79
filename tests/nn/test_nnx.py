"""NNX modules: what they compute, beside the same network in Linen, and what is left as it was."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

from featvis_jax.maximize import ascent, objectives, parameterizations
from featvis_jax.maximize.layer import visualize
from featvis_jax.nn.tracing import linen_network, nnx_network

QUICK_JIT = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
SHAPE = (14, 13, 2)


class LinenNet(nn.Module):
    """Convolutions, batch normalization, a pooling and a head."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), padding="VALID", name="conv1")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True, name="norm")(x))
        x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = nn.Conv(5, (3, 3), name="conv2")(x)
        return nn.Dense(3, name="head")(nn.relu(x).mean(axis=(1, 2)))


class NnxNet(nnx.Module):
    """The same."""

    def __init__(self, rngs):
        self.conv1 = nnx.Conv(2, 4, (3, 3), padding="VALID", rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.conv2 = nnx.Conv(4, 5, (3, 3), rngs=rngs)
        self.head = nnx.Linear(5, 3, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.conv1(x)))
        x = self.dropout(nnx.max_pool(x, (2, 2), strides=(2, 2)))
        return self.head(nnx.relu(self.conv2(x)).mean(axis=(1, 2)))


@pytest.fixture(scope="module")
def pair():
    """Both networks, with the same drawn weights, and the NNX module."""
    rng = np.random.default_rng(2)
    model = NnxNet(nnx.Rngs(0))
    for _, value in nnx.iter_graph(model):
        if isinstance(value, (nnx.Param, nnx.BatchStat)):
            drawn = rng.uniform(0.2, 1.2, value.shape) - 0.3 * (value.ndim > 1)
            value.set_value(jnp.asarray(drawn, jnp.float32))
    params = {
        name: {"kernel": layer.kernel[...], "bias": layer.bias[...]}
        for name, layer in (("conv1", model.conv1), ("conv2", model.conv2), ("head", model.head))
    }
    params["norm"] = {"scale": model.norm.scale[...], "bias": model.norm.bias[...]}
    statistics = {"norm": {"mean": model.norm.mean[...], "var": model.norm.var[...]}}
    variables = {"params": params, "batch_stats": statistics}
    return linen_network(LinenNet(), variables, SHAPE), nnx_network(model, SHAPE), model


def test_layers_are_named_by_attributes_and_reach_as_far_as_in_linen(pair):
    linen, ours, _ = pair
    assert " ".join(layer.name for layer in ours.layers) == "conv1 norm dropout conv2 head"
    without = [layer for layer in ours.layers if layer.name != "dropout"]
    for one, other in zip(linen.layers, without, strict=True):
        assert other._replace(operator=one.operator) == one
    assert ours.layer("conv2").receptive_field == 8
    assert ours.layer("conv2").stride == 2
    assert ours.layer("head").operator == "Linear"
    assert not ours.layer("dropout").has_weights


def test_every_layer_and_every_single_channel_is_as_in_linen(rng, pair):
    linen, ours, _ = pair
    image = jnp.asarray(rng.standard_normal(SHAPE), jnp.float32)
    names = (*(layer.name for layer in linen.layers), "conv2/relu")

    @functools.partial(QUICK_JIT, static_argnums=0)
    def read(network, variables, image):
        alone = {
            name: jax.vmap(network.one_channel, in_axes=(None, None, None, 0))(
                variables, image, name, jnp.arange(network.layer(name).channels)
            )[name]
            for name in names
        }
        return network.activations(variables, image, names), alone

    functions = [n._replace(variables=(), layers=n.layers) for n in (linen, ours)]
    expected, expected_alone = read(functions[0], linen.variables, image)
    found, alone = read(functions[1], ours.variables, image)
    for name in names:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(alone[name], expected_alone[name], rtol=1e-5, atol=1e-5)
        stacked = np.moveaxis(np.asarray(alone[name])[..., 0], 0, -1)
        np.testing.assert_allclose(stacked, found[name], rtol=1e-4, atol=1e-4)


@pytest.mark.optax
def test_the_images_of_the_same_seed_are_as_in_linen(pair):
    linen, ours, _ = pair
    recipe = ascent.Recipe(
        objective=objectives.channel("conv2"),
        parameterization=parameterizations.pixels(),
        optimizer=optax.adam(0.02),
        steps=4,
    )
    expected = list(visualize(linen, recipe, "conv2", [0, 3], batch_size=2))
    found = list(visualize(ours, recipe, "conv2", [0, 3], batch_size=2))
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(one.image, other.image, atol=1e-5)
        assert other.final_objective > other.initial_objective


def test_the_model_is_left_as_it_was_and_nothing_leaks(rng, pair):
    _, network, model = pair
    classes = {path: type(module) for path, module in nnx.iter_modules(model)}
    image = jnp.asarray(rng.standard_normal(SHAPE), jnp.float32)
    sum_of_layer = jax.grad(lambda x, v: network.activations(v, x, ("conv2",))["conv2"].sum())
    gradient = QUICK_JIT(sum_of_layer)(image, network.variables)
    # A tracer that had stayed behind in a module would be refused now.
    np.testing.assert_allclose(sum_of_layer(image, network.variables), gradient, rtol=1e-4)
    one = network.one_channel(network.variables, image, "conv2", jnp.int32(1))["conv2"]
    whole = network.activations(network.variables, image, ("conv2",))["conv2"]
    np.testing.assert_allclose(one, whole[..., 1:2], rtol=1e-4, atol=1e-5)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0
    assert {path: type(module) for path, module in nnx.iter_modules(model)} == classes
    assert NnxNet(nnx.Rngs(1)).conv1.kernel.shape == model.conv1.kernel.shape
    assert model.conv2.kernel.shape == (3, 3, 4, 5)
    assert not model.dropout.deterministic  # Still as in training; the network is in evaluation.
    assert isinstance(model.conv1.kernel[...], jax.Array)


class Blocks(nnx.Module):
    """A list of blocks, one of them used twice."""

    def __init__(self, rngs):
        self.blocks = nnx.List([nnx.Conv(2, 2, (3, 3), rngs=rngs) for _ in range(2)])

    def __call__(self, x):
        x = self.blocks[0](x)
        return self.blocks[1](self.blocks[0](x))


def test_paths_and_repeated_calls(rng):
    model = Blocks(nnx.Rngs(0))
    network = nnx_network(model, SHAPE)
    names = ("blocks/0", "blocks/0@2", "blocks/1")
    assert tuple(layer.name for layer in network.layers) == names
    assert [layer.receptive_field for layer in network.layers] == [3, 5, 7]
    image = jnp.asarray(rng.standard_normal(SHAPE), jnp.float32)
    first = model.blocks[0](image[None])
    second = model.blocks[0](first)
    expected = {"blocks/0": first, "blocks/0@2": second, "blocks/1": model.blocks[1](second)}
    found = network.activations(network.variables, image, (*names, "blocks/0@2/relu"))
    for name in names:
        np.testing.assert_allclose(found[name], expected[name][0], rtol=1e-5, atol=1e-6)
        one = network.one_channel(network.variables, image, name, jnp.int32(1))[name]
        np.testing.assert_allclose(one[..., 0], expected[name][0, ..., 1], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found["blocks/0@2/relu"], nnx.relu(found["blocks/0@2"]))


class Jitted(nnx.Module):
    """A forward pass under a jit of its own, with a block that is rematerialized."""

    def __init__(self, rngs):
        self.stem = nnx.Conv(2, 3, (3, 3), rngs=rngs)
        self.block = nnx.Conv(3, 3, (3, 3), rngs=rngs)

    @nnx.jit
    def __call__(self, x):
        return nnx.remat(lambda block, x: block(x))(self.block, nnx.relu(self.stem(x)))


def test_neither_a_jit_nor_a_remat_hides_a_layer(rng):
    model = Jitted(nnx.Rngs(0))
    network = nnx_network(model, SHAPE)
    fields = [(layer.name, layer.receptive_field) for layer in network.layers]
    assert fields == [("stem", 3), ("block", 5)]
    image = jnp.asarray(rng.standard_normal(SHAPE), jnp.float32)
    read = QUICK_JIT(lambda v, x: network.activations(v, x, ("stem", "block")))
    found = read(network.variables, image)
    np.testing.assert_allclose(found["stem"], model.stem(image[None])[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["block"], model(image[None])[0], rtol=1e-5, atol=1e-6)
