"""Windows that slide over a batch of images."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Array


class Windows(NamedTuple):
    """Where the windows of a convolution or a pooling lie, one entry per spatial axis.

    Attributes:
      size: Elements of a window.
      strides: The step between two windows.
      dilations: The step between two elements of a window.
      pads: Elements before and after the image; less than none cut it.
    """

    size: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]

    @property
    def extents(self) -> tuple[int, ...]:
        """Elements from the first of a window to its last."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.size, self.dilations, strict=True))

    def counts(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """How many windows there are in an image of this spatial shape, along each axis."""
        return tuple(
            (low + n + high - extent) // stride + 1
            for n, (low, high), extent, stride in zip(
                spatial, self.pads, self.extents, self.strides, strict=True
            )
        )


def taps(window: Sequence[int]) -> list[tuple[int, ...]]:
    """Every place in a window, in row-major order."""
    return list(itertools.product(*(range(w) for w in window)))


def shifted(images: Array, tap: Sequence[int], shape: Sequence[int]) -> Array:
    """The part of a batch that starts at `tap` and has the spatial shape `shape`."""
    stop = tuple(t + n for t, n in zip(tap, shape, strict=True))
    return images[(slice(None), *(slice(a, b) for a, b in zip(tap, stop, strict=True)))]
