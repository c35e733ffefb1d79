"""What the deformed scans of a run have in common, and whether their shape is what was asked for.

Maps are read from the run, image by image. The same scans are then changed in brightness, up to the
same target, to see what shape is worth (`featvis_jax.evidence.brightness`).
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from featvis_jax import stopping
from featvis_jax.data.grids import Grid
from featvis_jax.data.masks import brain_mask
from featvis_jax.data.regions import read_regions
from featvis_jax.evidence import brightness
from featvis_jax.evidence.anatomy import (
    Changed,
    extremes,
    over_people,
    region_changes,
    threshold,
)
from featvis_jax.evidence.predicting import Interval, mean
from featvis_jax.model_options import ModelOptions
from featvis_jax.models import Model
from featvis_jax.options import errors_of, option, say
from featvis_jax.progress import callback
from featvis_jax.results.anatomy import MapRecord, RegionRecord, warning
from featvis_jax.results.asked import question
from featvis_jax.results.store import Run, RunView, open_run, read_run
from featvis_jax.runs.brightness_check import compared, known
from featvis_jax.runs.deformed_runs import (
    DeformedUnit,
    People,
    as_it_was,
    asked_of,
    people_of,
    units_of,
)
from featvis_jax.runs.graded_pictures import model_of_run

# What is there of each kind of change, and what it is called.
_MAPS = ("logjac", "logbright")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnatomyOptions(ModelOptions):
    """The deformed scans, and regions."""

    run: str | None = option(
        None,
        "Directory of a run of deformed scans, made with --up_to; what is found is written into "
        "it, and onto its pages.",
    )
    regions: str | None = option(
        None,
        "A NIfTI label image in the space of the network's images, such as a segmentation; "
        "NAME.tsv beside NAME.nii.gz has the columns index and name. Each region's change of "
        "volume is then told; for slices with the labels at the height of each.",
    )


def anatomy(
    run: str | os.PathLike[str] | RunView,
    *,
    model: Model | str | os.PathLike[str] | None = None,
    **options: Any,
) -> list[RegionRecord]:
    """Tell what the deformed scans of a run have in common, and whether shape is asked for.

    What is found is written into the run, where `featvis_jax.open_run` and the pages find it.

    Args:
      run: What `Units.save` or a command left, or its directory: scans that were deformed up to a
        target, best those of several people (``start_image="reference"``).
      model: The run's network, where it does not tell; one that was made in Python.
      **options: Any others of `AnatomyOptions`: ``regions="LABELS.nii.gz"``.

    Returns:
      A row for each unit and region, the largest change first; without regions one for the place of
      the largest growth and one for that of the largest shrinkage.

    Raises:
      FileNotFoundError: There is no such run, model or label image.
      ValueError: The run holds no deformed scans, or none that were to reach a target; or what is
        given does not fit together.
      OSError: The run cannot be written.
    """
    given = model if isinstance(model, Model) else None
    named = None if model is None or given is not None else os.fspath(model)  # pyright: ignore
    place = str(run.directory) if isinstance(run, RunView) else os.fspath(run)
    return _run(AnatomyOptions(run=place, model=named, **options), given=given)


def run(options: AnatomyOptions) -> list[RegionRecord]:
    """Look at all units of a run, and write what was found into it.

    Args:
      options: Which run, and which regions.

    Returns:
      A row for each unit and region.

    Raises:
      FileNotFoundError: There is no such run, model or label image.
      ValueError: The run holds no deformed scans, or none that were to reach a target.
      OSError: The run cannot be written.
    """
    return _run(options)


def _run(options: AnatomyOptions, *, given: Model | None = None) -> list[RegionRecord]:
    if options.run is None:
        raise ValueError("`run` is missing: name the directory of a run of deformed scans.")
    with errors_of("run", options.run):
        view = read_run(options.run)
    units, asked = units_of(view), asked_of(view)
    model = as_it_was(view, model_of_run(options, view, given))
    people = people_of(view)
    labels = _labels(options, model, people)
    scans = compared(view, model, asked, units, people)
    regions, maps = [], []
    with open_run(view.directory, view.configuration, environment={}) as opened:
        with callback("anatomy", unit="unit") as on_units:
            for done, unit in enumerate(units, start=1):
                stopping.check()
                own = DeformedUnit(view, unit, people)
                found, inside = _maps(opened, own, model)
                ratio = brightness.ratio_of_unit([scans[key].comparison for key in own.keys])
                maps += found
                regions += _regions(own, model, labels, inside, ratio)
                on_units(done, len(units))
        opened.write_anatomy(regions, maps, [each.record for each in scans.values()])
    _tell(view, regions, maps)
    return regions


_Labels = Callable[[int], Int[np.ndarray, "*spatial"]]


class _Labelled(NamedTuple):
    """Regions on the network's grid.

    Attributes:
      names: Of the regions; region number n has the name n - 1.
      of: From a variant to the number of the region at each voxel.
    """

    names: list[str]
    of: _Labels


def _labels(options: AnatomyOptions, model: Model, people: People) -> _Labelled | None:
    """The regions that options name, where each variant lies."""
    if options.regions is None:
        return None
    told = f"`regions={options.regions}`"
    if model.affine is None:
        raise ValueError(
            f"{told}: nobody says where the images of the network lie: give `grid=FILE`, a NIfTI "
            "file on the grid of its input, or leave it out."
        )
    with errors_of("regions", options.regions):
        regions = read_regions(options.regions)
    # Numbers of some atlases have nine digits.
    present = np.unique(regions.labels[regions.labels != 0])
    heights, found = people.heights_mm, {}
    for height in dict.fromkeys(heights):
        labels = regions.on(_at_height(model.grid, height))
        numbers = np.searchsorted(present, labels) + 1
        found[height] = np.where(labels == 0, 0, numbers)
    if not any(labels.any() for labels in found.values()):
        raise ValueError(
            f"{told}: none of its regions lies on the network's grid: give a label image in the "
            "space of the scans."
        )
    names = [regions.name(int(label)) for label in present]
    return _Labelled(names, lambda variant: found[heights[variant - 1]])


def _at_height(grid: Grid, height_mm: float | None) -> Grid:
    """The grid of a slice, moved along its normal until its middle lies at a height."""
    if height_mm is None or len(grid.shape) == 3:
        return grid
    assert grid.affine is not None
    moved, normal = np.array(grid.affine, np.float64), grid.affine[:3, 2]
    middle = moved @ np.array([*((n - 1) / 2 for n in grid.box), 1.0])
    moved[:3, 3] += normal * (height_mm - middle[2]) / normal[2]
    return grid._replace(affine=moved)


def _maps(
    opened: Run, unit: DeformedUnit, model: Model
) -> tuple[list[MapRecord], Bool[np.ndarray, "*spatial"]]:
    """Store the mean maps of a unit and those of t; where the brain is."""
    scan = over_people(unit.of_people("scan")).mean
    inside = brain_mask(np.asarray(scan, np.float32))
    opened.write_stat(*unit.unit, _map(scan), model.affine, stat="mean", name="scan")
    rows = []
    for name in _MAPS:
        if name not in unit.view.map_names(*unit.unit):
            continue
        found = over_people(unit.of_people(name))
        opened.write_stat(*unit.unit, _map(found.mean), model.affine, stat="mean", name=name)
        told: dict[str, Any] = {}
        if found.t is not None:
            limit = threshold(found, inside)
            told = {"degrees_of_freedom": found.degrees_of_freedom, "t_threshold": limit}
            if limit is not None:
                passing = [np.nan_to_num(sign * found.t[inside]) >= limit for sign in (1, -1)]
                rising, falling = (float(each.mean()) for each in passing)
                told |= {"rising": rising, "falling": falling}
            opened.write_stat(
                *unit.unit,
                _map(found.t),
                model.affine,
                stat="t",
                name=name,
                degrees_of_freedom=found.degrees_of_freedom,
            )
        voxels = int(inside.sum())
        rows.append(
            MapRecord(
                *unit.unit,
                name,
                len(unit.keys),
                found.people,
                voxels,
                **{key: known(value) for key, value in told.items()},
            )
        )
    return rows, inside


def _map(values: Float[np.ndarray, "*spatial"]) -> Float[np.ndarray, "*spatial 1"]:
    return np.asarray(values, np.float32)[..., None]


def _regions(
    unit: DeformedUnit,
    model: Model,
    labels: _Labelled | None,
    inside: Bool[np.ndarray, "*spatial"],
    ratio: float,
) -> list[RegionRecord]:
    """The rows of a unit, with what is to be said of all of them."""
    flagged = brightness.asks_for_brightness(ratio)
    told: dict[str, Any] = {
        "brightness_ratio": known(ratio),
        "asks_for": None if math.isnan(ratio) else "brightness" if flagged else "shape",
        "warning": warning(ratio, brightness.MOST_RATIO) if flagged else None,
    }
    if labels is None:
        return _places(unit, model, inside, told)
    changed = (
        Changed(unit.people.names[variant - 1], unit.of(variant, "logjac"), labels.of(variant))
        for _, _, variant in unit.keys
    )
    return [
        RegionRecord(
            *unit.unit,
            labels.names[found.label - 1],
            found.voxels,
            found.people,
            **_percent(found.share),
            energy=known(found.energy),
            **told,
        )
        for found in region_changes(changed)
    ]


def _places(
    unit: DeformedUnit, model: Model, inside: Bool[np.ndarray, "*spatial"], told: dict[str, Any]
) -> list[RegionRecord]:
    """Where the mean map of a unit is largest and smallest."""
    places = extremes(over_people(unit.of_people("logjac")).mean, inside)
    growth = np.array([[each[place] for place in places] for each in unit.of_people("logjac")])
    rows = []
    for number, (name, voxel) in enumerate(
        zip(("largest growth", "largest shrinkage"), places, strict=True)
    ):
        rows.append(
            RegionRecord(
                *unit.unit,
                name,
                len(unit.keys),
                len(growth),
                **_percent(mean(np.expm1(growth[:, number]))),
                **_in_the_world(model, voxel, unit.people),
                **told,
            )
        )
    return sorted(rows, key=lambda row: -abs(row.change))


def _in_the_world(model: Model, voxel: tuple[int, ...], people: People) -> dict[str, Any]:
    """Where a voxel lies; of slices at several heights without the height."""
    if model.affine is None:
        return {}
    heights = set(people.heights_mm)
    height = heights.pop() if len(heights) == 1 else None
    affine = _at_height(model.grid, height).affine
    assert affine is not None
    world = affine @ np.array([*voxel, *[0] * (3 - len(voxel)), 1.0])
    place = {axis: known(at) for axis, at in zip("xyz", world[:3], strict=True)}
    return place | ({"z": None} if heights else {})


def _percent(share: Interval) -> dict[str, Any]:
    """A change as a share in per cent."""
    value, low, high = (known(100 * each) for each in share)
    return {"change": value, "change_low": low, "change_high": high}


def _tell(view: RunView, regions: Sequence[RegionRecord], maps: Sequence[MapRecord]) -> None:
    """Say what was found of each unit."""
    warnings = {row.unit: row.warning for row in regions}
    for row in maps:
        asked = question(view.configuration, row.layer)
        of = "" if row.map == _MAPS[0] else ", brightness"
        say(f"{asked.name(row.layer, row.channel)}{of}: {row.told}")
        if row.map == _MAPS[0] and warnings.get(row.unit):
            say(f"{asked.name(row.layer, row.channel)}: {warnings[row.unit]}")
