"""The paper's CNN against the same network written with Flax's own layers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from scipy import special

from featvis_jax.nn.cnn import CNN

# Compiling takes nearly all of the time here, and what is compiled runs once.
QUICK_JIT = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
SMALL = (2, 3, 4, 4, 4)
SLICE, VOLUME = (40, 44, 1), (28, 29, 30, 1)


class FlaxReference(nn.Module):
    """The architecture as the paper lists it, with `flax.linen`'s layers and names of our own."""

    rank: int
    features: tuple[int, ...] = SMALL
    padding: str = "VALID"

    @nn.compact
    def __call__(self, x):
        pools = {1: (3, 1), 2: (3, 2), 5: (4, 2)}
        for number, features in enumerate(self.features, start=1):
            window = (3,) * self.rank
            x = nn.relu(nn.Conv(features, window, padding=self.padding, name=f"conv{number}")(x))
            if number in pools:
                window, stride = pools[number]
                x = nn.max_pool(x, (window,) * self.rank, (stride,) * self.rank)
        return nn.Dense(2, name="logits")(x.reshape(x.shape[0], -1))


def random_variables(rng, module, shape):
    """Weights that let every layer, the head included, do something."""

    def draw(leaf):
        scale = np.sqrt(2 / max(np.prod(leaf.shape[:-1]), 1))
        return jnp.asarray(scale * rng.standard_normal(leaf.shape), jnp.float32)

    shapes = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, "float32"))
    statistics = {"mean": jnp.float32(0.4), "std": jnp.float32(0.25)}
    return {"params": jax.tree.map(draw, shapes["params"]), "statistics": statistics}


def output_shapes(module, shape):
    """Shapes of all layers' outputs and of the parameters, without computing anything."""

    def run(key, image):
        variables = module.init(key, image)
        _, state = module.apply(
            variables, image, capture_intermediates=True, mutable="intermediates"
        )
        return state["intermediates"], variables["params"]

    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    captured, parameters = jax.eval_shape(run, jax.random.key(0), image)
    layers = {
        name: output["__call__"][0].shape[1:]
        for name, output in captured.items()
        if name != "__call__"
    }
    return layers, jax.tree.map(lambda leaf: leaf.shape, parameters)


def test_shapes_of_the_papers_network_on_a_slice():
    layers, parameters = output_shapes(CNN(rank=2), (140, 192, 1))
    assert layers == {
        "conv1": (138, 190, 8),
        "pool1": (136, 188, 8),
        "conv2": (134, 186, 16),
        "pool2": (66, 92, 16),
        "conv3": (64, 90, 32),
        "conv4": (62, 88, 64),
        "conv5": (60, 86, 64),
        "pool5": (29, 42, 64),
        "logits": (2,),
    }
    assert parameters["conv1"] == {"kernel": (3, 3, 1, 8), "bias": (8,)}
    assert parameters["conv5"] == {"kernel": (3, 3, 64, 64), "bias": (64,)}
    assert parameters["logits"] == {"kernel": (29 * 42 * 64, 2), "bias": (2,)}


def test_shapes_of_the_papers_network_on_a_volume():
    layers, parameters = output_shapes(CNN(rank=3), (182, 218, 182, 1))
    assert layers == {
        "conv1": (180, 216, 180, 8),
        "pool1": (178, 214, 178, 8),
        "conv2": (176, 212, 176, 16),
        "pool2": (87, 105, 87, 16),
        "conv3": (85, 103, 85, 32),
        "conv4": (83, 101, 83, 64),
        "conv5": (81, 99, 81, 64),
        "pool5": (39, 48, 39, 64),
        "logits": (2,),
    }
    assert parameters["conv2"] == {"kernel": (3, 3, 3, 8, 16), "bias": (16,)}
    assert parameters["logits"]["kernel"] == (39 * 48 * 39 * 64, 2)


def test_same_padding_and_averaging_head_change_the_shapes_as_they_should():
    module = CNN(rank=2, features=SMALL, padding="SAME", head="mean", num_classes=3)
    layers, parameters = output_shapes(module, SLICE)
    assert layers["conv1"] == (40, 44, 2)
    assert layers["pool1"] == (38, 42, 2)
    assert layers["pool2"] == (18, 20, 3)
    assert layers["conv5"] == (18, 20, 4)
    assert layers["logits"] == (3,)
    assert parameters["logits"]["kernel"] == (4, 3)


@pytest.mark.parametrize("shape", [SLICE, VOLUME], ids=["2-D", "3-D"])
def test_logits_are_those_of_flax_on_the_standardized_image(rng, shape):
    module = CNN(rank=len(shape) - 1, features=SMALL)
    variables = random_variables(rng, module, shape)
    images = rng.random((2, *shape), np.float32)
    logits = QUICK_JIT(module.apply)(variables, images)

    standardized = (images - np.float32(0.4)) / np.float32(0.25)
    reference = FlaxReference(rank=len(shape) - 1)
    expected = QUICK_JIT(reference.apply)({"params": variables["params"]}, standardized)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    alone = QUICK_JIT(module.apply)(variables, images[1])
    assert alone.shape == (2,)
    np.testing.assert_allclose(alone, logits[1], rtol=1e-4, atol=1e-4)


