"""The image that an ONNX file takes: its shape, and which of its axes has the channels."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from featvis_jax.importers.onnx import axis_rules
from featvis_jax.importers.onnx import graph as graphs
from featvis_jax.importers.onnx.axes import BATCH, CHANNELS, Axes, whole
from featvis_jax.importers.onnx.files import opset
from featvis_jax.importers.onnx.graph import Graph


def graph_of_image(model: onnx.ModelProto, image_shape: Sequence[int] | None) -> tuple[Graph, bool]:
    """The graph of a file, and whether its image has channels last there.

    Args:
      model: The file.
      image_shape: ``(*spatial, channels)``, where the file leaves them open.

    Raises:
      ValueError: It does not take one image, or none of this shape, or a node cannot be computed.
    """
    value = _image(model)
    sizes = [
        dim.dim_value if dim.HasField("dim_value") else None
        for dim in value.type.tensor_type.shape.dim
    ]
    guess = _starts_with_transposition(model, value.name, len(sizes))
    if image_shape is None and None in sizes[1:]:
        raise ValueError(
            f"its input {value.name!r} has no fixed shape: (*spatial, channels) is "
            f"{_shown(sizes, image_is_last=guess)}. "
            "Give the whole of it: image_shape, or --input_shape=X,Y,CHANNELS (3-D: "
            "X,Y,Z,CHANNELS)."
        )
    built: dict[tuple[int, ...], Graph] = {}
    failures: list[ValueError] = []
    for image_is_last in (guess, not guess):
        shape = _placed(sizes, image_shape, image_is_last=image_is_last)
        if shape is None:
            continue
        try:
            if shape not in built:
                built[shape] = graphs.build(model, value.name, shape, opset(model))
        except ValueError as error:
            failures.append(error)
            continue
        axis = axis_rules.channel_axis(built[shape])
        expected = len(shape) - 1 if image_is_last else 1
        # A network without any such node has channels where the file begins as if it had.
        if axis == expected or (axis is None and image_is_last == guess):
            return built[shape], image_is_last
        if axis not in (None, 1, len(shape) - 1):
            raise ValueError(
                f"its input {value.name!r} of shape {shape} reaches the first convolution with "
                f"axis {axis} as its channels; expected axis 1 or {len(shape) - 1}."
            )
    if failures:
        raise failures[0]
    raise ValueError(
        f"an image of shape {tuple(image_shape or ())} does not fit its input {value.name!r}, "
        f"whose (*spatial, channels) is {_shown(sizes, image_is_last=guess)}."
    )


def _image(model: onnx.ModelProto) -> onnx.ValueInfoProto:
    """The one input, which takes images."""
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
    rank = len(tensor.shape.dim)
    if rank not in (4, 5):
        raise ValueError(
            f"its input {value.name!r} has {rank} axes; expected (batch, channels, *spatial) "
            "with 2 or 3 spatial axes."
        )
    batch = tensor.shape.dim[0]
    if batch.HasField("dim_value") and batch.dim_value != 1:
        raise ValueError(
            f"its input {value.name!r} takes batches of {batch.dim_value}; expected 1 or any: "
            "export it with a batch of one image, or with a dynamic batch axis."
        )
    return value


def _placed(
    sizes: Sequence[int | None], image_shape: Sequence[int] | None, *, image_is_last: bool
) -> tuple[int, ...] | None:
    """The shape of the image as in ONNX; ``None`` where the file has another one."""
    if image_shape is None:
        return (1, *(n or 0 for n in sizes[1:]))
    given = tuple(image_shape)
    placed = given if image_is_last else (*given[-1:], *given[:-1])
    fits = len(placed) == len(sizes) - 1 and all(
        m > 0 and n in (None, m) for n, m in zip(sizes[1:], placed, strict=True)
    )
    return (1, *placed) if fits else None


def _shown(sizes: Sequence[int | None], *, image_is_last: bool) -> str:
    found = sizes[1:] if image_is_last else [*sizes[2:], sizes[1]]
    return f"({', '.join('?' if n is None else str(n) for n in found)})"


def _starts_with_transposition(model: onnx.ModelProto, name: str, rank: int) -> bool:
    """Whether the file moves the last axis of the image to the front: known without its shape."""
    users = [node for node in model.graph.node if name in node.input]
    to_first = [0, rank - 1, *range(1, rank - 1)]
    return bool(users) and all(
        any(list(a.ints) == to_first for a in node.attribute if a.name == "perm")
        if node.op_type == "Transpose"
        else node.op_type == "Pad" and _starts_with_transposition(model, node.output[0], rank)
        for node in users
    )


def image_axes(shape: Sequence[int], *, image_is_last: bool) -> Axes:
    """What the axes of the image are.

    Args:
      shape: As in ONNX, with the batch.
      image_is_last: Whether its channels come last there.
    """
    batch, *sizes = shape
    place = len(sizes) - 1 if image_is_last else 0
    grid = [whole(str(i), n) for i, n in enumerate(sizes[:place] + sizes[place + 1 :])]
    grid.insert(place, whole(CHANNELS, sizes[place]))
    return (whole(BATCH, batch), *grid)
