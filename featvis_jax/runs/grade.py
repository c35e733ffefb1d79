"""Grading pictures from options to tables: do they show the lesion shape that was trained on?

Every picture of the graded units is named rightly or is not (`featvis_jax.evaluation.grading`), by
a shape classifier that is trained here. Graded are the logits of classes that have a shape, and in
other layers the channels that tell the classes apart best.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from featvis_jax import progress, stopping
from featvis_jax.data.shapes import Shape, equal_area_side
from featvis_jax.evaluation.grading import Concept, Grader
from featvis_jax.evaluation.summary import Graded, known
from featvis_jax.models import Model
from featvis_jax.results.files import locked, make_directory
from featvis_jax.results.store import RunView
from featvis_jax.runs import graded_pictures, graders
from featvis_jax.runs.calibration import calibrated
from featvis_jax.runs.grade_job import NOTHING, Given, GradeOptions, Job, job
from featvis_jax.runs.graded_pictures import Picture
from featvis_jax.runs.graders import Truth
from featvis_jax.runs.grades import Grades, write
from featvis_jax.runs.tasks import NamedTask

# Real images of each unit that are graded beside its pictures.
_REAL = 4


def grade(
    runs: str | os.PathLike[str] | RunView | Sequence[str | os.PathLike[str] | RunView],
    *,
    task: str | Shape,
    transfer_model: str | os.PathLike[str] | Model,
    model: str | os.PathLike[str] | Model | None = None,
    cohort: str | os.PathLike[str] = "synthetic",
    controls: Mapping[str, str | os.PathLike[str] | RunView] | None = None,
    out: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Grades:
    """Tell whether pictures show the lesion shape that their network was trained on.

    Args:
      runs: A run or several, as what `featvis_jax.visualize` left or its directory; none, ``()``,
        where the option `images` names a directory of images.
      task: What the network was trained on: a name such as "square_lesion", FILE.py:FUNCTION, or
        the function that draws the shape.
      transfer_model: A network that was trained on the same task from another seed.
      model: The runs' network, where they do not tell.
      cohort: Whose scans the grades are measured with, without those that a network was trained on.
      controls: Runs of the same units that should not show the shape, by a name such as "random".
      out: Directory for tables and figures; nothing is written without it.
      **options: Any others of `GradeOptions`.

    Returns:
      The grades; ``scores`` holds what matters.

    Raises:
      FileNotFoundError: There is no such run, model, image or cohort.
      ValueError: What is given does not fit together; the message says what.
      OSError: Something cannot be written.
    """
    runs = [runs] if isinstance(runs, str | os.PathLike | RunView) else runs
    given = Given(
        model if isinstance(model, Model) else None,
        transfer_model if isinstance(transfer_model, Model) else None,
        None if isinstance(task, str) else NamedTask(_name(task), task),
    )
    return run(
        GradeOptions(
            run=tuple(_place(each) for each in runs),
            task=task if isinstance(task, str) else _name(task),
            transfer_model=_spec(transfer_model),
            model=None if model is None else _spec(model),
            cohort=os.fspath(cohort),
            control=tuple(f"{name}={_place(each)}" for name, each in (controls or {}).items()),
            out=None if out is None else os.fspath(out),
            **options,
        ),
        given=given,
    )


def _place(run: str | os.PathLike[str] | RunView) -> str:
    return str(run.directory) if isinstance(run, RunView) else os.fspath(run)


def _name(shape: Shape) -> str:
    return getattr(shape, "__name__", type(shape).__name__)


def _spec(model: str | os.PathLike[str] | Model) -> str:
    return model.name if isinstance(model, Model) else os.fspath(model)


def run(options: GradeOptions, *, given: Given = NOTHING) -> Grades:
    """Grade, and write what was found where `out` says where.

    Args:
      options: What to grade.
      given: What is there already of what they name.

    Raises:
      FileNotFoundError: There is no such run, model, image or cohort.
      ValueError: The options contradict each other, or do not fit what they name.
      OSError: Something cannot be written.
    """
    if bool(options.run) == bool(options.images):
        found = "both" if options.run else "neither"
        raise ValueError(
            f"`run` and `images`: expected either runs or a directory of images; got {found}."
        )
    with jax.default_matmul_precision(options.precision):
        ready = job(options, given=given)
        pictures = _pictures(ready)
        if options.out is None:
            return _grades(ready, pictures)
        out = Path(options.out)
        make_directory(out)
        with locked(out):
            grades = _grades(ready, pictures)
            write(grades, out)
    return grades


def list_channels(options: GradeOptions) -> None:
    """Say which channels would be graded.

    Args:
      options: What to grade; without runs, all of a model.

    Raises:
      FileNotFoundError: There is no such run, model or cohort.
      ValueError: The options contradict each other, or do not fit what they name.
    """
    with jax.default_matmul_precision(options.precision):
        job(options, lists=True)


def _pictures(job: Job) -> list[Picture]:
    """All pictures and controls."""
    options, units = job.options, job.units
    if options.images:
        concept = _shape(options, job.truth)
        found = graded_pictures.of_directory(options.images, concept, job.transfer.grid)
    else:
        found = [p for run in job.runs for p in graded_pictures.of_run(run, units)]
    made = list(found)
    if "scrambled" in options.made_controls:
        made += graded_pictures.scrambled(found, seed=options.seed)
    if "real" in options.made_controls and job.model is not None:
        made += graded_pictures.real(job.model, job.held_out.few, units, count=_REAL)
    for name, of_control in job.controls.items():
        own = [p for run in of_control for p in graded_pictures.of_run(run, units, kind=name)]
        if not own and not options.images:
            wanted = ", ".join(f"{layer} {channel}" for layer, channel in units)
            raise ValueError(
                f"`control={name}`: its runs have none of the units that are graded ({wanted}): "
                "visualize the same layers and channels."
            )
        made += own
    return made


def _shape(options: GradeOptions, truth: Truth) -> str:
    """What all of a directory's images should show."""
    names = list(truth.names.values())
    if options.shape is None and len(names) > 1:
        raise ValueError(f"`shape` is missing: say which of {names} `images` should show.")
    shape = options.shape or names[0]
    if shape not in names:
        raise ValueError(f"`shape={shape}`: `task={options.task}` has {names}.")
    return shape


