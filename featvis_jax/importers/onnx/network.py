"""An ONNX file as a `featvis_jax.nn.network.Network`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from featvis_jax.importers.onnx import axes, axis_rules
from featvis_jax.importers.onnx import graph as graphs
from featvis_jax.importers.onnx.axes import Reading
from featvis_jax.importers.onnx.files import read_model
from featvis_jax.importers.onnx.graph import Graph, Step, Value
from featvis_jax.importers.onnx.image import graph_of_image, image_axes
from featvis_jax.nn.network import Channel, Layer, Network, Variables, select, split_relu
from featvis_jax.nn.reach import reaches
from featvis_jax.types import Image


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
    names = frozenset(targets)

    def start(image: Image) -> Value:
        return Value(image[None], channels_last=not image_is_last)

    def activations(
        variables: Variables, image: Image, layers: tuple[str, ...]
    ) -> dict[str, Array]:
        bases = dict.fromkeys(split_relu(layer, names)[0] for layer in layers)
        values = {targets[base].value: base for base in bases}
        computed = _compute(graph, variables, start(image), values)
        outputs = {base: targets[base].read(computed[value]) for value, base in values.items()}
        return select(outputs, layers, names)

    def one_channel(
        variables: Variables, image: Image, layer: str, channel: Channel
    ) -> dict[str, Array]:
        base, _ = split_relu(layer, names)
        target = targets[base]
        value = None
        if target.reading.channel_axis == 1:
            value = _narrowed(graph, variables, start(image), target.value, channel)
        if value is not None:
            output = target.read(value)
        else:
            whole = _compute(graph, variables, start(image), [target.value])[target.value]
            output = lax.dynamic_slice_in_dim(target.read(whole), channel, 1, axis=-1)
        return select({base: output}, (layer,), names)

    def every_layer(variables: Variables, image: Image) -> dict[str, Array]:
        return dict(activations(variables, image, tuple(targets)))

    variables = {weight: jnp.asarray(values) for weight, values in graph.weights.items()}
    seen = reaches(every_layer, variables, grid)
    layers = tuple(
        Layer(
            name=base,
            operator=target.step.node.operator,
            shape=target.reading.shape,
            receptive_field=seen[base].receptive_field if target.has_grid else None,
            stride=seen[base].stride if target.has_grid else None,
            has_weights=any(name in graph.weights for name in target.step.node.inputs),
        )
        for base, target in targets.items()
    )
    return Network(activations, one_channel, variables, tuple(grid), layers, refused=refused)


class _Target(NamedTuple):
    """An output that can be asked for."""

    step: Step
    value: str
    reading: Reading

    @property
    def has_grid(self) -> bool:
        """Whether it has more than channels."""
        return len(self.reading.shape) > 1

    def read(self, value: Value) -> Array:
        """The activation of one image, channels last."""
        if value.channels_last and self.reading.is_plain:
            return value.array[0]
        return self.reading.read(graphs.as_in_onnx(value))


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
                targets[unique] = _Target(step, value, reading)
    if not targets:
        names = ", ".join(name for name, _ in refused) or "no numbers"
        raise ValueError(f"of all that it computes ({names}) no axis is known to be channels.")
    return targets, tuple(refused)


def _compute(
    graph: Graph, variables: Variables, image: Value, wanted: Iterable[str]
) -> dict[str, Value]:
    """The values asked for, through those steps alone that they need."""
    missing = set(wanted)
    needed = []
    for step in reversed(graph.steps):
        if missing.intersection(step.node.outputs):
            needed.append(step)
            missing.update(step.node.inputs)
    values = {graph.input: image}
    values.update({name: Value(array) for name, array in variables.items()})
    for step in reversed(needed):
        taken = graphs.operands(step, values, graph.constants)
        made = graphs.carry_out(step, taken)
        values.update(zip(step.node.outputs, made, strict=False))
    return values


# ---------------------------------------------------------------------------- a single channel

# The axis of each weight that belongs to the output's channels.
_KERNELS = {"Conv": (0, 0), "ConvTranspose": (1, 0), "Gemm": (1, -1), "MatMul": (-1,)}
_NAMES = """
AveragePool BatchNormalization Clip Dropout Elu Gelu GlobalAveragePool GlobalMaxPool HardSigmoid
HardSwish Identity InstanceNormalization LeakyRelu MaxPool Mish Relu Selu Sigmoid Softplus Tanh
"""
_CHANNEL_BY_CHANNEL = frozenset(_NAMES.split())


def _narrowed(
    graph: Graph, variables: Variables, image: Value, name: str, channel: Channel
) -> Value | None:
    """One channel of a value, computed alone; ``None`` where its channels are entangled."""
    makers = {output: step for step in graph.steps for output in step.node.outputs}
    behind: list[Step] = []
    step = makers[name]
    while (
        step.node.operator in _CHANNEL_BY_CHANNEL
        and step.node.inputs[0] in makers
        and not makers.keys() & set(step.node.inputs[1:])
    ):
        behind.append(step)
        step = makers[step.node.inputs[0]]
    axes = _kernel_axes(graph, step)
    if axes is None:
        return None
    needed = [n for n in step.node.inputs if n in makers]
    values = _compute(graph, variables, image, needed)
    narrow = {
        weight: Value(lax.dynamic_slice_in_dim(variables[weight], channel, 1, axis=axis))
        for weight, axis in axes.items()
    }
    taken = graphs.operands(step, {**values, **narrow}, graph.constants)
    (value,) = graphs.carry_out(step, taken)
    for step in reversed(behind):
        data, *parameters = step.node.inputs
        narrow = {data: value}
        for weight in parameters:
            if weight in variables:
                array = variables[weight]
                if array.ndim == 1:
                    array = lax.dynamic_slice_in_dim(array, channel, 1, axis=0)
                narrow[weight] = Value(array)
        taken = graphs.operands(step, narrow, graph.constants)
        value = graphs.carry_out(step, taken)[0]
    return value


def _kernel_axes(graph: Graph, step: Step) -> dict[str, int] | None:
    """The weights to slice, and along which axis."""
    node, shape = step.node, step.shapes[0]
    if node.operator not in _KERNELS or node.attributes.get("group", 1) != 1 or shape is None:
        return None
    if node.operator == "MatMul" and len(shape.shape) > 2:
        return None
    axes = list(_KERNELS[node.operator])
    if node.operator == "Gemm" and node.attributes.get("transB", 0):
        axes[0] = 0
    found = {}
    for weight, axis in zip(node.inputs[1:], axes, strict=False):
        if not weight:
            continue
        if weight not in graph.weights:
            return None
        sizes = graph.weights[weight].shape
        channels = shape.shape[-1 if node.operator in ("Gemm", "MatMul") else 1]
        if len(sizes) and sizes[axis] == channels:
            found[weight] = axis % len(sizes)
        elif not found:
            return None  # The kernel itself is not what was expected.
    return found
