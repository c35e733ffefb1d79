"""Measures right pictures and wrong ones, and prints how well they are told apart.

    python -m tests.acceptance.evidence --runs=DIR --reference=SCANS [--only=NAME,...]

DIR has for each network NAME of the zoo two runs of the same units, made with its default flags and
``--reference=SCANS``: ``NAME-own``, and ``NAME-permuted`` with ``--random_weights=1``. Measured are

    own        the picture of each unit
    other      the pictures of other units of the layer, under its name
    scrambled  its own with phases in random order
    permuted   pictures made on permuted weights

each kind as a run of its own. What was measured is kept in ``DIR/NAME.json``; with it the rule of
`featvis_jax.evidence.verdict` is fitted on all networks but one and asked about that one.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
from scipy import stats
from sklearn.linear_model import LogisticRegression

from featvis_jax import models
from featvis_jax.evaluation.energy import phase_scrambled
from featvis_jax.evidence import verdict
from featvis_jax.evidence.measuring import Measures, RealInputs, measurer
from featvis_jax.evidence.predicting import UNKNOWN, Interval
from featvis_jax.maximize.objectives import channel
from featvis_jax.maximize.reference import Asked
from featvis_jax.results.store import RunView
from featvis_jax.runs.reference_scans import Inputs, ReferenceOptions, read
from featvis_jax.runs.trust import real_inputs

WRONG = ("other", "scrambled", "permuted")
IMAGES = 200
NUMBERS = ("liveliness", "strength", "selectivity", "standing", "other_ways", "likeness")
INTERVALS = ("pasted", "picture_predicts", "examples_predict", "both_predict", "label")
KNOWN = ("drive", "selectivity", "standing")


def measured(name: str, runs: Path, scans: str) -> list[dict]:
    """Every measure of every picture of a network, of each kind."""
    own, permuted = RunView(runs / f"{name}-own"), RunView(runs / f"{name}-permuted")
    model, inputs = read(
        models.load(name), ReferenceOptions(reference=scans, reference_images=IMAGES), seed=0
    )
    assert inputs is not None
    rows = []
    for layer in dict.fromkeys(record.layer for record in own.records()):
        units = [record.channel for record in own.records() if record.layer == layer]
        pictures = {
            kind: np.stack([run.image(layer, u)[0] for u in units]).astype(np.float32)
            for kind, run in (("own", own), ("permuted", permuted))
        }
        pictures["other"] = np.roll(pictures["own"], 1 + len(units) // 3, axis=0)
        rng = np.random.default_rng(0)
        pictures["scrambled"] = np.stack(
            [phase_scrambled(p, rng).astype(np.float32) for p in pictures["own"]]
        )
        asked, total = Asked(channel(layer), units), model.network.layer(layer).channels
        for part, real in parts(inputs).items():
            measure = measurer(model.network, asked, real, total=total)
            for kind in ("own", *WRONG):
                for unit, found in zip(units, measure(units, pictures[kind]), strict=True):
                    key = {"network": name, "layer": layer, "unit": unit, "kind": kind}
                    rows.append({**key, "people": part, **as_json(found)})
        print(f"{name}, {layer}: measured", flush=True)
    return rows


def parts(inputs: Inputs) -> dict[str, RealInputs]:
    """All real inputs, and those of two halves of the people."""
    real = real_inputs(inputs)
    images, people = np.stack(list(real.images)), list(dict.fromkeys(real.owners))
    found = {"all": real._replace(images=images)}
    for number, half in enumerate((people[::2], people[1::2])):
        own = np.flatnonzero(np.isin(real.owners, half))
        found[f"half {number}"] = RealInputs(images[own], [real.owners[i] for i in own])
    return found


def as_json(found: Measures) -> dict:
    """The numbers of a picture; of an interval its value."""
    numbers = {name: getattr(found, name) for name in NUMBERS}
    numbers |= {name: getattr(found, name).value for name in INTERVALS}
    return {name: None if math.isnan(value) else float(value) for name, value in numbers.items()}


def measures(row: dict) -> Measures:
    """What was kept of a picture, as far as a verdict reads it."""
    kept = {name: math.nan if value is None else value for name, value in row.items()}
    numbers = {name: kept[name] for name in NUMBERS}
    intervals = {name: UNKNOWN for name in INTERVALS} | {"pasted": Interval(kept["pasted"], 0, 0)}
    return Measures(**numbers, **intervals, below=(), examples=(), places=())


def features(row: dict, known: int) -> list[float]:
    """What a rule reads, of as many measures as are known."""
    found = [verdict.drive(measures(row)), row["selectivity"], row["standing"]]
    return [math.nan if value is None else value for value in found[:known]]


def auc(right: list[float], wrong: list[float]) -> float:
    """How often a right picture has the larger score."""
    above = np.subtract.outer(right, wrong)
    return float((above > 0).mean() + 0.5 * (above == 0).mean())


def is_driven(row: dict) -> bool:
    """Whether a row is of a picture that is measured and drives its unit."""
    return row["strength"] is not None and row["strength"] >= verdict.DRIVING


def report(rows: list[dict]) -> None:
    """Print how well right and wrong pictures are told apart, a network left out."""
    everyone = [r for r in rows if r["people"] == "all" and r["liveliness"] >= verdict.LIVELY]
    driven = {key(row) for row in everyone if row["kind"] == "own" and is_driven(row)}
    units = {key(row) for row in everyone}
    print(f"{len(driven)} units whose own picture drives them, of {len(units)} lively ones")
    for known in (3, 2, 1):
        usable = [row for row in everyone if not np.isnan(features(row, known)).any()]
        score_left_out(usable, driven, known)
        print(f"{', '.join(KNOWN[:known])}: AUC of own against {', '.join(WRONG)}")
        print_areas("driven", [row for row in usable if key(row) in driven])
        print_areas("all", usable)
        print_rule([row for row in usable if key(row) in driven], known)
    words(everyone)
    reliability(rows)


def score_left_out(rows: list[dict], driven: set, known: int) -> None:
    """Give every row the score of a rule that has not seen its network."""
    for left_out in sorted({row["network"] for row in rows}):
        others = [r for r in rows if r["network"] != left_out and key(r) in driven]
        rule = fitted(others, known)
        for row in rows:
            if row["network"] == left_out:
                row["score"] = float(rule.decision_function([features(row, known)])[0])


def print_areas(name: str, rows: list[dict]) -> None:
    """Print the areas under the curve, of all layers and of each."""
    for layer in ("every layer", *dict.fromkeys(row["layer"] for row in rows)):
        scores = {
            kind: [
                r["score"]
                for r in rows
                if r["kind"] == kind and layer in ("every layer", r["layer"])
            ]
            for kind in ("own", *WRONG)
        }
        found = [auc(scores["own"], scores[kind]) for kind in WRONG]
        print(f"  {name}, {layer}: {' '.join(f'{value:.3f}' for value in found)}")


def print_rule(rows: list[dict], known: int) -> None:
    """Print the rule of all networks together, as `featvis_jax.evidence.verdict` has it."""
    rule = fitted(rows, known)
    own = [features(row, known) for row in rows if row["kind"] == "own"]
    least = np.percentile(rule.predict_proba(own)[:, 1], (1, 2, 5)).round(3).tolist()
    weights = ", ".join(f"{weight:.2f}" for weight in rule.coef_[0])
    print(f"  all networks: {rule.intercept_[0]:.2f} + ({weights}); own pictures' percentiles 1, 2 "
          f"and 5 are {least}")  # fmt: skip


def key(row: dict) -> tuple[str, str, int]:
    """The unit of a row."""
    return row["network"], row["layer"], row["unit"]


def fitted(rows: list[dict], known: int) -> LogisticRegression:
    """A logistic regression, for which right and wrong pictures weigh the same."""
    rule = LogisticRegression(class_weight="balanced", C=1.0)
    return rule.fit([features(r, known) for r in rows], [r["kind"] == "own" for r in rows])


def words(rows: list[dict]) -> None:
    """Print how often each verdict is given to each kind."""
    for kind in dict.fromkeys(row["kind"] for row in rows):
        own = [verdict.verdict(measures(row)).word for row in rows if row["kind"] == kind]
        shares = {word: f"{own.count(word) / len(own):.1%}" for word in dict.fromkeys(own)}
        print(f"{kind} ({len(own)}): {shares}")


def reliability(rows: list[dict]) -> None:
    """Print the rank correlation of each measure over two halves of the people."""
    halves = [{(*key(r), r["kind"]): r for r in rows if r["people"] == f"half {n}"} for n in (0, 1)]
    for told, kinds in (("own pictures", ("own",)), ("all pictures", ("own", *WRONG))):
        both = sorted(k for k in halves[0].keys() & halves[1].keys() if k[-1] in kinds)
        found = []
        for name in (*NUMBERS[1:], "pasted", "picture_predicts", "examples_predict", "belongs"):
            pairs = np.array([[value_of(half[k], name) for half in halves] for k in both])
            pairs = pairs[np.isfinite(pairs).all(axis=1)]
            if len(pairs) > 2 and np.ptp(pairs, axis=0).all():
                found.append(f"{name} {stats.spearmanr(*pairs.T).statistic:.2f}")
        print(f"two halves of the people, {len(both)} {told}: {', '.join(found)}")


def value_of(row: dict, name: str) -> float:
    """A measure of a row, or what follows from them."""
    if name == "belongs":
        return verdict.belongs(measures(row))
    return math.nan if row[name] is None else row[name]


def main() -> None:
    """Measure what was not measured yet, and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--reference", required=True)
    parser.add_argument("--only", default="")
    given = parser.parse_args()
    found = []
    for own in sorted(given.runs.glob("*-own")):
        name = own.name.removesuffix("-own")
        if given.only and name not in given.only.split(","):
            continue
        kept = given.runs / f"{name}.json"
        if not kept.exists():
            kept.write_text(json.dumps(measured(name, given.runs, given.reference)))
        found += json.loads(kept.read_text())
    report(found)


if __name__ == "__main__":
    main()
