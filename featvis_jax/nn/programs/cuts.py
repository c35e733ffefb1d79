"""Parts of an array: along some of its axes, an interval instead of everything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

Sources = Mapping[str, Any]
"""The numbers that cuts start from, by name: data, such as a unit's channel."""


class Source(NamedTuple):
    """A number from 0 to `values` - 1 that is known when a part is computed.

    Attributes:
      name: Of the number.
      values: How many values it can have.
      divisor: What it is divided by, rounding down.
    """

    name: str
    values: int
    divisor: int = 1


class Cut(NamedTuple):
    """An interval along an axis, ``scale * source + offset`` and so many further.

    It may stick out of the array, where a window does: there it holds nothing of meaning.

    Attributes:
      source: The number that it moves with; ``None`` where it stays.
      scale: How far it moves with it.
      offset: Where it starts without it.
      size: Number of elements.
    """

    source: Source | None
    scale: int
    offset: int
    size: int

    def through(self, *, stride: int, start: int, extent: int) -> Cut:
        """What windows see: those of this interval, where the first one begins at `start`."""
        return Cut(
            self.source,
            self.scale * stride,
            self.offset * stride + start,
            (self.size - 1) * stride + extent,
        )

    def start(self, sources: Sources) -> Any:
        """The first element."""
        if self.source is None:
            return self.offset
        number = sources[self.source.name]
        if self.source.divisor > 1:
            number = number // self.source.divisor
        return number * self.scale + self.offset

    def sticks_out(self, length: int) -> tuple[int, int]:
        """How many elements before and behind an axis of this length it may hold at most."""
        last = 0 if self.source is None else (self.source.values - 1) // self.source.divisor
        starts = self.offset, self.offset + self.scale * last
        return max(0, -min(starts)), max(0, max(starts) + self.size - length)

    def moves_with(self, other: Cut) -> bool:
        """Whether the distance to another one is fixed."""
        return self[:2] == other[:2]


Part = dict[int, Cut]
"""A cut for some axes; of all others everything."""


def hull(one: Part, other: Part, shape: tuple[int, ...]) -> Part:
    """The smallest part that holds both, as far as that can be said beforehand.

    Args:
      one: A part.
      other: Another one of the same array.
      shape: The array's.
    """
    found = {}
    for axis in one.keys() & other.keys():
        a, b = one[axis], other[axis]
        if a.moves_with(b):
            offset = min(a.offset, b.offset)
            size = max(a.offset + a.size, b.offset + b.size) - offset
            if size < shape[axis]:
                found[axis] = Cut(a.source, a.scale, offset, size)
    return found


def take(array: Any, held: Part, wanted: Part, shape: tuple[int, ...], sources: Sources) -> Any:
    """Cut a part out of a larger one.

    Args:
      array: What there is.
      held: Which part that is.
      wanted: The part, within it.
      shape: Of the whole array.
      sources: The numbers that cuts start from.
    """
    for axis, cut in wanted.items():
        inside = held.get(axis)
        if inside is not None:
            if not cut.moves_with(inside):
                raise AssertionError(f"{cut} is not within {inside}.")
            first = cut.offset - inside.offset
            array = lax.slice_in_dim(array, first, first + cut.size, axis=axis)
            continue
        before, behind = cut.sticks_out(shape[axis])
        if before or behind:
            # By what is finite wherever the array is: nobody reads it, but a gradient may.
            pads = [(0, 0)] * array.ndim
            pads[axis] = (before, behind)
            array = jnp.pad(array, pads, mode="edge")
        start = cut.start(sources) + before
        if isinstance(start, (int, np.integer)):
            array = lax.slice_in_dim(array, int(start), int(start) + cut.size, axis=axis)
        else:
            array = lax.dynamic_slice_in_dim(array, start, cut.size, axis=axis)
    return array


def filled(array: Any, part: Part, shape: tuple[int, ...], fill: Any, sources: Sources) -> Any:
    """A part with `fill` wherever it sticks out.

    Args:
      array: The part.
      part: Where it lies.
      shape: Of the whole array.
      fill: What a window sees beyond the border.
      sources: The numbers that cuts start from.
    """
    for axis, cut in part.items():
        if cut.sticks_out(shape[axis]) == (0, 0):
            continue
        place = cut.start(sources) + lax.broadcasted_iota(jnp.int32, array.shape, axis)
        array = jnp.where((place >= 0) & (place < shape[axis]), array, fill)
    return array
