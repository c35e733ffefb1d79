"""numbers.json: everything that the report says, from the files that the stages left."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.reproduction import evidence as tables
from experiments.reproduction.evidence import Evidence
from experiments.reproduction.plan import LAYERS, MODELS, PLANTED, TITLES, Plan, card_of
from experiments.reproduction.stages import marker
from experiments.reproduction.statements import STATEMENTS
from experiments.reproduction.statistics import balanced_accuracy
from experiments.reproduction.verdicts import Statement
from featvis_jax.results.tables import STATUSES
from featvis_jax.runs.environment import versions

# Balanced accuracies of section 2.2 of the paper.
_PAPER_PERCENT = {"sex": 92.22, "gaussian": 99.61, "square": 99.35}


def numbers(out: Path, plan: Plan, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Gather what the report says.

    Args:
      out: Directory of the reproduction, its stages finished.
      plan: What was run.
      settings: What was asked for, by the names that the report shows.
    """
    found = tables.read(out, MODELS, plan.graded)
    return {
        "title": "The paper, reproduced and put to the test",
        "settings": dict(settings),
        "versions": versions(),
        "accuracy": [_accuracy(name, plan, found) for name in MODELS],
        "health": _health(found.images),
        "grades": _grades(found),
        "figures": _figures(plan, found),
        "statements": [_stated(each, found) for each in STATEMENTS],
        "stages": [
            {
                "name": stage.name,
                "command": stage.command,
                "minutes": marker(out, stage.name)["seconds"] / 60,
            }
            for stage in plan.stages
        ],
        "minutes": sum(marker(out, stage.name)["seconds"] for stage in plan.stages) / 60,
    }


def strongest_channel(found: Evidence) -> int:
    """The compared channel that an ascent without regularization drives highest.

    Args:
      found: What the stages left.
    """
    rows = [row for row in found.comparison if row["strategy"] == "none"]
    return max(rows, key=lambda row: row["objective"])["channel"]


def _accuracy(name: str, plan: Plan, found: Evidence) -> dict[str, Any]:
    columns, card = found.predictions[name], card_of(plan.models[name])
    interval = balanced_accuracy(columns["label"], columns["whole"], columns["subject"])
    return {
        "model": name,
        "title": TITLES[name],
        "paper_percent": _PAPER_PERCENT[name],
        "percent": 100 * interval.value,
        "low_percent": 100 * interval.low,
        "high_percent": 100 * interval.high,
        "method": interval.method,
        "images": len(columns["label"]),
        "subjects": len(set(columns["subject"].tolist())),
        "weights": f"trained here, best at step {card['training']['best_step']}"
        if name in plan.trained
        else f"shipped model {plan.models[name]}",
        "shape": "×".join(map(str, card["grid"]["shape"])),
        "voxel_mm": math.sqrt(sum(row[0] ** 2 for row in card["grid"]["affine"][:3])),
        "source": f"assessment/{name}/predictions.tsv",
    }


def _health(images: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for model in MODELS:
        for layer in LAYERS:
            of_layer = [r["status"] for r in images if (r["model"], r["layer"]) == (model, layer)]
            counts = {status: of_layer.count(status) for status in STATUSES}
            uniform_percent = 100 * counts["uniform"] / len(of_layer)
            rows.append(
                {
                    "title": TITLES[model],
                    "layer": layer,
                    "count": len(of_layer),
                    **counts,
                    "uniform_percent": uniform_percent,
                }
            )
    return rows


def _grades(found: Evidence) -> list[dict[str, Any]]:
    return [
        {
            "title": PLANTED[name].title,
            "kind": row["control"],
            "score": row["score"],
            "passed": row["passed"],
            "count": row["n"],
            "percent": 100 * row["share"],
            "low_percent": 100 * row["low"],
            "high_percent": 100 * row["high"],
            "source": f"grades/{name}/summary.tsv",
        }
        for name, rows in found.grades.items()
        for row in rows
    ]


def _figures(plan: Plan, found: Evidence) -> list[dict[str, Any]]:
    channel = strongest_channel(found)
    shown = ", ".join(map(str, plan.figure_channels))
    return [
        {
            "name": "Figure 1",
            "file": "figures/figure1.png",
            "caption": "A held-out slice as it was, with soft round lesions and with squares. "
            "Lesions are circled; anterior is up, left on the left.",
        },
        {
            "name": "Figure 2",
            "file": "figures/figure2.png",
            "caption": f"Channels {shown} of every layer, drawn at random. The sex model's are "
            "middle axial slices of 3-D images. Black 0, white 1 in all.",
        },
        {
            "name": "Figure 3",
            "file": "figures/figure3.png",
            "caption": f"Channel {channel} of conv5 of the square model, of those compared the one "
            "that is driven highest without regularization, under single transforms.",
        },
        {
            "name": "Figure 4",
            "file": "figures/figure4.png",
            "caption": "The same channel under crops, denoising, blurring, and combinations.",
        },
        *(
            {
                "name": f"Grades, {PLANTED[name].title}",
                "file": f"grades/{name}/scores.png",
                "caption": "Share of the logit's pictures, of the controls, and of drawn pictures "
                "that are named rightly (docs/grading.md says how).",
            }
            for name in plan.graded
        ),
    ]


def _stated(statement: Statement, found: Evidence) -> dict[str, Any]:
    measured = dict(statement.measure(found))
    verdict = statement.rule(measured)
    told = measured.pop("told", statement.told)
    # JSON knows no NaN.
    clean = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in measured.items()
    }
    return {
        "section": statement.section,
        "text": statement.text,
        "told": told,
        "measured": clean,
        "verdict": verdict,
        "ruled": statement.ruled,
        "source": statement.source,
    }
