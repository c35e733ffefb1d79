"""Minimal filtering: neighbouring results of a convolution from fewer multiplications.

Taken one by one, `m` neighbouring results of a window of `r` elements need ``m * r``
multiplications. Winograd and Toom see the two sequences as polynomials: `m` results follow from
their values at ``m + r - 1`` points, with one multiplication each. What it takes to get there and
back are sums, done once for all the channels that meet in a product.

References:
  Winograd, Arithmetic complexity of computations, 1980
  Lavin and Gray, Fast algorithms for convolutional neural networks, 2016
  Barabasz et al., Error analysis and improving the accuracy of Winograd convolution, 2020
"""

from __future__ import annotations

import functools
from fractions import Fraction
from typing import NamedTuple

import numpy as np

# Small fractions and their reciprocals: these sets lose least in float32, of all that were tried.
_POINTS = {
    3: ("0", "1"),
    4: ("0", "1", "-1"),
    5: ("0", "1", "-1/2", "-2"),
    6: ("0", "1", "-1", "1/2", "-2"),
    7: ("0", "1", "-1", "1/2", "-2", "3/2"),
    8: ("0", "1", "-1", "1/2", "-1/2", "2", "-2"),
}
# What a product loses by that number of points (the last is infinity), in units of four points'.
LOSSES = {1: 0.5, 3: 0.7, 4: 1.0, 5: 1.7, 6: 2.5, 7: 3.9, 8: 4.2}


class Filtering(NamedTuple):
    """Matrices of one axis: ``results = back @ ((filters @ window) * (images @ seen))``.

    Attributes:
      images: ``(points, m + r - 1)``.
      filters: ``(points, r)``.
      back: ``(m, points)``.
    """

    images: np.ndarray
    filters: np.ndarray
    back: np.ndarray

    @property
    def points(self) -> int:
        """Multiplications."""
        return len(self.images)

    @property
    def results(self) -> int:
        """How many results they give."""
        return len(self.back)


@functools.cache
def minimal_filtering(results: int, window: int) -> Filtering:
    """Matrices for so many results of a window, with as few multiplications as there can be.

    Args:
      results: 1 for no such thing: a window of one element, multiplied.
      window: Its elements.
    """
    if results == window == 1:
        one = np.ones((1, 1), np.float32)
        return Filtering(one, one, one)
    length = results + window - 1
    points = [Fraction(point) for point in _POINTS[length]]
    powers = [[point**i for i in range(length)] for point in points]
    others = [[q for q in points if q != p] for p in points]
    # Lagrange's polynomial of each point, and the one that is zero at them all for infinity.
    images = [[*_from_roots(roots), Fraction(0)] for roots in others] + [_from_roots(points)]
    norms = [
        functools.reduce(lambda n, q: n * (p - q), o, Fraction(1))
        for p, o in zip(points, others, strict=True)
    ]
    filters = [
        [power / norm for power in row[:window]] for row, norm in zip(powers, norms, strict=True)
    ]
    filters.append([Fraction(int(i == window - 1)) for i in range(window)])
    back = [row[:results] for row in powers]
    back.append([Fraction(int(i == results - 1)) for i in range(results)])
    # Rows of like size lose least.
    sizes = [max(abs(entry) for entry in row) for row in images]
    return Filtering(
        _float32(
            [[entry / size for entry in row] for row, size in zip(images, sizes, strict=True)]
        ),
        _float32(
            [[entry * size for entry in row] for row, size in zip(filters, sizes, strict=True)]
        ),
        _float32(back).T,
    )


def _from_roots(roots: list[Fraction]) -> list[Fraction]:
    """Coefficients of the polynomial with these roots, from the lowest power up."""
    polynomial = [Fraction(1)]
    for root in roots:
        raised, scaled = [Fraction(0), *polynomial], [*(-root * c for c in polynomial), Fraction(0)]
        polynomial = [a + b for a, b in zip(raised, scaled, strict=True)]
    return polynomial


def _float32(rows: list[list[Fraction]]) -> np.ndarray:
    return np.array([[float(entry) for entry in row] for row in rows], np.float32)
