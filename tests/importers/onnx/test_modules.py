"""Layers of PyTorch's files: names, classes and calls of modules, as both exporters have them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from featvis_jax.importers.onnx import onnx_network
from tests.importers.onnx.models import Builder, every_value, save

QUICK_JIT = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
CONV, RELU, BLOCK = "torch.nn.modules.conv.Conv2d", "torch.nn.modules.activation.ReLU", "net.Block"
NORM = "torch.nn.modules.batchnorm.BatchNorm2d"


def made_in(builder, *modules, line=1):
    """Say of the last node what the exporter by torch.export does: ``(path, class)`` of modules."""
    paths = ["", *(path for path, _ in modules), "operation"]
    classes = ["net.Net", *(name for _, name in modules), "aten.operation"]
    said = {"name_scopes": str(paths), "class_hierarchy": str(classes)}
    said["stack_trace"] = f'File "net.py", line 9, in forward\n  File "torch.py", line {line}, in f'
    for key, value in said.items():
        builder.nodes[-1].metadata_props.add(key=f"pkg.torch.onnx.{key}", value=value)


def written_by_pytorch(builder, *ends):
    model = builder.model(*ends)
    model.producer_name = "pytorch"
    return model


def names(network):
    return [layer.name for layer in network.layers]


def activations(network, rng, *asked):
    image = rng.standard_normal(network.image_shape).astype(np.float32)
    return image, QUICK_JIT(network.activations, static_argnums=2)(network.variables, image, asked)


def block(builder, x):
    """A residual block with one rectifier for two places, by torch.export."""
    inside = ("block", BLOCK)
    if "block.conv.weight" not in {tensor.name for tensor in builder.weights}:
        builder.weight(builder.normal(2, 2, 1, 1))
        builder.weights[-1].name = "block.conv.weight"
    y = builder.node("Conv", x, "block.conv.weight")
    made_in(builder, inside, ("block.conv", CONV))
    y = builder.node("Relu", y)
    made_in(builder, inside, ("block.relu", RELU))
    y = builder.node("Add", x, y)
    made_in(builder, inside)
    y = builder.node("Relu", y)
    made_in(builder, inside, ("block.relu", RELU))
    return y


def test_modules_are_layers_by_their_paths_and_other_operations_by_their_scope(tmp_path, rng):
    b = Builder(rng, (1, 2, 4, 3))
    x = block(b, "image")
    x = b.node("ReduceMean", x, np.array([2, 3]), keepdims=0)
    made_in(b)
    model = b.model(x)
    network = onnx_network(save(model, tmp_path))
    assert [(layer.name, layer.operator) for layer in network.layers] == [
        ("block.conv", "Conv2d"),
        ("block.relu", "ReLU"),
        ("block.add", "Add"),
        ("block.relu@2", "ReLU"),
        ("block", "Block"),
        ("reduce_mean", "ReduceMean"),
    ]
    assert [layer.name for layer in network.layers if layer.has_weights] == ["block.conv"]
    image, found = activations(network, rng, *names(network))
    values = [every_value(model, image)[n.output[0]] for n in model.graph.node]
    expected = [*values[:4], values[3], values[4]]
    for name, value in zip(names(network), expected, strict=True):
        laid_out = np.moveaxis(value[0], 0, -1) if value.ndim > 2 else value[0]
        np.testing.assert_allclose(found[name], laid_out, rtol=1e-5, atol=1e-6)


def test_names_of_nodes_are_aliases_wherever_a_layer_is_named(tmp_path, rng):
    b = Builder(rng, (1, 2, 4, 3))
    x = block(b, "image")
    network = onnx_network(save(b.model(x), tmp_path))
    nodes = [node.name for node in b.nodes]
    assert [network.layer(node).name for node in nodes] == names(network)[:4]
    assert network.layer(f"/{nodes[0]}/relu").name == "block.conv/relu"
    _, found = activations(network, rng, "block.conv", nodes[0], f"{nodes[0]}/relu")
    np.testing.assert_array_equal(found[nodes[0]], found["block.conv"])
    np.testing.assert_array_equal(found[f"{nodes[0]}/relu"], np.maximum(found["block.conv"], 0))
    image = jnp.ones(network.image_shape)
    of_alias, of_layer = (
        network.one_channel(network.variables, image, name, jnp.int32(1))[name]
        for name in (nodes[2], "block.add")
    )
    np.testing.assert_array_equal(of_alias, of_layer)


def test_calls_of_a_module_are_counted_also_where_they_follow_upon_one_another(tmp_path, rng):
    b = Builder(rng, (1, 2, 4, 3))
    x = b.node("Neg", block(b, block(b, "image")))
    made_in(b)
    network = onnx_network(save(b.model(block(b, x)), tmp_path))
    assert [name for name in names(network) if "." not in name] == [
        "block", "block@2", "neg", "block@3",
    ]  # fmt: skip
    assert [name for name in names(network) if "relu" in name][-1] == "block.relu@6"
    _, found = activations(network, rng, "block", "block@2")
    assert not np.allclose(found["block"], found["block@2"])


def norm_of_five_nodes(b, x, modules):
    mean = b.node("ReduceMean", x, np.array([1]))
    made_in(b, *modules, line=1)
    centred = b.node("Sub", x, mean)
    made_in(b, *modules, line=2)
    variance = b.node("ReduceMean", b.node("Mul", centred, centred), np.array([1]))
    made_in(b, *modules, line=3)
    x = b.node("Div", centred, b.node("Sqrt", variance))  # Of the root the file says nothing.
    made_in(b, *modules, line=4)
    return x


def test_a_module_of_several_nodes_is_one_layer(tmp_path, rng):
    b = Builder(rng, (1, 2, 4, 3))
    x = b.conv("image", 2, 5, (1, 1))
    made_in(b, ("stem", CONV))
    x = norm_of_five_nodes(b, x, [("norms.0", "net.Norm")])
    left, right = b.node("Split", x, axis=1, outputs=2, num_outputs=2)
    made_in(b, ("halves", "net.Halves"))
    model = b.model(b.node("Neg", left), b.node("Abs", right))
    network = onnx_network(save(model, tmp_path))
    assert names(network)[:2] == ["stem", "norms.0"]
    assert network.layer("norms.0").operator == "Norm"
    image, found = activations(network, rng, "norms.0")
    by_hand = every_value(model, image)[x]
    np.testing.assert_allclose(found["norms.0"], np.moveaxis(by_hand[0], 0, -1), rtol=1e-4)
    with pytest.raises(ValueError, match=r"no layer 'norms\.0\.sub'; the nearest are norms\.0"):
        network.layer("norms.0.sub")


def test_a_convolution_with_its_norm_in_its_weights_is_the_norm(tmp_path, rng):
    b = Builder(rng, (1, 2, 4, 3))
    x = b.conv("image", 2, 5, (1, 1))
    made_in(b, ("bn", NORM))
    model = b.model(x)
    for tensor, name in zip(model.graph.initializer, ("conv.weight", "conv.bias"), strict=True):
        tensor.name = name
    model.graph.node[0].input[1:] = ["conv.weight", "conv.bias"]
    network = onnx_network(save(model, tmp_path))
    assert [(layer.name, layer.operator) for layer in network.layers] == [("bn", "BatchNorm2d")]
    with pytest.raises(ValueError, match=r"'conv' cannot be taken: its batch norm.*: take 'bn'"):
        network.layer("conv")


def traced(tmp_path, rng, nodes, *, weights=(), producer="pytorch"):
    """The layers of a file with nodes of these names, as the exporter by tracing writes them."""
    b = Builder(rng, (1, 2, 4, 3))
    x = "image"
    for name in nodes:
        operator = name.rpartition("/")[2].partition("_")[0]
        operand = [b.normal(2, 2, 1, 1)] if operator == "Conv" else []
        x = b.node(operator, x, *operand, name=name)
    for tensor, name in zip(b.weights, weights, strict=False):
        for node in b.nodes:
            node.input[:] = [name if given == tensor.name else given for given in node.input]
        tensor.name = name
    model = b.model(x)
    model.producer_name = producer
    return onnx_network(save(model, tmp_path))


@pytest.mark.parametrize(
    ("node", "layer"),
    [
        ("/features/denseblock1/denselayer1/conv1/Conv",
         "features.denseblock1.denselayer1.conv1"),
        ("/layer1/layer1.0/conv/Conv", "layer1.0.conv"),
        ("/model/model.1/submodule/submodule.0/conv/Conv", "model.1.submodule.0.conv"),
        ("/blocks.0/attn/Conv", "blocks.0.attn"),
        ("/0/0.1/0.1.0/Conv", "0.1.0"),
        ("/Conv_3", "conv"),
    ],
)  # fmt: skip
def test_paths_are_put_together_from_what_tracing_leaves(tmp_path, rng, node, layer):
    assert layer in names(traced(tmp_path, rng, [node]))


def test_weights_tell_the_containers_that_tracing_leaves_out(tmp_path, rng):
    nodes = ["/heads/last/Conv", "/a/Conv", "/relu_1/Relu"]
    weights = ["heads.of.image.last.weight", "parts.a.weight"]
    network = traced(tmp_path, rng, nodes, weights=weights)
    listed = names(network)
    assert "heads.of.image.last" in listed
    assert "parts.a" in listed
    assert "relu_1" in listed  # There is no "relu" of which it could be the second call.


def test_second_calls_have_a_number_in_names_that_tracing_leaves(tmp_path, rng):
    nodes = ["/a/relu/Relu", "/a/Neg", "/a/relu_1/Relu", "/a_1/Neg"]
    nodes += ["/a/conv/Conv", "/a/conv_1/Conv"]
    weights = ["a.conv.weight", "a.conv_1.weight"]
    network = traced(tmp_path, rng, nodes, weights=weights)
    aliases = {node: network.layer(node).name for node in nodes}
    assert aliases["/a/relu_1/Relu"] == "a.relu@2"
    assert aliases["/a/conv_1/Conv"] == "a.conv_1"
    # What it returns is the module's.
    assert "a" in names(network)


def test_a_norm_in_the_weights_of_a_traced_convolution_is_shown(tmp_path, rng):
    b = Builder(rng, (1, 2, 4, 3))
    x = b.conv("image", 2, 5, (1, 1), name="/stem/Conv")
    model = written_by_pytorch(b, x)
    for tensor, name in zip(model.graph.initializer, ("onnx::Conv_7", "onnx::Conv_8"), strict=True):
        tensor.name = name
    model.graph.node[0].input[1:] = ["onnx::Conv_7", "onnx::Conv_8"]
    (layer,) = onnx_network(save(model, tmp_path)).layers
    assert (layer.name, layer.operator) == ("stem", "Conv+BatchNormalization")


def test_files_from_elsewhere_keep_the_names_of_their_nodes(tmp_path, rng):
    network = traced(tmp_path, rng, ["/stem/Conv", "/stem/Relu"], producer="tf2onnx")
    assert names(network) == ["stem/Conv", "stem/Relu"]
    assert not network.aliases


def test_metadata_that_makes_no_sense_is_passed_over(tmp_path, rng):
    b = Builder(rng, (1, 2, 4, 3))
    x = b.node("Relu", "image", name="only")
    for value in ("__import__('os')", "['', 'a'", "7"):
        del b.nodes[-1].metadata_props[:]
        b.nodes[-1].metadata_props.add(key="pkg.torch.onnx.name_scopes", value=value)
        b.nodes[-1].metadata_props.add(key="pkg.torch.onnx.class_hierarchy", value=value)
        assert names(onnx_network(save(b.model(x), tmp_path))) == ["only"]
