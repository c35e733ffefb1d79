"""How strongly real inputs drive units: against a plain loop over images and units."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from featvis_jax.maximize import objectives
from featvis_jax.maximize.objectives import channel
from featvis_jax.maximize.reference import Asked, reference_responses, unit_responses
from featvis_jax.nn.cnn import CNN
from featvis_jax.nn.network import Network
from featvis_jax.nn.tracing import linen_network

SHAPES = {2: (14, 13, 1), 3: (11, 10, 9, 1)}


@pytest.fixture(scope="module", params=SHAPES)
def network(request):
    module = CNN(rank=request.param, head="mean", features=(2, 3), pools=((3, 1), None))
    shape = SHAPES[request.param]
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros(shape))
    return linen_network(module, variables, shape)


def test_every_unit_has_its_largest_activation_of_every_image(network, rng):
    images = rng.random((5, *network.image_shape)).astype(np.float32)
    shape = network.layer("conv2").shape
    mask = np.zeros(shape[:-1])
    mask[1:3] = 0.5
    asked = {
        "conv1": Asked(-channel("conv1"), [1]),
        "conv2": Asked(objectives.neuron("conv2"), [2, 0, 1]),
        "logits": Asked(objectives.logit_difference("logits"), [0, 1]),
        "masked": Asked(objectives.attention("conv2", mask), [0, 2]),
        "layer": Asked(objectives.layer("conv2"), [0]),
        "varied": Asked(channel("conv2") + 2 * objectives.diversity("conv2"), [2]),
    }
    seen = []
    # The batch does not divide the images.
    found = unit_responses(network, asked, iter(images), batch_size=2, progress=seen.append)
    assert seen == [2, 4, 5]
    names = ("conv1", "conv2", "logits")
    one = jax.jit(lambda image: network.activations(network.variables, image, names))
    for number, image in enumerate(images):
        a = {name: np.asarray(values, np.float64) for name, values in one(image).items()}
        axes = tuple(range(len(shape) - 1))
        largest, logits = a["conv2"].max(axis=axes), a["logits"]
        expected = {
            "conv1": [-a["conv1"][..., 1].min()],
            "conv2": largest[[2, 0, 1]],
            "logits": [logits[0] - logits[1], logits[1] - logits[0]],
            "masked": a["conv2"][1:3].max(axis=axes)[[0, 2]],
            "layer": [np.square(a["conv2"]).mean()],
            "varied": largest[[2]],
        }
        for name, values in expected.items():
            np.testing.assert_allclose(found[name][number], values, rtol=1e-5, atol=1e-6)
    for percentile in (100.0, 60.0):
        reference = reference_responses(network, asked, images, percentile=percentile)
        for name, responses in found.items():
            by_hand = np.percentile(responses.astype(np.float64), percentile, axis=0)
            np.testing.assert_allclose(reference[name], by_hand, rtol=1e-5, atol=1e-6)
            assert reference[name].dtype == np.float32


def test_a_layer_is_computed_once_whatever_its_number_of_units():
    calls = []

    def activations(variables, image, layers):
        calls.append(layers)
        return {name: image for name in layers}

    network = Network(activations, None, {}, (4, 5, 3), ())
    images = np.zeros((7, 4, 5, 3), np.float32)
    asked = {"a": Asked(channel("a"), [0, 1, 2]), "b": Asked(channel("b"), [0, 1])}
    reference_responses(network, asked, images, batch_size=3)
    assert calls == [("a", "b")]


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (np.zeros((2, 4, 5, 3)), {"percentile": 0.0}, "percentile is 0.0"),
        (np.zeros((2, 4, 5, 3)), {"batch_size": 0}, "batch_size is 0"),
        (np.zeros((0, 4, 5, 3)), {}, "There is no image"),
        (np.zeros((2, 5, 4, 3)), {}, r"of shape \(5, 4, 3\), the network takes \(4, 5, 3\)"),
        (np.full((2, 4, 5, 3), np.inf), {}, "not finite for one of images 0 to 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(images, options, message):
    network = Network(lambda v, image, layers: {"a": image}, None, {}, (4, 5, 3), ())
    with pytest.raises(ValueError, match=message):
        reference_responses(network, {"a": Asked(channel("a"), [0])}, images, **options)


def test_what_needs_several_variants_has_no_reference():
    between = objectives.interpolation(channel("a"), channel("a").of(1), share=None)
    network = Network(lambda v, image, layers: {"a": image}, None, {}, (4, 5, 3), ())
    with pytest.raises(ValueError, match="several variants of a unit together"):
        reference_responses(network, {"a": Asked(between, [0])}, np.zeros((2, 4, 5, 3)))
