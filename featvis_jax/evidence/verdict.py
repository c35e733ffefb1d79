"""What the measures of a picture say together, in a word and with a reason.

*Refuted* is a picture that does not show what drives its unit in real inputs, as far as they tell.
*Not refuted* is one that nothing speaks against. No picture is certified: a network whose last
layer was tampered with passes everything (docs/trust.md).
"""

from __future__ import annotations

import math
from typing import NamedTuple

from featvis_jax.evidence.measuring import Measures
from featvis_jax.results.trust import NOT_DRIVING, NOT_MEASURED, NOT_REFUTED, REFUTED

# A picture that moves its unit less than this, as a share of the strongest real input, shows no
# better than that what the unit looks for.
DRIVING = 0.5
# A unit whose strongest real input is weaker than this share of what is usual in its layer is all
# but silent, and every share of its response as good as one of nothing.
LIVELY = 0.05
# Of a response that comes by ways which no strong real input takes.
MOST_BY_OTHER_WAYS = 0.5
# A picture that is less probably its unit's than not is refuted.
LEAST_PROBABLE = 0.5
# Of a picture's own strength that has to be left of it in other people's images.
LEAST_PASTED = 0.25


class _Rule(NamedTuple):
    """A logistic regression.

    Attributes:
      intercept: Where all measures are 0.
      weights: Of the drive, the selectivity and the standing, as far as each is known.
    """

    intercept: float
    weights: tuple[float, ...]


# Fitted by `python -m tests.acceptance.evidence` on six networks to pictures of units under their
# own and under other names, scrambled, and of networks with permuted weights; by how much is known.
_RULES = {
    3: _Rule(-12.91, (4.40, 5.07, 5.68)),
    2: _Rule(-10.67, (5.37, 7.25)),
    1: _Rule(-6.86, (8.15,)),
}


class Verdict(NamedTuple):
    """What was found.

    Attributes:
      word: One of `featvis_jax.results.trust.VERDICTS`.
      reason: Why, in words; empty for a picture that nothing speaks against.
      belongs: Probability that it is the unit's, NaN where nothing is known.
    """

    word: str
    reason: str
    belongs: float


def drive(measures: Measures) -> float:
    """How well a picture drives its unit wherever it lies, from 0 to 1, which is as real inputs do.

    Args:
      measures: Of the picture.
    """
    pasted = measures.pasted.value
    own = measures.strength if math.isnan(pasted) else min(measures.strength, pasted)
    return min(max(own, 0.0), 1.0)


def belongs(measures: Measures) -> float:
    """Probability that a picture is of its unit.

    And not of another unit of the layer, scrambled, or of a network that has learned nothing, if
    all are equally frequent.

    Args:
      measures: Of the picture.

    Returns:
      In [0, 1]; NaN for a unit that no real input drives.
    """
    if math.isnan(measures.strength):
        return float("nan")
    known = [drive(measures)]
    if not math.isnan(measures.selectivity):
        known.append(measures.selectivity)
        if not math.isnan(measures.standing):
            known.append(measures.standing)
    rule = _RULES[len(known)]
    sum_ = rule.intercept + sum(w * x for w, x in zip(rule.weights, known, strict=True))
    return 1 / (1 + math.exp(-sum_))


def verdict(measures: Measures) -> Verdict:
    """The word for a picture.

    Args:
      measures: Of the picture.
    """
    probability = belongs(measures)
    if measures.liveliness < LIVELY:
        said = "hardly any real input drives" if measures.liveliness > 0 else "no real input drives"
        return Verdict(NOT_MEASURED, f"{said} the unit", probability)
    if measures.strength < DRIVING:
        share = f"{measures.strength:.2f} of the response to the strongest real input"
        return Verdict(NOT_DRIVING, share, probability)
    reasons = _reasons(measures, probability)
    return Verdict(REFUTED if reasons else NOT_REFUTED, "; ".join(reasons), probability)


def _reasons(measures: Measures, probability: float) -> list[str]:
    """What speaks against a picture that drives its unit."""
    reasons = []
    if measures.other_ways > MOST_BY_OTHER_WAYS:
        reasons.append(
            f"{measures.other_ways:.0%} of the response comes by ways through the network that "
            "strong real inputs do not take"
        )
    pasted = measures.pasted.value
    if pasted < LEAST_PASTED * min(measures.strength, 1.0):
        reasons.append(
            "in other people's images its patch does not drive the unit: "
            f"{max(pasted, 0.0):.2f} of the response to the strongest real input"
        )
    if not reasons and probability < LEAST_PROBABLE:
        reasons.append(_weakest(measures))
    return reasons


def _weakest(measures: Measures) -> str:
    """Which of the measures speaks most against a picture."""
    shares = {
        f"the picture drives {1 - measures.selectivity:.0%} of the layer's other units more": (
            measures.selectivity
        ),
        f"{1 - measures.standing:.0%} of the layer's other pictures drive the unit as much or "
        "more": measures.standing,
        f"its patch drives the unit {drive(measures):.2f} times as much as the strongest real "
        "input": drive(measures),
    }
    known = {text: share for text, share in shares.items() if not math.isnan(share)}
    return min(known, key=lambda text: known[text])
