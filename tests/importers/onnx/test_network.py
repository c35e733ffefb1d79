"""Whole networks: every value against ONNX's reference, what is computed, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest

from featvis_jax.importers.onnx import onnx_network
from tests.importers.onnx.models import Builder, as_layer, every_value, save

QUICK_JIT = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def residual_network(rng):
    """A small ResNet for slices: strides, skips, a head."""
    b = Builder(rng, (1, 1, 30, 28))
    x = b.node("Relu", b.norm(b.conv("image", 1, 6, (7, 7), strides=[2, 2], pads=[3] * 4), 6))
    x = b.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for inputs, outputs, stride in ((6, 6, 1), (6, 8, 2)):
        y = b.conv(x, inputs, outputs, (3, 3), strides=[stride] * 2, pads=[1] * 4)
        y = b.conv(b.node("Relu", b.norm(y, outputs)), outputs, outputs, (3, 3), pads=[1] * 4)
        same = x
        if stride > 1:
            same = b.norm(b.conv(x, inputs, outputs, (1, 1), strides=[stride] * 2), outputs)
        x = b.node("Relu", b.node("Add", y, same))
    x = b.node("Flatten", b.node("GlobalAveragePool", x))
    return b.model(b.node("Gemm", x, b.normal(3, 8), b.normal(3), transB=1, name="head"))


def u_net(rng):
    """A small U-Net for volumes: skips, transposed convolution, a grid that shapes compute."""
    b = Builder(rng, (1, 1, 8, 12, 8))
    pads = [1] * 6
    one = b.node("LeakyRelu", b.conv("image", 1, 4, (3, 3, 3), pads=pads), alpha=0.1)
    half = b.node("MaxPool", one, kernel_shape=[2] * 3, strides=[2] * 3)
    two = b.node("Elu", b.conv(half, 4, 6, (3, 3, 3), pads=pads))
    half = b.node("AveragePool", two, kernel_shape=[2] * 3, strides=[2] * 3)
    x = b.node("Relu", b.conv(half, 6, 8, (3, 3, 3), pads=pads))
    x = b.node("ConvTranspose", x, b.normal(8, 6, 2, 2, 2), b.normal(6), strides=[2] * 3)
    x = b.conv(b.node("Concat", x, two, axis=1), 12, 6, (3, 3, 3), pads=pads)
    # The size of the skip, as code for any grid has it.
    size = b.node("Slice", b.node("Shape", one), np.array([2]), np.array([5]))
    size = b.node("Concat", np.array([1, 6]), size, axis=0)
    x = b.node("Resize", b.node("Sigmoid", x), "", "", size, mode="linear")
    x = b.conv(b.node("Concat", x, one, axis=1), 10, 4, (3, 3, 3), pads=pads)
    return b.model(b.node("Softmax", b.conv(x, 4, 2, (1, 1, 1), name="logits"), axis=1))


def dense_network(rng):
    """A small DenseNet for volumes: every layer sees all before it."""
    b = Builder(rng, (1, 1, 10, 9, 8))
    x, channels = b.conv("image", 1, 4, (3, 3, 3), strides=[2] * 3, pads=[1] * 6), 4
    for _ in range(3):
        y = b.conv(b.node("Relu", b.norm(x, channels)), channels, 3, (3, 3, 3), pads=[1] * 6)
        x, channels = b.node("Concat", x, y, axis=1), channels + 3
    x = b.node("AveragePool", b.norm(x, channels), kernel_shape=[2] * 3, strides=[2] * 3)
    length = channels * 2 * 2 * 2
    x = b.node("Reshape", x, np.array([1, -1]))
    return b.model(b.node("Add", b.node("MatMul", x, b.normal(length, 2)), b.normal(2)))


def mesh_network(rng):
    """A small MeshNet for volumes: dilation instead of pooling."""
    b = Builder(rng, (1, 1, 13, 12, 14))
    x, inputs = "image", 1
    for dilation in (1, 2, 4, 1):
        x = b.conv(x, inputs, 4, (3, 3, 3), pads=[dilation] * 6, dilations=[dilation] * 3)
        x, inputs = b.node("Relu", b.norm(x, 4)), 4
    return b.model(b.conv(x, 4, 3, (1, 1, 1)))


def arithmetic_network(rng):
    """Operators that only make sense together: comparison and choice, roots, squeezing."""
    b = Builder(rng, (1, 3, 6, 5))
    half = np.float32(0.5)
    large = b.node("Log", b.node("Add", b.node("Sqrt", b.node("Abs", "image")), half))
    small = b.node("Reciprocal", b.node("Add", b.node("Mul", "image", "image"), half))
    either = b.node("Where", b.node("Greater", "image", half), large, small)
    either = b.node("Where", b.node("Less", either, half), "image", either)
    either = b.node("Where", b.node("Equal", either, "image"), small, either)
    means = b.node("ReduceMean", either, np.array([2, 3]))
    return b.model(b.node("Softmax", b.node("Squeeze", means, np.array([2, 3])), axis=-1))


NETWORKS = {
    "ResNet": residual_network,
    "U-Net": u_net,
    "DenseNet": dense_network,
    "MeshNet": mesh_network,
    "arithmetic": arithmetic_network,
}


@pytest.fixture(scope="module", params=NETWORKS)
def case(request, tmp_path_factory):
    """A model, and the network that is made from its file."""
    model = NETWORKS[request.param](np.random.default_rng(5))
    return model, onnx_network(save(model, tmp_path_factory.mktemp("onnx")))


def test_every_value_is_what_the_reference_says(rng, case):
    model, network = case
    image = rng.standard_normal(network.image_shape).astype(np.float32)
    expected = every_value(model, image)
    values = {node.name: node.output[0] for node in model.graph.node}
    layers = tuple(layer.name for layer in network.layers)
    shapes = [v for v in expected.values() if v.dtype == np.float32 and v.ndim > 1]
    assert len(layers) == len(shapes)
    found = QUICK_JIT(network.activations, static_argnums=2)(
        network.variables, image, (*layers, f"{layers[0]}/relu")
    )
    for name in layers:
        reference = as_layer(expected[values[name]])
        assert network.layer(name).shape == reference.shape
        error = np.abs(found[name] - reference).max() / np.abs(reference).max()
        assert error < 1e-5, f"{name}: {error}"
    np.testing.assert_array_equal(found[f"{layers[0]}/relu"], np.maximum(found[layers[0]], 0))


def test_one_channel_is_that_channel_of_every_layer(rng, case):
    _, network = case
    image = jnp.asarray(rng.standard_normal(network.image_shape), jnp.float32)
    # A forward pass for each: a third of the layers, and the last ones.
    names = [layer.name for layer in network.layers]
    layers = [*names[:-3:3], *names[-3:]]

    @QUICK_JIT
    def read(variables, image, share):
        channels = {n: (share * network.layer(n).channels).astype(jnp.int32) for n in layers}
        alone = {n: network.one_channel(variables, image, n, channels[n])[n] for n in layers}
        whole = network.activations(variables, image, tuple(layers))
        return alone, {n: jnp.take(whole[n], channels[n], axis=-1) for n in layers}

    alone, expected = read(network.variables, image, jnp.float32(0.7))
    for name in layers:
        assert alone[name].shape[-1] == 1
        scale = np.abs(expected[name]).max() + 1e-6
        np.testing.assert_allclose(
            alone[name][..., 0], expected[name], atol=2e-5 * scale, err_msg=name
        )


def test_receptive_fields_are_as_far_as_gradients_reach(rng, case):
    _, network = case
    spatial = [layer for layer in network.layers if len(layer.shape) > 1][::3]
    images = jnp.asarray(rng.standard_normal((2, *network.image_shape)), jnp.float32)

    @QUICK_JIT
    def support(variables, images):
        def middles(image):
            found = network.activations(variables, image, tuple(n.name for n in spatial))
            return jnp.stack([found[n.name][tuple(s // 2 for s in n.shape[:-1])].sum()
                              for n in spatial])  # fmt: skip

        jacobians = jax.vmap(jax.jacrev(middles))(images)
        return (jacobians != 0).any(axis=(0, -1))

    for layer, reached in zip(spatial, np.asarray(support(network.variables, images)), strict=True):
        sizes = network.image_shape[:-1]
        extents = []
        for axis in range(len(sizes)):
            others = tuple(a for a in range(len(sizes)) if a != axis)
            where = np.flatnonzero(reached.any(axis=others))
            extents.append(where[-1] - where[0] + 1)
        if layer.receptive_field is None:
            continue  # Some output sees everything; the middle one may be between two borders.
        assert max(extents) <= layer.receptive_field, layer.name
        if layer.receptive_field < min(sizes) // 2:
            assert max(extents) >= layer.receptive_field - 1, layer.name


def test_large_patches_are_one_product_and_are_seen_whole(tmp_path, rng):
    b = Builder(rng, (1, 2, 64, 64, 32))
    x = b.conv("image", 2, 6, (16, 16, 8), strides=[16, 16, 8], name="patches")
    network = onnx_network(save(b.model(x), tmp_path))
    (layer,) = network.layers
    assert (layer.shape, layer.receptive_field, layer.stride) == ((4, 4, 4, 6), 16, 16)
    image = jnp.asarray(rng.standard_normal(network.image_shape), jnp.float32)

    def read(variables, image, channel):
        whole = network.activations(variables, image, ("patches",))["patches"]
        return whole, network.one_channel(variables, image, "patches", channel)["patches"]

    traced = jax.make_jaxpr(read)(network.variables, image, jnp.int32(4))
    assert len(traced.eqns) < 50
    whole, one = QUICK_JIT(read)(network.variables, image, jnp.int32(4))
    np.testing.assert_allclose(one[..., 0], whole[..., 4], atol=1e-5)


def test_receptive_fields_and_strides_of_branches(tmp_path):
    rng = np.random.default_rng(0)
    b = Builder(rng, (1, 1, 64, 64))
    near = b.conv("image", 1, 2, (3, 3), pads=[1] * 4, name="near")
    far = b.conv("image", 1, 2, (5, 5), pads=[8] * 4, dilations=[4, 4], name="far")
    both = b.node("Add", near, far, name="both")
    low = b.node("MaxPool", both, kernel_shape=[2, 2], strides=[2, 2], name="low")
    up = b.node("ConvTranspose", low, b.normal(2, 2, 2, 2), strides=[2, 2], name="up")
    joined = b.node("Concat", up, near, axis=1, name="joined")
    wide = b.node("Resize", low, "", np.float32([1, 1, 2, 2]), mode="linear", name="wide")
    mean = b.node("GlobalAveragePool", wide, name="mean")
    network = onnx_network(save(b.model(joined, mean), tmp_path))
    found = {x.name: (x.receptive_field, x.stride) for x in network.layers}
    assert found == {
        "near": (3, 1),
        "far": (17, 1),
        "both": (17, 1),
        "low": (18, 2),
        "up": (18, 1),
        "joined": (18, 1),
        "wide": (20, 1),
        "mean": (None, None),
    }


def test_only_what_a_layer_needs_is_traced(tmp_path, rng):
    model = u_net(rng)
    network = onnx_network(save(model, tmp_path))
    image = jnp.zeros(network.image_shape)

    def convolutions(layer):
        jaxpr = jax.make_jaxpr(lambda v, x: network.activations(v, x, (layer,)))(
            network.variables, image
        )
        return str(jaxpr).count("fast_conv[")

    names = [layer.name for layer in network.layers if layer.operator == "Conv"]
    assert [convolutions(name) for name in names] == [1, 2, 3, 4, 5, 6]
    assert network.activations(network.variables, image, ()) == {}


def test_one_channel_computes_no_other_channel(tmp_path, rng):
    b = Builder(rng, (1, 1, 9, 8))
    x = b.conv("image", 1, 11, (3, 3), name="first")
    x = b.norm(b.conv(x, 11, 13, (3, 3), name="second"), 13)
    x = b.node("Relu", x, name="after")
    grouped = b.conv(x, 13, 26, (1, 1), group=13, name="grouped")
    network = onnx_network(save(b.model(grouped), tmp_path))

    def made(layer):
        jaxpr = jax.make_jaxpr(
            lambda v, x, c: network.one_channel(v, x, layer, c),
        )(network.variables, jnp.zeros((9, 8, 1)), jnp.int32(3))
        return {n for n in (11, 13, 26) if f",{n}] =" in str(jaxpr)}

    assert made("second") == made("after") == {11}
    # Its group has one channel of those before it, which is computed alone too.
    assert made("grouped") == {11}


def test_weights_are_arguments_in_float32(case):
    _, network = case
    layers = (network.layers[-1].name,)
    jaxpr = jax.make_jaxpr(lambda v, x: network.activations(v, x, layers))(
        network.variables, jnp.zeros(network.image_shape)
    )
    # Interpolation has a small matrix; weights are never constants of the program.
    assert all(np.size(constant) <= 12 * 12 for constant in jaxpr.consts)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(network.variables))


def test_a_network_with_channels_last_inside_its_file(tmp_path, rng):
    b = Builder(rng, (1, 9, 8, 2))
    x = b.node("Transpose", "image", perm=[0, 3, 1, 2], name="in")
    x = b.conv(x, 2, 3, (3, 3), name="conv")
    last = b.node("Transpose", x, perm=[0, 2, 3, 1], name="out")
    network = onnx_network(save(b.model(last), tmp_path))
    assert network.image_shape == (9, 8, 2)
    assert network.layer("out").shape == network.layer("conv").shape == (7, 6, 3)
    image = jnp.asarray(rng.standard_normal((9, 8, 2)), jnp.float32)
    found = network.activations(network.variables, image, ("conv", "out"))
    np.testing.assert_array_equal(found["conv"], found["out"])
    one = network.one_channel(network.variables, image, "out", jnp.int32(1))["out"]
    np.testing.assert_allclose(one, found["out"][..., 1:2], rtol=1e-5, atol=1e-6)


def choice(b, condition, x, weight):
    """A node that takes one of two branches, both of which call their values the same."""

    def branch(operator, *operands):
        nodes = [onnx.helper.make_node(operator, [x, *operands], ["inner"])]
        nodes.append(onnx.helper.make_node("Identity", ["inner"], ["made"]))
        returned = onnx.helper.make_empty_tensor_value_info("made")
        return onnx.helper.make_graph(nodes, operator, [], [returned])

    branches = {"then_branch": branch("Mul", weight), "else_branch": branch("Neg")}
    return b.node("If", condition, **branches)


def test_branches_that_shapes_decide_about_are_written_out(tmp_path, rng):
    b = Builder(rng, (1, 2, 6, 5))
    weight = b.weight(np.float32([[[2.0]], [[3.0]]]))
    rows = b.node("Gather", b.node("Shape", "image"), np.array(2), axis=0)
    x = choice(b, b.node("Equal", rows, np.array(6)), "image", weight)
    x = choice(b, b.node("Equal", rows, np.array(5)), x, weight)
    model = b.model(b.node("Relu", x, name="last"))
    network = onnx_network(save(model, tmp_path))
    image = rng.standard_normal((6, 5, 2)).astype(np.float32)
    found = network.activations(network.variables, jnp.asarray(image), ("last",))["last"]
    np.testing.assert_allclose(found, np.maximum(-image * np.float32([2, 3]), 0), rtol=1e-6)
    b.nodes.clear()
    mean = b.node("ReduceMean", "image", keepdims=0)
    model = b.model(choice(b, b.node("Greater", mean, np.float32(0)), "image", weight))
    with pytest.raises(ValueError, match=r"\(If\): its condition depends on the image"):
        onnx_network(save(model, tmp_path))


def test_a_roll_by_no_place_leaves_all_where_it_is(tmp_path, rng):
    b = Builder(rng, (1, 2, 6, 5))
    sides = [b.node("Slice", "image", *map(np.array, ([a], [z], [2]))) for a, z in ((6, 9), (0, 6))]
    network = onnx_network(save(b.model(b.node("Concat", *sides, axis=2, name="it")), tmp_path))
    image = rng.standard_normal((6, 5, 2)).astype(np.float32)
    found = network.activations(network.variables, jnp.asarray(image), ("it",))["it"]
    np.testing.assert_array_equal(found, image)


def test_names_are_those_of_nodes_and_unique(tmp_path, rng):
    b = Builder(rng, (1, 2, 6, 6))
    x = b.node("Relu", "image", name="/block/relu")
    x = b.node("Neg", x, name="twice")
    x = b.node("Abs", x, name="twice")
    x = b.node("Exp", x, name="")
    left, right = b.node("Split", x, axis=1, outputs=2, num_outputs=2, name="halves")
    network = onnx_network(save(b.model(left, right), tmp_path))
    names = [layer.name for layer in network.layers]
    assert names == ["block/relu", "twice", "twice@2", "v3_0", "v4_0", "v4_1"]
    image = jnp.ones((6, 6, 2))
    # The layer's own name, and no ReLU after a layer "block".
    assert set(network.activations(network.variables, image, ("block/relu",))) == {"block/relu"}
    with pytest.raises(ValueError, match=r"no layer 'blok/relu'; the nearest are block/relu"):
        network.layer("blok/relu")


def test_weights_in_a_file_of_their_own(tmp_path, rng):
    model = mesh_network(rng)
    whole = onnx_network(save(model, tmp_path))
    onnx.save_model(
        model, tmp_path / "apart.onnx", save_as_external_data=True, location="apart.data",
        size_threshold=0,
    )  # fmt: skip
    apart = onnx_network(tmp_path / "apart.onnx")
    jax.tree.map(np.testing.assert_array_equal, whole.variables, apart.variables)
    (tmp_path / "apart.data").unlink()
    with pytest.raises(FileNotFoundError, match=r"apart\.onnx keeps its weights in apart\.data"):
        onnx_network(tmp_path / "apart.onnx")


def test_weights_outside_the_directory_are_not_read(tmp_path, rng):
    model = mesh_network(rng)
    (tmp_path / "inner").mkdir()
    path = tmp_path / "inner" / "net.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location="w.data", size_threshold=0)
    loaded = onnx.load_model(path, load_external_data=False)
    (tmp_path / "inner" / "w.data").rename(tmp_path / "w.data")
    for tensor in loaded.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../w.data"
    path.write_bytes(loaded.SerializeToString())
    with pytest.raises(ValueError, match=r"net\.onnx"):
        onnx_network(path)


def small(rng, shape, **options):
    b = Builder(rng, shape, **options)
    return b, b.model(b.conv("image", 2, 3, (3, 3)))


def test_an_open_grid_needs_a_shape_that_fits(tmp_path, rng):
    _, model = small(rng, ("batch", 2, "x", 9))
    path = save(model, tmp_path)
    with pytest.raises(ValueError, match=r"net\.onnx.*no fixed shape.*\(\?, 9, 2\).*--input_shape"):
        onnx_network(path)
    with pytest.raises(ValueError, match=r"shape \(7, 8, 2\) does not fit.*\(\?, 9, 2\)"):
        onnx_network(path, image_shape=(7, 8, 2))
    with pytest.raises(ValueError, match=r"shape \(7, 9\) does not fit"):
        onnx_network(path, image_shape=(7, 9))
    assert onnx_network(path, image_shape=(7, 9, 2)).image_shape == (7, 9, 2)


def test_what_is_no_network_of_one_image_is_refused(tmp_path, rng):
    with pytest.raises(FileNotFoundError, match=r"absent\.onnx: there is no such file"):
        onnx_network(tmp_path / "absent.onnx")
    for number, content in enumerate((b"", b"<html></html>", b"\x80\x04\x95", bytes(500))):
        path = tmp_path / f"wrong{number}.onnx"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"wrong{number}\.onnx is not an ONNX file"):
            onnx_network(path)
    whole = save(small(rng, (1, 2, 8, 8))[1], tmp_path, "cut.onnx")
    whole.write_bytes(whole.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"cut\.onnx is not an? (valid )?ONNX file"):
        onnx_network(whole)
    _, model = small(rng, (4, 2, 8, 8))
    with pytest.raises(ValueError, match=r"takes batches of 4; expected 1 or any"):
        onnx_network(save(model, tmp_path))
    _, model = small(rng, (1, 2, 8, 8), opset=6)
    with pytest.raises(ValueError, match=r"operator set 6 of ONNX; expected 7 or newer"):
        onnx_network(save(model, tmp_path))
    b = Builder(rng, (1, 2))
    with pytest.raises(ValueError, match=r"has 2 axes; expected \(batch, channels, \*spatial\)"):
        onnx_network(save(b.model(b.node("Relu", "image")), tmp_path))
    _, model = small(rng, (1, 2, 8, 8))
    second = onnx.helper.make_tensor_value_info("age", onnx.TensorProto.FLOAT, (1, 1))
    model.graph.input.append(second)
    with pytest.raises(ValueError, match=r"expected one input.*it has 2: 'image', 'age'"):
        onnx_network(save(model, tmp_path))


def test_an_operator_that_is_missing_is_named_with_its_node_and_where_to_add_it(tmp_path, rng):
    b = Builder(rng, (1, 2, 8, 8))
    x = b.node("LRN", b.node("Relu", "image"), size=3, name="response")
    x = b.node("Relu", x)
    message = r"LRN \(node 'response'\).*featvis_jax/importers/onnx/operators/__init__\.py"
    with pytest.raises(ValueError, match=message):
        onnx_network(save(b.model(x), tmp_path))


def test_what_an_operator_cannot_do_is_refused_by_name(tmp_path, rng):
    def network(operator, *inputs, opset=18, **attributes):
        b = Builder(rng, (1, 2, 8, 8), opset=opset)
        x = b.node(operator, "image", *inputs, name="it", **attributes)
        return onnx_network(save(b.model(x), tmp_path))

    with pytest.raises(ValueError, match=r"net\.onnx: Node 'it' \(Resize\): antialias"):
        network("Resize", "", np.float32([1, 1, 2, 2]), mode="linear", antialias=1)
    with pytest.raises(ValueError, match=r"'it' \(Resize\): coordinate_transformation_mode is"):
        network(
            "Resize", np.zeros(8, np.float32), np.float32([1, 1, 2, 2]), mode="linear",
            coordinate_transformation_mode="tf_crop_and_resize",
        )  # fmt: skip
    with pytest.raises(ValueError, match=r"'it' \(Conv\): a kernel of shape \(3, 5, 3, 3\)"):
        network("Conv", rng.standard_normal((3, 5, 3, 3)).astype(np.float32))
    for options in ({"dilations": [2, 1]}, {"strides": [1, 4]}):
        with pytest.raises(ValueError, match=r"'it' \(MaxPool\): auto_pad with dilations, or"):
            network("MaxPool", kernel_shape=[3, 2], auto_pad="SAME_UPPER", **options)
    with pytest.raises(
        ValueError, match=r"'it' \(Pad\): it mirrors .* elements of an array of shape"
    ):
        network("Pad", np.array([0, 0, 8, 0, 0, 0, 0, 0]), mode="reflect")
    # What JAX says of shapes in many lines or without a name is said of the node in one.
    with pytest.raises(
        ValueError, match=r"^\S*net\.onnx: Node 'it' \(Reshape\): its operands [^\n]*$"
    ):
        network("Reshape", np.array([3, -1]))
    statistics = [np.ones(2, np.float32)] * 4
    with pytest.raises(ValueError, match=r"'it' \(BatchNormalization\): it is in training mode"):
        network("BatchNormalization", *statistics, training_mode=1)
    with pytest.raises(ValueError, match=r"'it' \(Reshape\): its operand .* depends on the image"):
        b = Builder(rng, (1, 2, 8, 8))
        size = b.node("Cast", b.node("ReduceMax", "image", keepdims=0), to=7)
        size = b.node("Unsqueeze", size, np.array([0]))
        onnx_network(save(b.model(b.node("Reshape", "image", size, name="it")), tmp_path))
