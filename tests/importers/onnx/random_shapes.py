"""Random nodes that rearrange elements, take some of them, or interpolate."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import numpy as np

from tests.importers.onnx.models import Builder
from tests.importers.onnx.random_nodes import OTHER, Draw, Drawn, Shape, each


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
    return Drawn("Tile", (np.array(each(random, len(shape), 1, 2)),))


def _concat(random: Random, builder: Builder, shape: Shape) -> Drawn | None:
    if not shape:
        return None
    axis = random.randrange(-len(shape), len(shape))
    if random.random() < 0.5:
        return Drawn("Concat", (OTHER,), {"axis": axis})
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
            "Pad", (np.array(each(random, 2, least, 2)), "", np.array(axes)), {"mode": mode}
        )
    widths = [0 if random.random() < 0.5 else n for n in each(random, 2 * rank, least, 2)]
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
    if not shape:
        return None
    operator = random.choice(("ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"))
    attributes: dict[str, Any] = {}
    if random.random() < 0.7:
        attributes["keepdims"] = random.randint(0, 1)
    as_operand = builder.opset >= (13 if operator == "ReduceSum" else 18)
    if random.random() < 0.2:
        if as_operand and random.random() < 0.5:
            attributes["noop_with_empty_axes"] = 1
        return Drawn(operator, (), attributes)
    axes = random.sample(range(len(shape)), random.randint(1, len(shape)))
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


REARRANGE: list[Draw] = [
    _reshape, _reshape, _flatten, _transpose, _transpose, _squeeze, _squeeze, _expand, _tile,
    _concat, _concat, _split, _split, _slice, _slice, _pad, _pad, _gather, _gather,
    _space_and_depth, _reduce, _reduce, _resize, _resize,
]  # fmt: skip
