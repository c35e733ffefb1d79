"""Windows that slide over a batch of images, one tap at a time."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from jaxtyping import Array


def taps(window: Sequence[int]) -> list[tuple[int, ...]]:
    """Every place in a window, in row-major order."""
    return list(itertools.product(*(range(w) for w in window)))


def shifted(images: Array, tap: Sequence[int], shape: Sequence[int]) -> Array:
    """The part of a batch that starts at `tap` and has the spatial shape `shape`."""
    stop = tuple(t + n for t, n in zip(tap, shape, strict=True))
    return images[(slice(None), *(slice(a, b) for a, b in zip(tap, stop, strict=True)))]
