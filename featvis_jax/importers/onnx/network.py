"""An ONNX file as a `featvis_jax.nn.network.Network`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from featvis_jax.importers.onnx import axes, axis_rules
from featvis_jax.importers.onnx import graph as graphs
from featvis_jax.importers.onnx.axes import Reading
from featvis_jax.importers.onnx.files import read_model
from featvis_jax.importers.onnx.graph import Graph, Value
from featvis_jax.importers.onnx.image import graph_of_image, image_axes
from featvis_jax.nn.network import Network, Variables
from featvis_jax.nn.programs.layers import network_of
from featvis_jax.nn.programs.marks import mark


def onnx_network(path: Path | str, *, image_shape: Sequence[int] | None = None) -> Network:
    """Read a convolutional network from an ONNX file.

    A layer is a node's output, by the node's name without a leading slash, such as
    ``layer1/conv1/Conv`` (what Netron shows), or by the output's name where nodes have none; of
    nodes with the same name the second is ``NAME@2``. Its activation has channels last and no
    batch, as everywhere in this package. All is computed in float32. An image whose last axis
    reaches the first convolution as its channels (Keras) is taken channels last.

    Which axis of an output has the channels is followed through the graph
    (`featvis_jax.importers.onnx.axes`), wherever a transposition or a reshape puts it. Tokens of a
    transformer are laid out on the grid of the image again where they came from it one by one;
    where others joined them, as a class token, they are a sequence with one axis. An output whose
    axes do not tell, such as how much tokens attend to each other, is no layer:
    `Network.refused` names it.

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
        targets, refused = _targets(graph, image_is_last=image_is_last)
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
        for name, target in targets.items():
            target.mark(name, values[target.value])

    variables = {weight: jnp.asarray(values) for weight, values in graph.weights.items()}
    network = network_of(apply, variables, grid)
    return network._replace(refused=(*network.refused, *refused))


class _Target(NamedTuple):
    """An output that can be asked for."""

    value: str
    operator: str
    has_weights: bool
    reading: Reading

    def mark(self, name: str, value: Value) -> None:
        """Call it a layer, channels last."""
        if value.channels_last and self.reading.is_plain:
            array = value.array[0]
        else:
            array = self.reading.read(graphs.as_in_onnx(value))
        mark(array[None], name, operator=self.operator, has_weights=self.has_weights)


def _targets(
    graph: Graph, *, image_is_last: bool
) -> tuple[dict[str, _Target], tuple[tuple[str, str], ...]]:
    """Every output whose axes are known, under a name of its own; and the names of all others."""
    found = axis_rules.follow(graph, image_axes(graph.input_shape, image_is_last=image_is_last))
    targets: dict[str, _Target] = {}
    refused: list[tuple[str, str]] = []
    counts: Counter[str] = Counter()
    for step in graph.steps:
        name = step.node.name.strip("/")
        counts[name] += 1
        numbered = name if counts[name] == 1 else f"{name}@{counts[name]}"
        several = sum(map(bool, step.node.outputs)) > 1
        for value, shape in zip(step.node.outputs, step.shapes, strict=True):
            if shape is None or not value or not jnp.issubdtype(shape.dtype, jnp.floating):
                continue
            unique = value.strip("/") if several or not name else numbered
            while unique in targets:
                unique += "_"
            reading = axes.reading(found[value]) if shape.ndim > 1 else None
            if reading is None:
                refused.append(
                    (unique, f"no axis of its shape {shape.shape} is known to be channels.")
                )
            else:
                has_weights = any(name in graph.weights for name in step.node.inputs)
                targets[unique] = _Target(value, step.node.operator, has_weights, reading)
    if not targets:
        names = ", ".join(name for name, _ in refused) or "no numbers"
        raise ValueError(f"of all that it computes ({names}) no axis is known to be channels.")
    return targets, tuple(refused)
