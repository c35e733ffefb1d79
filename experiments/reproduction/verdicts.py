"""What a statement of the paper is, and the measures and rules that many of them share."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from experiments.reproduction.evidence import Evidence
from experiments.reproduction.statistics import change_of_accuracy, rank_sum, signed_rank

Verdict = Literal["holds", "does not hold", "cannot be told"]
Numbers = dict[str, float | int | str | None]
Direction = Literal["more", "less", "different"]

LEVEL = 0.05
"""A p from here on decides nothing."""
IMAGES, _COMPARISON = "measures/images.tsv", "comparison/comparison.tsv"
_MARGIN = 0.01
FEWEST = 6
"""Fewer values than this decide nothing; no signed-rank test of five can reach the level."""


class Statement(NamedTuple):
    """One statement of the paper.

    Attributes:
      section: Where the paper has it.
      text: What it says, in our words.
      source: The file that the numbers come from, below the directory of the reproduction.
      measure: Gives the numbers.
      told: Says what was measured, with the numbers' names in braces; a measure that has
        something else to say gives a text by this name.
      rule: Makes the verdict.
      ruled: Says how.
    """

    section: str
    text: str
    source: str
    measure: Callable[[Evidence], Numbers]
    told: str
    rule: Callable[[Mapping[str, Any]], Verdict]
    ruled: str


def _by_p(expected: Direction) -> Callable[[Mapping[str, Any]], Verdict]:
    """A significant difference in the stated direction holds, in the other it does not."""

    def rule(found: Mapping[str, Any]) -> Verdict:
        if found["p"] >= LEVEL or found["count"] < FEWEST:
            return "cannot be told"
        if expected == "different":
            return "holds"
        change = found.get("change", found["first"] - found["second"])
        return "holds" if (change > 0) == (expected == "more") else "does not hold"

    return rule


_RULED = {
    "more": "holds if the first is larger with p below {level}; does not if it is smaller with "
    "that p; else it cannot be told, nor with fewer than {fewest} values",
    "less": "holds if the first is smaller with p below {level}; does not if it is larger with "
    "that p; else it cannot be told, nor with fewer than {fewest} values",
    "different": "holds if the two differ with p below {level}; else it cannot be told, nor with "
    "fewer than {fewest} values",
}
for _direction, _text in _RULED.items():
    _RULED[_direction] = _text.format(level=LEVEL, fewest=FEWEST)


def paired(text: str, column: str, strategy: str, other: str, expected: Direction) -> Statement:
    """A statement of section 3.2: the same channels under two strategies.

    Args:
      text: What the paper says.
      column: Of comparison.tsv.
      strategy: What it says it of.
      other: What that is compared with.
      expected: Where the first lies from the second, by the paper.
    """

    def measure(evidence: Evidence) -> Numbers:
        first, second = evidence.strategy(strategy, column), evidence.strategy(other, column)
        if len(first) == len(second):
            known = np.isfinite(first) & np.isfinite(second)
            first, second = first[known], second[known]
        if not (len(first) and len(second)):
            empty = {"first": None, "second": None, "change": 0.0, "larger": 0, "count": 0}
            return {**empty, "p": 1.0, "strategy": strategy, "other": other}
        return {
            "first": float(np.median(first)),
            "second": float(np.median(second)),
            # The typical change decides the direction; the two medians may contradict it.
            "change": float(np.median(first - second)),
            "larger": int((first > second).sum()),
            "count": len(first),
            "p": signed_rank(first, second),
            "strategy": strategy,
            "other": other,
        }

    told = (
        f"{column.replace('_', ' ')}: median {{first}} under {{strategy}} against {{second}} "
        "under {other}, median change {change}, larger in {larger} of {count} channels, p {p}"
    )
    return Statement("3.2", text, _COMPARISON, measure, told, _by_p(expected), _RULED[expected])


def groups(
    section: str,
    text: str,
    column: str,
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    expected: Direction,
    names: tuple[str, str],
) -> Statement:
    """A statement about two groups of images.

    Args:
      section: Where the paper has it.
      text: What it says.
      column: Of images.tsv.
      first: Columns and values that choose the images it says it of.
      second: Those that they are compared with.
      expected: Where the first lies from the second, by the paper.
      names: Of the two groups.
    """

    def measure(evidence: Evidence) -> Numbers:
        one, two = evidence.of(column, **first), evidence.of(column, **second)
        return {
            "first": float(np.median(one)) if one else None,
            "second": float(np.median(two)) if two else None,
            "first_count": len(one),
            "second_count": len(two),
            "count": min(len(one), len(two)),
            "p": rank_sum(one, two),
            "first_name": names[0],
            "second_name": names[1],
        }

    told = (
        f"{column.replace('_', ' ')}: median {{first}} in {{first_count}} images ({{first_name}}) "
        "against {second} in {second_count} ({second_name}), p {p}"
    )
    return Statement(section, text, IMAGES, measure, told, _by_p(expected), _RULED[expected])


def planted(section: str, text: str, model: str, *, bar: float) -> Statement:
    """Whether graded pictures show what was planted, and those of permuted weights do not.

    Args:
      section: Where the paper has it.
      text: What it says.
      model: Name of the planted model.
      bar: Share of pictures that have to be named rightly.
    """

    def measure(evidence: Evidence) -> Numbers:
        rows = {
            row["control"]: row for row in evidence.grades.get(model, ()) if row["score"] == "named"
        }
        if not {"picture", "permuted"} <= set(rows):
            return {"count": 0, "told": "no picture was graded"}
        own, control = rows["picture"], rows["permuted"]
        return {
            "named": own["passed"],
            "count": own["n"],
            "share": own["share"],
            "low_percent": 100 * own["low"],
            "high_percent": 100 * own["high"],
            "control_named": control["passed"],
            "control_count": control["n"],
            "control_high": control["high"],
            "bar": bar,
        }

    return Statement(
        section,
        text,
        f"grades/{model}/summary.tsv",
        measure,
        "{named} of {count} pictures of the logit are named rightly (interval {low_percent} to "
        "{high_percent} %), and {control_named} of {control_count} of permuted weights",
        _planted_rule,
        f"holds if {100 * bar:.0f} % or more are named rightly and the interval of permuted "
        "weights ends below that of the pictures; does not if the interval ends below "
        f"{100 * bar:.0f} %; cannot be told otherwise, nor of fewer than {FEWEST} pictures",
    )


def _planted_rule(found: Mapping[str, Any]) -> Verdict:
    if found["count"] < FEWEST:
        return "cannot be told"
    if found["high_percent"] < 100 * found["bar"]:
        return "does not hold"
    told_apart = 100 * found["control_high"] < found["low_percent"]
    return "holds" if found["share"] >= found["bar"] and told_apart else "cannot be told"


def overparameterized(model: str) -> Statement:
    """Whether a model does as well without its uniform channels, but not without any.

    Args:
      model: Its name.
    """

    def measure(evidence: Evidence) -> Numbers:
        columns, silenced = evidence.predictions[model], evidence.ablation[model]["silenced"]
        removed = sum(len(v) for v in silenced.get("without_uniform", {}).values())
        if not removed:
            return {"removed": 0, "told": "no channel that was looked at is uniform"}
        subjects, labels = columns["subject"], columns["label"]

        def change(name: str) -> tuple[float, float, float]:
            found = change_of_accuracy(labels, columns["whole"], columns[name], subjects)
            return found.value, found.low, found.high

        value, low, high = change("without_uniform")
        others = [name for name in silenced if name.startswith("without_patterned")]
        drawn = [change(name)[0] for name in others]
        taken = [sum(len(v) for v in silenced[name].values()) for name in others]
        return {
            "removed": removed,
            "images": len(labels),
            "change_percent": 100 * value,
            "low_percent": 100 * low,
            "high_percent": 100 * high,
            "patterned_removed": int(np.median(taken)),
            "patterned_draws": len(drawn),
            "patterned_change_percent": 100 * float(np.median(drawn)),
            "margin_percent": 100 * _MARGIN,
        }

    return Statement(
        "4",
        f"Nearly uniform images show channels that the {model} model could do without",
        f"assessment/{model}/predictions.tsv",
        measure,
        "without its {removed} uniform channels the balanced accuracy changes by {change_percent} "
        "points (interval {low_percent} to {high_percent}); without {patterned_removed} others of "
        "the same layers, with a pattern, by {patterned_change_percent} (median of "
        "{patterned_draws} drawings)",
        _overparameterized_rule,
        "holds if the interval stays within 1 point of no change, and patterned channels cost more "
        "than 1 point; does not if the whole interval is a loss of more than 1 point; else it "
        "cannot be told",
    )


def _overparameterized_rule(found: Mapping[str, Any]) -> Verdict:
    if not found["removed"]:
        return "cannot be told"
    margin = found["margin_percent"]
    if found["high_percent"] < -margin:
        return "does not hold"
    harmless = -margin <= found["low_percent"] and found["high_percent"] <= margin
    missed = found["patterned_change_percent"] < -margin
    return "holds" if harmless and missed else "cannot be told"
