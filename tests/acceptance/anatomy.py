"""Deforms scans for networks that look for planted anatomy, and grades what that shows.

    python -m tests.acceptance.anatomy --models=DIR,DIR,... --cohort=SCANS --out=FILE.json
        [--scans=24] [--permuted=4] [--methods] [--picture=FILE.png]

Each DIR is what ``experiments.train --task=anatomy`` left. Scans of the people that the network has
not seen, with nothing planted, are deformed for the class that has the planted anatomy, and the map
of growth is graded by what was planted (`featvis_jax.evaluation.growth`), at the size for which the
network responds to the planted change as it does to the deformed scan. Rows:

    trained     the network, from scans as they are to the class "here"
    mean ...    the mean of those maps
    opposite    from scans with the planted change to the class "elsewhere"
    permuted    the same weights in random order, as often as asked
    random      a smooth random deformation of the same energy
    at OTHER    the trained network's maps, judged at the place of another of the networks
    METHOD      with --methods: gradient, SmoothGrad, accentuation by pixels and by frequencies,
                transparency, each blurred or not, by the grades that need no sign

Beside them: whether networks of the same place are turned by the deformed scans, and by the
reversed field; and the ratio of the effort by shape to that by brightness
(`featvis_jax.evidence.brightness`). What was measured is added to FILE.json, network by network.
--picture draws scans of the first network: as they are, deformed, what grew, what was planted.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from featvis_jax import models
from featvis_jax.data.anatomy import AnatomyTask, Point
from featvis_jax.evaluation.growth import GrowthGrades, growth_grades
from featvis_jax.evidence import brightness
from featvis_jax.maximize.layer import FinishedUnit
from featvis_jax.runs.brightness_check import CHEAPER
from tests.acceptance.anatomy_methods import other_methods
from tests.acceptance.anatomy_networks import (
    ELSEWHERE,
    TARGET,
    Trained,
    deformed,
    difference,
    trained,
)

# Sizes at which the planted change is shown to the network.
SHARES = np.linspace(0.0, 2.0, 41)
CORE = 0.5


def share_needed(responses: np.ndarray, wanted: float) -> float:
    """The size of the planted change to which a network responds as strongly as that."""
    above = np.flatnonzero(responses >= wanted)
    if not len(above):
        return float(SHARES[-1])
    first = int(above[0])
    if first == 0:
        return float(SHARES[1])
    low, high = responses[first - 1], responses[first]
    return float(np.interp(wanted, [low, high], SHARES[first - 1 : first + 1]))


def graded(
    network: Trained, maps: Sequence[np.ndarray], shares: Sequence[float], *, at: Trained | None
) -> list[dict[str, Any]]:
    """Grades of a map for each scan, at each of the places of a network."""
    judge = network if at is None else at
    rows = []
    for place, sign in judge.task.planted.places or [(None, 1)]:
        for scan, (found, share) in enumerate(zip(maps, shares, strict=True)):
            grades = _grades(judge.task, place, found, share, network.brains[scan])
            told = None if place is None else ",".join(f"{x:g}" for x in place)
            rows.append({"scan": scan, "place": told, "sign": sign, **grades})
    return rows


def _grades(
    task: AnatomyTask, place: Point | None, found: np.ndarray, share: float, brain: np.ndarray
) -> dict[str, Any]:
    planted = task.log_growth(share)
    if place is None:  # All over the brain there is no core.
        values, wanted = found[brain], planted[brain]
        return {"correlation": float(np.corrcoef(values, wanted)[0, 1]) if values.std() else 0.0}
    grades: GrowthGrades = growth_grades(
        found, planted, core=task.within(place, CORE), place=task.within(place), brain=brain
    )
    return grades._asdict()


def random_like(maps: Sequence[np.ndarray], size_mm: float) -> list[np.ndarray]:
    """Smooth random maps of the same energy."""
    rng = np.random.default_rng(0)
    made = []
    for each in maps:
        noise = ndimage.gaussian_filter(rng.standard_normal(each.shape), 12.0 / size_mm / 2)
        made.append(noise * np.sqrt((each**2).sum() / (noise**2).sum()))
    return made


def reversed_fields(network: Trained, units: Sequence[FinishedUnit]) -> np.ndarray:
    """The scans under the same displacements with the opposite sign."""
    images = []
    for scan, unit in zip(network.scans, units, strict=True):
        assert unit.maps is not None
        moved = np.moveaxis(unit.maps["displacement"], -1, 0) / network.task.voxel_size_mm
        places = np.indices(scan.shape[:-1]) - moved
        read = ndimage.map_coordinates(scan[..., 0], places, order=1, mode="nearest")
        images.append(read[..., None])
    return np.stack(images)


def ratios(network: Trained, units: Sequence[FinishedUnit]) -> list[float]:
    """Effort by shape over effort by brightness, of each scan."""
    size = network.task.voxel_size_mm

    def efforts(finished: Sequence[FinishedUnit]) -> list[brightness.Effort]:
        return [
            brightness.effort(
                {name: u.maps[name] for name in ("displacement", "logbright") if name in u.maps},
                u.final_objective,
                target=TARGET,
                voxel_size_mm=size,
            )
            for u in finished
            if u.maps is not None
        ]

    found = []
    for changes, finished in (
        ("shape", units),
        ("brightness", deformed(network, changes="brightness")),
    ):
        kind = efforts(finished)
        if not all(effort.reaches for effort in kind):
            again = efforts(deformed(network, changes=changes, cheaper=CHEAPER))
            kind = [old if old.reaches else new for old, new in zip(kind, again, strict=True)]
        found.append(kind)
    return [brightness.compared(*pair).ratio for pair in zip(*found, strict=True)]


def measured(network: Trained, others: Sequence[Trained], *, permuted: int) -> dict[str, Any]:
    """Everything about one network."""
    size, net = network.task.voxel_size_mm, network.network
    before = difference(net, network.scans)
    units = deformed(network)
    maps = [unit.maps["logjac"][..., 0] for unit in units if unit.maps is not None]
    after = difference(net, np.stack([unit.image for unit in units]))
    doses = np.stack([difference(net, network.planted(share)) for share in SHARES], axis=1)
    shares = [share_needed(dose, wanted) for dose, wanted in zip(doses, after, strict=True)]
    rows: dict[str, list[dict[str, Any]]] = {"trained": graded(network, maps, shares, at=None)}
    middle = float(np.mean(network.task.planted.usual_change))
    usual = [middle] * len(maps)

    def maps_of(**options: Any) -> list[np.ndarray]:
        found = deformed(network, **options)
        return [each.maps["logjac"][..., 0] for each in found if each.maps is not None]

    mean = [np.mean(maps, axis=0)]
    rows["mean of all scans"] = graded(network, mean, [float(np.median(shares))], at=None)
    back = maps_of(scans=network.planted(middle), unit=ELSEWHERE)
    rows["opposite"] = graded(network, back, usual, at=None)
    rows["random"] = graded(network, random_like(maps, size), usual, at=None)
    for seed in range(permuted):
        shaken = models.with_permuted_weights(network.model, seed + 1).network
        found = maps_of(network=shaken)
        rows[f"permuted {seed + 1}"] = graded(network, found, usual, at=None)
    same, turned = network.task.planted.places, {}
    images = {
        "deformed": np.stack([unit.image for unit in units]),
        "reversed": reversed_fields(network, units),
    }
    for other in others:
        if other.name == network.name:
            continue
        places = other.task.planted.places
        if places == same and places and other.task.planted.cue == network.task.planted.cue:
            turned[other.name] = {
                "before": difference(other.network, network.scans).tolist(),
                **{name: difference(other.network, each).tolist() for name, each in images.items()},
            }
        elif places and same and not set(places) & set(same):
            rows[f"at {other.name}"] = graded(network, maps, usual, at=other)
    return {
        "accuracy": network.model.card["report"]["balanced_accuracy"],
        "baselines": network.model.card["report"].get("shape_blind_baselines"),
        "cue": network.task.planted.cue,
        "shuffled": network.is_shuffled,
        "before": before.tolist(),
        "after": after.tolist(),
        "reversed": difference(net, images["reversed"]).tolist(),
        "shares": shares,
        "ratios": ratios(network, units),
        "rows": rows,
        "turned": turned,
    }


_AVERAGED = {
    "signed_auc",
    "unsigned_auc",
    "share",
    "is_peak_inside",
    "is_sign_right",
    "correlation",
}


def table(name: str, found: dict[str, Any]) -> str:
    """What was measured of a network, as lines."""
    after, before = np.array(found["after"]), np.array(found["before"])
    ratio = np.median([r for r in found["ratios"] if not np.isnan(r)] or [np.nan])
    lines = [
        f"{name}: accuracy {100 * found['accuracy']:.1f} %, baselines {found['baselines']}, "
        f"cue {found['cue']}{', labels shuffled' if found['shuffled'] else ''}",
        f"  logit difference {np.median(before):.1f} before, {np.median(after):.1f} after, "
        f"{np.median(found['reversed']):.1f} under the reversed field; shape to brightness "
        f"{ratio:.2f}{' FLAGGED' if brightness.asks_for_brightness(float(ratio)) else ''}",
        "  map               place        AUC signed  unsigned  share  peak  sign  corr.  growth / "
        "planted (10 to 90 %)",
    ]
    for row, grades in found["rows"].items():
        for place in dict.fromkeys(each["place"] for each in grades):
            own = [each for each in grades if each["place"] == place]
            mean = {
                key: float(np.mean([each[key] for each in own])) for key in _AVERAGED & set(own[0])
            }
            if place is None:
                lines.append(f"  {row:34} {mean['correlation']:6.2f}")
                continue
            size = np.array([each["growth"] / each["planted"] for each in own])
            lines.append(
                f"  {row:34} {place:12} {mean['signed_auc']:6.3f} {mean['unsigned_auc']:6.3f} "
                f"{mean['share']:5.2f} {mean['is_peak_inside']:5.2f} {mean['is_sign_right']:5.2f} "
                f"{mean['correlation']:6.2f} {np.median(size):6.2f} ({np.quantile(size, 0.1):.2f} "
                f"to {np.quantile(size, 0.9):.2f})"
            )
    for other, responses in found["turned"].items():
        start, deformed_, reversed_ = (
            np.array(responses[key]) for key in ("before", "deformed", "reversed")
        )
        low = start < 0
        lines.append(
            f"  {other} is turned by {np.mean(deformed_[low] > 0):.2f} of {low.sum()} deformed "
            f"scans ({np.median(start):.1f} to {np.median(deformed_):.1f}), by "
            f"{np.mean(reversed_[low] > 0):.2f} of those under the reversed field"
        )
    return "\n".join(lines)


def picture(network: Trained, path: str, *, count: int = 3) -> None:
    """Draw some scans, what became of them, what grew, and what was planted."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    chosen = np.linspace(0, len(network.scans) - 1, count).astype(int)
    scans = network.scans[chosen]
    units = deformed(network, scans=scans)
    after = difference(network.network, np.stack([unit.image for unit in units]))
    doses = np.stack([difference(network.network, network.planted(s)) for s in SHARES], axis=1)
    figure, axes = pyplot.subplots(count, 4, figsize=(8.0, 2.75 * count), layout="constrained")
    titles = ("scan", "deformed scan", "grew and shrank", "planted")
    shown = None
    for row, number, scan, unit, response in zip(axes, chosen, scans, units, after, strict=True):
        assert unit.maps is not None
        planted = network.task.log_growth(share_needed(doses[number], float(response)))
        maps = (unit.maps["logjac"][..., 0], planted)
        for axis, title in zip(row, titles, strict=True):
            axis.set_axis_off()
            axis.set_facecolor("black")
            if number == chosen[0]:
                axis.set_title(title)
            image = unit.image if title == "deformed scan" else scan
            axis.imshow(image[..., 0].T, origin="lower", cmap="gray", vmin=0, vmax=1)
            if title not in titles[:2]:
                per_cent = 100 * np.expm1(maps[titles.index(title) - 2])
                seen = np.clip(np.abs(per_cent) / 20, 0, 0.85)
                shown = axis.imshow(
                    per_cent.T, origin="lower", cmap="RdBu_r", vmin=-60, vmax=60, alpha=seen.T
                )
                for place, _ in network.task.planted.places:
                    axis.contour(network.task.within(place).T, [0.5], colors="lime", linewidths=0.8)
    assert shown is not None
    bar = figure.colorbar(
        pyplot.cm.ScalarMappable(shown.norm, shown.cmap),
        ax=axes,
        location="bottom",
        shrink=0.5,
        aspect=40,
        pad=0.01,
    )
    bar.set_label("change of area in per cent")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure every network, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", required=True)
    parser.add_argument("--cohort", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--scans", type=int, default=24)
    parser.add_argument("--permuted", type=int, default=4)
    parser.add_argument("--methods", action="store_true")
    parser.add_argument("--picture")
    told = parser.parse_args()
    kept = Path(told.out)
    known = json.loads(kept.read_bytes()) if kept.exists() else {}
    with tempfile.TemporaryDirectory() as cache:
        networks = [
            trained(Path(each), told.cohort, told.scans, cache) for each in told.models.split(",")
        ]
        if told.picture:
            picture(networks[0], told.picture)
        for network in networks:
            if network.name not in known:
                known[network.name] = measured(network, networks, permuted=told.permuted)
                kept.write_text(json.dumps(known))
            rows = known[network.name]["rows"]
            if told.methods and "gradient" not in rows:
                shares = known[network.name]["shares"]
                for name, maps in other_methods(network).items():
                    rows[name] = graded(network, maps, shares, at=None)
                kept.write_text(json.dumps(known))
            print(table(network.name, known[network.name]), flush=True)


if __name__ == "__main__":
    main()
