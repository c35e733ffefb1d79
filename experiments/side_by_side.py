"""Images of the same channels made in several ways, beside each other: a figure and tables."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jaxtyping import Float, Float32

from experiments import ascent_flags, channel_flags, intensity_flags, reference
from experiments.networks import Model
from experiments.progress import each
from featvis_jax.evaluation.appearance import appearance
from featvis_jax.evaluation.strength import likeness_correlation, selectivity, strength
from featvis_jax.nn.network import Layer
from featvis_jax.results import tables
from featvis_jax.results.asked import compared_with, question
from featvis_jax.results.comparison import comparison
from featvis_jax.results.files import atomic_write_bytes, file_name, make_directory, refuse_foreign
from featvis_jax.results.nifti import encode_nifti
from featvis_jax.visualize import ascent, planning
from featvis_jax.visualize.ascent import Recipe
from featvis_jax.visualize.layer import FinishedUnit, LayerProgram
from featvis_jax.visualize.objectives import Objective, Unit
from featvis_jax.visualize.recipe import check_units
from featvis_jax.visualize.reference import unit_responses
from featvis_jax.visualize.stability import moved_objective

FLAGS = flags.FLAGS
flags.DEFINE_integer("batch", 16, "Most channels that run together.", lower_bound=1)


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


def chosen_layer(model: Model) -> Layer:
    """The one layer of --layer."""
    layers = ascent_flags.chosen_layers(model.network)
    if len(layers) != 1:
        raise ValueError("--layer: a comparison shows channels of one layer; name one.")
    if FLAGS.variants > 1:
        raise ValueError("--variants: a comparison shows one image for each channel and column.")
    return layers[0]


def compare(
    model: Model,
    layer: Layer,
    recipes: Mapping[str, Recipe],
    inputs: reference.Inputs | None,
    *,
    column: str,
) -> None:
    """Run every recipe on the channels of --channels, then write to --out.

    Args:
      model: The network.
      layer: The layer.
      recipes: What to do, by the name of its column.
      inputs: Real inputs (`reference.read`).
      column: What the columns are, for the table's first column.
    """
    channels = ascent_flags.chosen_channels(layer)
    out = ascent_flags.out_directory()
    refuse_foreign(out, "comparison.tsv", what="comparison", before=("images",))
    measured_in = intensity_flags.unit(model)
    seen_as = channel_flags.input_channels(model)
    make_directory(out)
    beside = None if inputs is None else _beside(model, layer, recipes, inputs)
    found: dict[str, Column] = {}
    rows: list[dict[str, Any]] = []
    summary: list[dict[str, Any]] = []
    measures = {
        recipe.objective.description: jax.jit(moved_objective(model.network, recipe.objective))
        for recipe in recipes.values()
    }
    for name, recipe in each(list(recipes.items()), layer.name, unit="column"):
        found[name] = _column(model, layer, recipe, channels, beside)
        directory = out / "images" / file_name(name)
        make_directory(directory)
        measure = measures[recipe.objective.description]
        looks = []
        for unit, selective in zip(found[name].units, found[name].selectivity, strict=True):
            parts = np.split(unit.image, model.image_shape[-1], axis=-1)
            for suffix, part in zip(seen_as.suffixes, parts, strict=True):
                encoded = encode_nifti(
                    part, model.affine, window=model.intensity_range, unit=measured_in
                )
                atomic_write_bytes(directory / f"{unit.channel:04d}{suffix}.nii.gz", encoded)
            key, number = jax.random.key(unit.channel), Unit(jnp.int32(unit.channel))
            moved = float(measure(model.network.variables, key, unit.image, number))
            looks.append({**_row(unit, moved, beside), "selectivity": float(selective)})
            rows.append({column: name, "layer": layer.name, **looks[-1]})
        summary.append({column: name, "layer": layer.name, **_summary(model, found[name], looks)})
        atomic_write_bytes(out / "comparison.tsv", tables.encode_rows(rows, digits=6))
        atomic_write_bytes(out / "summary.tsv", tables.encode_rows(summary, digits=6))
    figure = comparison(
        [[found[name].units[i].image for name in recipes] for i in range(len(channels))],
        rows=[str(channel) for channel in channels],
        columns=[name.replace(",", " + ") for name in recipes],
        window=model.intensity_range,
        channels=seen_as,
        title=title(model.card["name"], layer.name, recipes, steps=FLAGS.steps),
    )
    for kind, data in figure.items():
        atomic_write_bytes(out / f"comparison.{kind}", data)
    print(f"{len(recipes)} columns for {len(channels)} channels of {layer.name}.")
    if beside is not None:
        print(f"Strengths are shares of the response to {beside.told}:")
        for row in summary:
            print(
                f"  {row[column]}: median {row['strength']:.2g}, at least 0.5 in "
                f"{row['at_least_half']:.0%} and 1 in {row['at_least_one']:.0%} of {row['living']}"
            )
    print(f"Results: {out / 'comparison.png'}, comparison.pdf, comparison.tsv and summary.tsv")


def title(model: str, layer: str, recipes: Mapping[str, Recipe], *, steps: int) -> str:
    """Say what a figure shows, whose columns all answer one question.

    Args:
      model: Its name.
      layer: Its name.
      recipes: Of the columns.
      steps: Of every ascent.
    """
    asked = question({"objective": next(iter(recipes.values())).objective.description}, layer)
    sought = f": {asked.sought}" if asked.suppresses else ""
    return f"{model}, {layer}{sought}, {steps} steps"


def _beside(
    model: Model, layer: Layer, recipes: Mapping[str, Recipe], inputs: reference.Inputs
) -> Beside:
    """Measure real inputs once for all columns, which answer one question."""
    objective = next(iter(recipes.values())).objective
    responses, strongest = reference.of_layer(model, layer.name, objective, inputs)
    told = compared_with({"reference": inputs.configuration()})
    assert told is not None
    return Beside(objective, responses, strongest, told)


def _column(
    model: Model, layer: Layer, recipe: Recipe, channels: Sequence[int], beside: Beside | None
) -> Column:
    """Make the pictures of one column, and ask the whole layer about them."""
    check_units(recipe, model.network, layer.name, channels)
    size = min(FLAGS.batch, len(channels))
    program = LayerProgram(model.network, recipe, num_units=len(channels), batch_size=size)
    units, seconds = [], 0.0
    for batch in planning.batches(channels, batch_size=size):
        keys = ascent.unit_keys(FLAGS.seed, layer.name, batch.channels)
        targets = None
        if beside is not None:
            targets = reference.aimed(beside.reference[list(batch.channels)])
        finished = program.run(batch, keys, targets=targets)
        units += finished.units
        seconds += finished.seconds
    if beside is None:
        return Column(units, seconds, np.full(len(units), np.nan), float("nan"))
    responses = unit_responses(
        model.network,
        {layer.name: reference.all_units(model, layer.name, beside.objective)},
        (unit.image for unit in units),
        batch_size=reference.batch_size(model),
    )[layer.name]
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
