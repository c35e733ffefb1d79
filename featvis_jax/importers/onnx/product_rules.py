"""What products of matrices do to the axes that `featvis_jax.importers.onnx.axes` follows."""

from __future__ import annotations

from collections.abc import Sequence

from featvis_jax.importers.onnx.axes import CHANNELS, Axes, Axis, roles, whole
from featvis_jax.importers.onnx.axis_facts import Facts, common, one_of


def product(facts: Facts) -> Sequence[Axis]:
    """Of matrix products: a side that is constant makes new features of what it takes up."""
    a, b = facts.operands[:2]
    rank = len(facts.shape)
    ranks = [_rank(facts, position) for position in (0, 1)]
    if min(ranks) < 2:
        return []
    made = [
        common(facts, place, [x[:-2] if x else x for x in (a, b)], facts.shape[:-2])
        for place in range(rank - 2)
    ]
    rows = a[-2] if a else _mixed(facts, rank - 2, of=b or (), taken=-2)
    columns = b[-1] if b else _mixed(facts, rank - 1, of=a or (), taken=-1)
    return [*made, rows, columns]


def _rank(facts: Facts, position: int) -> int:
    axes, constant = facts.operands[position], facts.constants[position]
    return len(axes) if axes is not None else 0 if constant is None else constant.ndim


def _mixed(facts: Facts, place: int, *, of: Axes, taken: int) -> Axis:
    """An axis that constants made out of another: channels, unless those are left elsewhere."""
    has_channels = any(CHANNELS in roles(axis) for axis in of)
    if not has_channels or CHANNELS in roles(of[taken]):
        return whole(CHANNELS, facts.shape[place])
    return facts.unknown(place)


def gemm(facts: Facts) -> Sequence[Axis]:
    """Of a product of which a side may be transposed."""
    attributes = facts.step.node.attributes
    sides = []
    for x, transposed in zip(facts.operands[:2], ("transA", "transB"), strict=True):
        sides.append(x[::-1] if x is not None and attributes.get(transposed, 0) else x)
    return product(facts._replace(operands=sides))


def einsum(facts: Facts) -> Sequence[Axis]:
    """Of a product by Einstein's notation."""
    ranks = [_rank(facts, position) for position in range(len(facts.operands))]
    *sides, result = _letters(facts.step.node.attributes["equation"], ranks)
    made: list[Axis] = []
    for place, letter in enumerate(result):
        met = [
            axes[side.index(letter)]
            for axes, side in zip(facts.operands, sides, strict=True)
            if axes is not None and letter in side
        ]
        if met:
            made.append(one_of(facts, place, met))
            continue
        # New, from constants: channels, unless those that there were are left.
        left = [
            axis
            for axes, side in zip(facts.operands, sides, strict=True)
            for axis, each in zip(axes or (), side, strict=False)
            if each in result
        ]
        has_channels = any(CHANNELS in roles(axis) for axis in left)
        made.append(facts.unknown(place) if has_channels else whole(CHANNELS, facts.shape[place]))
    return made


def _letters(equation: str, ranks: Sequence[int]) -> list[str]:
    """A letter for each axis of the operands and of the result."""
    given, arrow, result = equation.replace(" ", "").partition("->")
    sides = given.split(",")
    if not arrow:
        counted = given.replace(",", "").replace(".", "")
        result = "..." + "".join(sorted(x for x in set(counted) if counted.count(x) == 1))
    # Axes that an ellipsis stands for are aligned at the end.
    lengths = [rank - len(side.replace(".", "")) for side, rank in zip(sides, ranks, strict=True)]
    others = "".join(chr(0x100 + i) for i in range(max(lengths, default=0)))
    expanded = [
        side.replace("...", others[len(others) - n :])
        for side, n in zip(sides, lengths, strict=True)
    ]
    has_ellipsis = "..." in given
    return [*expanded, result.replace("...", others if has_ellipsis else "")]
