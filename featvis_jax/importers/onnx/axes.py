"""What each axis of an array is: channels, a direction of the image, or both laid in one another.

ONNX does not say it. But the image's axes are known, a convolution says which axis has channels,
and every node says what becomes of the axes that it is given, so that they can be followed through
any chain of transpositions and reshapes: to features on the last axis, to tokens that lie in a
grid, to windows that are taken apart and put together again.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

BATCH, CHANNELS = "batch", "channels"
_UNKNOWN = "unknown"

Shape = tuple[int, ...]


class Joined(NamedTuple):
    """Places of the image with other things around them, such as tokens behind a class token.

    Attributes:
      before: How many others are in front.
      grid: What the axis of the places was.
      behind: How many others follow.
    """

    before: int
    grid: Axis
    behind: int

    @property
    def size(self) -> int:
        """How many elements there are in all."""
        return self.before + length(self.grid) + self.behind


Role = str | Joined


class Part(NamedTuple):
    """What an axis holds, or one of several things that are merged in it.

    Attributes:
      role: ``"batch"``, ``"channels"``, the number of an axis of the image's grid, places of the
        image and others in a row, or the name of an axis of some other kind.
      size: How many there are.
      stride: The step between two of them: where an axis of 12 is split into 3 times 4, the first
        part has stride 4, the second 1.
    """

    role: Role
    size: int
    stride: int = 1


Axis = tuple[Part, ...]
"""Outermost part first. An axis of length 1 may be nothing at all."""

Axes = tuple[Axis, ...]


def whole(role: Role, size: int) -> Axis:
    """An axis that holds one thing."""
    if isinstance(role, Joined) and size != role.size:
        return (Part(f"{_UNKNOWN} {role}", size),)  # Nobody knows which are left.
    return (Part(role, size),)


def unknown(value: str, axis: int, size: int) -> Axis:
    """An axis that holds one thing, of which no more is known."""
    return whole(f"{_UNKNOWN} {value} {axis}", size)


def is_known(axis: Axis) -> bool:
    """Whether what an axis holds came from the image or is channels."""
    return not any(str(part.role).startswith(_UNKNOWN) for part in axis)


def length(axis: Axis) -> int:
    """Number of elements along an axis."""
    return math.prod(part.size for part in axis)


def roles(axis: Axis) -> set[Role]:
    """What an axis holds; parts of one element count where there is nothing else."""
    large = {part.role for part in axis if part.size > 1}
    return large or {part.role for part in axis}


def resized(axis: Axis, size: int, otherwise: Axis) -> Axis:
    """An axis of which some elements were taken, or to which some were added."""
    found = roles(axis)
    if len(found) > 1:
        found = found - {CHANNELS}  # Rows of pixels that channels were shuffled into.
    return whole(found.pop(), size) if len(found) == 1 else otherwise


def cut(axis: Axis, start: int, stop: int) -> Axis | None:
    """What is left of places of the image and others in a row; ``None`` where that is not known.

    Args:
      axis: Before.
      start: The first element that is kept.
      stop: The one after the last.
    """
    (role,) = roles(axis) if len(roles(axis)) == 1 else (None,)
    if not isinstance(role, Joined) or axis != whole(role, role.size):
        return None
    first, end = role.before, role.size - role.behind
    if start > first or stop < end:
        return None
    before, behind = first - start, stop - end
    return whole(Joined(before, role.grid, behind), stop - start) if before + behind else role.grid


def joined(parts: Iterable[Part]) -> Axis:
    """Neighbouring parts put together where one was split into them."""
    found: list[Part] = []
    for part in parts:
        if found:
            before = found[-1]
            if before.role == part.role and before.stride == part.size * part.stride:
                found[-1] = Part(part.role, before.size * part.size, part.stride)
                continue
        found.append(part)
    return tuple(found)


def reshaped(axes: Axes, shape: Sequence[int], value: str) -> Axes:
    """The axes after the same elements, in the same order, got another shape.

    Args:
      axes: Before.
      shape: After.
      value: Name of the result, for axes of which nothing is known any more.
    """
    left = [part for axis in axes for part in axis if part.size > 1]
    units = _units(axes, shape)
    found: list[Axis] = []
    lost = False
    for place, size in enumerate(shape):
        taken: list[Part] = []
        missing = size
        while missing > 1 and not lost:
            part = left.pop(0)
            inner = math.gcd(missing, part.size)
            if inner == part.size:
                taken.append(part)
            elif inner == missing:
                rest = part.size // missing
                taken.append(Part(part.role, missing, part.stride * rest))
                left.insert(0, Part(part.role, rest, part.stride))
            else:
                lost = True  # Neither is a multiple of the other: they cannot be told apart.
            missing //= inner
        if size == 1:
            found.append(units.get(place, ()))
        else:
            found.append(unknown(value, place, size) if lost else joined(taken))
    return tuple(found)


def _units(axes: Axes, shape: Sequence[int]) -> dict[int, Axis]:
    """Which axis of length 1 each axis of length 1 was, by the elements before it and by order.

    So is the last one, of an image with one channel, found again behind the batch.
    """
    old = [
        (before, axis)
        for axis, before in zip(axes, _before([length(axis) for axis in axes]), strict=True)
        if axis and length(axis) == 1
    ]
    new = [
        (b, place) for place, (n, b) in enumerate(zip(shape, _before(shape), strict=True)) if n == 1
    ]
    found: dict[int, Axis] = {}
    for before, place in new:
        same = next((entry for entry in old if entry[0] == before), None)
        if same is not None:
            found[place] = same[1]
            old.remove(same)
    rest = (place for _, place in new if place not in found)
    found.update({place: axis for place, (_, axis) in zip(rest, old, strict=False)})
    return found


def _before(sizes: Sequence[int]) -> list[int]:
    return list(itertools.accumulate(sizes, lambda a, b: a * b, initial=1))[:-1]


# ------------------------------------------------------------------------------------- reading


class Reading(NamedTuple):
    """How an array of ONNX becomes an activation: no batch, the grid's axes, channels last.

    Attributes:
      pieces: The shape in which every axis holds one thing.
      order: How those axes are transposed.
      shape: ``(*grid, channels)``.
      is_plain: Whether the axes are batch, channels and the grid as everywhere in ONNX.
      joined: What the one axis of a sequence holds, where some of it are places of the image.
    """

    pieces: Shape
    order: tuple[int, ...]
    shape: Shape
    is_plain: bool
    joined: Joined | None

    def read(self, array: Array) -> Array:
        """The activation.

        Args:
          array: As in ONNX.
        """
        return jnp.transpose(array.reshape(self.pieces), self.order).reshape(self.shape)


class _Piece(NamedTuple):
    role: Role
    size: int
    stride: int
    axis: int


def reading(axes: Axes) -> Reading | None:
    """How to read an array; ``None`` where its axes do not tell."""
    resolved = _without_mixtures(axes)
    if resolved is None:
        return None
    pieces = [
        _Piece(*part, axis)
        for axis, parts in enumerate(resolved)
        for part in parts
        if part.role != BATCH or part.size > 1
    ]
    pieces = _one_per_run(pieces)
    of_roles: dict[Role, list[int]] = {}
    for place, piece in enumerate(pieces):
        of_roles.setdefault(piece.role, []).append(place)
    if CHANNELS not in of_roles or BATCH in of_roles:
        return None
    channels = of_roles.pop(CHANNELS)
    sequence = next(iter(of_roles)) if len(of_roles) == 1 else None
    order, shape = [], []
    for places in (*of_roles.values(), channels):
        places.sort(key=lambda place: -pieces[place].stride)
        for outer, inner in itertools.pairwise(pieces[place] for place in places):
            if outer.stride != inner.size * inner.stride:
                return None
        order += places
        shape.append(math.prod(pieces[place].size for place in places))
    return Reading(
        pieces=tuple(piece.size for piece in pieces),
        order=tuple(order),
        shape=tuple(shape),
        is_plain=[piece.axis for piece in pieces] == list(range(1, len(axes)))
        and order == [*range(1, len(pieces)), 0],
        joined=sequence if isinstance(sequence, Joined) and sequence.size == shape[0] else None,
    )


def _without_mixtures(axes: Axes) -> Axes | None:
    """Axes none of which holds channels and something else."""
    mixed = [i for i, axis in enumerate(axes) if CHANNELS in roles(axis) and len(roles(axis)) > 1]
    if not mixed:
        return axes
    resolved = list(axes)
    if any(roles(axis) == {CHANNELS} for axis in axes):
        # Channels that were shuffled into the rows of an image are pixels now.
        for i in mixed:
            others = roles(axes[i]) - {CHANNELS}
            if len(others) > 1 or i < 2:
                return None
            resolved[i] = whole(others.pop(), length(axes[i]))
    elif len(mixed) == 1 and _are_neighbours(axes, mixed[0]):
        # Flattened, every place of every channel is a channel of its own.
        resolved[mixed[0]] = whole(CHANNELS, length(axes[mixed[0]]))
    else:
        return None
    return tuple(resolved)


def _are_neighbours(axes: Axes, merged: int) -> bool:
    """Whether what an axis took from the grid are neighbours in it: a patch, or all of it."""
    outside = [part for i, axis in enumerate(axes) if i != merged for part in axis]
    return all(
        part.stride > inside.stride
        for part in outside
        for inside in axes[merged]
        if part.role == inside.role
    )


def _one_per_run(pieces: list[_Piece]) -> list[_Piece]:
    """With the parts of one role on one axis put together, if no other axis has any of it."""
    found: list[_Piece] = []
    for (axis, role), run in itertools.groupby(pieces, key=lambda piece: (piece.axis, piece.role)):
        run = list(run)
        elsewhere = sum(piece.role == role for piece in pieces) > len(run)
        if elsewhere:
            found += run
        else:
            found.append(_Piece(role, math.prod(piece.size for piece in run), 1, axis))
    return found
