"""Random ONNX graphs: a few operators in a row, with whatever attributes their schemas allow.

Every axis of an image has another length, so that axes that were mixed up do not fit or do not
agree. Some graphs hold operators that the importer does not have, or ask for what no runtime
computes: what is asked of them is one clear error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import helper, shape_inference

from tests.importers.onnx.models import Builder

Shape = tuple[int, ...]


class Drawn(NamedTuple):
    """A node that is yet to be appended."""

    operator: str
    inputs: tuple[Any, ...] = ()
    attributes: dict[str, Any] = {}  # noqa: RUF012
    outputs: int = 1


Draw = Callable[[Random, Builder, Shape], Drawn | None]


def random_model(random: Random, *, operators: int = 3) -> onnx.ModelProto:
    """A model of an image whose last value is handed out as a vector too."""
    rank = random.choice((2, 2, 3))
    sizes = random.sample(range(3, 9 if rank == 2 else 7), rank)
    channels = random.choice([n for n in (1, 2, 4, 6) if n not in sizes])
    shape = (1, channels, *sizes) if random.random() < 0.8 else (1, *sizes, channels)
    generator = np.random.default_rng(random.getrandbits(32))
    builder = Builder(generator, shape, opset=random.choice((11, 13, 17, 18, 20, 21)))
    values: dict[str, Shape] = {"image": shape}
    if shape[-1] == channels:
        _append(builder, values, "image", _first_transposition(random, shape))
    for _ in range(operators):
        value = random.choice(list(values)[-2:])
        for _ in range(8):  # Some operators do not take every shape.
            drawn = random.choice(_DRAWS)(random, builder, values[value])
            if drawn is not None:
                break
        else:
            continue
        if not _append(builder, values, value, drawn, other=_partner(random, values, value)):
            break
    last = list(values)[-1]
    vector = builder.node("Reshape", last, np.array([1, -1]), name="vector")
    return builder.model(vector)


def _first_transposition(random: Random, shape: Shape) -> Drawn:
    """As Keras exports: channels last outside, first inside; of one channel by a reshape."""
    if shape[-1] == 1 and random.random() < 0.5:
        return Drawn("Reshape", (np.array([-1, 1, *shape[1:-1]]),))
    return Drawn("Transpose", (), {"perm": [0, len(shape) - 1, *range(1, len(shape) - 1)]})


_OTHER = object()  # Stands for another value of the graph.


def _partner(random: Random, values: dict[str, Shape], value: str) -> str | None:
    """Another value that an operator can take together with this one."""
    like = [name for name, shape in values.items() if shape == values[value] and name != value]
    return random.choice(like) if like and random.random() < 0.6 else None


def _append(
    builder: Builder, values: dict[str, Shape], value: str, drawn: Drawn, other: str | None = None
) -> bool:
    """Write a node down; whether the graph can go on from it."""
    shape = values[value]

    def operand(given: Any) -> Any:
        if given is not _OTHER:
            return given
        return builder.normal(*shape) if other is None else other

    operands = [operand(given) for given in drawn.inputs]
    made = builder.node(drawn.operator, value, *operands, outputs=drawn.outputs, **drawn.attributes)
    names = [made] if drawn.outputs == 1 else made
    found = _inferred(builder, names)
    values.update({name: found[name] for name in names if name in found})
    return all(name in found for name in names)


def _inferred(builder: Builder, names: list[str]) -> dict[str, Shape]:
    """The shapes of values, where ONNX can tell them, and there is something to go on from."""
    image = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, builder.shape)
    ends = [helper.make_empty_tensor_value_info(name) for name in names]
    graph = helper.make_graph(builder.nodes, "part", [image], ends, builder.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", builder.opset)])
    try:
        inferred = shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # A graph that is not valid: it ends here.
        return {}
    found = {}
    for value in inferred.graph.output:
        kind = value.type.tensor_type
        sizes = tuple(d.dim_value for d in kind.shape.dim)
        is_float = kind.elem_type == onnx.TensorProto.FLOAT
        if is_float and all(n > 0 for n in sizes) and math.prod(sizes) < 20_000:
            found[value.name] = sizes
    return found


# ------------------------------------------------------------------------------- convolutions


def _pads(random: Random, rank: int, most: int) -> list[int]:
    return [random.randint(0, most) for _ in range(2 * rank)]


def _each(random: Random, rank: int, least: int, most: int) -> list[int]:
    return [random.randint(least, most) for _ in range(rank)]


def _windows(random: Random, spatial: Shape, *, dilate: bool = True) -> dict[str, Any]:
    """Attributes of a convolution or a pooling; the window may be larger than the image."""
    rank = len(spatial)
    found: dict[str, Any] = {"kernel_shape": _each(random, rank, 1, 3)}
    if random.random() < 0.7:
        found["strides"] = _each(random, rank, 1, 3)
    if dilate and random.random() < 0.3:
        found["dilations"] = _each(random, rank, 1, 2)
    choice = random.random()
    if choice < 0.5:
        found["pads"] = _pads(random, rank, min(found["kernel_shape"]) - 1)
    elif choice < 0.8:
        found["auto_pad"] = random.choice(("SAME_UPPER", "SAME_LOWER", "VALID"))
    return found


def _groups(random: Random, channels: int) -> int:
    return random.choice([n for n in range(1, channels + 1) if channels % n == 0])


def _conv(random: Random, builder: Builder, shape: Shape) -> Drawn | None:
    if len(shape) not in (4, 5):
        return None
    window, group = _windows(random, shape[2:]), _groups(random, shape[1])
    outputs = group * random.randint(1, 3)
    kernel = builder.normal(outputs, shape[1] // group, *window["kernel_shape"])
    bias = (builder.normal(outputs),) if random.random() < 0.5 else ()
    return Drawn("Conv", (kernel, *bias), {**window, "group": group})


def _conv_transpose(random: Random, builder: Builder, shape: Shape) -> Drawn | None:
    if len(shape) not in (4, 5):
        return None
    rank, group = len(shape) - 2, _groups(random, shape[1])
    attributes: dict[str, Any] = {"group": group, "strides": _each(random, rank, 1, 3)}
    size = _each(random, rank, 1, 3)
    if random.random() < 0.3:
        attributes["dilations"] = _each(random, rank, 1, 2)
    if random.random() < 0.4:
        attributes["output_padding"] = [random.randrange(s) for s in attributes["strides"]]
    if random.random() < 0.4:
        attributes["pads"] = _pads(random, rank, 1)
    elif random.random() < 0.3:
        attributes["auto_pad"] = random.choice(("SAME_UPPER", "SAME_LOWER", "VALID"))
    if random.random() < 0.3:
        natural = [
            s * (n - 1) + (k - 1) * d + 1
            for s, n, k, d in zip(
                attributes["strides"],
                shape[2:],
                size,
                attributes.get("dilations", [1] * rank),
                strict=True,
            )
        ]
        attributes["output_shape"] = [max(1, n + random.randint(-2, 2)) for n in natural]
    outputs = random.randint(1, 3)
    kernel = builder.normal(shape[1], outputs, *size)
    bias = (builder.normal(outputs * group),) if random.random() < 0.5 else ()
    return Drawn("ConvTranspose", (kernel, *bias), attributes)


def _gemm(random: Random, builder: Builder, shape: Shape) -> Drawn | None:
    if len(shape) != 2:
        return None
    attributes = {"alpha": random.choice((1.0, 0.5)), "beta": random.choice((1.0, 2.0))}
    if random.random() < 0.2 and shape[0] != 1:
        attributes["transA"] = 1
    inner, rows = (shape[0], shape[1]) if "transA" in attributes else (shape[1], shape[0])
    matrix = builder.normal(inner, 5)
    if random.random() < 0.5:
        matrix, attributes["transB"] = np.ascontiguousarray(matrix.T), 1
    bias = random.choice(((), (5,), (1, 5), (rows, 1), (1,), (rows, 5)))
    extra = (builder.normal(*bias),) if bias else ()
    return Drawn("Gemm", (matrix, *extra), attributes)


def _matmul(random: Random, builder: Builder, shape: Shape) -> Drawn | None:
    if len(shape) < 2:
        return None
    batch = shape[:-2] if random.random() < 0.2 else ()
    return Drawn("MatMul", (builder.normal(*batch, shape[-1], random.choice((1, 3, 5))),))


def _pool(random: Random, builder: Builder, shape: Shape) -> Drawn | None:
    if len(shape) not in (4, 5):
        return None
    operator = random.choice(("MaxPool", "AveragePool"))
    dilate = operator == "MaxPool" or builder.opset >= 19
    attributes = _windows(random, shape[2:], dilate=dilate)
    if random.random() < 0.4:
        attributes["ceil_mode"] = 1
    if operator == "AveragePool" and random.random() < 0.5:
        attributes["count_include_pad"] = 1
    return Drawn(operator, (), attributes)


def _global_pool(random: Random, builder: Builder, shape: Shape) -> Drawn | None:
    if len(shape) < 3:
        return None
    return Drawn(random.choice(("GlobalAveragePool", "GlobalMaxPool")))


# ----------------------------------------------------------------------------- normalizations


def _positive(builder: Builder, *shape: int) -> np.ndarray:
    return builder.rng.uniform(0.5, 1.5, shape).astype(np.float32)


def _norm(random: Random, builder: Builder, shape: Shape) -> Drawn | None:
    if len(shape) not in (4, 5):
        return None
    channels, epsilon = shape[1], {"epsilon": random.choice((1e-5, 1e-2))}
    scale, bias = _positive(builder, channels), builder.normal(channels)
    choice = random.random()
    if choice < 0.3:
        statistics = builder.normal(channels), _positive(builder, channels)
        return Drawn("BatchNormalization", (scale, bias, *statistics), epsilon)
    if choice < 0.6 or builder.opset < 21:
        return Drawn("InstanceNormalization", (scale, bias), epsilon)
    groups = _groups(random, channels)
    return Drawn("GroupNormalization", (scale, bias), {**epsilon, "num_groups": groups})


def _layer_norm(random: Random, builder: Builder, shape: Shape) -> Drawn | None:
    if builder.opset < 17 or len(shape) < 2:
        return None
    axis = random.choice((-1, -2, len(shape) - 1))
    last = shape[axis:]
    bias = (builder.normal(*last),) if random.random() < 0.5 else ()
    return Drawn("LayerNormalization", (_positive(builder, *last), *bias), {"axis": axis})


def _softmax(random: Random, builder: Builder, shape: Shape) -> Drawn | None:
    if not shape:
        return None
    attributes = (
        {} if random.random() < 0.3 else {"axis": random.randrange(-len(shape), len(shape))}
    )
    return Drawn(random.choice(("Softmax", "LogSoftmax")), (), attributes)


# ----------------------------------------------------------------------------- element by element

_NAMES = """
Abs Cos Elu Erf Exp HardSigmoid HardSwish Identity LeakyRelu Neg Relu Selu Sigmoid Sin Softplus
Softsign Tanh Celu Ceil Floor
"""
_PLAIN = _NAMES.split()


def _of_one(random: Random, builder: Builder, shape: Shape) -> Drawn | None:
    operator = random.choice(_PLAIN)
    if builder.opset < {"HardSwish": 14, "Celu": 12}.get(operator, 0):
        return None
    takes = {"Elu": 1, "LeakyRelu": 1, "Celu": 1, "HardSigmoid": 1, "Selu": 1}
    attributes = {"alpha": round(random.uniform(0.05, 1.5), 2)} if operator in takes else {}
    return Drawn(operator, (), attributes if random.random() < 0.5 else {})


def _gelu(random: Random, builder: Builder, shape: Shape) -> Drawn | None:
    if builder.opset < 20:
        return None
    return Drawn("Gelu", (), {"approximate": random.choice(("none", "tanh"))})


def _clip(random: Random, builder: Builder, shape: Shape) -> Drawn | None:
    low, high = np.float32(random.uniform(-1, 0)), np.float32(random.uniform(0, 1))
    return Drawn("Clip", random.choice(((low, high), ("", high), (low,), ())))


def _of_two(random: Random, builder: Builder, shape: Shape) -> Drawn | None:
    operator = random.choice(("Add", "Sub", "Mul", "Div", "Max", "Min", "Mean", "Sum", "PRelu"))
    kept = [n if random.random() < 0.6 else 1 for n in shape]
    kept = kept[random.randint(0, len(kept)) :]
    choice = random.random()
    if operator != "PRelu" and choice < 0.4:
        return Drawn(operator, (_OTHER,)) if operator != "Div" else None
    if operator != "PRelu" and choice < 0.5 and len(shape) < 5:
        kept = [random.choice((1, 2)), *shape]
    return Drawn(operator, (_positive(builder, *kept),))


def _power(random: Random, builder: Builder, shape: Shape) -> Drawn | None:
    kind = np.float32 if builder.opset < 12 or random.random() < 0.7 else np.int64
    return Drawn("Pow", (kind(random.choice((2, 3))),))


# ------------------------------------------------------------------------------------- shapes


def _factors(random: Random, count: int, length: int) -> list[int]:
    """So many numbers whose product is `count`."""
    found = []
    for _ in range(length - 1):
        part = random.choice([n for n in range(1, count + 1) if count % n == 0])
        found.append(part)
        count //= part
    return [*found, count]


def _reshape(random: Random, builder: Builder, shape: Shape) -> Drawn | None:
    wanted = _factors(random, math.prod(shape), random.randint(1, 5))
    if random.random() < 0.5:
        wanted[random.randrange(len(wanted))] = -1
    for axis, (new, old) in enumerate(zip(wanted, shape, strict=False)):
        if new == old and random.random() < 0.5:
            wanted[axis] = 0
    return Drawn("Reshape", (np.array(wanted),))


def _flatten(random: Random, builder: Builder, shape: Shape) -> Drawn | None:
    return Drawn("Flatten", (), {"axis": random.randint(-len(shape), len(shape))})


def _transpose(random: Random, builder: Builder, shape: Shape) -> Drawn | None:
    if not shape:
        return None
    if random.random() < 0.4 and len(shape) > 2:
        last = len(shape) - 1
        to_last, to_first = [0, *range(2, last + 1), 1], [0, last, *range(1, last)]
        return Drawn("Transpose", (), {"perm": random.choice((to_last, to_first))})
    return Drawn("Transpose", (), {"perm": random.sample(range(len(shape)), len(shape))})


def _axes(random: Random, builder: Builder, chosen: list[int]) -> tuple[tuple, dict[str, Any]]:
    """Axes as an operand or, in earlier versions, as an attribute."""
    return ((np.array(chosen),), {}) if builder.opset >= 13 else ((), {"axes": chosen})


def _squeeze(random: Random, builder: Builder, shape: Shape) -> Drawn | None:
    ones = [axis for axis, n in enumerate(shape) if n == 1]
    if random.random() < 0.5 and ones:
        inputs, attributes = _axes(
            random, builder, random.sample(ones, random.randint(1, len(ones)))
        )
        return Drawn("Squeeze", inputs, attributes)
    if len(shape) > 4:
        return None
    inputs, attributes = _axes(random, builder, [random.randint(-len(shape) - 1, len(shape))])
    return Drawn("Unsqueeze", inputs, attributes)


def _expand(random: Random, builder: Builder, shape: Shape) -> Drawn | None:
    wanted = [random.choice((1, 3)) if n == 1 else random.choice((1, n)) for n in shape]
    return Drawn("Expand", (np.array(wanted),))


def _tile(random: Random, builder: Builder, shape: Shape) -> Drawn | None:
    return Drawn("Tile", (np.array(_each(random, len(shape), 1, 2)),))


def _concat(random: Random, builder: Builder, shape: Shape) -> Drawn | None:
    if not shape:
        return None
    axis = random.randrange(-len(shape), len(shape))
    if random.random() < 0.5:
        return Drawn("Concat", (_OTHER,), {"axis": axis})
    sizes = list(shape)
    sizes[axis] = random.randint(1, 3)
    return Drawn("Concat", (builder.normal(*sizes),), {"axis": axis})


def _split(random: Random, builder: Builder, shape: Shape) -> Drawn | None:
    if not shape:
        return None
    axis = random.randrange(-len(shape), len(shape))
    if shape[axis] < 2:
        return None
    if builder.opset >= 18 and random.random() < 0.4:
        return Drawn("Split", (), {"axis": axis, "num_outputs": 2}, outputs=2)
    first = random.randint(1, shape[axis] - 1)
    sizes = [first, shape[axis] - first]
    if builder.opset >= 13:
        return Drawn("Split", (np.array(sizes),), {"axis": axis}, outputs=2)
    return Drawn("Split", (), {"axis": axis, "split": sizes}, outputs=2)


def _slice(random: Random, builder: Builder, shape: Shape) -> Drawn | None:
    if not shape:
        return None
    axes = random.sample(range(len(shape)), random.randint(1, len(shape)))
    starts, ends, steps = [], [], []
    for axis in axes:
        n, step = shape[axis], random.choice((1, 1, 2, -1, -2))
        edges = sorted((random.randint(-n - 2, n + 2), random.choice((n, n + 3, 2**40, -1))))
        starts.append(edges[0] if step > 0 else edges[1])
        ends.append(edges[1] if step > 0 else random.choice((edges[0], -n - 3, -(2**40))))
        steps.append(step)
    axes = [axis - len(shape) if random.random() < 0.3 else axis for axis in axes]
    inputs = [np.array(values, np.int64) for values in (starts, ends, axes, steps)]
    return Drawn("Slice", tuple(inputs[: random.choice((4, 4, 3))]))


def _pad(random: Random, builder: Builder, shape: Shape) -> Drawn | None:
    if not shape:
        return None
    modes = ("constant", "reflect", "edge", *(("wrap",) if builder.opset >= 19 else ()))
    mode, rank = random.choice(modes), len(shape)
    least = -1 if random.random() < 0.3 else 0
    if builder.opset >= 18 and random.random() < 0.4:
        axes = random.sample(range(-rank, rank), 1)
        return Drawn(
            "Pad", (np.array(_each(random, 2, least, 2)), "", np.array(axes)), {"mode": mode}
        )
    widths = [0 if random.random() < 0.5 else n for n in _each(random, 2 * rank, least, 2)]
    value = (np.float32(random.uniform(-1, 1)),) if mode == "constant" and rank % 2 else ()
    return Drawn("Pad", (np.array(widths), *value), {"mode": mode})


def _gather(random: Random, builder: Builder, shape: Shape) -> Drawn | None:
    if not shape:
        return None
    axis = random.randrange(-len(shape), len(shape))
    n = shape[axis]
    indices = [random.randrange(-n, n) for _ in range(random.randint(1, 4))]
    chosen = random.choice((np.array(indices), np.array(indices[0]), np.array([indices])))
    return Drawn("Gather", (chosen,), {"axis": axis})


def _space_and_depth(random: Random, builder: Builder, shape: Shape) -> Drawn | None:
    if len(shape) != 4:
        return None
    if random.random() < 0.5 and builder.opset >= 13:
        mode = random.choice(("DCR", "CRD"))
        return Drawn("DepthToSpace", (), {"blocksize": 2, "mode": mode})
    return Drawn("SpaceToDepth", (), {"blocksize": 2})


def _reduce(random: Random, builder: Builder, shape: Shape) -> Drawn | None:
    operator = random.choice(("ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"))
    attributes: dict[str, Any] = {}
    if random.random() < 0.7:
        attributes["keepdims"] = random.randint(0, 1)
    as_operand = builder.opset >= (13 if operator == "ReduceSum" else 18)
    if random.random() < 0.2:
        if as_operand and random.random() < 0.5:
            attributes["noop_with_empty_axes"] = 1
        return Drawn(operator, (), attributes)
    axes = random.sample(range(len(shape)), random.randint(1, len(shape))) if shape else []
    axes = [axis - len(shape) if random.random() < 0.3 else axis for axis in axes]
    if as_operand:
        return Drawn(operator, (np.array(axes, np.int64),), attributes)
    return Drawn(operator, (), {**attributes, "axes": axes})


def _resize(random: Random, builder: Builder, shape: Shape) -> Drawn | None:
    if len(shape) not in (4, 5):
        return None
    mode = random.choice(("nearest", "linear", "cubic"))
    if mode == "cubic" and len(shape) != 4:
        return None
    coordinates = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]
    if builder.opset >= 19:
        coordinates.append("half_pixel_symmetric")
    attributes: dict[str, Any] = {"mode": mode}
    if random.random() < 0.8:
        attributes["coordinate_transformation_mode"] = random.choice(coordinates)
    if mode == "nearest" and random.random() < 0.8:
        roundings = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
        attributes["nearest_mode"] = random.choice(roundings)
    if random.random() < 0.15:
        attributes["exclude_outside"] = 1
    if random.random() < 0.15 and builder.opset >= 18:
        attributes["antialias"] = 1
    roi = "" if builder.opset >= 13 else np.zeros(0, np.float32)
    if random.random() < 0.5:
        scales = [1.0, 1.0, *(random.choice((0.5, 0.6, 1.0, 1.5, 2.0, 3.0)) for _ in shape[2:])]
        return Drawn("Resize", (roi, np.array(scales, np.float32)), attributes)
    sizes = np.array([*shape[:2], *(random.randint(1, 2 * n) for n in shape[2:])])
    empty = "" if builder.opset >= 13 else np.zeros(0, np.float32)
    return Drawn("Resize", (roi, empty, sizes), attributes)


# ------------------------------------------------------------------------------- not supported


def _foreign(random: Random, builder: Builder, shape: Shape) -> Drawn | None:
    """An operator that the importer does not have."""
    name = random.choice(("LRN", "Round", "Sign", "ThresholdedRelu", "CumSum", "TopK", "Hardmax"))
    if name == "LRN":
        return Drawn(name, (), {"size": 3}) if len(shape) == 4 else None
    if name == "CumSum":
        return Drawn(name, (np.array(0),))
    if name == "TopK":
        return Drawn(name, (np.array([1]),), outputs=2) if shape else None
    return Drawn(name)


_DRAWS: list[Draw] = [
    _conv, _conv, _conv_transpose, _conv_transpose, _gemm, _gemm, _matmul, _matmul, _pool, _pool,
    _global_pool, _norm, _norm, _layer_norm, _layer_norm, _softmax, _of_one, _of_one, _gelu, _clip,
    _of_two, _of_two, _of_two, _power, _reshape, _reshape, _flatten, _transpose,
    _transpose, _squeeze, _squeeze, _expand, _tile, _concat, _concat, _split, _split, _slice,
    _slice, _pad, _pad, _gather, _gather, _space_and_depth, _reduce, _reduce, _resize, _resize,
    _foreign,
]  # fmt: skip
