r"""Compare parameterizations on the same channels: what is optimized decides what is seen.

    python -m experiments.compare_parameterizations --model=square-lesion --layer=conv3 \
        --channels=0,1 --steps=128 --cohort=DIR --out=runs/parameterizations

Rows are channels, columns parameterizations, under one shared window and the same robustness before
the network; no projection, which only pixels could take. The cohort gives the spectrum that phases
keep and the slice or volume that accentuation starts from. Writes comparison.png and .pdf, every
image as NIfTI, comparison.tsv and summary.tsv.
"""

from collections.abc import Callable, Sequence

import numpy as np
import optax
from absl import flags

from experiments import (
    ascent_flags,
    cohort_flags,
    cohort_reading,
    reference,
    side_by_side,
    startup,
)
from experiments.launch import start
from experiments.networks import Model
from featvis_jax.data import pipeline
from featvis_jax.data.pipeline import Source
from featvis_jax.visualize import parameterizations, transforms
from featvis_jax.visualize.parameterizations import Parameterization

FLAGS = flags.FLAGS
flags.DEFINE_list(
    "parameterizations",
    ["pixels", "fourier", "laplacian", "cppn", "phase", "from_image", "from_image_fourier"],
    "Parameterizations to compare.",
)
flags.DEFINE_string(
    "regularization", "lucid", "A strategy whose part before the network is applied to all."
)
flags.DEFINE_integer(
    "spectrum_images", 200, "Images of the cohort for the mean spectrum.", lower_bound=1
)


def main(_: Sequence[str]) -> None:
    """Run every parameterization, then draw."""
    startup.prepare()
    model = ascent_flags.load_network()
    layer = side_by_side.chosen_layer(model)
    model, inputs = reference.read(model)
    given = ascent_flags.recipe(model, layer.name, FLAGS.regularization)
    recipes = {
        name: given._replace(
            parameterization=made,
            # NAdam for phases, as their authors have it.
            optimizer=(optax.nadam if name == "phase" else optax.adam)(made.learning_rate),
            projection=transforms.identity(),
        )
        for name, made in _columns(model).items()
    }
    side_by_side.compare(model, layer, recipes, inputs, column="parameterization")


def _columns(model: Model) -> dict[str, Parameterization]:
    """What --parameterizations names."""
    between = model.intensity_range
    pixels = parameterizations.pixels(intensity_range=between)
    fourier = parameterizations.fourier(intensity_range=between)
    makers: dict[str, Callable[[], Parameterization]] = {
        "pixels": lambda: pixels,
        "fourier": lambda: fourier,
        "laplacian": lambda: parameterizations.laplacian(intensity_range=between),
        "cppn": lambda: parameterizations.cppn(intensity_range=between),
        "phase": lambda: parameterizations.phase(_spectrum(source()), intensity_range=between),
        "from_image": lambda: parameterizations.from_image(_middle(source()), pixels),
        "from_image_fourier": lambda: parameterizations.from_image(_middle(source()), fourier),
    }
    if unknown := set(FLAGS.parameterizations) - set(makers):
        raise ValueError(
            f"--parameterizations: there is no {', '.join(sorted(unknown))}; expected some of "
            f"{', '.join(makers)}."
        )
    sources: list[Source] = []

    def source() -> Source:
        if not sources:
            sources.append(_source(model))
        return sources[0]

    return {name: makers[name]() for name in FLAGS.parameterizations}


def _source(model: Model) -> Source:
    """The images of --cohort on the model's grid."""
    cohort = cohort_flags.cohort_from_flags()
    place = cohort_flags.volume_cache_directory(cohort)
    scaling = model.scaling or "unit"
    cached = cohort_reading.cached_volumes(cohort.subjects, place, scaling=scaling)
    volumes = [cached[subject.participant_id] for subject in cohort.subjects]
    flag = f"--cohort={cohort_flags.COHORT.value}"
    return cohort_reading.source(cohort, volumes, model.grid, flag=flag)


def _spectrum(source: Source) -> np.ndarray:
    return parameterizations.mean_magnitude_spectrum(
        pipeline.spread(source, max_images=FLAGS.spectrum_images)
    )


def _middle(source: Source) -> np.ndarray:
    """The middle one of the first subject's images."""
    own = [i for i in range(len(source)) if source.owner(i) == source.owner(0)]
    return source[own[len(own) // 2]]


if __name__ == "__main__":
    start(main)
