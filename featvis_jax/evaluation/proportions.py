"""Shares of pictures that pass: intervals, and tests against controls."""

from __future__ import annotations

import math
from typing import NamedTuple

from scipy import stats


class Share(NamedTuple):
    """How many of some pictures passed.

    Attributes:
      passed: How many did.
      total: Of how many.
    """

    passed: int
    total: int

    @property
    def value(self) -> float:
        """The share, on [0, 1]; NaN of nothing."""
        return self.passed / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval.

        References:
          Wilson, Probable inference, the law of succession, and statistical inference, 1927

        Example:
          >>> [round(end, 3) for end in Share(9, 10).interval]
          [0.596, 0.982]
        """
        if not self.total:
            return 0.0, 1.0
        found = stats.binomtest(self.passed, self.total).proportion_ci(0.95, method="wilson")
        return float(found.low), float(found.high)


def effect_size(first: Share, second: Share) -> float:
    """Cohen's h, ``2 asin(sqrt(p)) - 2 asin(sqrt(q))``: 0.2 is small, 0.8 large, pi the most.

    Args:
      first: With the share p.
      second: With the share q.

    References:
      Cohen, Statistical power analysis for the behavioral sciences, 1988

    Example:
      >>> round(effect_size(Share(1, 1), Share(0, 1)), 3)
      3.142
    """
    p, q = first.value, second.value
    return 2 * math.asin(math.sqrt(p)) - 2 * math.asin(math.sqrt(q))


def p_larger(first: Share, second: Share) -> float:
    """One-sided p of Fisher's exact test that the first share is the larger one.

    Args:
      first: Of the pictures.
      second: Of a control.

    Example:
      >>> round(p_larger(Share(4, 4), Share(0, 4)), 4)
      0.0143
    """
    table = [[share.passed, share.total - share.passed] for share in (first, second)]
    return float(stats.fisher_exact(table, alternative="greater").pvalue)  # pyright: ignore
