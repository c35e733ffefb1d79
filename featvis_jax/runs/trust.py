"""What speaks for and against the pictures of a run, from options to a table.

Every picture is measured beside real inputs (`featvis_jax.evidence`), which stream through the
network; what is kept of them are numbers about units.
"""

import contextlib
import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Float32

from featvis_jax import stopping
from featvis_jax.data.grids import described
from featvis_jax.data.labels import read_column
from featvis_jax.data.participants import number
from featvis_jax.data.regions import Regions, commonest, read_regions
from featvis_jax.evidence import pasting
from featvis_jax.evidence.measuring import Measures, RealInputs, measurer
from featvis_jax.evidence.predicting import Interval
from featvis_jax.evidence.verdict import verdict
from featvis_jax.maximize import objectives
from featvis_jax.maximize.objectives import Objective
from featvis_jax.maximize.reference import Asked
from featvis_jax.model_options import ModelOptions
from featvis_jax.models import Model
from featvis_jax.options import errors_of, option, say
from featvis_jax.progress import callback
from featvis_jax.results.asked import question
from featvis_jax.results.store import RunView, open_run, read_run
from featvis_jax.results.tables import UnitRecord
from featvis_jax.results.trust import TrustRecord, counts
from featvis_jax.runs import cohorts, reference, reference_scans
from featvis_jax.runs.graded_pictures import model_of_run
from featvis_jax.runs.precision import PrecisionOptions
from featvis_jax.runs.reference_scans import Inputs, ReferenceOptions

# Significant digits in the table: shares and millimetres are no surer than that.
_DIGITS = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrustOptions(ModelOptions, ReferenceOptions, PrecisionOptions):
    """The pictures, and what they are measured beside."""

    run: str | None = option(
        None, "Directory of a run; what is found is written into it, and onto its pages."
    )
    label: str | None = option(
        None,
        "Column of participants.tsv of `reference`, of two classes or numbers: how each unit's "
        "response goes with it is reported. For a network that looks for lesions, the lesions are "
        "the label.",
    )
    regions: str | None = option(
        None,
        "A NIfTI label image in the space of the network's volumes, such as a segmentation; "
        "NAME.tsv beside NAME.nii.gz has the columns index and name. Each row then tells the "
        "region in which real inputs drive the unit.",
    )
    seed: int = option(0, "Seed of lesions that are drawn, and of intervals.", least=0)


def trust(
    run: str | os.PathLike[str] | RunView,
    *,
    reference: str | os.PathLike[str],
    model: Model | str | os.PathLike[str] | None = None,
    **options: Any,
) -> list[TrustRecord]:
    """Measure what speaks for and against the pictures of a run, beside real scans.

    What is found is written into the run, where `featvis_jax.open_run` and the pages find it.

    Args:
      run: What `Units.save` or a command left, or its directory.
      reference: A cohort of real scans, best of people whom the network was not trained on.
      model: The run's network, where it does not tell; one that was made in Python.
      **options: Any others of `TrustOptions`, such as ``label="sex"``.

    Returns:
      A row for each picture, with a verdict and its reason.

    Raises:
      FileNotFoundError: There is no such run, model or cohort.
      ValueError: What is given does not fit together; the message says what.
      OSError: The run cannot be written.
    """
    given = model if isinstance(model, Model) else None
    named = None if model is None or given is not None else os.fspath(model)  # pyright: ignore
    place = str(run.directory) if isinstance(run, RunView) else os.fspath(run)
    told = TrustOptions(run=place, reference=os.fspath(reference), model=named, **options)
    return _run(told, given=given)


def run(options: TrustOptions) -> list[TrustRecord]:
    """Measure all pictures of a run, and write what was found into it.

    Args:
      options: Which run, and which real inputs.

    Returns:
      A row for each picture.

    Raises:
      FileNotFoundError: There is no such run, model or cohort.
      ValueError: The options contradict each other, or the run asked for what has no units.
      OSError: The run cannot be written.
    """
    return _run(options)


