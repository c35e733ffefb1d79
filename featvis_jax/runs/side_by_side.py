"""Images of the same channels made in several ways, beside each other: a figure and tables."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Float32

from featvis_jax.evaluation.appearance import appearance
from featvis_jax.evaluation.strength import likeness_correlation, selectivity, strength
from featvis_jax.maximize import ascent, planning
from featvis_jax.maximize.ascent import Recipe
from featvis_jax.maximize.layer import FinishedUnit, LayerProgram
from featvis_jax.maximize.objectives import Objective
from featvis_jax.maximize.recipe import check_units
from featvis_jax.maximize.reference import unit_responses
from featvis_jax.maximize.stability import moved_objective
from featvis_jax.models import Model
from featvis_jax.nn.network import Layer
from featvis_jax.options import say
from featvis_jax.progress import each
from featvis_jax.ranges import to_intensities
from featvis_jax.results import encoding
from featvis_jax.results.asked import compared_with, question
from featvis_jax.results.channels import InputChannels
from featvis_jax.results.comparison import comparison
from featvis_jax.results.files import atomic_write_bytes, file_name, make_directory, refuse_foreign
from featvis_jax.results.nifti import encode_nifti
from featvis_jax.runs import reference
from featvis_jax.runs.reference_scans import Inputs

# Of how many other living units' shares one stands out from them in its own picture.
_STANDS_OUT = 0.9


class Beside(NamedTuple):
    """What real inputs do to the units of a layer.

    Attributes:
      objective: What the units are asked for.
      responses: Of all units to every real input.
      reference: Of all units.
      told: What the real inputs are, in words.
    """

    objective: Objective
    responses: Float32[np.ndarray, "images units"]
    reference: Float32[np.ndarray, " units"]
    told: str


class Column(NamedTuple):
    """Pictures that were made in one way.

    Attributes:
      units: The pictures.
      seconds: Of their ascents together, without compilation.
      selectivity: Of each picture's unit, NaN where nothing is known.
      likeness: Whether pictures are alike where their units are (`likeness_correlation`).
    """

    units: list[FinishedUnit]
    seconds: float
    selectivity: Float[np.ndarray, " units"]
    likeness: float


class Comparison(NamedTuple):
    """What is laid beside each other.

    Attributes:
      model: The network.
      layer: The layer.
      channels: Its channels, the rows.
      recipes: What to do, by the name of its column.
      inputs: Real inputs to tell pictures beside, if there are any.
      column: What the columns are, for the table's first column.
      batch_size: Most channels that run together.
      seed: Of all random draws.
    """

    model: Model
    layer: Layer
    channels: Sequence[int]
    recipes: Mapping[str, Recipe]
    inputs: Inputs | None
    column: str
    batch_size: int
    seed: int

    @property
    def steps(self) -> int:
        """Of every ascent."""
        return next(iter(self.recipes.values())).steps


def write(of: Comparison, out: Path, *, seen_as: InputChannels) -> None:
    """Run every recipe on the channels, and write a figure, tables and images.

    Args:
      of: What is laid beside each other.
      out: The directory.
      seen_as: What the channels of the network's input are.

    Raises:
      ValueError: The directory holds something else, or a recipe cannot work.
    """
    refuse_foreign(out, "comparison.tsv", what="comparison", before=("images",))
    make_directory(out)
    beside = None if of.inputs is None else _beside(of, of.inputs)
    found: dict[str, Column] = {}
    rows: list[dict[str, Any]] = []
    summary: list[dict[str, Any]] = []
    measures = {
        recipe.objective.description: jax.jit(
            moved_objective(of.model.network_of_shares, recipe.objective)
        )
        for recipe in of.recipes.values()
    }
    for name, recipe in each(list(of.recipes.items()), of.layer.name, unit="column"):
        found[name] = _column(of, recipe, beside)
        measure = measures[recipe.objective.description]
        looks = []
        for unit, selective in zip(found[name].units, found[name].selectivity, strict=True):
            _write_image(out / "images" / file_name(name), unit, of.model, seen_as)
            key = jax.random.key(unit.channel)
            asked = jax.tree.map(lambda leaf: leaf[0], recipe.objective.units([unit.channel]))
            moved = float(measure(of.model.network.variables, key, unit.image, asked))
            looks.append({**_row(unit, moved, beside), "selectivity": float(selective)})
            rows.append({of.column: name, "layer": of.layer.name, **looks[-1]})
        of_column = _summary(of.model, found[name], looks)
        summary.append({of.column: name, "layer": of.layer.name, **of_column})
        atomic_write_bytes(out / "comparison.tsv", encoding.encode_rows(rows, digits=6))
        atomic_write_bytes(out / "summary.tsv", encoding.encode_rows(summary, digits=6))
    names = _names(of.recipes)
    figure = comparison(
        [
            [_intensities(found[name].units[i], of.model) for name in of.recipes]
            for i in range(len(of.channels))
        ],
        rows=[names[channel] if names else str(channel) for channel in of.channels],
        columns=[name.replace(",", " + ") for name in of.recipes],
        window=of.model.intensity_range,
        channels=seen_as,
        title=title(of.model.name, of.layer.name, of.recipes, steps=of.steps),
    )
    for kind, data in figure.items():
        atomic_write_bytes(out / f"comparison.{kind}", data)
    say(f"{len(of.recipes)} columns for {len(of.channels)} channels of {of.layer.name}.")
    if beside is not None:
        say(f"Strengths are shares of the response to {beside.told}:")
        for row in summary:
            say(
                f"  {row[of.column]}: median {row['strength']:.2g}, at least 0.5 in "
                f"{row['at_least_half']:.0%} and 1 in {row['at_least_one']:.0%} of {row['living']}"
            )
    say(f"Results: {out / 'comparison.png'}, comparison.pdf, comparison.tsv and summary.tsv")


def _write_image(directory: Path, unit: FinishedUnit, model: Model, seen_as: InputChannels) -> None:
    make_directory(directory)
    parts = np.split(_intensities(unit, model), model.image_shape[-1], axis=-1)
    windows = seen_as.windows(model.intensity_range)
    for suffix, part, window in zip(seen_as.suffixes, parts, windows, strict=True):
        encoded = encode_nifti(part, model.affine, window=window, unit=model.unit)
        atomic_write_bytes(directory / f"{unit.channel:04d}{suffix}.nii.gz", encoded)


def _intensities(unit: FinishedUnit, model: Model) -> Float[np.ndarray, "*spatial channels"]:
    return to_intensities(unit.image, model.channel_ranges)


def title(model: str, layer: str, recipes: Mapping[str, Recipe], *, steps: int) -> str:
    """Say what a figure shows, whose columns all answer one question.

    Args:
      model: Its name.
      layer: Its name.
      recipes: Of the columns.
      steps: Of every ascent.
    """
    described = next(iter(recipes.values())).objective.description
    asked = question({"objective": described, "unit_names": {layer: _names(recipes)}}, layer)
    sought = f": {asked.sought}" if asked.suppresses else ""
    return f"{model}, {layer}{sought}, {steps} steps"


def _names(recipes: Mapping[str, Recipe]) -> tuple[str, ...]:
    """What the units are called where they are several directions, none of channels."""
    directions = next(iter(recipes.values())).objective.directions
    return () if directions is None else directions.names


def _beside(of: Comparison, inputs: Inputs) -> Beside:
    """Measure real inputs once for all columns, which answer one question."""
    objective = next(iter(of.recipes.values())).objective
    responses, strongest = reference.of_layer(of.model, of.layer.name, objective, inputs)
    told = compared_with({"reference": inputs.configuration()})
    assert told is not None
    return Beside(objective, responses, strongest, told)


def _column(of: Comparison, recipe: Recipe, beside: Beside | None) -> Column:
    """Make the pictures of one column, and ask the whole layer about them."""
    network, layer, channels = of.model.network_of_shares, of.layer.name, of.channels
    check_units(recipe, network, layer, channels)
    size = min(of.batch_size, len(channels))
    program = LayerProgram(network, recipe, num_units=len(channels), batch_size=size)
    units, seconds = [], 0.0
    for batch in planning.batches(channels, batch_size=size):
        keys = ascent.unit_keys(of.seed, layer, batch.channels)
        targets = None
        if beside is not None:
            targets = reference.aimed(beside.reference[list(batch.channels)])
        finished = program.run(batch, keys, targets=targets)
        units += finished.units
        seconds += finished.seconds
    if beside is None:
        return Column(units, seconds, np.full(len(units), np.nan), float("nan"))
    asked = reference.all_units(of.model, layer, beside.objective)
    responses = unit_responses(
        network,
        {layer: asked},
        (unit.image for unit in units),
        batch_size=reference.batch_size(of.model),
    )[layer]
    own, alive = np.array([unit.channel for unit in units]), beside.reference > 0
    living = alive[own]
    strengths = responses[living][:, alive] / beside.reference[alive]
    return Column(
        units,
        seconds,
        selectivity(responses, beside.reference, own.tolist()),
        likeness_correlation(strengths, beside.responses[:, own[living]]),
    )


def _row(unit: FinishedUnit, moved: float, beside: Beside | None) -> dict[str, Any]:
    known = None if beside is None else float(beside.reference[unit.channel])
    return {
        "channel": unit.channel,
        "initial_objective": unit.initial_objective,
        "objective": unit.final_objective,
        "moved_objective": moved,
        "response": unit.response,
        "strength": strength(unit.response, known),
        "penalty": unit.penalty,
        "finite": unit.finite,
        **dataclasses.asdict(appearance(np.asarray(unit.image, np.float64))),
    }


def _summary(model: Model, column: Column, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A column in one row: medians over its pictures, and shares of those of living units."""
    low, high = model.intensity_range
    strengths = np.array([row["strength"] for row in rows if row["strength"] is not None])
    selective = column.selectivity[np.isfinite(column.selectivity)]

    def share(values: np.ndarray, least: float) -> float:
        return float((values >= least).mean()) if values.size else float("nan")

    def median(values: Sequence[float] | np.ndarray) -> float:
        finite = [value for value in values if np.isfinite(value)]
        return float(np.median(finite)) if finite else float("nan")

    return {
        "pictures": len(rows),
        "living": len(strengths),
        "strength": median(strengths),
        "at_least_half": share(strengths, 0.5),
        "at_least_one": share(strengths, 1.0),
        "total_variation": median([row["total_variation"] for row in rows]) / (high - low),
        "high_frequency": median([row["high_frequency"] for row in rows]),
        "selectivity": median(selective),
        "standing_out": share(selective, _STANDS_OUT),
        "likeness_correlation": column.likeness,
        "seconds": column.seconds / len(rows),
    }
