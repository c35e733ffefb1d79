"""What pictures are graded against: shapes, held-out people, a shape classifier, a network."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from featvis_jax.data import pipeline, sources
from featvis_jax.data.cohorts import Cohort
from featvis_jax.data.pipeline import Examples
from featvis_jax.data.shapes import SHAPES, Shape, bar, equal_area_side
from featvis_jax.data.sources import Source
from featvis_jax.data.tasks import LesionTask, OutlineTask, lesion_task
from featvis_jax.evaluation import concepts
from featvis_jax.evaluation.grading import Concept, Grader
from featvis_jax.evaluation.responses import Response, of_equal_area, shape_responses
from featvis_jax.evaluation.shape_classifier import train_shape_classifier
from featvis_jax.evaluation.transfer import detector, insertion_sites, yardstick
from featvis_jax.models import Model
from featvis_jax.options import say
from featvis_jax.progress import announced
from featvis_jax.runs import cohort_images, cohorts
from featvis_jax.runs.cohorts import CohortOptions
from featvis_jax.runs.tasks import NamedTask

# Images of held-out subjects that the scores are measured with.
_LABELLED, _PLACES, _PATCHED, _FEW = 64, 12, 60, 4


class Truth(NamedTuple):
    """What the network was trained on.

    Attributes:
      task: Makes labelled images.
      shapes: The shape of every class that has one, by class number.
      names: Their names.
    """

    task: LesionTask | OutlineTask
    shapes: dict[int, Shape]
    names: dict[int, str]


class HeldOut(NamedTuple):
    """Images of subjects that no network was trained on.

    Attributes:
      training: Of the subjects that the classifier learns from.
      testing: Of those that it is tested on.
      all: Of all of them.
      few: Of a few, for the real images that drive a unit most.
    """

    training: Source
    testing: Source
    all: Source
    few: Source


def truth_of(named: NamedTask, model: Model) -> Truth:
    """The task of that name, with the lesions that a model's card tells of.

    Args:
      named: The task.
      model: One that was trained on it.

    Raises:
      ValueError: The task has no shapes, the model was trained on another one, or it tells neither
        lesions nor voxel size.
    """
    if named.shape is None and named.name.split("_")[0] not in SHAPES:
        raise ValueError(f"`task={named.name}`: the task has no shape that a picture could show.")
    drawn = model.card.get("data", {}).get("lesions", {})
    if drawn and named.shape is None and model.card["task"] != named.name:
        raise ValueError(
            f"`task={named.name}`: the model {model.name!r} was trained on "
            f"{model.card['task']!r}; give that task."
        )
    options: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in drawn.items()
        if name != "shape"
    }
    if not options:
        if model.affine is None:
            raise ValueError(
                f"{model.name} has no voxel size, and lesions are drawn in mm: give "
                "`grid=FILE.nii.gz`, an image on its grid."
            )
        options = {"voxel_size_mm": float(np.linalg.norm(model.affine[:3, 0]))}
    task = lesion_task(named.name, options, shape=named.shape)
    if isinstance(task, OutlineTask):
        names = dict(enumerate(task.class_names[: len(task.shapes)]))
        return Truth(task, dict(enumerate(task.shapes)), names)
    name = named.name if named.shape is not None else named.name.split("_")[0]
    return Truth(task, {1: task.lesions.shape}, {1: name})


def hold_out(cohort: Cohort, models: Sequence[Model], options: CohortOptions) -> HeldOut:
    """Images of the subjects that none of the models was trained on.

    A model knows the subjects of its own cohort by their ids, and its scans by their checksums
    wherever they lie; what an earlier version trained, by the name of the cohort alone.

    Args:
      cohort: All subjects.
      models: The models, all on one grid.
      options: Which cohort it is.

    Raises:
      ValueError: Fewer than two are left, or the cohort's voxels are not the models'.
    """
    ids = list(cohort.participant_ids)
    for model in models:
        if model.card.get("data", {}).get("cohort") == cohort.name:
            kept = set(model.card["report"]["subjects"])
            ids = [participant_id for participant_id in ids if participant_id in kept]
    place = cohorts.cohort_volumes_directory(cohort, options)
    cached = cohorts.cached_volumes(cohort, place, ids=ids)
    used = {scan for model in models for scan in model.card.get("data", {}).get("used_scans", ())}
    volumes = [volume for volume in cached.values() if volume.scan_id not in used]
    if len(volumes) < 2:
        raise ValueError(
            f"`cohort={options.cohort}`: {len(volumes)} subjects are held out by all "
            "models together; expected at least 2. Train the transfer model with the same "
            "--split_seed."
        )
    half = (len(volumes) + 1) // 2

    # One that does not tell where it looks has the grid of the other.
    grid = next((model.grid for model in models if model.affine is not None), models[0].grid)
    everyone = cohort_images.source(cohort, volumes, grid, told=f"`cohort={options.cohort}`")
    parts = volumes[:half], volumes[half:], volumes, volumes[:_FEW]
    return HeldOut(*(dataclasses.replace(everyone, volumes=part) for part in parts))


def labelled(truth: Truth, source: Source, *, seed: int) -> Iterator[Examples]:
    """Batches of images with and without lesions.

    Args:
      truth: The task.
      source: The images that lesions are drawn into.
      seed: Of the lesions.
    """
    each = truth.task.images_per_element
    return pipeline.evaluation_batches(
        source, truth.task, batch_size=8 * each, seed=seed, max_images=each * _LABELLED
    )


def logits_of(model: Model) -> str:
    """Name of the last layer that has weights.

    Args:
      model: The model.
    """
    return [layer.name for layer in model.network.layers if layer.has_weights][-1]


def make_grader(
    truth: Truth, transfer: Model, held_out: HeldOut, *, patches: int, seed: int
) -> tuple[Grader, dict[str, Concept]]:
    """The scores, with all that they are measured with; trains the shape classifier.

    Args:
      truth: What pictures should show.
      transfer: The independent network.
      held_out: Whom it was not trained on.
      patches: How many the classifier learns from, for every shape.
      seed: Of patches, lesions and phases.

    Returns:
      What grades a picture, and the concepts by their names.
    """
    lesions, rank = truth.task.lesions, len(transfer.image_shape) - 1
    templates = dict(concepts.TEMPLATES)
    middle = float(np.sqrt(np.prod(lesions.size_mm))) / lesions.voxel_size_mm
    sizes = {}
    for label, shape in truth.shapes.items():
        templates[truth.names[label]] = concepts.template(shape)
        sizes[label] = middle * equal_area_side(shape, rank)
    own = list(truth.names.values())
    others = [name for name in (*SHAPES, "line") if name not in own]
    outlines = concepts.outlines([*own, *others], templates=templates, rank=rank)
    nominal = float(np.mean(list(sizes.values())))
    images = {
        part: list(sources.spread(source, max_images=_PATCHED))
        for part, source in (("training", held_out.training), ("testing", held_out.testing))
    }
    with announced("training the shape classifier", after_s=0):
        classifier = train_shape_classifier(
            images["training"],
            images["testing"],
            outlines,
            [name for name in own if name in outlines],
            size=nominal,
            templates=templates,
            patches=patches * len(own),
            seed=seed,
        )
    say(
        f"The shape classifier tells {', '.join(classifier.classes)} apart with a balanced "
        f"accuracy of {100 * classifier.balanced_accuracy:.1f} % on patches of other subjects."
    )
    detect = detector(transfer.network, logits_of(transfer), batch_size=1 + 4 + 2 * _PLACES)
    by_name = {
        truth.names[label]: Concept(
            truth.names[label],
            sizes[label],
            yardstick(detect, labelled(truth, held_out.all, seed=seed), label),
        )
        for label in truth.shapes
    }
    rng = np.random.default_rng([seed, 4])
    sites = insertion_sites(sources.spread(held_out.all, max_images=_PLACES), classifier.side, rng)
    return Grader(templates, classifier, outlines, detect, sites, seed), by_name


def responses(
    model: Model, truth: Truth, held_out: HeldOut, *, seed: int
) -> dict[str, list[Response]]:
    """What the graded network itself answers to lesions of every shape, by concept.

    Args:
      model: The network.
      truth: What it was trained on.
      held_out: Whose images the lesions are drawn into.
      seed: Of the lesions.
    """
    rank = len(model.image_shape) - 1
    shapes = {name: of_equal_area(concepts.TEMPLATES[name]) for name in SHAPES}
    shapes |= {
        name: of_equal_area(concepts.template(truth.shapes[label]))
        for label, name in truth.names.items()
    }
    plate = concepts.template(functools.partial(bar, ratio=1 / 3))
    for axis in range(rank):
        shapes[f"line along axis {axis}"] = of_equal_area(concepts.TEMPLATES["line"], axis=axis)
        if rank == 3:
            shapes[f"plate across axis {axis}"] = of_equal_area(plate, axis=axis)
    detect = detector(model.network, logits_of(model), batch_size=1 + len(shapes))
    return shape_responses(
        detect,
        sources.spread(held_out.all, max_images=_LABELLED),
        truth.task.lesions,
        shapes,
        own=truth.names,
        seed=seed,
    )