def _grades(job: Job, pictures: Sequence[Picture]) -> Grades:
    """Train the classifier, and grade the pictures and what is known."""
    seed = job.options.seed
    grader, by_name = graders.make_grader(
        job.truth, job.transfer, job.held_out, patches=job.options.classifier_patches, seed=seed
    )
    graded = _graded(job, pictures, grader, by_name)
    drawn = known(calibrated(grader, by_name, job.truth, seed=seed))
    answers = None
    if job.model is not None:
        answers = graders.responses(job.model, job.truth, job.held_out, seed=seed)
    return Grades.of(
        graded,
        drawn,
        answers,
        task=job.task.name,
        classifier=grader.classifier,
        about={
            "models": {
                name: {"name": each.name, "weights_sha256": each.card["weights_sha256"]}
                for name, each in (("graded", job.model), ("transfer", job.transfer))
                if each is not None
            },
            "runs": [
                {"name": run.directory.resolve().name, "fingerprint": run.fingerprint}
                for run in job.runs
            ],
            "seed": seed,
        },
    )


def _graded(
    job: Job, pictures: Sequence[Picture], grader: Grader, by_name: Mapping[str, Concept]
) -> list[Graded]:
    """The grade of every picture."""
    truth = job.truth
    shapes = {truth.names[label]: shape for label, shape in truth.shapes.items()}
    shape = grader.sites[0].image.shape
    found = []
    for each in progress.each(pictures, "grading", unit="picture"):
        stopping.check()
        image, concept = each.load(), by_name[each.concept]
        if image.shape != shape:
            raise ValueError(
                f"{each.run}, {each.layer} {each.channel}: a picture of shape {image.shape}; "
                f"`transfer_model={job.options.transfer_model}` takes {shape}: resample it to that "
                "grid."
            )
        grade = grader.grade(image, concept)
        side = equal_area_side(shapes[each.concept], image.ndim - 1)
        size_mm = grade.size / side * truth.task.lesions.voxel_size_mm
        found.append(Graded(*each[:-1], size_mm=size_mm, grade=grade))
    return found