def test_gradients_of_all_weights_are_those_of_flax(rng):
    module = CNN(rank=2, features=SMALL)
    variables = random_variables(rng, module, SLICE)
    images = jnp.asarray(rng.random((3, *SLICE), np.float32))
    standardized = (images - np.float32(0.4)) / np.float32(0.25)

    def loss(logits):
        return jnp.mean(jnp.square(logits - 1))

    gradient = QUICK_JIT(
        jax.grad(lambda p: loss(module.apply({**variables, "params": p}, images)))
    )(variables["params"])
    expected = QUICK_JIT(
        jax.grad(lambda p: loss(FlaxReference(rank=2).apply({"params": p}, standardized)))
    )(variables["params"])
    for (path, leaf), reference in zip(
        jax.tree_util.tree_leaves_with_path(gradient), jax.tree.leaves(expected), strict=True
    ):
        scale = float(jnp.abs(reference).max())
        assert scale > 0, path
        np.testing.assert_allclose(
            leaf, reference, atol=1e-4 * scale, err_msg=jax.tree_util.keystr(path)
        )


@pytest.mark.parametrize("head", ["mean", "max"])
def test_a_head_reduces_each_channel_over_space(rng, head):
    module = CNN(rank=2, features=SMALL, head=head)
    variables = random_variables(rng, module, SLICE)
    image = rng.random(SLICE, np.float32)
    logits, state = QUICK_JIT(
        lambda v, x: module.apply(v, x, capture_intermediates=True, mutable="intermediates")
    )(variables, image)
    features = np.asarray(state["intermediates"]["pool5"]["__call__"][0][0], np.float64)
    dense = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"]["logits"])
    expected = getattr(features, head)(axis=(0, 1)) @ dense["kernel"] + dense["bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


def test_a_head_of_places_adds_up_in_places_alone(rng):
    module = CNN(rank=2, features=SMALL, head="places")
    variables = random_variables(rng, module, SLICE)
    image = rng.random(SLICE, np.float32)
    logits, state = QUICK_JIT(
        lambda v, x: module.apply(v, x, capture_intermediates=True, mutable="intermediates")
    )(variables, image)
    assert "pool5" not in state["intermediates"]
    features = np.asarray(state["intermediates"]["conv5"]["__call__"][0][0], np.float64)
    dense = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"]["logits"])
    of_places = (np.maximum(features, 0) @ dense["kernel"] + dense["bias"]).reshape(-1, 2)
    expected = special.logsumexp(of_places, axis=0) - np.log(len(of_places))
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    assert of_places.std() > 0.1, "or a mean would be as good"


def test_a_new_network_predicts_nothing_and_standardizes_by_nothing():
    module = CNN(rank=2, features=(64,), pools=((2, 2),))
    variables = QUICK_JIT(module.init)(jax.random.key(0), jnp.zeros((8, 8, 1)))
    assert set(variables) == {"params", "statistics"}
    assert float(variables["statistics"]["mean"]) == 0
    assert float(variables["statistics"]["std"]) == 1
    assert not variables["params"]["logits"]["kernel"].any()
    assert not variables["params"]["conv1"]["bias"].any()
    # He's rule for a ReLU: variance 2 / fan-in. The standard error over 576 draws is 3 %.
    kernel = variables["params"]["conv1"]["kernel"]
    assert float(kernel.std() / np.sqrt(2 / (3 * 3 * 1))) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({"rank": 2}, (40, 1), r"2-D network.*input has shape \(40, 1\)"),
        ({"rank": 2}, (1, 28, 28, 28, 1), r"2-D network.*\(1, 28, 28, 28, 1\)"),
        ({"rank": 3}, (40, 44, 1), r"3-D network.*\(40, 44, 1\)"),
        ({"rank": 2, "head": "sum"}, SLICE, r"head is 'sum'; expected one of flatten, mean, max"),
        ({"rank": 2}, (26, 40, 1), r"window.* shape .*larger input grid"),
        ({"rank": 2, "padding": "FULL"}, SLICE, r"padding is 'FULL'"),
    ],
)
def test_wrong_input_and_options_are_refused(options, shape, message):
    module = CNN(features=SMALL, **options)
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(module.init, jax.random.key(0), image)


def test_the_smallest_image_is_the_receptive_field_of_the_last_pooling():
    layers, _ = output_shapes(CNN(rank=2, features=SMALL), (27, 27, 1))
    assert layers["pool5"] == (1, 1, 4)
