"""How strongly a picture drives its unit, beside real inputs and beside other units.

*Response* is the largest activation of a unit in an image, *reference* its response to the real
input that drives it most (`featvis_jax.maximize.reference`), and *strength* the response to a
picture as a share of the reference. From 1 on a picture drives its unit as real inputs do; one that
moves it less shows what the unit looks for no better than they would.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import stats


def strength(response: float, reference: float | None) -> float | None:
    """The response to a picture as a share of the reference.

    Args:
      response: Of the unit to its picture.
      reference: To the strongest real input; ``None`` where nothing is known.

    Returns:
      A share; ``None`` where no real input drives the unit, since there is nothing to compare with.

    Example:
      >>> strength(3.0, 2.0), strength(3.0, -0.5), strength(3.0, None)
      (1.5, None, None)
    """
    if reference is None or not reference > 0:
        return None
    return response / reference


def selectivity(
    responses: Float[np.ndarray, "pictures units"],
    reference: Float[np.ndarray, " units"],
    own: Sequence[int],
) -> Float[np.ndarray, " pictures"]:
    """How far a unit stands out in its own picture from the others of its layer.

    The share of the other living units, those that real inputs drive, that the picture drives less,
    by strength, than its own.

    Args:
      responses: Of all units of a layer to each picture.
      reference: Of all units.
      own: The unit of each picture, by its column.

    Returns:
      A share for each picture, in [0, 1]; NaN where no real input drives its unit, or no other.

    Example:
      >>> responses, reference = np.array([[2.0, 1.0, 9.0, 9.0]]), np.array([2.0, 2.0, 3.0, -1.0])
      >>> selectivity(responses, reference, [0])  # Strengths 1, 0.5 and 3; the last is not alive.
      array([0.5])
    """
    alive = reference > 0
    strengths = responses / np.where(alive, reference, np.nan)
    rows = np.arange(len(own))
    less = (strengths < strengths[rows, own][:, None]).sum(axis=1)
    others = alive.sum() - alive[np.asarray(own, int)]
    found = np.full(len(own), np.nan)
    return np.divide(less, others, out=found, where=alive[np.asarray(own, int)] & (others > 0))


def likeness_correlation(
    of_pictures: Float[np.ndarray, "pictures units"], of_real: Float[np.ndarray, "images pictures"]
) -> float:
    """Whether pictures are alike where their units are, and only there.

    Two pictures are alike as far as they drive all units of the layer in the same order, and two
    units as far as they respond to real inputs in the same order: both are Spearman's correlations.
    The result is Spearman's correlation of the two over all pairs of pictures.

    Args:
      of_pictures: Responses of the units of a layer to each picture.
      of_real: Responses of each picture's own unit to real inputs, in the order of the pictures.

    Returns:
      In [-1, 1]; NaN for fewer than three pictures, or where one of the two is the same for all.

    References:
      Kriegeskorte, Mur, Bandettini, Representational similarity analysis, Frontiers in Systems
      Neuroscience 2008.
    """
    if len(of_pictures) < 3:
        return float("nan")
    above = np.triu_indices(len(of_pictures), 1)
    likeness = [_rank_correlations(each)[above] for each in (of_pictures, of_real.T)]
    ranks = np.stack([stats.rankdata(each) for each in likeness])
    if not all(np.ptp(each) > 0 for each in ranks) or not np.isfinite(likeness).all():
        return float("nan")
    return float(np.corrcoef(ranks)[0, 1])


def _rank_correlations(rows: Float[np.ndarray, "n m"]) -> Float[np.ndarray, "n n"]:
    """Spearman's correlation of every row with every other; NaN for a row of one value."""
    ranks = stats.rankdata(rows, axis=1)
    ranks = ranks - ranks.mean(axis=1, keepdims=True)
    length = np.sqrt(np.square(ranks).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return ranks @ ranks.T / np.outer(length, length)
