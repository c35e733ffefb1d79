"""Tables of grades, counted by hand."""

import pytest

from featvis_jax.evaluation.grading import Grade
from featvis_jax.evaluation.summary import (
    PERFECT,
    Graded,
    known,
    known_scores,
    rows,
    scores,
    summary,
)


def graded(kind: str, share: float, *, size: bool = True, layer: str = "logits") -> Graded:
    grade = Grade("square", share, share > 0.5, 10.0, size, 0.1, 0.0, 0.2, 0.04)
    return Graded("run", layer, 1, 1, "square", kind, 12.0, grade)


def test_shares_stand_beside_controls():
    pictures = [graded("picture", share) for share in (0.9, 0.8, 0.2)]
    controls = [graded("scrambled", 0.1, size=False), graded("scrambled", 0.6, size=False)]
    table = {
        (row["layer"], row["control"], row["score"]): row for row in summary([*controls, *pictures])
    }
    named = table["all", "picture", "named"]
    assert (named["passed"], named["n"]) == (2, 3) and named["p_fisher"] is None
    assert table["logits", "scrambled", "named"]["share"] == 0.5
    assert table["all", "scrambled", "size"]["passed"] == 0
    found = scores([*pictures, *controls])
    assert found["shape_accuracy"]["value"] == pytest.approx(2 / 3)
    assert found["controls"]["scrambled"]["size_accuracy"]["value"] == 0
    assert [row["named"] for row in rows(pictures)] == [1, 1, 0]


def test_drawn_pictures_are_told_by_kind_perfect_ones_first():
    drawn = [graded("ring", share) for share in (0.1, 0.7, 0.2, 0.3)]
    drawn += [graded("plus", 0.0), graded("plus", 0.1)]
    drawn += [graded(PERFECT, share) for share in (0.9, 0.95, 0.4)]
    table = known(drawn)
    assert [row["drawn"] for row in table] == [PERFECT, "ring", "plus"]
    assert [(row["passed"], row["n"]) for row in table] == [(2, 3), (1, 4), (0, 2)]
    assert table[1]["mean_share"] == pytest.approx(0.325)
    said = known_scores(table)["square"]
    assert said["perfect"]["value"] == pytest.approx(2 / 3)
    assert said["wrong"]["value"] == pytest.approx(1 / 6) and said["wrong"]["n"] == 6
    assert said["worst"] == {"kind": "ring", "value": 0.25, "n": 4}
