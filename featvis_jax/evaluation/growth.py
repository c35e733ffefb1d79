"""Grades of what a deformation shows of a network, where it is known what was planted.

A map says where what is seen has grown and where it has shrunk, as logarithms of ratios of volumes
(`featvis_jax.maximize.warps.log_growth`). It can be right about the place and wrong about the sign,
or about how much; each has a grade of its own.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float


class GrowthGrades(NamedTuple):
    """How well a map tells what was planted.

    Attributes:
      signed_auc: Probability that a voxel of the planted core has grown more than another one of
        the brain, where growth was planted; has shrunk more, where the place was to shrink. 0.5 is
        chance, and 0 the opposite.
      unsigned_auc: The same of how much it changed in either direction.
      share: Of the map's energy (squared logarithms) that lies within the place.
      is_peak_inside: Whether the largest change lies within the place.
      is_sign_right: Whether the core on average changed in the planted direction.
      growth: Mean over the core in the planted direction: a logarithm.
      planted: The same of what was planted.
      correlation: With the planted map, over the brain; 0 for an even map.
    """

    signed_auc: float
    unsigned_auc: float
    share: float
    is_peak_inside: bool
    is_sign_right: bool
    growth: float
    planted: float
    correlation: float


def growth_grades(
    found: Float[np.ndarray, "*spatial"],
    planted: Float[np.ndarray, "*spatial"],
    *,
    core: Bool[np.ndarray, "*spatial"],
    place: Bool[np.ndarray, "*spatial"],
    brain: Bool[np.ndarray, "*spatial"],
) -> GrowthGrades:
    """Grade a map of growth.

    Args:
      found: Logarithms of ratios of volumes. A map without a sign, such as the size of a gradient,
        has the grades that ask for none.
      planted: What was planted.
      core: The middle of the place, over which what was planted has one sign.
      place: All of the place.
      brain: Of the image; voxels elsewhere are not asked where a network may look.

    Raises:
      ValueError: The core is empty, is not of the place, or is all of the brain.

    Example:
      >>> places = np.indices((32, 32)) - 16
      >>> distance = np.hypot(*places)
      >>> planted = np.clip(1 - (distance / 8) ** 2, 0, None)
      >>> masks = dict(core=distance < 4, place=distance < 8, brain=distance < 16)
      >>> right = growth_grades(planted / 2, planted, **masks)
      >>> right.signed_auc, right.is_sign_right, round(right.growth / right.planted, 2)
      (1.0, True, 0.5)
      >>> growth_grades(-planted, planted, **masks).signed_auc
      0.0
    """
    from sklearn.metrics import roc_auc_score

    inside = core[brain]
    if not core.any() or (core & ~place).any() or not inside.any() or inside.all():
        raise ValueError(
            f"The core has {np.count_nonzero(core)} voxels, {np.count_nonzero(inside)} of them "
            f"among the brain's {np.count_nonzero(brain)}, and {np.count_nonzero(core & ~place)} "
            "beyond the place; expected a part of the brain and of the place."
        )
    sign = np.sign(planted[core].mean())
    energy = np.square(found, dtype=np.float64)
    total = float(energy.sum())
    values, wanted = found[brain], planted[brain]
    is_even = values.std() == 0 or wanted.std() == 0
    growth = float(sign * found[core].mean())
    return GrowthGrades(
        signed_auc=float(roc_auc_score(inside, sign * values)),
        unsigned_auc=float(roc_auc_score(inside, np.abs(values))),
        share=float(energy[place].sum()) / total if total else 0.0,
        is_peak_inside=bool(place.flat[int(np.abs(found).argmax())]) and total > 0,
        is_sign_right=growth > 0,
        growth=growth,
        planted=float(sign * planted[core].mean()),
        correlation=0.0 if is_even else float(np.corrcoef(values, wanted)[0, 1]),
    )
