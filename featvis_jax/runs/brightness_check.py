"""What shape and what brightness take in each scan of a run, up to the target of the run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from featvis_jax.evidence import brightness
from featvis_jax.evidence.brightness import Comparison, Effort
from featvis_jax.models import Model
from featvis_jax.options import fields
from featvis_jax.ranges import to_shares
from featvis_jax.results.anatomy import ScanRecord
from featvis_jax.results.grids import voxel_size_mm
from featvis_jax.results.store import RunView
from featvis_jax.results.tables import Key, UnitResult
from featvis_jax.runs import deformations
from featvis_jax.runs.deformations import REFERENCE
from featvis_jax.runs.deformed_runs import People
from featvis_jax.runs.in_memory import ascended
from featvis_jax.runs.reference_scans import ReferenceOptions
from featvis_jax.runs.visualize_job import AscentOptions, job

_SHAPE, _BRIGHTNESS = "shape", "brightness"
CHEAPER = 4.0
"""By how much a second ascent weighs energies less, where a first one falls short of the target."""
# Significant digits in the tables.
_DIGITS = 4

Efforts = dict[Key, tuple[Effort, float]]
"""What a change takes in each scan, and the objective that it reaches."""


class Scan(NamedTuple):
    """What was compared in a scan."""

    record: ScanRecord
    comparison: Comparison


def compared(
    view: RunView,
    model: Model,
    asked: AscentOptions,
    units: Sequence[tuple[str, int]],
    people: People,
) -> dict[Key, Scan]:
    """What shape and brightness take in each scan, up to the target of the run.

    The scans are those that the run kept. Where it changed their shape alone, each by itself, that
    is what shape takes; otherwise shape is asked for anew, and brightness always.

    Args:
      view: The run.
      model: Its network.
      asked: What it was asked for.
      units: Those of its units that are looked at.
      people: Whose scans they are.

    Returns:
      For each image.
    """
    target = asked.up_to
    assert target is not None
    sizes = voxel_size_mm(model.affine, model.image_shape[:-1])
    assert sizes is not None  # Nothing is deformed without.
    numbers = range(1, view.variants + 1)
    scans = np.stack([view.map(*units[0], variant, name="scan") for variant in numbers])
    model = model._replace(starts=to_shares(scans, model.channel_ranges))
    own = {record.key: record.final_objective for record in view.records()}
    # Variants of one scan push each other apart, which is no part of what a unit asks for.
    alone = asked.variants == 1 or asked.diversity == 0 or bool(people.starts)
    found: dict[Key, Scan] = {}
    for layer in dict.fromkeys(layer for layer, _ in units):
        channels = [channel for name, channel in units if name == layer]
        kept = None
        if asked.changes in (None, _SHAPE) and alone:
            kept = {}
            for key in ((layer, channel, variant) for channel in channels for variant in numbers):
                maps = {"displacement": view.map(*key, name="displacement")}
                effort = brightness.effort(maps, own[key], target=target, voxel_size_mm=sizes)
                kept[key] = effort, own[key]
        shape, bright = _of_both_kinds(model, asked, layer, channels, kept=kept, sizes=sizes)
        for key, (by_shape, reached) in shape.items():
            by_brightness, objective = bright[key]
            comparison = brightness.compared(by_shape, by_brightness)
            start = people.starts[key[2] - 1] if people.starts else None
            record = ScanRecord(
                *key,
                person=None if start is None else start.person,
                slice=None if start is None else start.slice,
                height_mm=None if start is None else start.height_mm,
                target=target,
                shape_objective=known(reached),
                shape_effort=known(by_shape.size),
                brightness_objective=known(objective),
                brightness_effort=known(by_brightness.size),
                ratio=known(comparison.ratio),
                outcome=comparison.outcome,
            )
            found[key] = Scan(record, comparison)
    return found


def _of_both_kinds(
    model: Model,
    asked: AscentOptions,
    layer: str,
    channels: Sequence[int],
    *,
    kept: Efforts | None,
    sizes: Sequence[float],
) -> tuple[Efforts, Efforts]:
    """What shape takes in each scan, unless it is known, and what brightness takes.

    What is too dear at a price is not out of reach: a kind that falls short of the target in a scan
    is asked there once more, for less.
    """

    def efforts(changes: str, options: AscentOptions) -> Efforts:
        return _efforts(model, options, layer, channels, changes=changes, sizes=sizes)

    found = efforts(_SHAPE, asked) if kept is None else kept, efforts(_BRIGHTNESS, asked)
    price = deformations.stiffness(asked).price
    for kind, changes in zip(found, (_SHAPE, _BRIGHTNESS), strict=True):
        short = [key for key, (effort, _) in kind.items() if not effort.reaches]
        if short and price:
            again = efforts(changes, dataclasses.replace(asked, stiffness=price / CHEAPER))
            kind.update((key, again[key]) for key in short)
    return found


def _efforts(
    model: Model,
    asked: AscentOptions,
    layer: str,
    channels: Sequence[int],
    *,
    changes: str,
    sizes: Sequence[float],
) -> Efforts:
    """What one kind of change takes in each scan, and the objective that it reaches."""
    target = asked.up_to
    assert target is not None
    nobody = ReferenceOptions()
    kept = {name: None for name in ("rms_displacement_mm", "rms_log_growth")}
    options = dataclasses.replace(
        asked,
        **{each.name: getattr(nobody, each.name) for each in fields(ReferenceOptions)}
        | (kept if changes == _BRIGHTNESS else {"rms_log_brightness": None}),
        layer=(layer,),
        channels="all" if asked.has_one_unit else list(channels),
        changes=changes,
        # The model has the scans; each asks for itself alone.
        start_image=REFERENCE,
        diversity=None,
        transparency=False,
    )
    found: Efforts = {}

    def store(units: Sequence[UnitResult]) -> None:
        for unit in units:
            if ("logbright" in unit.maps) != (changes == _BRIGHTNESS):
                raise ValueError(
                    f"`config={asked.config}`: its recipe does not change {changes} when asked to: "
                    "let it keep the parameterization that it is given."
                )
            reached = unit.record.final_objective
            maps = {name: each for name, each in unit.maps.items() if name != "logjac"}
            effort = brightness.effort(maps, reached, target=target, voxel_size_mm=sizes)
            found[unit.record.key] = effort, reached

    ascended(job(model, options), store)
    return found


def known(value: float | None) -> Any:
    """A number to as many digits as it is good for; None for none.

    Args:
      value: The number; an infinite one stays.

    Example:
      >>> known(1.23456), known(float("nan")), known(float("inf"))
      (1.235, None, inf)
    """
    if value is None or isinstance(value, int) or math.isinf(value):
        return value
    return None if math.isnan(value) else float(f"{value:.{_DIGITS}g}") + 0.0
