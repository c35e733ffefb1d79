"""Images of the same channels made in several ways, beside each other: a figure and a table."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import ascent_flags
from experiments.networks import Model
from experiments.progress import each
from featvis_jax.evaluation.appearance import appearance
from featvis_jax.nn.network import Layer
from featvis_jax.results import tables
from featvis_jax.results.asked import question
from featvis_jax.results.comparison import comparison
from featvis_jax.results.files import atomic_write_bytes, file_name, make_directory, refuse_foreign
from featvis_jax.results.nifti import encode_nifti
from featvis_jax.visualize.ascent import Recipe
from featvis_jax.visualize.layer import FinishedUnit, visualize
from featvis_jax.visualize.objectives import Unit
from featvis_jax.visualize.stability import moved_objective

FLAGS = flags.FLAGS
flags.DEFINE_integer("batch", 16, "Most channels that run together.", lower_bound=1)


def chosen_layer(model: Model) -> Layer:
    """The one layer of --layer."""
    layers = ascent_flags.chosen_layers(model.network)
    if len(layers) != 1:
        raise ValueError("--layer: a comparison shows channels of one layer; name one.")
    if FLAGS.variants > 1:
        raise ValueError("--variants: a comparison shows one image for each channel and column.")
    return layers[0]


def compare(model: Model, layer: Layer, recipes: Mapping[str, Recipe], *, column: str) -> None:
    """Run every recipe on the channels of --channels, then write to --out.

    Args:
      model: The network.
      layer: The layer.
      recipes: What to do, by the name of its column.
      column: What the columns are, for the table's first column.
    """
    channels = ascent_flags.chosen_channels(layer)
    out = ascent_flags.out_directory()
    refuse_foreign(out, "comparison.tsv", what="comparison", before=("images",))
    make_directory(out)
    found: dict[str, list[FinishedUnit]] = {}
    rows: list[dict[str, Any]] = []
    measures = {
        recipe.objective.description: jax.jit(moved_objective(model.network, recipe.objective))
        for recipe in recipes.values()
    }
    for name, recipe in each(list(recipes.items()), layer.name, unit="column"):
        size = min(FLAGS.batch, len(channels))
        found[name] = list(
            visualize(model.network, recipe, layer.name, channels, seed=FLAGS.seed, batch_size=size)
        )
        directory = out / "images" / file_name(name)
        make_directory(directory)
        measure = measures[recipe.objective.description]
        for unit in found[name]:
            encoded = encode_nifti(unit.image, model.affine, window=model.intensity_range)
            atomic_write_bytes(directory / f"{unit.channel:04d}.nii.gz", encoded)
            key, number = jax.random.key(unit.channel), Unit(jnp.int32(unit.channel))
            moved = float(measure(model.network.variables, key, unit.image, number))
            rows.append({column: name, "layer": layer.name, **_row(unit, moved)})
        atomic_write_bytes(out / "comparison.tsv", tables.encode_rows(rows, digits=6))
    figure = comparison(
        [[found[name][i].image for name in recipes] for i in range(len(channels))],
        rows=[str(channel) for channel in channels],
        columns=[name.replace(",", " + ") for name in recipes],
        window=model.intensity_range,
        title=title(model.card["name"], layer.name, recipes, steps=FLAGS.steps),
    )
    for kind, data in figure.items():
        atomic_write_bytes(out / f"comparison.{kind}", data)
    print(f"{len(recipes)} columns for {len(channels)} channels of {layer.name}.")
    print(f"Results: {out / 'comparison.png'}, comparison.pdf and comparison.tsv beside it")


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


def _row(unit: FinishedUnit, moved: float) -> dict[str, Any]:
    return {
        "channel": unit.channel,
        "initial_objective": unit.initial_objective,
        "objective": unit.final_objective,
        "moved_objective": moved,
        "penalty": unit.penalty,
        "finite": unit.finite,
        **dataclasses.asdict(appearance(np.asarray(unit.image, np.float64))),
    }
