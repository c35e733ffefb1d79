"""What changes of several people's scans have in common: a mean, a t-test, and regions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

from featvis_jax.evidence.predicting import Interval, mean

FEWEST_PEOPLE = 3
"""Of fewer there is no t-map: their standard deviation says nothing."""
FALSE_DISCOVERY_RATE = 0.05
# Deviations below this share of the mean are those of rounding.
_ROUNDING = 1e-6


class OverPeople(NamedTuple):
    """A map of several people.

    Attributes:
      mean: Of all people.
      t: Student's t of that mean against 0, NaN where all are alike; None of fewer than three
        people.
      people: How many.
    """

    mean: Float[np.ndarray, "*spatial"]
    t: Float[np.ndarray, "*spatial"] | None
    people: int

    @property
    def degrees_of_freedom(self) -> int:
        """Of t."""
        return self.people - 1


def over_people(maps: Iterable[Float[np.ndarray, "*spatial"]]) -> OverPeople:
    """The mean of a map over people, and a one-sample t-test at each place.

    Args:
      maps: One of each person, the mean of their images; read once, and never together.

    Raises:
      ValueError: There is none.

    References:
      Welford, Note on a method for calculating corrected sums of squares and products, 1962.

    Example:
      >>> found = over_people(np.array([[1.0, 0.0], [2.0, 1.0], [3.0, -1.0]]))
      >>> found.mean.tolist(), found.t.round(3).tolist()
      ([2.0, 0.0], [3.464, 0.0])
    """
    people, middle, squares = 0, np.zeros(()), np.zeros(())
    for each in maps:
        values = each.astype(np.float64)
        people += 1
        apart = values - middle
        middle = middle + apart / people
        squares = squares + apart * (values - middle)
    if not people:
        raise ValueError("There is no map to take the mean of.")
    if people < FEWEST_PEOPLE:
        return OverPeople(middle, None, people)
    error = np.sqrt(squares / (people - 1) / people)
    known = error > _ROUNDING * np.abs(middle)
    t = np.divide(middle, error, out=np.full(error.shape, np.nan), where=known)
    return OverPeople(middle, t, people)


def threshold(found: OverPeople, inside: Bool[np.ndarray, "*spatial"]) -> float | None:
    """The |t| from which on a place counts, at a false discovery rate of 5 %.

    Args:
      found: With t.
      inside: The places that are tested: the brain.

    Returns:
      The smallest |t| that passes; None where none does.

    References:
      Benjamini, Hochberg, Controlling the false discovery rate: a practical and powerful approach
      to multiple testing, 1995.

    Example:
      >>> grows = np.arange(50) < 10
      >>> found = over_people(9.0 * grows + np.random.default_rng(0).normal(size=(8, 50)))
      >>> limit = threshold(found, np.ones(50, bool))
      >>> int((np.abs(found.t) >= limit).sum())
      10
    """
    assert found.t is not None
    sizes = np.abs(found.t[inside & np.isfinite(found.t)])
    if not sizes.size:
        return None
    chances = 2 * stats.t.sf(sizes, found.degrees_of_freedom)
    passing = stats.false_discovery_control(chances) <= FALSE_DISCOVERY_RATE
    return float(sizes[passing].min()) if passing.any() else None


class Changed(NamedTuple):
    """How one person's image changed.

    Attributes:
      person: Whose it is.
      log_growth: The logarithm of how much larger each voxel is.
      labels: Number of the region of each voxel, 0 for none.
    """

    person: str
    log_growth: Float[np.ndarray, "*spatial"]
    labels: Int[np.ndarray, "*spatial"]


class RegionChange(NamedTuple):
    """How a region changed.

    Attributes:
      label: Its number.
      voxels: How many it has on the network's grid, in all images together.
      people: In how many people's images it is seen.
      share: By how much its volume changed, as a share: the mean of exp(log growth) - 1 over its
        voxels, then over people; the interval is Student's.
      energy: Share of the squared log growth that lies in it, mean over people.
    """

    label: int
    voxels: int
    people: int
    share: Interval
    energy: float


def region_changes(images: Iterable[Changed]) -> list[RegionChange]:
    """How each region changed, the largest change first.

    Args:
      images: Of all people; read once, and never together.

    Returns:
      The regions that are seen in any image.

    Example:
      >>> labels = np.array([[1, 1], [1, 2]])
      >>> growth = np.log([[1.1, 1.2], [1.3, 1.0]])
      >>> first, second = region_changes([Changed("a", growth, labels)])
      >>> first.label, round(first.share.value, 6), second.share.value
      (1, 0.2, 0.0)
    """
    people: dict[str, list[np.ndarray]] = {}
    for person, log_growth, labels in images:
        flat, values = labels.ravel(), log_growth.ravel().astype(np.float64)
        squares = np.square(values)
        new = [
            np.bincount(flat, minlength=1).astype(np.float64),
            np.bincount(flat, np.expm1(values)),
            np.bincount(flat, squares),
        ]
        old = people.get(person)
        people[person] = (
            new if old is None else [_sum(*pair) for pair in zip(old, new, strict=True)]
        )
    most = max((len(counts) for counts, *_ in people.values()), default=0)
    counts, growth, squares = (
        np.array([np.pad(own[kind], (0, most - len(own[kind]))) for own in people.values()])
        for kind in range(3)
    )
    total = squares.sum(axis=1, keepdims=True)
    shares = np.divide(squares, total, out=np.zeros_like(squares), where=total > 0)
    found = []
    for label in range(1, most):
        seen = counts[:, label] > 0
        if not seen.any():
            continue
        own = growth[seen, label] / counts[seen, label]
        found.append(
            RegionChange(
                label,
                int(counts[:, label].sum()),
                int(seen.sum()),
                mean(own),
                float(shares[:, label].mean()),
            )
        )
    return sorted(found, key=lambda each: -abs(each.share.value))


def _sum(
    first: Float[np.ndarray, " n"], second: Float[np.ndarray, " m"]
) -> Float[np.ndarray, " k"]:
    """The sum of two, the shorter one as if it went on with zeros."""
    length = max(len(first), len(second))
    return sum(np.pad(each, (0, length - len(each))) for each in (first, second))  # pyright: ignore


def extremes(
    values: Float[np.ndarray, "*spatial"], inside: Bool[np.ndarray, "*spatial"]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The voxels of the largest and of the smallest value.

    Args:
      values: A map.
      inside: Where to look; everywhere if it is empty.

    Example:
      >>> extremes(np.array([[1.0, 5.0], [-2.0, 9.0]]), np.array([[True, True], [True, False]]))
      ((0, 1), (1, 0))
    """
    inside = inside if inside.any() else np.ones_like(inside)
    places = (
        np.argmax(np.where(inside, values, -np.inf)),
        np.argmin(np.where(inside, values, np.inf)),
    )
    most, least = (tuple(int(i) for i in np.unravel_index(place, values.shape)) for place in places)
    return most, least
