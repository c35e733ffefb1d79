"""What a grading finds: its tables, its numbers, its files, and a few lines about it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from featvis_jax.evaluation.responses import Response
from featvis_jax.evaluation.shape_classifier import ShapeClassifier
from featvis_jax.evaluation.summary import Graded, known_scores, rows, scores, summary
from featvis_jax.results.encoding import encode_rows
from featvis_jax.results.files import atomic_write_bytes
from featvis_jax.results.manifest import encode_json
from featvis_jax.results.scores_figure import scores_figure
from featvis_jax.runs.environment import versions

FILES = ("known.tsv", "responses.tsv", "scores.tsv", "summary.tsv", "scores.png", "scores.pdf")
"""What a grading writes beside scores.json."""

Rows = list[dict[str, Any]]
"""A table, a dictionary per row."""


class Grades(NamedTuple):
    """Grades of pictures and controls.

    Printed, it says what matters in a few lines.

    Attributes:
      scores: All numbers that matter, as scores.json has them: ``shape_accuracy``,
        ``size_accuracy``, ``controls``, ``known``, ``judge``, and what was graded.
      pictures: A row per picture or control, with every single score.
      summary: Shares by layer, control and score, with their intervals.
      known: What the same grade says of drawn pictures.
      responses: How the network itself answers to lesions of every shape; None where no network
        was given.
    """

    scores: dict[str, Any]
    pictures: Rows
    summary: Rows
    known: Rows
    responses: Rows | None

    @classmethod
    def of(
        cls,
        graded: Sequence[Graded],
        drawn: Rows,
        answers: Mapping[str, Sequence[Response]] | None,
        *,
        task: str,
        classifier: ShapeClassifier,
        about: Mapping[str, Any],
    ) -> Grades:
        """Put grades together.

        Args:
          graded: Pictures and controls.
          drawn: What is known of drawn pictures.
          answers: Of the network to lesions of every shape, by concept.
          task: Name of what the networks were trained on.
          classifier: The shape classifier.
          about: What else was graded with, for scores.json.
        """
        found = {
            **scores(graded),
            "task": task,
            "known": known_scores(drawn),
            "judge": {
                "classes": list(classifier.classes),
                "balanced_accuracy": classifier.balanced_accuracy,
            },
            **about,
            "versions": versions(),
        }
        responses = None
        if answers is not None:
            responses = [
                {"concept": concept, **each._asdict()}
                for concept, of_concept in answers.items()
                for each in of_concept
            ]
        return cls(json.loads(json.dumps(found)), rows(graded), summary(graded), drawn, responses)

    def __repr__(self) -> str:
        """What the network answers, what the pictures show, and what that is worth."""
        lines = self._of_network()
        for row in self.summary:
            if row["layer"] == "all" and row["score"] in ("named", "size"):
                low, high = (f"{100 * float(str(row[end])):.0f}" for end in ("low", "high"))
                lines.append(
                    f"{row['control']}, {row['score']}: {row['passed']} of {row['n']} "
                    f"(95 % interval {low} to {high} %)"
                )
        for concept, said in self.scores["known"].items():
            right, wrong, worst = said["perfect"], said["wrong"], said["worst"]
            lines.append(
                f"Of drawn pictures, the same grade names {concept} in {100 * right['value']:.0f} "
                f"% of {right['n']} perfect ones and in {100 * wrong['value']:.0f} % of "
                f"{wrong['n']} wrong ones; at most in {100 * worst['value']:.0f} % of a kind "
                f"({worst['kind']})."
            )
        return "\n".join(lines)

    def _of_network(self) -> list[str]:
        answers: dict[str, list[str]] = {}
        for row in self.responses or []:
            answers.setdefault(row["concept"], []).append(f"{row['shape']} {row['change']:+.2f}")
        return [
            f"One lesion more raises the logit for {concept} by: {', '.join(told)}"
            for concept, told in answers.items()
        ]


def write(grades: Grades, out: Path) -> None:
    """Write all files of a grading.

    Args:
      grades: What was found.
      out: Their directory, which exists.

    Raises:
      OSError: Something cannot be written.
    """
    tables = {
        "responses": grades.responses,
        "scores": grades.pictures,
        "summary": grades.summary,
        "known": grades.known,
    }
    for name, table in tables.items():
        if table is not None:
            atomic_write_bytes(out / f"{name}.tsv", encode_rows(table, digits=5))
    for kind in ("png", "pdf"):
        title = f"{grades.scores['task']}: what the pictures show"
        figure = scores_figure(grades.summary, known=grades.known, title=title, kind=kind)
        atomic_write_bytes(out / f"scores.{kind}", figure)
    # The one file without which the others count for nothing comes last.
    atomic_write_bytes(out / "scores.json", encode_json(grades.scores))