def _run(options: TrustOptions, *, given: Model | None = None) -> list[TrustRecord]:
    if options.run is None:
        raise ValueError("`run` is missing: name the directory of a run.")
    if options.reference is None:
        raise ValueError("`reference` is missing: pictures are measured beside real scans.")
    view = _opened(options.run)
    with jax.default_matmul_precision(options.precision):
        model = model_of_run(options, view, given)
        model, inputs = reference_scans.read(model, options, seed=options.seed)
        assert inputs is not None
        real = real_inputs(inputs, labels=_labels(options, inputs))
        regions = _regions(options, model)
        label = options.label or (inputs.lesions and str(model.card.get("task", "lesion")))
        records = view.records()
        rows = []
        for layer in dict.fromkeys(record.layer for record in records):
            stopping.check()
            own = [record for record in records if record.layer == layer]
            objective = _objective(view, layer)
            measured = _of_layer(view, model, objective, own, real, seed=options.seed)
            for record, found in zip(own, measured, strict=True):
                where = _in_the_world(model, objective, found, regions)
                rows.append(_row(record, found, where=where, label=label))
    with open_run(view.directory, view.configuration, environment={}) as opened:
        opened.write_trust(rows)
    for word, count in counts(rows).items():
        say(f"{word}: {count} of {len(rows)}")
    return rows


def _opened(directory: str) -> RunView:
    """The run that is measured."""
    with errors_of("run", directory):
        view = read_run(directory)
    records = view.records()
    if not records:
        raise ValueError(f"`run={directory}`: it has no finished picture: let it end first.")
    for layer in dict.fromkeys(record.layer for record in records):
        asked = question(view.configuration, layer)
        if not asked.is_of_channels:
            raise ValueError(
                f"`run={directory}`: the pictures of {layer} show {asked.sought}; expected those "
                "of channels or logits, whose responses to real inputs can be compared."
            )
    return view


def _labels(options: TrustOptions, inputs: Inputs) -> dict[str, float] | None:
    """A number for each person, by a column of the cohort's table."""
    if options.label is None:
        return None
    told = f"`label={options.label}`"
    if inputs.task is not None:
        raise ValueError(
            f"{told}: the network looks for lesions, which are the label: leave it out."
        )
    cohort = cohorts.read(str(options.reference), name="reference")
    with errors_of("label", options.label):
        column = read_column(cohort, options.label)
    values = {person: number(text) for person, text in column.values.items()}
    if None not in values.values():
        return {person: float(value) for person, value in values.items() if value is not None}
    classes = sorted(set(column.values.values()))
    if len(classes) != 2:
        raise ValueError(
            f"{told}: it has {len(classes)} classes ({', '.join(classes[:5])}); expected two, or "
            "numbers."
        )
    return {person: float(classes.index(text)) for person, text in column.values.items()}


class _Images(Sequence[np.ndarray]):
    """The images of real inputs by number, read and given their lesions when asked for."""

    def __init__(self, inputs: Inputs):
        """Keep where they come from."""
        self._inputs = inputs
        self._last: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        """Number of images."""
        return self._inputs.total

    def __getitem__(self, index: int) -> Float32[np.ndarray, "*spatial channels"]:  # pyright: ignore
        """One image."""
        position, which = divmod(index, self._inputs.each)
        if self._last is None or self._last[0] != position:
            self._last = position, self._inputs.examples(self._inputs.positions[position])["image"]
        return self._last[1][which]


def real_inputs(inputs: Inputs, *, labels: dict[str, float] | None = None) -> RealInputs:
    """Real inputs as measures take them.

    Args:
      inputs: The images.
      labels: A number for each person; by default whether an image has the lesion that the
        network looks for, where it looks for any.
    """
    owners = [inputs.source.owner(p) for p in inputs.positions for _ in range(inputs.each)]
    values: Float[np.ndarray, " images"] | None = None
    if labels is not None:
        values = np.array([labels.get(owner, np.nan) for owner in owners])
    elif inputs.task is not None:
        found = [inputs.examples(position)["label"] for position in inputs.positions]
        values = np.concatenate(found).astype(np.float64)
    return RealInputs(_Images(inputs), owners, values)


def _objective(view: RunView, layer: str) -> Objective:
    """What the run asked of the units of a layer, at whatever place."""
    asked = question(view.configuration, layer)
    if "logit_difference" in asked.objective:
        found = objectives.logit_difference(layer)
    else:
        found = objectives.channel(layer)
    return -found if asked.suppresses else found


