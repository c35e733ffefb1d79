"""Selectivity against SciPy's t of pairs."""

import jax
import numpy as np
import pytest
from scipy import stats

from featvis_jax.evaluation.selectivity import Selective, class_effects, most_selective
from featvis_jax.nn.cnn import CNN
from featvis_jax.nn.network import Network
from featvis_jax.nn.tracing import linen_network


@pytest.mark.parametrize("shape", [(34, 36, 1), (34, 35, 36, 1)])
def test_the_effects_are_scipys_t_by_the_root_of_the_pairs(shape, rng):
    module = CNN(rank=len(shape) - 1, features=(2, 3, 3, 3, 3))
    variables = jax.jit(module.init)(jax.random.key(0), jax.numpy.zeros(shape))
    network = linen_network(module, variables, shape)
    images = rng.uniform(size=(10, *shape)).astype(np.float32)
    labels = np.array([0, 1] * 5, np.int32)
    images[1::2] += 0.05
    cut = slice(None, 6), slice(6, None)  # The last batch is smaller.
    batches = [{"image": images[each], "label": labels[each]} for each in cut]
    found = class_effects(network, ["conv2", "conv3"], batches)
    one = jax.jit(lambda image: network.activations(variables, image, ("conv2", "conv3")))
    activations = [one(image) for image in images]
    for layer, effects in found.items():
        values = np.array(
            [np.asarray(each[layer]).reshape(-1, 3).mean(axis=0) for each in activations]
        )
        t = stats.ttest_rel(values[1::2], values[::2]).statistic
        np.testing.assert_allclose(effects, t / np.sqrt(5), rtol=1e-3)


def test_only_channels_in_the_direction_of_a_concept_are_kept():
    effects = np.array([-0.6, 0.9, 0.0, 0.2, 0.95])
    one = most_selective(effects, best=2, concepts=(1,))
    assert [each.channel for each in one] == [4, 1]
    both = most_selective(effects, best=9, concepts=(0, 1))
    assert [each.channel for each in both] == [4, 1, 0, 3]
    assert both[2] == Selective(0, 0, 0.6)
    among = most_selective(effects, best=2, concepts=(1,), among=[0, 2, 3])
    assert [each.channel for each in among] == [3]


def test_a_channel_that_anatomy_moves_far_more_is_found(rng):
    # Across people the areas under the curve are near a half; within pairs there is no doubt.
    anatomy = rng.normal(size=(40, 1, 1)) * [[10.0, 10.0]]
    lesion = np.array([[0.0, 0.0], [0.5, 0.0]])
    means = (anatomy + lesion + 0.1 * rng.normal(size=(40, 2, 2))).reshape(80, 2)
    network = Network(lambda v, image, layers: {"a": image[0]}, None, {}, (1, 1, 2), ())
    labels = np.tile(np.array([0, 1], np.int32), 40)
    batch = {"image": means.reshape(80, 1, 1, 2).astype(np.float32), "label": labels}
    effects = class_effects(network, ["a"], [batch])["a"]
    assert effects[0] > 3 > 0.5 > abs(effects[1])


def test_images_that_are_no_pairs_are_refused():
    module = CNN(rank=2, features=(2, 3, 3, 3, 3))
    variables = jax.jit(module.init)(jax.random.key(0), jax.numpy.zeros((34, 36, 1)))
    network = linen_network(module, variables, (34, 36, 1))
    for labels in ([0, 0, 0], [1, 0], [0, 0]):
        images = np.zeros((len(labels), 34, 36, 1), np.float32)
        with pytest.raises(ValueError, match="expected pairs"):
            class_effects(
                network, ["conv1"], [{"image": images, "label": np.array(labels, np.int32)}]
            )
