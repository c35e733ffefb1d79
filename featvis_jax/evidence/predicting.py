"""Which of two unseen patches drives a unit more: a picture's answer, and that of real examples.

What a picture is worth to a reader is what it lets them predict. So two patches of people whom
nobody has looked at are compared with it, and the one that is more alike should drive the unit
more. The same is asked of the unit's strongest real inputs, which are the measure: people predict
units from them at least as well as from pictures.

Alike means: the layer below has the same channels active, more than it has for all units of the
layer. Without taking that off, an edge anywhere would be a good answer for any unit.

References:
  Borowski et al., Exemplary natural images explain CNN activations better than state-of-the-art
  feature visualization, 2021
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats


class Interval(NamedTuple):
    """A number and its interval.

    Attributes:
      value: The number.
      low: Lower end of its 95 % interval.
      high: Upper end.
    """

    value: float
    low: float
    high: float


UNKNOWN = Interval(float("nan"), float("nan"), float("nan"))
_RESAMPLES = 200


def likeness(
    features: Float[np.ndarray, "*n channels"],
    template: Float[np.ndarray, " channels"],
    scale: Float[np.ndarray, " channels"],
) -> Float[np.ndarray, "*n"]:
    """Cosine of the angle between features and a template, both without what is usual.

    Args:
      features: Of patches, less the mean of the layer.
      template: Of a picture or of examples, likewise.
      scale: Standard deviation of each channel over patches; one that never changes is left out.

    Example:
      >>> round(float(likeness(np.array([1.0, 0.0]), np.array([2.0, 2.0]), np.ones(2))), 3)
      0.707
    """
    weight = np.divide(1.0, scale, out=np.zeros(len(scale)), where=scale > 1e-12)
    one, other = features * weight, template * weight
    length = np.linalg.norm(one, axis=-1) * np.linalg.norm(other)
    dot = one @ other
    return np.divide(dot, length, out=np.zeros_like(dot), where=length > 0)


def concordance(
    predictor: Float[np.ndarray, " n"],
    outcome: Float[np.ndarray, " n"],
    owners: Sequence[str],
    *,
    seed: int = 0,
) -> Interval:
    """In how many of all pairs the one with the larger predictor has the larger outcome.

    The interval is that of a bootstrap over people, whose images are not independent. For an
    outcome of two values it is the area under the ROC curve.

    Args:
      predictor: Of each input.
      outcome: Of each input.
      owners: Whose each is.
      seed: Of the bootstrap.

    Returns:
      0.5 is chance; NaN where no two outcomes differ.

    References:
      Somers, A new asymmetric measure of association for ordinal variables, 1962
      Efron, Tibshirani, An introduction to the bootstrap, 1993

    Example:
      >>> concordance(np.array([1.0, 2, 3]), np.array([0.0, 1, 1]), ["a", "b", "c"]).value
      1.0
    """
    differ = outcome[:, None] > outcome
    if not differ.any():
        return UNKNOWN
    right = differ * ((predictor[:, None] > predictor) + 0.5 * (predictor[:, None] == predictor))
    people, number = np.unique(np.asarray(owners), return_inverse=True)
    drawn = np.random.default_rng(seed).multinomial(
        len(people), np.full(len(people), 1 / len(people)), size=_RESAMPLES
    )
    weights = np.concatenate([np.ones((1, len(people))), drawn])[:, number].astype(np.float32)
    pairs = np.einsum("bi,bi->b", weights @ differ.astype(np.float32), weights)
    good = np.einsum("bi,bi->b", weights @ right.astype(np.float32), weights)
    found = np.divide(good, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
    low, high = (
        np.nanpercentile(found[1:], (2.5, 97.5)) if np.isfinite(found[1:]).any() else (np.nan,) * 2
    )
    return Interval(float(found[0]), float(low), float(high))


def median(values: Float[np.ndarray, " n"], *, seed: int = 0) -> Interval:
    """The median of some values, one for each person, with the interval of a bootstrap.

    Args:
      values: Of people.
      seed: Of the bootstrap.

    Example:
      >>> median(np.full(5, 2.0))
      Interval(value=2.0, low=2.0, high=2.0)
    """
    if not len(values):
        return UNKNOWN
    chosen = np.random.default_rng(seed).integers(len(values), size=(_RESAMPLES, len(values)))
    low, high = np.percentile(np.median(values[chosen], axis=1), (2.5, 97.5))
    return Interval(float(np.median(values)), float(low), float(high))


def mean(values: Float[np.ndarray, " n"]) -> Interval:
    """The mean of some values, one for each person, with Student's interval.

    Args:
      values: Of people, at least one; of one alone the ends are not known.

    Example:
      >>> mean(np.array([1.0, 2.0, 3.0]))
      Interval(value=2.0, low=-0.484..., high=4.484...)
    """
    middle = float(np.mean(values))
    if len(values) < 2:
        return Interval(middle, float("nan"), float("nan"))
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5
    reach = float(stats.t.ppf(0.975, len(values) - 1)) * error
    return Interval(middle, middle - reach, middle + reach)


def strongest(
    response: Float[np.ndarray, " images"], owners: Sequence[str], *, count: int = 8
) -> list[int]:
    """The images that drive a unit most, one of each person, strongest first.

    Args:
      response: Of the unit to each image.
      owners: Whose image each is.
      count: How many at most.

    Example:
      >>> strongest(np.array([1.0, 3, 2, 5]), ["a", "b", "b", "c"], count=2)
      [3, 1]
    """
    found: dict[str, int] = {}
    for number in np.argsort(-np.asarray(response), kind="stable"):
        found.setdefault(str(owners[int(number)]), int(number))
        if len(found) == count:
            break
    return list(found.values())