class _Pictures(Sequence[np.ndarray]):
    """The pictures of some rows of a run, read when asked for."""

    def __init__(self, view: RunView, records: Sequence[UnitRecord]):
        """Keep which they are."""
        self._view, self._records = view, records

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self._records)

    def __getitem__(self, index: int) -> np.ndarray:  # pyright: ignore
        """One picture."""
        return np.asarray(self._view.image(*self._records[index].key)[0], np.float32)


def _of_layer(
    view: RunView,
    model: Model,
    objective: Objective,
    records: Sequence[UnitRecord],
    real: RealInputs,
    *,
    seed: int,
) -> list[Measures]:
    """The measures of a layer's pictures."""
    layer, units = records[0].layer, [record.channel for record in records]
    own = list(dict.fromkeys(units))
    with contextlib.ExitStack() as stack:
        # Each of its passes is over a number of images of its own.
        passes: dict[str, Callable[[int, int], None]] = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in passes:
                told = callback(f"{layer}, {what}", unit="image")
                passes[what] = stack.enter_context(told)
            passes[what](done, total)

        measure = measurer(
            model.network,
            Asked(objective, own),
            real,
            total=objective.num_units(model.network.layer(layer).channels),
            batch_size=reference.batch_size(model),
            seed=seed,
            progress=tell,
        )
        found = measure(units, _Pictures(view, records))
    if len(own) == 1:
        say(f"{layer}: one unit; its picture is compared with no other")
    return found


def _regions(options: TrustOptions, model: Model) -> Regions | None:
    """The label image that options name."""
    if options.regions is None:
        return None
    told = f"`regions={options.regions}`"
    if len(model.image_shape) != 4 or model.affine is None or model.grid.anywhere:
        raise ValueError(
            f"{told}: the network takes {described(model.grid)}; expected volumes whose place in "
            "the world is known: leave it out."
        )
    with errors_of("regions", options.regions):
        return read_regions(options.regions)


def _in_the_world(
    model: Model, objective: Objective, found: Measures, regions: Regions | None
) -> dict[str, Any]:
    """Where the strongest real inputs drive a unit, in mm: the median along each axis.

    The slices of a cohort lie at several heights, of which nothing is said, and patches anywhere.
    """
    centres = [pasting.centre_of(model.network, objective, place) for place in found.places]
    voxels = [centre for centre in centres if centre is not None]
    if model.affine is None or model.grid.anywhere or not voxels:
        return {}
    rank = len(voxels[0])
    whole = np.zeros((len(voxels), 4))
    whole[:, :rank], whole[:, 3] = voxels, 1
    world = (whole @ np.asarray(model.affine, float).T)[:, :3]
    middle = np.median(world, axis=0)
    place: dict[str, Any] = {
        f"examples_{axis}": _known(middle[i]) for i, axis in enumerate("xyz"[:rank])
    }
    if regions is not None:
        place["examples_region"] = commonest(regions.at(world))
    return place


def _row(
    record: UnitRecord, found: Measures, *, where: dict[str, Any], label: str | None
) -> TrustRecord:
    """What is kept of a picture."""
    judged = verdict(found)
    numbers: dict[str, float] = {
        "strength": found.strength,
        "selectivity": found.selectivity,
        "standing": found.standing,
        "other_ways": found.other_ways,
        "likeness": found.likeness,
        "both_predict": found.both_predict.value,
        "belongs": judged.belongs,
    }
    for name, interval in {
        "pasted": found.pasted,
        "picture_predicts": found.picture_predicts,
        "examples_predict": found.examples_predict,
        "label_auc": found.label,
    }.items():
        numbers |= _ends(name, interval)
    kept: dict[str, Any] = {name: _known(value) for name, value in numbers.items()}
    return TrustRecord(
        layer=record.layer,
        channel=record.channel,
        variant=record.variant,
        verdict=judged.word,
        reason=judged.reason or None,
        below=", ".join(found.below) or None,
        label=label,
        **where,
        **kept,
    )


def _ends(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _known(value: float) -> float | None:
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
