"""Where the channels are: last, in tokens, in windows, in heads, and where nobody can tell."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from featvis_jax.importers.onnx import onnx_network
from featvis_jax.importers.onnx.axes import CHANNELS, reading, reshaped, whole
from featvis_jax.nn.tokens import Tokens
from tests.importers.onnx.models import Builder, every_value, save

QUICK_JIT = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def imported(builder, directory, rng, *ends, open_batch=False):
    """The network of a graph, its activations for an image, and every value by the reference."""
    model = builder.model(*ends)
    fed = model
    if open_batch:
        fed = type(model)()
        fed.CopyFrom(model)
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    network = onnx_network(save(model, directory))
    image = rng.standard_normal(network.image_shape).astype(np.float32)
    names = tuple(layer.name for layer in network.layers)
    found = QUICK_JIT(network.activations, static_argnums=2)(network.variables, image, names)
    for layer in network.layers:
        assert found[layer.name].shape == layer.shape
    is_last = builder.shape[1:] == network.image_shape
    reference = every_value(fed, np.moveaxis(image, 0, -1) if is_last else image)
    values = {node.name: reference[node.output[0]] for node in model.graph.node}
    return network, image, found, values


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


SHAPES = pytest.mark.parametrize("grid", [(8, 6), (6, 4, 5)], ids=["2-D", "3-D"])


def permutations(rank):
    """Of axes: channels to the back, and to the front again."""
    return [0, *range(2, rank + 2), 1], [0, rank + 1, *range(1, rank + 1)]


@SHAPES
def test_features_that_a_linear_layer_mixes_on_the_last_axis_are_channels(tmp_path, rng, grid):
    rank = len(grid)
    to_last, to_first = permutations(rank)
    b = Builder(rng, (1, 1, *grid))
    x = b.conv("image", 1, 4, (3,) * rank, pads=[1] * (2 * rank), name="stem")
    x = b.node("Transpose", x, perm=to_last, name="back")
    x = b.node("LayerNormalization", x, np.ones(4, np.float32), b.normal(4), name="norm")
    x = b.node("Add", b.node("MatMul", x, b.normal(4, 7), name="mix"), b.normal(7), name="bias")
    x = b.node("Transpose", x, perm=to_first, name="front")
    network, image, found, values = imported(b, tmp_path, rng, x)
    for name, channels in (("back", 4), ("norm", 4), ("mix", 7), ("bias", 7)):
        assert network.layer(name).shape == (*grid, channels)
        assert_close(found[name], values[name][0])
    assert_close(found["front"], found["bias"])
    assert [layer.receptive_field for layer in network.layers] == [3] * 6
    one = network.one_channel(network.variables, jnp.asarray(image), "mix/relu", jnp.int32(5))
    assert_close(one["mix/relu"][..., 0], np.maximum(found["mix"][..., 5], 0))


@SHAPES
@pytest.mark.parametrize("start", ["reshape", "squeeze", "pad", "sum"])
def test_an_image_whose_last_axis_reaches_the_convolution_as_channels(tmp_path, rng, grid, start):
    """As Keras has it; of one channel, its exporter replaces the transposition by a reshape."""
    rank, channels = len(grid), 1 if start in ("reshape", "squeeze") else 3
    b = Builder(rng, (1, *grid, channels))
    x = "image"
    if start == "reshape":
        x = b.node("Reshape", x, np.array([-1, 1, *grid]), name="in")
    elif start == "squeeze":
        x = b.node("Unsqueeze", b.node("Squeeze", x, np.array([-1])), np.array([1]), name="in")
    else:
        if start == "pad":
            sides = [0, *[1] * rank, 0]
            x = b.node("Pad", x, np.array([*sides, *sides]), name="pad")
        else:  # Normalized on its way in.
            x = b.node("Sub", x, np.float32([0.1, 0.2, 0.3]), name="mean")
        x = b.node("Transpose", x, perm=permutations(rank)[1], name="in")
    x = b.conv(x, channels, 4, (3,) * rank, name="conv")
    network, _, found, values = imported(b, tmp_path, rng, x, open_batch=True)
    assert network.image_shape == (*grid, channels)
    assert network.layer("conv").receptive_field == 3
    assert_close(found["conv"], np.moveaxis(values["conv"][0], 0, -1))
    for name in {"pad", "mean"} & set(found):
        assert_close(found[name], values[name][0])
    if start != "squeeze":  # What has no axis of channels is no layer, and what it becomes neither.
        assert_close(found["in"], np.moveaxis(values["in"][0], 0, -1))


def test_an_open_grid_with_channels_last_is_read_by_the_shape_that_is_given(tmp_path, rng):
    b = Builder(rng, ("N", "x", "y", 3))
    x = b.node("Relu", "image")
    x = b.conv(b.node("Transpose", x, perm=[0, 3, 1, 2]), 3, 4, (3, 3), name="conv")
    path = save(b.model(x), tmp_path)
    network = onnx_network(path, image_shape=(9, 8, 3))
    assert network.image_shape == (9, 8, 3)
    assert network.layer("conv").shape == (7, 6, 4)
    with pytest.raises(ValueError, match=r"\(3, 9, 8\) does not fit"):
        onnx_network(path, image_shape=(3, 9, 8))


def test_an_image_with_channels_in_the_middle_is_refused(tmp_path, rng):
    b = Builder(rng, (1, 5, 3, 6, 7))
    x = b.node("Transpose", "image", perm=[0, 2, 1, 3, 4])
    path = save(b.model(b.conv(x, 3, 2, (1, 1, 1))), tmp_path)
    with pytest.raises(ValueError, match=r"net\.onnx: its input 'image'.*with axis 2 as its chan"):
        onnx_network(path)


def test_a_network_without_any_channels_is_refused(tmp_path, rng):
    b = Builder(rng, (1, 3, 6, 7))
    x = b.node("ReduceMean", "image", np.array([1]), keepdims=0, name="grey")
    with pytest.raises(ValueError, match=r"net\.onnx: of all that it computes \(grey\) no axis is"):
        onnx_network(save(b.model(x), tmp_path))


def vision_transformer(rng, *, class_token):
    """One block of attention with two heads, as PyTorch exports it."""
    b = Builder(rng, (1, 1, 8, 6))
    x = b.conv("image", 1, 4, (2, 2), strides=[2, 2], name="patches")
    x = b.node(
        "Transpose", b.node("Reshape", x, np.array([1, 4, 12])), perm=[0, 2, 1], name="tokens"
    )
    count = 12
    if class_token:
        x, count = b.node("Concat", b.normal(1, 1, 4), x, axis=1, name="joined"), 13
    heads = []
    for number, order in enumerate(([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])):
        projected = b.node("MatMul", x, b.normal(4, 6), name="qkv"[number])
        split = b.node("Reshape", projected, np.array([1, count, 2, 3]))
        heads.append(b.node("Transpose", split, perm=order, name=f"{'qkv'[number]}_heads"))
    scores = b.node("Softmax", b.node("MatMul", *heads[:2], name="scores"), name="attention")
    mixed = b.node("MatMul", scores, heads[2], name="mixed")
    back = b.node("Transpose", mixed, perm=[0, 2, 1, 3])
    back = b.node("Reshape", back, np.array([1, count, 6]), name="merged")
    x = b.node("Add", b.node("MatMul", back, b.normal(6, 4), name="out"), x, name="sum")
    if class_token:
        return b, b.node("Gather", x, np.array(0), axis=1, name="class")
    return b, b.node("ReduceMean", x, np.array([1]), keepdims=0, name="mean")


def test_tokens_lie_on_the_grid_that_they_came_from(tmp_path, rng):
    b, end = vision_transformer(rng, class_token=False)
    network, _, found, values = imported(b, tmp_path, rng, end)
    for name in ("tokens", "q", "k", "v", "merged", "out", "sum"):
        assert network.layer(name).shape == (4, 3, values[name].shape[-1])
        assert_close(found[name], values[name].reshape(4, 3, -1))
    # Each head has three of the channels.
    by_token = np.moveaxis(values["q_heads"][0], 0, 1)
    assert_close(found["q_heads"], by_token.reshape(4, 3, 6))
    keys = np.moveaxis(values["k_heads"][0], -1, 0)
    assert_close(found["k_heads"], keys.reshape(4, 3, 6))
    assert network.layer("mean").shape == (4,)
    assert_close(found["mean"], values["mean"][0])
    assert network.layer("q").receptive_field == 2
    assert network.layer("q").stride == 2
    for name in ("scores", "attention"):
        with pytest.raises(
            ValueError, match=rf"'{name}' cannot be taken.*\(1, 2, 12, 12\).*channels"
        ):
            network.layer(name)


def test_tokens_with_a_class_token_among_them_are_a_sequence_that_knows_its_grid(tmp_path, rng):
    b, end = vision_transformer(rng, class_token=True)
    network, _, found, values = imported(b, tmp_path, rng, end)
    assert network.layer("tokens").shape == (4, 3, 4)
    for name in ("joined", "q", "merged", "sum"):
        assert network.layer(name).shape == (13, values[name].shape[-1])
        assert network.layer(name).tokens == Tokens(1, (4, 3), 0)
        assert_close(found[name], values[name][0])
    assert network.layer("q").receptive_field == network.layer("q").stride == 2
    assert network.layer("sum").receptive_field is None
    assert network.layer("class").shape == (4,)
    assert network.layer("class").tokens is None
    assert_close(found["class"], values["class"][0])


def test_tokens_around_places_are_counted_and_places_alone_lie_on_their_grid_again(tmp_path, rng):
    """Registers are put behind the class token, and another token at the end."""
    b = Builder(rng, (1, 1, 8, 6))
    x = b.conv("image", 1, 4, (2, 2), strides=[2, 2])
    x = b.node("Transpose", b.node("Reshape", x, np.array([1, 4, 12])), perm=[0, 2, 1])
    x = b.node("Concat", b.normal(1, 1, 4), x, b.normal(1, 1, 4), axis=1, name="three")
    x = b.node("Add", x, b.normal(1, 14, 4), name="placed")
    parts = [
        b.node("Slice", x, *map(np.array, ([start], [stop], [1])), name=name)
        for name, start, stop in (("first", 0, 1), ("rest", 1, 2**31), ("cut", -8, 2**31))
    ]
    x = b.node("Concat", parts[0], b.normal(1, 4, 4), parts[1], axis=1, name="registers")
    split = b.node("Split", x, np.array([5, 12, 1]), axis=1, outputs=3)
    network, _, found, values = imported(b, tmp_path, rng, x, parts[2], *split)
    assert network.layer("three").tokens == network.layer("placed").tokens == Tokens(1, (4, 3), 1)
    assert network.layer("rest").tokens == Tokens(0, (4, 3), 1)
    assert network.layer("registers").tokens == Tokens(5, (4, 3), 1)
    assert network.layer("cut").tokens is None  # A part of the grid.
    alone = [layer.name for layer in network.layers if layer.shape == (4, 3, 4)]
    assert_close(found[alone[-1]], values["registers"][0, 5:17].reshape(4, 3, 4))


def test_windows_that_are_taken_apart_lie_where_they_were(tmp_path, rng):
    """As in Swin: windows in the batch, a linear layer in them, and together again."""
    b = Builder(rng, (1, 1, 8, 6))
    x = b.conv("image", 1, 3, (3, 3), pads=[1] * 4, name="stem")
    x = b.node("Transpose", x, perm=[0, 2, 3, 1], name="last")
    rolled = [b.node("Slice", x, *map(np.array, ([a], [z], [1]))) for a, z in ((3, 8), (0, 3))]
    x = b.node("Concat", *rolled, axis=1, name="rolled")
    x = b.node("Reshape", x, np.array([1, 2, 4, 3, 2, 3]))
    x = b.node("Transpose", x, perm=[0, 1, 3, 2, 4, 5])
    x = b.node("Reshape", x, np.array([6, 8, 3]), name="windows")
    x = b.node("MatMul", x, b.normal(3, 5), name="mixed")
    x = b.node("Reshape", x, np.array([1, 2, 3, 4, 2, 5]))
    x = b.node("Reshape", b.node("Transpose", x, perm=[0, 1, 3, 2, 4, 5]), np.array([1, 8, 6, 5]),
               name="together")  # fmt: skip
    # Patch merging: neighbours become channels.
    parts = [
        b.node("Slice", x, *map(np.array, ([i, j], [8, 6], [1, 2], [2, 2])))
        for i in (0, 1) for j in (0, 1)
    ]  # fmt: skip
    merged = b.node("Concat", *parts, axis=-1, name="merged")
    network, _, found, values = imported(b, tmp_path, rng, merged)
    rolled = np.roll(values["last"][0], -3, axis=0)
    assert_close(found["rolled"], rolled)
    assert_close(found["windows"], rolled)
    assert_close(found["mixed"], values["together"][0])
    assert_close(found["together"], values["together"][0])
    assert network.layer("merged").shape == (4, 3, 20)
    assert_close(found["merged"], values["merged"][0])


def test_heads_by_einsum_and_what_they_attend_to(tmp_path, rng):
    b = Builder(rng, (1, 1, 8, 6))
    x = b.conv("image", 1, 6, (2, 2), strides=[2, 2])
    x = b.node("Transpose", b.node("Reshape", x, np.array([1, 6, 12])), perm=[0, 2, 1])
    heads = b.node("Reshape", x, np.array([1, 12, 2, 3]))
    keys = b.node("Einsum", x, b.normal(6, 2, 3), equation="bnc,chd->bnhd", name="keys")
    scores = b.node("Einsum", heads, keys, equation="bqhd,bkhd->bhqk", name="scores")
    mixed = b.node("Einsum", scores, heads, equation="...qk,bkhd->bqhd", name="mixed")
    made = b.node("Einsum", mixed, b.normal(2, 3, 5), equation="bqhd,hde->bqe", name="made")
    network, _, found, values = imported(b, tmp_path, rng, made)
    assert_close(found["mixed"], values["mixed"].reshape(4, 3, 6))
    assert_close(found["made"], values["made"].reshape(4, 3, 5))
    for name in ("scores", "keys"):  # Of new axes, nobody can say which are channels.
        with pytest.raises(ValueError, match=rf"'{name}' cannot be taken: no axis"):
            network.layer(name)


@SHAPES
def test_elements_that_are_gathered_keep_their_channels(tmp_path, rng, grid):
    """As PyTorch's adaptive pooling is written down where sizes do not divide."""
    rank = len(grid)
    b = Builder(rng, (1, 1, *grid))
    x = b.conv("image", 1, 4, (1,) * rank, name="stem")
    first = b.node("Transpose", x, perm=[*range(2, 2 + rank), 0, 1])
    places = np.indices((3,) * rank).reshape(rank, -1).T.reshape(*(3,) * rank, rank)
    y = b.node("GatherND", first, places + 1, name="gathered")
    y = b.node("Transpose", y, perm=[rank, rank + 1, *range(rank)], name="back")
    flat = b.node("Reshape", x, np.array([-1]))
    size = int(np.prod(grid))
    strided = b.node("Gather", flat, np.arange(4 * size).reshape(1, 4, *grid), name="strided")
    network, _, found, values = imported(b, tmp_path, rng, y, strided)
    assert_close(found["back"], np.moveaxis(values["back"][0], 0, -1))
    assert_close(found["strided"], found["stem"])
    assert network.layer("strided").receptive_field == 1


