"""An ONNX file as a `featvis_jax.nn.network.Network`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import onnx
from jax import lax
from jaxtyping import Array

from featvis_jax.importers.onnx import graph as graphs
from featvis_jax.importers.onnx.files import opset, read_model
from featvis_jax.importers.onnx.graph import Graph, Step, Value
from featvis_jax.importers.onnx.operators.registry import channels_last
from featvis_jax.nn.network import Channel, Layer, Network, Variables, select, split_relu
from featvis_jax.nn.reach import reaches
from featvis_jax.types import Image


def onnx_network(path: Path | str, *, image_shape: Sequence[int] | None = None) -> Network:
    """Read a convolutional network from an ONNX file.

    A layer is a node's output, by the node's name without a leading slash, such as
    ``layer1/conv1/Conv`` (what Netron shows), or by the output's name where nodes have none. Its
    activation has channels last and no batch, as everywhere in this package. All is computed in
    float32. Files whose first step transposes the image (TensorFlow's) take it channels last.

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
        name, shape, image_is_last = _input(model, image_shape)
        graph = graphs.build(model, name, shape, opset(model))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    grid = shape[1:] if image_is_last else (*shape[2:], shape[1])
    targets = _targets(graph, rank=len(shape))
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
        if not target.is_last_in_onnx:
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
            shape=target.shape,
            receptive_field=seen[base].receptive_field if len(target.shape) > 1 else None,
            stride=seen[base].stride if len(target.shape) > 1 else None,
            has_weights=any(name in graph.weights for name in target.step.node.inputs),
        )
        for base, target in targets.items()
    )
    return Network(activations, one_channel, variables, tuple(grid), layers)


class _Target(NamedTuple):
    """An output that can be asked for."""

    step: Step
    value: str
    shape: tuple[int, ...]
    is_last_in_onnx: bool

    def read(self, value: Value) -> Array:
        """The activation of one image, channels last."""
        if value.channels_last or self.is_last_in_onnx:
            return value.array[0]
        return channels_last(value.array)[0]


def _input(
    model: onnx.ModelProto, image_shape: Sequence[int] | None
) -> tuple[str, tuple[int, ...], bool]:
    """Name and shape of the image as in ONNX, and whether its channels come last there."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(repr(value.name) for value in inputs) or "none"
        raise ValueError(f"expected one input, the image; it has {len(inputs)}: {names}.")
    (value,) = inputs
    tensor = value.type.tensor_type
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
    if tensor.elem_type not in floats:
        kind = onnx.TensorProto.DataType.Name(tensor.elem_type)
        raise ValueError(f"its input {value.name!r} is of type {kind}; expected a float image.")
    sizes = [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]
    if len(sizes) not in (4, 5):
        raise ValueError(
            f"its input {value.name!r} has {len(sizes)} axes; expected (batch, channels, *spatial) "
            "with 2 or 3 spatial axes."
        )
    if sizes[0] not in (1, None):
        raise ValueError(
            f"its input {value.name!r} takes batches of {sizes[0]}; expected 1 or any: export it "
            "with a batch of one image, or with a dynamic batch axis."
        )
    image_is_last = _starts_with_transposition(model, value.name, len(sizes))
    found = sizes[1:] if image_is_last else [*sizes[2:], sizes[1]]
    shown = ", ".join("?" if n is None else str(n) for n in found)
    if image_shape is None:
        image_shape = [0 if n is None else n for n in found]
        if not all(image_shape):
            raise ValueError(
                f"its input {value.name!r} has no fixed shape: (*spatial, channels) is ({shown}). "
                "Give the whole of it: image_shape, or --input_shape=X,Y,CHANNELS (3-D: "
                "X,Y,Z,CHANNELS)."
            )
    given = tuple(image_shape)
    if len(given) != len(found) or any(
        n not in (None, m) or m < 1 for n, m in zip(found, given, strict=True)
    ):
        raise ValueError(
            f"an image of shape {given} does not fit its input {value.name!r}, whose (*spatial, "
            f"channels) is ({shown})."
        )
    return value.name, (1, *given) if image_is_last else (1, given[-1], *given[:-1]), image_is_last


def _starts_with_transposition(model: onnx.ModelProto, name: str, rank: int) -> bool:
    users = [node for node in model.graph.node if name in node.input]
    to_first = [0, rank - 1, *range(1, rank - 1)]
    return bool(users) and all(
        node.op_type == "Transpose"
        and any(list(a.ints) == to_first for a in node.attribute if a.name == "perm")
        for node in users
    )


def _targets(graph: Graph, *, rank: int) -> dict[str, _Target]:
    """Every output that is one image or one vector, under a name of its own."""
    names = [step.node.name.strip("/") for step in graph.steps]
    targets: dict[str, _Target] = {}
    for step, name in zip(graph.steps, names, strict=True):
        to_last = step.node.attributes.get("perm") == [0, *range(2, rank), 1]
        for value, shape in zip(step.node.outputs, step.shapes, strict=True):
            if shape is None or not value or shape.ndim not in (2, rank) or shape.shape[0] != 1:
                continue
            if not jnp.issubdtype(shape.dtype, jnp.floating):
                continue
            several = sum(map(bool, step.node.outputs)) > 1 or names.count(name) > 1
            unique = value.strip("/") if several or not name else name
            while unique in targets:
                unique += "_"
            is_last = shape.ndim > 2 and step.node.operator == "Transpose" and to_last
            sizes = shape.shape[1:]
            if shape.ndim > 2 and not is_last:
                sizes = (*sizes[1:], sizes[0])
            targets[unique] = _Target(step, value, sizes, is_last)
    return targets


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
