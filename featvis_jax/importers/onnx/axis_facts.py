"""One output of a node, as the rules for axes see it, and what operands have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from featvis_jax.importers.onnx.axes import (
    Axes,
    Axis,
    Shape,
    is_known,
    length,
    resized,
    roles,
    unknown,
    whole,
)
from featvis_jax.importers.onnx.graph import Step


class Facts(NamedTuple):
    """One output of a node.

    Attributes:
      step: The node.
      operands: The axes of those operands that the image enters; ``None`` for all others.
      constants: The operands that are known, ``None`` for all others.
      value: Name of the output.
      shape: Its shape.
    """

    step: Step
    operands: Sequence[Axes | None]
    constants: Sequence[np.ndarray | None]
    value: str
    shape: Shape

    @property
    def data(self) -> Axes:
        """The first operand's axes."""
        return self.operands[0] or ()

    def axis(self, name: str, default: int, rank: int) -> int:
        """An attribute that names an axis."""
        return self.step.node.attributes.get(name, default) % rank

    def integers(self, position: int, attribute: str) -> list[int] | None:
        """An operand, or the attribute that it was in earlier versions."""
        given = self.constants[position] if position < len(self.constants) else None
        values = self.step.node.attributes.get(attribute) if given is None else given
        return None if values is None else [int(n) for n in np.ravel(values)]

    def unknown(self, place: int) -> Axis:
        """An axis of the output of which nothing is known."""
        return unknown(self.value, place, self.shape[place])

    def resized(self, place: int, axis: Axis) -> Axis:
        """An axis of the output that is `axis` with another number of elements."""
        return resized(axis, self.shape[place], self.unknown(place))


Rule = Callable[[Facts], Sequence[Axis]]


def common(facts: Facts, place: int, operands: Sequence[Axes | None], shape: Sequence[int]) -> Axis:
    """What operands that are broadcast have in common along one axis of the output."""
    from_behind = place - len(shape)
    met = [axes[from_behind] for axes in operands if axes is not None and len(axes) >= -from_behind]
    return one_of(facts, place, met)


def one_of(facts: Facts, place: int, met: Sequence[Axis]) -> Axis:
    """What an axis of the output is that comes from one or more axes of operands."""
    size = facts.shape[place]
    fitting = list(dict.fromkeys(axis for axis in met if axis and length(axis) == size))
    if not fitting:
        ones = [axis for axis in met if axis]
        return facts.resized(place, ones[0]) if ones else _nothing(facts, place)
    known = [axis for axis in fitting if is_known(axis)] or fitting
    if len(known) == 1:
        return known[0]
    found = set[str]().union(*map(roles, known))
    return whole(found.pop(), size) if len(found) == 1 else facts.unknown(place)


def _nothing(facts: Facts, place: int) -> Axis:
    return () if facts.shape[place] == 1 else facts.unknown(place)
