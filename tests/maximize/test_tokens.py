"""Tokens of a transformer: which are places of the image, and what that changes for units."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from featvis_jax import models
from featvis_jax.data.cache import CachedVolume
from featvis_jax.data.sources import Slices
from featvis_jax.evaluation.examples import cell_box, receptive_box, top_examples
from featvis_jax.layers_table import layers_text
from featvis_jax.maximize import ascent
from featvis_jax.maximize.objectives import Unit, channel, direction, of_tokens, on_layer, strongest
from featvis_jax.maximize.recipe import Recipe
from featvis_jax.nn.tokens import Tokens
from featvis_jax.runs.objectives import ObjectiveOptions, objective

SHAPE = (8, 6, 1)
TOKENS = Tokens(2, (4, 3), 1)
QUICK_JIT = {"xla_backend_optimization_level": 0}


class Block(nn.Module):
    """Attention around a skip."""

    @nn.compact
    def __call__(self, x):
        q, k, v = (nn.Dense(4, name=name)(x) for name in "qkv")
        weights = jax.nn.softmax(q @ jnp.swapaxes(k, 1, 2))
        return x + nn.Dense(4, name="out")(weights @ v)


class Transformer(nn.Module):
    """A class token and a register in front of 12 patches, another register behind them."""

    @nn.compact
    def __call__(self, images):
        x = nn.Conv(4, (2, 2), strides=(2, 2), name="patches")(images)
        x = x.reshape(1, 12, 4)
        others = self.param("others", nn.initializers.normal(1.0), (1, 3, 4))
        x = jnp.concatenate([others[:, :2], x, others[:, 2:]], axis=1)
        x = nn.LayerNorm(name="norm")(x)
        return nn.Dense(2, name="head")(Block(name="block")(x)[:, 0])


@pytest.fixture(scope="module")
def model():
    module = Transformer()
    variables = jax.jit(module.init, compiler_options=QUICK_JIT)(
        jax.random.key(0), jnp.zeros((1, *SHAPE))
    )
    return models.from_flax(module, variables, SHAPE)


def seen(network, layer, image):
    """What a layer puts out."""
    return np.asarray(network.activations(network.variables, jnp.asarray(image), (layer,))[layer])


def test_a_flax_transformer_tells_which_tokens_are_places(model):
    network = model.network
    for name in ("norm", "block/q", "block"):
        assert network.layer(name).tokens == TOKENS, name
    assert network.layer("norm").receptive_field == network.layer("norm").stride == 2
    assert network.layer("block").receptive_field is None
    assert network.layer("patches").tokens is None
    assert network.layer("head").tokens is None
    (row,) = (line for line in layers_text(network).splitlines() if line.startswith("block "))
    assert "2 + 4 x 3 + 1" in row


def test_the_box_of_a_token_holds_the_voxels_that_change_it(model, rng):
    layer = model.network.layer("norm")
    image = rng.random(SHAPE, np.float32)
    before = seen(model.network, "norm", image)
    for number in range(TOKENS.total):
        (top, bottom), (left, right) = receptive_box(layer, (number,), SHAPE)
        outside = image + 1
        outside[top:bottom, left:right] = image[top:bottom, left:right]
        np.testing.assert_array_equal(seen(model.network, "norm", outside)[number], before[number])
        if TOKENS.place(number) is None:
            assert (bottom, right) == SHAPE[:2]
        else:
            assert (bottom - top, right - left) == (2, 2)
            assert cell_box(layer, (number,), SHAPE).tolist() == [[top, bottom], [left, right]]
            inside = image.copy()
            inside[top, left] += 1
            assert (seen(model.network, "norm", inside)[number] != before[number]).any()


@pytest.mark.parametrize("options", [{}, {"objective": "direction"}, {"pooling": "strongest"}])
def test_a_channel_is_about_the_tokens_that_are_places(model, rng, options):
    vector = np.array([0, 1, 0, 0])
    given = options | ({"direction": vector} if "objective" in options else {})
    chosen = objective(model, "block", ObjectiveOptions(**given), pooling="mean")
    activation = rng.normal(size=(15, 4)).astype(np.float32)
    unit = Unit(jnp.int32(0 if "objective" in options else 1))
    plain = direction("block", vector) if "objective" in options else channel("block")
    plain = strongest(plain) if "pooling" in options else plain
    some = {"block": jnp.asarray(activation[2:14])}
    image = jnp.zeros(SHAPE)
    found = {"block": jnp.asarray(activation)}
    expected = plain.value(some, image, unit)
    np.testing.assert_allclose(chosen.value(found, image, unit), expected, rtol=1e-6)
    assert float(chosen.response(found, image, unit)) == activation[2:14, 1].max()
    ascent.check(Recipe(chosen), network=model.network)


@pytest.mark.parametrize(
    ("position", "number"), [((3, 1), 12), (None, 2 + 2 * 3 + 1), ((0,), 0), ((14,), 14)]
)
def test_a_neuron_is_named_by_its_place_or_by_its_number(model, rng, position, number):
    options = ObjectiveOptions(objective="neuron", position=position)
    chosen = objective(model, "block", options, pooling="mean")
    ascent.check(Recipe(chosen), network=model.network)
    activation = rng.normal(size=(15, 4)).astype(np.float32)
    value = chosen.value({"block": jnp.asarray(activation)}, jnp.zeros(SHAPE), Unit(jnp.int32(3)))
    assert float(value) == activation[number, 3]


def test_a_place_that_is_not_on_the_grid_of_tokens_is_refused(model):
    options = ObjectiveOptions(objective="neuron", position=(1, 3))
    with pytest.raises(ValueError, match=r"`position=1,3`: .* 4 x 3: .* from 0 to 14"):
        objective(model, "block", options, pooling="mean")
    with pytest.raises(ValueError, match=r"'patches' of shape \(4, 3, 4\) has no token 1"):
        ascent.check(Recipe(of_tokens(channel("patches"), first=0, stop=2)), network=model.network)
    with pytest.raises(ValueError, match="expected 0 <= first < stop"):
        of_tokens(channel("block"), first=2, stop=2)


def test_a_mask_weighs_the_tokens_under_it_and_no_others(model):
    mask = np.zeros(SHAPE[:2])
    mask[2:4, :3] = 1
    weights = on_layer(mask, model.network, "block")
    expected = np.zeros((4, 3))
    expected[1, :2] = 1, 0.5
    np.testing.assert_allclose(weights, np.pad(expected.ravel(), (2, 1)))


def test_real_images_are_ranked_by_the_tokens_that_are_places(model, rng, tmp_path):
    volumes = []
    for number in range(3):
        np.save(tmp_path / f"{number}.npy", rng.random((1, *SHAPE[:2])).astype(np.float16))
        path = tmp_path / f"{number}.npy"
        volumes.append(CachedVolume(f"sub-{number}", path, (1, *SHAPE[:2]), np.ones(1), ""))
    images = Slices(volumes, SHAPE[:2])
    found = top_examples(model.network, "block", images, count=3, batch_size=2)
    outputs = np.stack([seen(model.network, "block", images[i])[2:14] for i in range(3)])
    order = np.argsort(-outputs.mean(axis=1), axis=0).T
    np.testing.assert_array_equal(found.image, order)
    places = 2 + outputs.argmax(axis=1).T
    np.testing.assert_array_equal(found.place[..., 0], np.take_along_axis(places, order, axis=1))
    np.testing.assert_allclose(found.largest, outputs.max(axis=(0, 1)), rtol=1e-5)
