"""Real images that drive a channel, against a forward pass and a ranking in NumPy float64."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from featvis_jax.data.cache import CachedVolume
from featvis_jax.data.sources import Slices, Source, Volumes
from featvis_jax.evaluation.examples import receptive_box, top_examples
from featvis_jax.nn.cnn import CNN
from featvis_jax.nn.tracing import linen_network

SHAPES = {2: (14, 12), 3: (11, 10, 9)}
MEAN, STD = 0.4, 0.25
both_ranks = pytest.mark.parametrize("rank", [2, 3])


@functools.cache
def network_of(rank: int, **options):
    """A network with drawn weights and three small layers of convolutions."""
    options = {"features": (2, 3), "pools": ((3, 1), (2, 2)), **options}
    module = CNN(rank=rank, head="mean", **options)
    shape = (*SHAPES[rank], 1)
    drawn = np.random.default_rng(5)
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(drawn.normal(size=leaf.shape), jnp.float32),
        jax.eval_shape(module.init, jax.random.key(0), jnp.zeros(shape)),
    )
    variables["statistics"] = {"mean": jnp.float32(MEAN), "std": jnp.float32(STD)}
    return linen_network(module, variables, shape)


@pytest.fixture
def source(request, tmp_path: Path, rng: np.random.Generator) -> Source:
    """Four subjects; as slices the first has five, the others two to four."""
    rank = request.param
    volumes = []
    for number, usable in enumerate((5, 2, 4, 3)):
        depth = 6 if rank == 2 else SHAPES[3][2]
        data = rng.random((depth, *SHAPES[rank][:2])).astype(np.float16)
        path = tmp_path / f"{number}.npy"
        np.save(path, data)
        fraction = np.array([1.0] * usable + [0.0] * (depth - usable))
        volumes.append(CachedVolume(f"sub-{number}", path, data.shape, fraction, ""))
    return Slices(volumes, SHAPES[2]) if rank == 2 else Volumes(volumes, SHAPES[3])


def by_hand(network, layer: str, image: np.ndarray) -> np.ndarray:
    """The layer's output in float64, with windows that NumPy cuts out."""
    weights = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), network.variables)["params"]
    spatial = tuple(range(image.ndim - 1))
    x = (image.astype(np.float64) - MEAN) / STD
    for number, (window, stride) in ((1, (3, 1)), (2, (2, 2))):
        windows = sliding_window_view(x, (3,) * len(spatial), axis=spatial)
        windows = np.moveaxis(windows, len(spatial), -1)
        x = np.tensordot(windows, weights[f"conv{number}"]["kernel"], len(spatial) + 1)
        x = x + weights[f"conv{number}"]["bias"]
        if layer.startswith(f"conv{number}"):
            return np.maximum(x, 0) if layer.endswith("/relu") else x
        windows = sliding_window_view(np.maximum(x, 0), (window,) * len(spatial), axis=spatial)
        x = windows[(slice(None, None, stride),) * len(spatial)]
        x = x.max(axis=tuple(range(-len(spatial), 0)))
        if layer == f"pool{number}":
            return x
    return x.mean(axis=spatial) @ weights["logits"]["kernel"] + weights["logits"]["bias"]


def expected_ranking(outputs: list[np.ndarray], owners: list[str], channel: int, rank_by: str):
    """``[(score, image, place)]`` of one channel, the strongest of each owner, strongest first."""
    rows = []
    for image, output in enumerate(outputs):
        values = output[..., channel]
        score = values.mean() if rank_by == "mean" else values.max()
        rows.append((score, image, np.unravel_index(values.argmax(), values.shape)))
    rows.sort(key=lambda row: -row[0])
    seen, kept = set(), []
    for row in rows:
        if owners[row[1]] not in seen:
            seen.add(owners[row[1]])
            kept.append(row)
    return kept


@pytest.mark.parametrize("source", [2, 3], indirect=True, ids=["2-D", "3-D"])
@pytest.mark.parametrize("layer", ["conv1", "conv2/relu", "pool2", "logits"])
@pytest.mark.parametrize("rank_by", ["mean", "largest"])
def test_the_ranking_is_that_of_all_images_by_hand(source, layer, rank_by):
    network = network_of(source[0].ndim - 1)
    found = top_examples(network, layer, source, count=3, rank_by=rank_by, batch_size=3)
    outputs = [by_hand(network, layer, source[i]) for i in range(len(source))]
    owners = [source.owner(i) for i in range(len(source))]
    channels, rank = outputs[0].shape[-1], outputs[0].ndim - 1
    assert found.score.shape == found.image.shape == (channels, 3)
    assert found.place.shape == (channels, 3, rank)
    largest = np.max([output.reshape(-1, channels).max(axis=0) for output in outputs], axis=0)
    np.testing.assert_allclose(found.largest, largest, rtol=1e-4)
    for channel in range(channels):
        ranking = expected_ranking(outputs, owners, channel, rank_by)[:3]
        np.testing.assert_allclose(found.score[channel], [row[0] for row in ranking], rtol=1e-4)
        assert found.image[channel].tolist() == [row[1] for row in ranking]
        assert [tuple(place) for place in found.place[channel]] == [row[2] for row in ranking]
        assert len({owners[image] for image in found.image[channel]}) == 3


