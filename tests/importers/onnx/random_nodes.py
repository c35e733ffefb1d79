"""Random nodes that compute: convolutions, products, poolings, normalizations, functions."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

import numpy as np

from tests.importers.onnx.models import Builder

Shape = tuple[int, ...]


class Drawn(NamedTuple):
    """A node that is yet to be appended."""

    operator: str
    inputs: tuple[Any, ...] = ()
    attributes: dict[str, Any] = {}  # noqa: RUF012
    outputs: int = 1


Draw = Callable[[Random, Builder, Shape], Drawn | None]

OTHER = object()
"""Stands for another value of the graph among a node's inputs."""


# ------------------------------------------------------------------------------- convolutions


def _pads(random: Random, rank: int, most: int) -> list[int]:
    return [random.randint(0, most) for _ in range(2 * rank)]


def each(random: Random, rank: int, least: int, most: int) -> list[int]:
    return [random.randint(least, most) for _ in range(rank)]


def _windows(random: Random, spatial: Shape, *, dilate: bool = True) -> dict[str, Any]:
    """Attributes of a convolution or a pooling; the window may be larger than the image."""
    rank = len(spatial)
    found: dict[str, Any] = {"kernel_shape": each(random, rank, 1, 3)}
    if random.random() < 0.7:
        found["strides"] = each(random, rank, 1, 3)
    if dilate and random.random() < 0.3:
        found["dilations"] = each(random, rank, 1, 2)
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
    attributes: dict[str, Any] = {"group": group, "strides": each(random, rank, 1, 3)}
    size = each(random, rank, 1, 3)
    if random.random() < 0.3:
        attributes["dilations"] = each(random, rank, 1, 2)
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
        return Drawn(operator, (OTHER,)) if operator != "Div" else None
    if operator != "PRelu" and choice < 0.5 and len(shape) < 5:
        kept = [random.choice((1, 2)), *shape]
    return Drawn(operator, (_positive(builder, *kept),))


def _power(random: Random, builder: Builder, shape: Shape) -> Drawn | None:
    kind = np.float32 if builder.opset < 12 or random.random() < 0.7 else np.int64
    return Drawn("Pow", (kind(random.choice((2, 3))),))


# ------------------------------------------------------------------------------- not supported


_FOREIGN = """
ArgMax Atan CumSum Hardmax IsNaN LRN LpPool MeanVarianceNormalization ReduceLogSumExp ReduceProd
Round Shrink Sign ThresholdedRelu TopK
"""


def _foreign(random: Random, builder: Builder, shape: Shape) -> Drawn | None:
    """An operator that the importer does not have."""
    name = random.choice(_FOREIGN.split())
    if not shape or (name in ("LRN", "LpPool", "MeanVarianceNormalization") and len(shape) != 4):
        return None
    if name == "CumSum":
        return Drawn(name, (np.array(0),))
    if name == "TopK":
        return Drawn(name, (np.array([1]),), outputs=2)
    return Drawn(name, (), {"LRN": {"size": 3}, "LpPool": {"kernel_shape": [2, 2]}}.get(name, {}))


COMPUTE: list[Draw] = [
    _conv, _conv, _conv_transpose, _conv_transpose, _gemm, _gemm, _matmul, _matmul, _pool, _pool,
    _global_pool, _norm, _norm, _layer_norm, _layer_norm, _softmax, _of_one, _of_one, _gelu, _clip,
    _of_two, _of_two, _of_two, _power, _foreign,
]  # fmt: skip
