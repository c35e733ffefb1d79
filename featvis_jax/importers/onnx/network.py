"""An ONNX file as a `featvis_jax.nn.network.Network`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
from jaxtyping import Array

from featvis_jax.importers.onnx import graph as graphs
from featvis_jax.importers.onnx.files import read_model
from featvis_jax.importers.onnx.graph import Value
from featvis_jax.importers.onnx.image import graph_of_image
from featvis_jax.importers.onnx.targets import targets
from featvis_jax.nn.network import Network, Variables
from featvis_jax.nn.programs.layers import network_of


def onnx_network(path: Path | str, *, image_shape: Sequence[int] | None = None) -> Network:
    """Read a convolutional network from an ONNX file.

    In a file that PyTorch wrote, by either of its exporters, a layer is what a module returns, by
    the module's path in `torch.nn.Module.named_modules`, such as ``layer1.0.conv1``; of a module
    that is called again, the second output is ``NAME@2``. An operation that no module of its own
    makes has the path of the module whose code it is in and the operator of ONNX:
    ``layer1.0.add``. A module that the exporter left nothing of, such as dropout, is no layer, and
    neither are the steps of one in which no other is called, such as a normalization. Names of
    nodes are aliases there. In a file from elsewhere a layer is a node's output, by the node's name
    without a leading slash, such as ``layer1/conv1/Conv`` (what Netron shows), or by the output's
    name where nodes have none.

    An activation has channels last and no batch, as everywhere in this package. All is computed in
    float32. An image whose last axis reaches the first convolution as its channels (Keras) is taken
    channels last.

    Which axis of an output has the channels is followed through the graph
    (`featvis_jax.importers.onnx.axes`), wherever a transposition or a reshape puts it. Tokens of a
    transformer are laid out on the grid of the image again where they came from it one by one;
    where others joined them, as a class token, they are a sequence with one axis, and
    `Layer.tokens` says which of them lie where. An output whose axes do not tell, such as how much
    tokens attend to each other, is no layer: `Network.refused` names it.

    Args:
      path: The file.
      image_shape: ``(*spatial, channels)`` of one image, where the file leaves them open.

    Raises:
      FileNotFoundError: The file, or one with its weights, is missing.
      ValueError: It is not an ONNX file, does not take one image of a known shape, or has an
        operator that is not supported.

    Example:
      >>> import pathlib, tempfile
      >>> from onnx import TensorProto, helper
      >>> image, out = (helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, channels, 9, 8))
      ...               for name, channels in (("image", 2), ("out", 3)))
      >>> kernel = helper.make_tensor("kernel", TensorProto.FLOAT, (3, 2, 1, 1), [0.5] * 6)
      >>> conv = helper.make_node("Conv", ["image", "kernel"], ["out"], name="/stem/Conv")
      >>> model = helper.make_model(helper.make_graph([conv], "net", [image], [out], [kernel]))
      >>> with tempfile.TemporaryDirectory() as directory:
      ...     path = pathlib.Path(directory) / "net.onnx"
      ...     _ = path.write_bytes(model.SerializeToString())
      ...     network = onnx_network(path)
      >>> network.image_shape, network.layer("stem/Conv").shape
      ((9, 8, 2), (9, 8, 3))

    References:
      Open Neural Network Exchange, operator schemas, https://onnx.ai/onnx/operators.
    """
    model = read_model(path)
    try:
        graph, image_is_last = graph_of_image(model, image_shape)
        found = targets(model, graph, image_is_last=image_is_last)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    shape = graph.input_shape
    grid = shape[1:] if image_is_last else (*shape[2:], shape[1])

    def apply(variables: Variables, images: Array) -> None:
        values = {graph.input: Value(images, channels_last=not image_is_last)}
        values.update({name: Value(array) for name, array in variables.items()})
        for step in graph.steps:
            taken = graphs.operands(step, values, graph.constants)
            made = graphs.carry_out(step, taken)
            values.update(zip(step.node.outputs, made, strict=False))
        for name, target in found.layers.items():
            target.mark(name, values[target.value])

    variables = {weight: jnp.asarray(values) for weight, values in graph.weights.items()}
    network = network_of(apply, variables, grid, aliases=found.aliases)
    return network._replace(refused=(*network.refused, *found.refused))
