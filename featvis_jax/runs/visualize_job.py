"""A visualization before it begins: its options, checked against a network and each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from featvis_jax.maximize.planning import Batch
from featvis_jax.maximize.transforms import describe
from featvis_jax.model_options import ModelOptions
from featvis_jax.models import Model
from featvis_jax.nn.network import Layer
from featvis_jax.options import option
from featvis_jax.results.tables import Key
from featvis_jax.runs import channels, images, recipes, reference_scans
from featvis_jax.runs.deformations import starts, with_starts
from featvis_jax.runs.precision import PrecisionOptions
from featvis_jax.runs.real_examples import RealExamplesOptions
from featvis_jax.runs.recipes import RecipeOptions, UnitOptions
from featvis_jax.runs.reference_scans import Inputs, ReferenceOptions
from featvis_jax.runs.sizing import Work
from featvis_jax.runs.tensorboard import TensorboardOptions

Shard = tuple[int, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AscentOptions(UnitOptions, RecipeOptions, ReferenceOptions, PrecisionOptions):
    """Batches."""

    batch: str | int = option("auto", "Units per batch; auto takes the largest that fits.")

    @property
    def batch_size(self) -> int | None:
        """Units per batch; None where the machine decides.

        Raises:
          ValueError: It is neither a number nor auto.
        """
        if self.batch == "auto":
            return None
        if not str(self.batch).isdigit() or int(self.batch) < 1:
            raise ValueError(f"`batch={self.batch}`: expected auto or a number from 1.")
        return int(self.batch)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisualizeOptions(ModelOptions, AscentOptions, RealExamplesOptions, TensorboardOptions):
    """Results."""

    out: str | None = option(None, "Directory for the results.")
    gallery: bool = option(True, "Build the pages at the end.")


class Job(NamedTuple):
    """A visualization that was checked and can begin.

    Attributes:
      model: The network, with what its reference tells of its images.
      options: What was asked for.
      work: The network, recipes and channels, by layer.
      layers: The layers.
      inputs: Real inputs to tell pictures beside, if there are any.
      configuration: All that decides the images, as JSON values.
    """

    model: Model
    options: AscentOptions
    work: Work
    layers: tuple[Layer, ...]
    inputs: Inputs | None
    configuration: dict[str, Any]

    def batches(self, size: int, shard: Shard | None = None) -> list[tuple[Layer, Batch]]:
        """What falls to a process.

        Args:
          size: Units per batch.
          shard: Number of this process, from 1, and how many there are; None for one alone.
        """
        every = [(layer, each) for layer in self.layers for each in self._of(layer, size)]
        return every if shard is None else every[shard[0] - 1 :: shard[1]]

    def _of(self, layer: Layer, size: int) -> list[Batch]:
        return self.work.batches(layer.name, size)

    def images(self, batches: Sequence[tuple[Layer, Batch]]) -> frozenset[Key]:
        """The images that batches make, without those of the units that fill up the last.

        Args:
          batches: Some of `batches`.
        """
        return frozenset(
            (layer.name, channel, variant)
            for layer, batch in batches
            for channel in batch.channels[: batch.count]
            for variant in range(1, self.options.variants + 1)
        )


def job(model: Model, options: AscentOptions) -> Job:
    """Check a visualization, before anything is compiled.

    Args:
      model: The network.
      options: What to do.

    Raises:
      FileNotFoundError: A file that an option names is not there.
      ValueError: The options contradict each other, or do not fit the network.
    """
    network = model.network
    channels.input_channels(model, hold=options.hold or ())  # Refused before scans are read.
    layers = recipes.chosen_layers(network, options)
    chosen = {
        layer.name: recipes.chosen_channels(layer, options.channels, options) for layer in layers
    }
    model, inputs = reference_scans.read(
        model, options, seed=options.seed, needs_spectrum=options.needs_spectrum
    )
    model = with_starts(model, inputs, options.start_image, variants=options.variants)
    work = Work(
        model.network_of_shares,
        recipes={
            layer.name: recipes.recipe(model, layer.name, options, channels=options.channels)
            for layer in layers
        },
        channels=chosen,
    )
    configuration = _configuration(model, work, inputs, options)
    seen_as = channels.input_channels(model, hold=options.hold or ())
    if (told := seen_as.setting()) is not None:
        configuration["input_channels"] = told
    directions = {name: each.objective.directions for name, each in work.recipes.items()}
    names = {name: list(each.names) for name, each in directions.items() if each is not None}
    if names:
        configuration["unit_names"] = names
    if inputs is not None:
        scans = starts(inputs, options.start_image, variants=options.variants)
        configuration |= {"starts": [scan._asdict() for scan in scans]} if scans else {}
    if options.batch_size is not None:
        configuration["batch"] = options.batch_size
    return Job(model, options, work, tuple(layers), inputs, configuration)


def _configuration(
    model: Model, work: Work, inputs: Inputs | None, options: AscentOptions
) -> dict[str, Any]:
    """All that decides the images."""
    recipe = next(iter(work.recipes.values()))
    optimizer = images.optimizer(
        recipe.parameterization, recipe.drive, options, steps=options.steps
    )[1]
    return {
        "model": model.name,
        "weights_sha256": model.card["weights_sha256"],
        "affine": None if model.affine is None else model.affine.tolist(),
        "layers": dict(work.channels),
        "objective": {name: each.objective.description for name, each in work.recipes.items()},
        "penalty": {
            name: None if each.penalty is None else each.penalty.description
            for name, each in work.recipes.items()
        },
        "penalty_weight": recipe.penalty_weight,
        "parameterization": recipe.parameterization.description,
        "optimizer": optimizer,
        "variants": recipe.variants,
        "transparency": recipe.transparency,
        "regularization": recipes.regularization_of(model, options),
        "robustness": describe(recipe.robustness),
        "projection": describe(recipe.projection),
        "drive": None if recipe.drive is None else recipe.drive.description,
        "config_sha256": recipes.config_sha256(options),
        "reference": None if inputs is None else inputs.configuration(),
        "intensities": _intensities(model),
        "precision": options.precision,
        "steps": options.steps,
        "seed": options.seed,
    }


def _intensities(model: Model) -> dict[str, Any] | None:
    """What is known of the intensities of a network's images."""
    if model.scaling is None:
        return None
    between = list(model.channel_ranges or model.intensity_range)
    return {"scaling": model.scaling, "unit": model.unit, "range": between}
