"""Comparing ways to make a picture on the same channels of one layer, from options to results."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optax

from featvis_jax.data import sources
from featvis_jax.data.sources import Source
from featvis_jax.maximize import parameterizations, presets, transforms
from featvis_jax.maximize.ascent import Recipe
from featvis_jax.maximize.parameterizations import Parameterization
from featvis_jax.model_options import ModelOptions
from featvis_jax.models import Model
from featvis_jax.options import option
from featvis_jax.runs import (
    channels,
    cohort_images,
    cohorts,
    recipes,
    reference_scans,
    side_by_side,
)
from featvis_jax.runs.cohorts import CohortOptions
from featvis_jax.runs.deformations import with_starts
from featvis_jax.runs.recipes import RecipeOptions, UnitOptions
from featvis_jax.runs.reference_scans import ReferenceOptions
from featvis_jax.runs.side_by_side import Comparison

_OF_A_COHORT = ("phase", "from_image", "from_image_fourier")
_PARAMETERIZATIONS = ("pixels", "fourier", "laplacian", "cppn", *_OF_A_COHORT)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareOptions(ModelOptions, UnitOptions, RecipeOptions, ReferenceOptions, CohortOptions):
    """The comparison."""

    strategies: tuple[str, ...] | None = option(
        None,
        "Strategies to compare, all by default; + combines several into one, as in "
        "rotation_30+blur_0.5:\n"
        + "\n".join(f"{name}: {text}" for name, text in presets.STRATEGIES.items()),
    )
    parameterizations: tuple[str, ...] | None = option(
        None,
        "Parameterizations to compare instead, or all. `cohort` provides the spectrum for phase "
        "and the image that from_image and from_image_fourier start from. All use the part of "
        "`regularization` that acts before the network.",
        choices=("all", *_PARAMETERIZATIONS),
    )
    regularization: str = option(
        "lucid", "A strategy; all `parameterizations` use its part before the network."
    )
    spectrum_images: int = option(
        200, "Number of images of `cohort` for the mean spectrum.", least=1
    )
    batch: int = option(16, "Largest number of channels that run together.", least=1)
    out: str | None = option(None, "Directory for the results.")


def run(model: Model, options: CompareOptions) -> None:
    """Make every picture, and write a figure, tables and images to the directory of the options.

    Args:
      model: The network.
      options: What is compared.

    Raises:
      FileNotFoundError: A file that an option names is not there.
      ValueError: The options contradict each other, or do not fit the network.
    """
    if options.out is None:
        raise ValueError("`out` is missing: name a directory for the results.")
    if options.strategies and options.parameterizations:
        raise ValueError(
            "`strategies` and `parameterizations` are two comparisons: leave one of them out."
        )
    layers = recipes.chosen_layers(model.network, options)
    if len(layers) != 1:
        raise ValueError("`layer`: a comparison shows channels of one layer; name one.")
    if options.variants > 1:
        raise ValueError("`variants`: a comparison shows one image for each channel and column.")
    (layer,) = layers
    own = recipes.chosen_channels(layer, options.channels, options)
    model, inputs = reference_scans.read(
        model, options, seed=options.seed, needs_spectrum=options.needs_spectrum
    )
    model = with_starts(model, inputs, options.start_image, variants=1)
    if options.parameterizations:
        made, column = _by_parameterization(model, layer.name, options), "parameterization"
    else:
        made, column = _by_strategy(model, layer.name, options), "strategy"
    side_by_side.write(
        Comparison(
            model=model,
            layer=layer,
            channels=own,
            recipes=made,
            inputs=inputs,
            column=column,
            batch_size=options.batch,
            seed=options.seed,
        ),
        Path(options.out),
        seen_as=channels.input_channels(model, hold=options.hold or ()),
    )


def _by_strategy(model: Model, layer: str, options: CompareOptions) -> dict[str, Recipe]:
    names = [name.replace("+", ",") for name in options.strategies or presets.STRATEGIES]
    return {
        name: recipes.recipe(model, layer, options, channels=options.channels, regularization=name)
        for name in names
    }


def _by_parameterization(model: Model, layer: str, options: CompareOptions) -> dict[str, Recipe]:
    given = recipes.recipe(model, layer, options, channels=options.channels)
    return {
        name: given._replace(
            parameterization=made,
            # NAdam for phases, as their authors have it.
            optimizer=(optax.nadam if name == "phase" else optax.adam)(made.learning_rate),
            projection=transforms.identity(),
        )
        for name, made in _parameterizations(model, options).items()
    }


def _parameterizations(model: Model, options: CompareOptions) -> dict[str, Parameterization]:
    """What is compared, by name."""
    asked = options.parameterizations or ()
    names = _PARAMETERIZATIONS if "all" in asked else asked
    source = _source(model, options) if set(names) & set(_OF_A_COHORT) else None
    between = model.intensity_range
    pixels = parameterizations.pixels(intensity_range=between)
    fourier = parameterizations.fourier(intensity_range=between)
    makers: dict[str, Callable[[], Parameterization]] = {
        "pixels": lambda: pixels,
        "fourier": lambda: fourier,
        "laplacian": lambda: parameterizations.laplacian(intensity_range=between),
        "cppn": lambda: parameterizations.cppn(intensity_range=between),
        "phase": lambda: parameterizations.phase(
            _spectrum(source, options.spectrum_images), intensity_range=between
        ),
        "from_image": lambda: parameterizations.from_image(_middle(source), pixels),
        "from_image_fourier": lambda: parameterizations.from_image(_middle(source), fourier),
    }
    return {name: makers[name]() for name in names}


def _source(model: Model, options: CompareOptions) -> Source:
    """The images of the cohort on the model's grid."""
    cohort = cohorts.cohort_of(options, voxel_size_mm=model.resampled_mm)
    cached = cohorts.cached_volumes(
        cohort,
        cohorts.cohort_volumes_directory(cohort, options),
        scaling=model.scaling or "unit",
    )
    volumes = [cached[subject.participant_id] for subject in cohort.subjects]
    return cohort_images.source(cohort, volumes, model.grid, told=f"`cohort={options.cohort}`")


def _spectrum(source: Source | None, count: int) -> np.ndarray:
    assert source is not None
    return parameterizations.mean_magnitude_spectrum(sources.spread(source, max_images=count))


def _middle(source: Source | None) -> np.ndarray:
    """The middle one of the first subject's images."""
    assert source is not None
    own = [i for i in range(len(source)) if source.owner(i) == source.owner(0)]
    return source[own[len(own) // 2]]
