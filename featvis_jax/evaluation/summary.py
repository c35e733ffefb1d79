"""Grades of many pictures and of controls, as tables and as one set of numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from featvis_jax.evaluation.grading import Grade
from featvis_jax.evaluation.proportions import Share, effect_size, p_larger

PICTURE = "picture"
"""The kind of what is graded; every other kind is a control."""

PERFECT = "perfect"
"""The kind of drawn pictures that show the shape."""

SCORES = {"named": "named", "size": "size_passed"}
"""What is counted, and the attribute of a grade that says so."""


@dataclasses.dataclass(frozen=True)
class Graded:
    """A picture, where it comes from, and its grade.

    Attributes:
      run: Name of the run, or of the file.
      layer: Of its unit.
      channel: Of its unit.
      variant: Which of the unit's pictures, from 1.
      concept: The shape that its unit was trained on.
      kind: "picture", or the name of a control.
      size_mm: Of what is the shape in it, in the shape's own sizes; NaN for none.
      grade: Its scores.
    """

    run: str
    layer: str
    channel: int
    variant: int
    concept: str
    kind: str
    size_mm: float
    grade: Grade


def rows(graded: Sequence[Graded]) -> list[dict[str, object]]:
    """One row of a table per picture, with every single score.

    Args:
      graded: The pictures.
    """
    return [
        {
            "run": each.run,
            "layer": each.layer,
            "channel": each.channel,
            "variant": each.variant,
            "concept": each.concept,
            "control": each.kind,
            "judge": each.grade.prediction,
            "share": each.grade.share,
            "size_mm": each.size_mm,
            "transfer": each.grade.transfer,
            "transfer_scrambled": each.grade.transfer_scrambled,
            "insertion": each.grade.insertion,
            "insertion_p": each.grade.insertion_p,
            "size_ok": int(each.grade.size_passed),
            "named": int(each.grade.named),
        }
        for each in graded
    ]


def share(graded: Sequence[Graded], score: str) -> Share:
    """How many pictures pass a score.

    Args:
      graded: The pictures.
      score: One of `SCORES`.
    """
    passed = [getattr(each.grade, SCORES[score]) for each in graded]
    return Share(sum(passed), len(passed))


def summary(graded: Sequence[Graded]) -> list[dict[str, object]]:
    """Shares by layer, kind and score, each against the pictures.

    Args:
      graded: Pictures and controls.

    Returns:
      One row per layer ("all" for all of them), kind and score: the share with its 95 % interval,
      and for controls Cohen's h of the pictures against them and the one-sided p of Fisher's exact
      test.
    """
    kinds = _ordered(each.kind for each in graded)
    found: list[dict[str, object]] = []
    for layer in ["all", *_ordered(each.layer for each in graded)]:
        here = [each for each in graded if layer in ("all", each.layer)]
        for score in SCORES:
            pictures = share([each for each in here if each.kind == PICTURE], score)
            for kind in kinds:
                own = share([each for each in here if each.kind == kind], score)
                if not own.total:
                    continue
                compared = kind != PICTURE and pictures.total
                found.append(
                    {
                        "layer": layer,
                        "control": kind,
                        "score": score,
                        "share": own.value,
                        **_counted(own),
                        "cohens_h": effect_size(pictures, own) if compared else None,
                        "p_fisher": p_larger(pictures, own) if compared else None,
                    }
                )
    return found


def _counted(found: Share) -> dict[str, object]:
    """The columns that stand beside a share."""
    low, high = found.interval
    return {"low": low, "high": high, "passed": found.passed, "n": found.total}


def scores(graded: Sequence[Graded]) -> dict[str, Any]:
    """The two numbers that matter, of the pictures and of every control.

    Args:
      graded: Pictures and controls.

    Returns:
      ``shape_accuracy`` and ``size_accuracy``, each with ``value``, ``ci95`` and ``n``, and
      ``controls`` with the same keys by kind.
    """

    def both(kind: str) -> dict[str, Any]:
        own = [each for each in graded if each.kind == kind]
        return {
            "shape_accuracy": _number(share(own, "named")),
            "size_accuracy": _number(share(own, "size")),
        }

    kinds = _ordered(each.kind for each in graded)
    return {**both(PICTURE), "controls": {kind: both(kind) for kind in kinds if kind != PICTURE}}


def known(graded: Sequence[Graded]) -> list[dict[str, object]]:
    """What the grade says of pictures whose content is known, one row per concept and content.

    Args:
      graded: Drawn pictures; the kind of perfect ones is "perfect".
    """
    found: list[dict[str, object]] = []
    for concept in dict.fromkeys(each.concept for each in graded):
        here = [each for each in graded if each.concept == concept]
        for kind in sorted(dict.fromkeys(e.kind for e in here), key=lambda name: name != PERFECT):
            own = [each for each in here if each.kind == kind]
            named = share(own, "named")
            found.append(
                {
                    "concept": concept,
                    "drawn": kind,
                    "named": named.value,
                    **_counted(named),
                    "mean_share": sum(each.grade.share for each in own) / len(own),
                    "size_ok": share(own, "size").passed,
                }
            )
    return found


def known_scores(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """For every concept how often perfect pictures are named, and wrong ones.

    Args:
      rows: Of `known`.

    Returns:
      By concept ``perfect`` and ``wrong``, each with ``value``, ``ci95`` and ``n``, and ``worst``:
      the kind of wrong pictures that is named most often, with ``value`` and ``n``.
    """
    found = {}
    for concept in dict.fromkeys(row["concept"] for row in rows):
        of_kind = {row["drawn"]: row for row in rows if row["concept"] == concept}
        perfect = of_kind.pop(PERFECT)
        worst = max(of_kind.values(), key=lambda row: row["named"])
        wrong = Share(*(sum(row[key] for row in of_kind.values()) for key in ("passed", "n")))
        found[concept] = {
            "perfect": _number(Share(perfect["passed"], perfect["n"])),
            "wrong": _number(wrong),
            "worst": {"kind": worst["drawn"], "value": worst["named"], "n": worst["n"]},
        }
    return found


def _number(share: Share) -> dict[str, Any]:
    value = None if math.isnan(share.value) else share.value
    return {"value": value, "ci95": list(share.interval), "n": share.total}


def _ordered(names: Any) -> list[str]:
    """Different names in the order in which they come, pictures first."""
    return sorted(dict.fromkeys(names), key=lambda name: name != PICTURE)
