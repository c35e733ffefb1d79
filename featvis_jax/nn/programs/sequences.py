"""Sequences of which some elements are places of the image, such as the tokens of a transformer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from featvis_jax.nn.programs.spans import Span
from featvis_jax.nn.tokens import Tokens


def tokens_of(points: Sequence[Span | None], axis: int) -> Tokens | None:
    """Which elements of a sequence are places of the image; ``None`` where they do not tell.

    Args:
      points: Where its elements lie along each axis of the image
        (`featvis_jax.nn.programs.receptive_fields.points`).
      axis: Which axis of the array the sequence is.
    """
    lines = [None if span is None or span.axis != axis else span.low for span in points]
    told = [line for line in lines if line is not None]
    if not told:
        return None
    reached = np.all(np.isfinite(np.stack(told)), axis=0, keepdims=True)[0]
    numbers = np.flatnonzero(reached)
    # What has no place is in front of those that have one, or behind them.
    if not len(numbers) or numbers[-1] + 1 - numbers[0] != len(numbers):
        return None
    first, last = numbers[0], numbers[-1]
    # Where all tokens share a coordinate, the grid has one place along that axis.
    along = [np.zeros(1) if x is None else np.unique(x[first : last + 1]) for x in lines]
    grid = tuple(map(len, along))
    if math.prod(grid) != last + 1 - first or sum(n > 1 for n in grid) < 2:
        return None
    expected = np.meshgrid(*along, indexing="ij")
    for line, wanted in zip(lines, expected, strict=True):
        if line is not None and not np.array_equal(line[first : last + 1], wanted.ravel()):
            return None
    return Tokens(int(first), grid, int(reached.size - 1 - last))


def on_grid(spans: Sequence[Span | None], axis: int, tokens: Tokens) -> list[Span | None]:
    """What reaches the places of a sequence, as if they lay on their grid.

    Args:
      spans: Which voxels along each axis of the image reach its elements.
      axis: Which axis of the array the sequence is.
      tokens: Which of its elements are places of the image.
    """
    found: list[Span | None] = []
    for along, span in enumerate(spans):
        if span is None or span.axis != axis:
            found.append(span)
            continue
        others = tuple(i for i in range(len(tokens.grid)) if i != along)
        low, high = (
            values[tokens.first : tokens.stop].reshape(tokens.grid)
            for values in (span.low, span.high)
        )
        found.append(Span(along, low.min(axis=others), high.max(axis=others)))
    return found
