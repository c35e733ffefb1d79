"""Intervals and tests behind the report's numbers."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy import stats

from featvis_jax.evaluation.proportions import Share


class Interval(NamedTuple):
    """An estimate with its 95 % interval, and how that was found."""

    value: float
    low: float
    high: float
    method: str


def balanced_accuracy(
    labels: Int[np.ndarray, " n"],
    predicted: Int[np.ndarray, " n"],
    subjects: Shaped[np.ndarray, " n"],
    *,
    draws: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Balanced accuracy with a 95 % interval that knows which images are of one person.

    Where every subject has images of every class, whole subjects are drawn with replacement, and
    the interval spans the middle 95 % of what they give. Where a subject has one image only, each
    class has a Wilson interval, and the two are put together by squaring and adding (Newcombe):
    with r_c the recall of class c of k, on [l_c, u_c],

        low = mean(r) - sqrt(sum((r_c - l_c)^2)) / k,  high = mean(r) + sqrt(sum((u_c - r_c)^2)) / k

    Args:
      labels: True classes.
      predicted: Predicted classes.
      subjects: Who each image is of.
      draws: Of the bootstrap.
      seed: Of the bootstrap.

    References:
      Newcombe, Interval estimation for the difference between independent proportions, 1998

    Example:
      >>> labels, who = np.array([0, 1] * 4), np.repeat(np.arange(4), 2)
      >>> balanced_accuracy(labels, labels, who)
      Interval(value=1.0, low=1.0, high=1.0, method='bootstrap over subjects')
    """
    counts = _counts(labels, predicted == labels, subjects)
    value = float(_balanced(counts.sum(axis=0)))
    if (counts[..., 0] > 0).all():
        picked = np.random.default_rng(seed).integers(len(counts), size=(draws, len(counts)))
        low, high = np.percentile(_balanced(counts[picked].sum(axis=1)), (2.5, 97.5))
        return Interval(value, float(low), float(high), "bootstrap over subjects")
    totals = counts.sum(axis=0).astype(int)
    ends = np.array([Share(int(right), int(total)).interval for total, right in totals])
    recall = totals[:, 1] / totals[:, 0]
    below, above = np.sqrt(((recall[:, None] - ends) ** 2).sum(axis=0)) / len(totals)
    low, high = max(0.0, value - below), min(1.0, value + above)
    return Interval(value, float(low), float(high), "Wilson intervals of the classes, joined")


def change_of_accuracy(
    labels: Int[np.ndarray, " n"],
    before: Int[np.ndarray, " n"],
    after: Int[np.ndarray, " n"],
    subjects: Shaped[np.ndarray, " n"],
    *,
    draws: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Change of the balanced accuracy on the same images, by a bootstrap over subjects.

    Args:
      labels: True classes.
      before: Predicted classes before.
      after: Predicted classes after.
      subjects: Who each image is of.
      draws: Of the bootstrap.
      seed: Of the bootstrap.

    Example:
      >>> labels, who = np.array([0, 1] * 4), np.repeat(np.arange(4), 2)
      >>> change_of_accuracy(labels, labels, np.zeros(8, int), who)[:3]
      (-0.5, -0.5, -0.5)
    """
    first = _counts(labels, before == labels, subjects)
    second = _counts(labels, after == labels, subjects)
    value = float(_balanced(second.sum(axis=0)) - _balanced(first.sum(axis=0)))
    picked = np.random.default_rng(seed).integers(len(first), size=(draws, len(first)))
    with np.errstate(invalid="ignore"):  # A draw may lack a class.
        changes = _balanced(second[picked].sum(axis=1)) - _balanced(first[picked].sum(axis=1))
    low, high = np.nanpercentile(changes, (2.5, 97.5))
    return Interval(value, float(low), float(high), "bootstrap over subjects")


def signed_rank(first: Float[np.ndarray, " n"], second: Float[np.ndarray, " n"]) -> float:
    """Two-sided p of Wilcoxon's signed-rank test; 1 where no pair differs.

    Args:
      first: One value per channel.
      second: The same channels otherwise.

    Example:
      >>> round(signed_rank(np.arange(10.0) + 1, np.zeros(10)), 3)
      0.002
    """
    difference = first - second
    difference = difference[difference != 0]
    if not len(difference):
        return 1.0
    return float(np.asarray(stats.wilcoxon(difference))[1])


def rank_sum(first: Sequence[float], second: Sequence[float]) -> float:
    """Two-sided p of the Mann-Whitney test; 1 where a side is empty.

    Args:
      first: Values of one group.
      second: Values of the other.

    Example:
      >>> round(rank_sum([1, 2, 3, 4], [5, 6, 7, 8]), 3)
      0.029
    """
    if not (len(first) and len(second)):
        return 1.0
    return float(np.asarray(stats.mannwhitneyu(first, second, alternative="two-sided"))[1])


def _counts(
    labels: Int[np.ndarray, " n"],
    right: Bool[np.ndarray, " n"],
    subjects: Shaped[np.ndarray, " n"],
) -> Float[np.ndarray, "subjects classes 2"]:
    """Images, and those taken for what they are, of every subject and class."""
    names, owner = np.unique(subjects, return_inverse=True)
    classes, kind = np.unique(labels, return_inverse=True)
    counts = np.zeros((len(names), len(classes), 2))
    np.add.at(counts[..., 0], (owner, kind), 1.0)
    np.add.at(counts[..., 1], (owner, kind), right.astype(float))
    return counts


def _balanced(counts: Float[np.ndarray, "*draws classes 2"]) -> Float[np.ndarray, "*draws"]:
    return (counts[..., 1] / counts[..., 0]).mean(axis=-1)
