"""Which voxels of the image reach the elements of an array, followed along one axis."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Span(NamedTuple):
    """Which voxels along one axis of the image reach the elements of an array.

    Attributes:
      axis: The axis of the array along which they differ; ``None`` where all elements share them.
      low: The first voxel for each index of that axis, one number where there is no axis; inf
        where nothing of the image arrives.
      high: The last voxel, -inf where nothing arrives.
    """

    axis: int | None
    low: np.ndarray
    high: np.ndarray


Spans = Sequence[Span | None]


def everywhere(span: Span) -> Span:
    """One interval for all elements."""
    low = span.low.min(keepdims=True, initial=np.inf)
    return Span(None, low, span.high.max(keepdims=True, initial=-np.inf))


def union(spans: Spans) -> Span | None:
    """What reaches an element that is computed from one element of each."""
    present = [span for span in spans if span is not None]
    axes = {span.axis for span in present if span.axis is not None}
    if not present:
        return None
    if len(axes) > 1:
        present = [everywhere(span) for span in present]
    low = functools.reduce(np.minimum, [span.low for span in present])
    high = functools.reduce(np.maximum, [span.high for span in present])
    return Span(axes.pop() if len(axes) == 1 else None, low, high)


def without(span: Span, axes: Sequence[int]) -> Span:
    """After some axes of the array are gone."""
    if span.axis is None or span.axis in axes:
        return everywhere(span)
    return span._replace(axis=span.axis - sum(axis < span.axis for axis in axes))


def over_windows(
    span: Span,
    axis: int,
    *,
    size: int,
    stride: int,
    dilation: int,
    base_dilation: int,
    padding: Sequence[Any],
) -> Span:
    """The union over the windows of a convolution or a pooling."""
    wide = padded(span, axis, (*padding, base_dilation - 1))
    count = (len(wide.low) - (size - 1) * dilation - 1) // stride + 1
    taps = np.arange(size)[:, None] * dilation + np.arange(max(count, 0)) * stride
    return Span(axis, wide.low[taps].min(axis=0), wide.high[taps].max(axis=0))


def padded(span: Span, axis: int, padding: Sequence[Any]) -> Span:
    """With so many elements before, after and between, which the image does not enter."""
    before, after, between = map(int, padding)

    def pad(values: np.ndarray, empty: float) -> np.ndarray:
        spread = np.full((len(values) - 1) * (between + 1) + 1, empty)
        spread[:: between + 1] = values
        padded = np.pad(spread, (max(before, 0), max(after, 0)), constant_values=empty)
        return padded[max(-before, 0) : len(padded) - max(-after, 0)]

    return Span(axis, pad(span.low, np.inf), pad(span.high, -np.inf))
