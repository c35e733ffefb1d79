"""What the stages left, as tables: everything that a statement is measured by."""

import csv
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from featvis_jax.results.tables import PATTERNED

Row = dict[str, Any]


class Evidence(NamedTuple):
    """The tables of a reproduction.

    Attributes:
      images: A row per image of Figure 2's runs.
      comparison: A row per strategy and channel.
      predictions: For each model the columns of its predictions.tsv.
      ablation: For each model what its ablation.json holds.
      grades: For each planted model that was graded, the rows of its summary.tsv that are about
        all layers.
    """

    images: list[Row]
    comparison: list[Row]
    predictions: dict[str, dict[str, np.ndarray]]
    ablation: dict[str, dict[str, Any]]
    grades: Mapping[str, list[Row]] = MappingProxyType({})

    def of(self, column: str, **wanted: str | Sequence[str]) -> list[float]:
        """Values of a column in the images with a pattern and of these models and layers.

        Args:
          column: Its name.
          **wanted: A value or several, for other columns.
        """
        chosen = {k: (v,) if isinstance(v, str) else tuple(v) for k, v in wanted.items()}
        return [
            row[column]
            for row in self.images
            if row["status"] in PATTERNED
            and all(row[name] in values for name, values in chosen.items())
            and not math.isnan(row[column])
        ]

    def strategy(self, name: str, column: str) -> np.ndarray:
        """Values of a column under a strategy, for the channels that none of them finds silent.

        A channel counts where the image without regularization is no flat grey.

        Args:
          name: The strategy's.
          column: Its name.

        Returns:
          A value per channel; none where the strategy was not run.
        """
        rows = {(row["strategy"], row["channel"]): row for row in self.comparison}
        chosen = [rows[name, channel] for channel in self.channels() if (name, channel) in rows]
        return np.array([row[column] for row in chosen])

    def channels(self) -> list[int]:
        """The channels of the comparison whose image without regularization is no flat grey."""
        return [
            row["channel"]
            for row in self.comparison
            if row["strategy"] == "none" and row["contrast"] >= _FLAT
        ]


# As in featvis_jax.evaluation.health, for intensities on [0, 1].
_FLAT = 0.02


def read(out: Path, models: Sequence[str], graded: Sequence[str] = ()) -> Evidence:
    """Read the tables of a reproduction.

    Args:
      out: Its directory.
      models: Names of its models.
      graded: Names of the planted models whose pictures were graded.
    """
    predictions, ablation = {}, {}
    for name in models:
        directory = out / "assessment" / name
        rows = _table(directory / "predictions.tsv", text=("subject",))
        predictions[name] = {
            key: np.array([row[key] for row in rows]).astype(str if key == "subject" else int)
            for key in rows[0]
        }
        ablation[name] = json.loads((directory / "ablation.json").read_bytes())
    return Evidence(
        images=_table(out / "measures" / "images.tsv", text=("model", "layer", "status")),
        comparison=_table(out / "comparison" / "comparison.tsv", text=("strategy", "layer")),
        predictions=predictions,
        ablation=ablation,
        grades={
            name: [
                row
                for row in _table(
                    out / "grades" / name / "summary.tsv", text=("layer", "control", "score")
                )
                if row["layer"] == "all"
            ]
            for name in graded
        },
    )


def _table(path: Path, *, text: Sequence[str]) -> list[Row]:
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream, dialect="excel-tab"))
    return [{k: v if k in text else _kind(k)(v) for k, v in row.items()} for row in rows]


def _kind(column: str) -> Callable[[str], Any]:
    return int if column in ("channel", "passed", "n") else _number


def _number(text: str) -> Any:
    if text in ("True", "False"):
        return text == "True"
    return math.nan if text == "n/a" else float(text)