@pytest.mark.parametrize("source", [2], indirect=True)
@pytest.mark.parametrize("batch_size", [1, 5, 14, 40])
def test_the_batch_size_changes_nothing_and_is_compiled_once(source, batch_size):
    network = network_of(2)
    expected = top_examples(network, "conv2", source, count=9, batch_size=4)
    assert expected.score.shape == (3, 4), "there are four subjects"
    traces, calls = [], []

    def activations(variables, images, layers):
        traces.append(images.shape)  # Python runs this once for each program that is compiled.
        return network.activations(variables, images, layers)

    found = top_examples(
        network._replace(activations=activations),
        "conv2",
        source,
        count=9,
        batch_size=batch_size,
        progress=lambda *numbers: calls.append(numbers),
    )
    assert len(traces) == 1
    np.testing.assert_array_equal(found.image, expected.image)
    np.testing.assert_array_equal(found.place, expected.place)
    np.testing.assert_allclose(found.score, expected.score, rtol=1e-5)
    ends = [min(end + batch_size, 14) for end in range(0, 14, batch_size)]
    assert calls == [(end, 14) for end in ends]


@pytest.mark.parametrize("source", [2], indirect=True)
def test_of_equal_images_the_first_is_kept(source):
    network = network_of(2)
    same = dataclasses.replace(source, volumes=[source.volumes[0]] * 3)
    blank = np.zeros(source.volumes[0].shape, np.float16)
    np.save(source.volumes[0].path, blank)
    found = top_examples(network, "conv1", same, count=2, batch_size=4)
    assert (found.image == 0).all()
    assert found.score.shape == (2, 1), "the three are one subject"


@both_ranks
def test_a_box_holds_the_voxels_that_change_an_output_and_no_others(rank, rng):
    """In a network without padding, by changing every plane along each axis."""
    network = network_of(rank)
    spatial = SHAPES[rank]
    reaches = {"conv1": (3, 1), "pool1": (5, 1), "conv2": (7, 1), "pool2": (8, 2)}
    names = tuple(reaches)
    read = jax.jit(
        jax.vmap(lambda image: network.activations(network.variables, image, names)),
        compiler_options={"xla_backend_optimization_level": 0},
    )
    image = rng.random((*spatial, 1), np.float32)
    # Some of many large numbers win every maximum that they enter.
    draws = 1000 * rng.normal(size=(12, *spatial, 1)).astype(np.float32)
    before = jax.device_get(read(image[None]))
    for axis in range(rank):
        voxels = np.arange(spatial[axis]).reshape(-1, *[1] * (rank - axis))
        planes = [np.where(voxels == voxel, draws, image) for voxel in range(spatial[axis])]
        after = jax.device_get([read(plane) for plane in planes])
        for name in names:
            field, stride = reaches[name]
            layer = network.layer(name)._replace(receptive_field=field, stride=stride)
            for place in np.ndindex(layer.shape[:-1]):
                reached = [
                    bool((changed[name][(slice(None), *place)] != before[name][(0, *place)]).any())
                    for changed in after
                ]
                first, stop = receptive_box(layer, place, network.image_shape)[axis]
                assert np.flatnonzero(reached).tolist() == list(range(first, stop))


def test_a_box_is_cut_at_the_border_of_a_padded_network():
    network = network_of(2, padding="SAME", pools=(None, None))
    layer = network.layer("conv2")._replace(receptive_field=5, stride=1)
    assert receptive_box(layer, (0, 6), network.image_shape).tolist() == [[0, 3], [4, 9]]
    assert receptive_box(layer, (13, 11), network.image_shape).tolist() == [[11, 14], [9, 12]]
    whole = receptive_box(network.layer("logits"), (), network.image_shape)
    assert whole.tolist() == [[0, 14], [0, 12]]


@pytest.mark.parametrize("source", [2], indirect=True)
@pytest.mark.parametrize(
    ("layer", "options", "told"),
    [
        ("conv9", {}, "no layer 'conv9'; the nearest are conv"),
        ("conv1", {"count": 0}, "count is 0"),
        ("conv1", {"batch_size": 0}, "batch_size is 0; expected at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(source, layer, options, told):
    with pytest.raises(ValueError, match=told):
        top_examples(network_of(2), layer, source, **options)


@pytest.mark.parametrize("source", [2], indirect=True)
def test_images_that_cannot_be_ranked_are_refused(source):
    network = network_of(2)
    with pytest.raises(ValueError, match="the source is empty"):
        top_examples(network, "conv1", Slices([], SHAPES[2]))
    with pytest.raises(ValueError, match=r"shape \(10, 12, 1\), the network takes \(14, 12, 1\)"):
        top_examples(network, "conv1", dataclasses.replace(source, shape=(10, 12)))
    data = np.load(source.volumes[1].path)
    data[0, 3, 3] = np.nan
    np.save(source.volumes[1].path, data)
    with pytest.raises(ValueError, match=r"'conv1' gives activations that are not finite.* 4 to 7"):
        top_examples(network, "conv1", source, batch_size=4)