def test_a_mixer_of_tokens_keeps_channels_apart(tmp_path, rng):
    b = Builder(rng, (1, 1, 6, 4))
    x = b.conv("image", 1, 5, (2, 2), strides=[2, 2])
    x = b.node("Reshape", x, np.array([1, 5, 6]), name="tokens")
    hidden = b.node("MatMul", x, b.normal(6, 9), name="hidden")
    back = b.node("MatMul", hidden, b.normal(9, 6))
    x = b.node("Add", back, x, name="sum")
    network, _, found, values = imported(b, tmp_path, rng, x)
    assert network.layer("tokens").shape == network.layer("sum").shape == (3, 2, 5)
    assert_close(found["sum"], np.moveaxis(values["sum"][0].reshape(5, 3, 2), 0, -1))
    assert network.layer("hidden").shape == (9, 5)
    assert_close(found["hidden"], values["hidden"][0].T)


def test_pixels_that_are_shuffled_out_of_channels_and_channels_that_are_shuffled(tmp_path, rng):
    b = Builder(rng, (1, 1, 5, 4))
    x = b.conv("image", 1, 8, (3, 3), pads=[1] * 4, name="stem")
    y = b.node("Reshape", x, np.array([1, 2, 2, 2, 5, 4]))
    y = b.node("Transpose", y, perm=[0, 1, 4, 2, 5, 3])
    pixels = b.node("Reshape", y, np.array([1, 2, 10, 8]), name="pixels")
    z = b.node("Transpose", b.node("Reshape", x, np.array([1, 2, 4, 5, 4])), perm=[0, 2, 1, 3, 4])
    groups = b.node("Reshape", z, np.array([1, 8, 5, 4]), name="groups")
    flat = b.node("Flatten", x, name="flat")
    network, _, found, values = imported(b, tmp_path, rng, pixels, groups, flat)
    assert network.layer("pixels").shape == (10, 8, 2)
    for name in ("pixels", "groups"):
        assert_close(found[name], np.moveaxis(values[name][0], 0, -1))
    assert network.layer("flat").shape == (160,)
    assert_close(found["flat"], values["flat"][0])


def test_parts_that_fit_nothing_are_not_guessed():
    image = (whole("batch", 1), whole(CHANNELS, 4), whole("0", 6), whole("1", 5))
    kept = reading(image)
    assert kept is not None
    assert (kept.shape, kept.is_plain) == ((6, 5, 4), True)
    # Neither 8 nor 15 rows make sense of 4 channels and 6 rows.
    assert reading(reshaped(image, (1, 8, 15), "v")) is None
    # Half of the channels of every row, twice.
    assert reading(reshaped(image, (1, 2, 12, 5), "v")) is not None
    split = reshaped(image, (1, 2, 2, 6, 5), "v")
    assert reading(split).shape == (6, 5, 4)
    assert reshaped(split, (1, 4, 6, 5), "v") == image
    twice = (whole("batch", 1), whole(CHANNELS, 4), whole("0", 6), whole("0", 6))
    assert reading(twice) is None
    assert reading(image[:1] + image[2:]) is None
