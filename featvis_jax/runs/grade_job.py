"""What a grading needs, checked before anything is trained: runs, networks, people and units."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from featvis_jax import models
from featvis_jax.data.grids import coincide, described
from featvis_jax.evaluation.selectivity import class_effects, most_selective
from featvis_jax.evaluation.summary import PICTURE
from featvis_jax.model_options import MODEL_HELP
from featvis_jax.models import Model
from featvis_jax.options import errors_of, option, say
from featvis_jax.results.files import refuse_foreign
from featvis_jax.results.store import RunView
from featvis_jax.runs import graded_pictures, graders
from featvis_jax.runs.cohorts import CohortOptions, cohort_of
from featvis_jax.runs.graded_pictures import Units
from featvis_jax.runs.graders import HeldOut, Truth
from featvis_jax.runs.grades import FILES
from featvis_jax.runs.precision import PrecisionOptions
from featvis_jax.runs.tasks import TASK_HELP, NamedTask, named_task

MADE = ("scrambled", "real")
"""Controls that a grading makes itself."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradeOptions(CohortOptions, PrecisionOptions):
    """The grading."""

    run: tuple[str, ...] = option(
        (), "Run to grade; repeat for several, such as other seeds.", repeats=True
    )
    images: str | None = option(
        None, "Directory of .nii, .nii.gz or .npy images to grade instead of runs."
    )
    shape: str | None = option(
        None, "Shape that all `images` should show; that of the task by default."
    )
    task: str | None = option(None, f"What the network was trained on: {TASK_HELP}")
    model: str | None = option(None, f"Network of the runs, if they do not name it: {MODEL_HELP}")
    transfer_model: str | None = option(
        None,
        f"A network trained on the same task from another seed. {MODEL_HELP}",
    )
    grid: str | None = option(
        None,
        "A NIfTI file on the grid of the networks' input, for networks that have no affine of "
        "their own; that of the runs by default.",
    )
    out: str | None = option(None, "Directory for the grades.")
    control: tuple[str, ...] = option(
        (),
        "NAME=RUN: pictures of the same units that should not show the shape, from a network with "
        "random weights or one trained with shuffled labels; repeat for several.",
        repeats=True,
    )
    made_controls: tuple[str, ...] = option(
        MADE,
        "Controls to make: the pictures with scrambled phases, and real images without lesions.",
        choices=MADE,
    )
    best: int = option(
        5, "Channels to grade in each layer but the logits, the most selective first.", least=1
    )
    classifier_patches: int = option(
        12288, "Patches per shape that the shape classifier is trained on.", least=64
    )
    seed: int = option(0, "Seed of patches, lesions and phases.", least=0)


class Given(NamedTuple):
    """What Python hands over as it is, where options have a name of it.

    Attributes:
      model: The runs' network.
      transfer: The one that was trained from another seed.
      task: What they were trained on.
    """

    model: Model | None = None
    transfer: Model | None = None
    task: NamedTask | None = None


NOTHING = Given()
"""What commands hand over."""


class Job(NamedTuple):
    """A grading that was checked and can begin.

    Attributes:
      options: What was asked for.
      task: What the networks were trained on.
      runs: Those that are graded.
      controls: The runs of controls by their names.
      model: The network of the runs; None where images are graded.
      transfer: The network that was trained from another seed.
      truth: The shapes of the task.
      held_out: Images of people that neither network was trained on.
      units: The units that are graded, with the shape that each was trained on.
    """

    options: GradeOptions
    task: NamedTask
    runs: list[RunView]
    controls: dict[str, list[RunView]]
    model: Model | None
    transfer: Model
    truth: Truth
    held_out: HeldOut
    units: Units


def job(options: GradeOptions, *, given: Given = NOTHING, lists: bool = False) -> Job:
    """Check a grading, and find the units that are graded, before any classifier is trained.

    Args:
      options: What to grade.
      given: What is there already of what they name.
      lists: Whether to look at a model's units without any run of it.

    Raises:
      FileNotFoundError: There is no such run, model or cohort.
      ValueError: The options contradict each other, or do not fit what they name.
    """
    for name in ("task", "transfer_model"):
        if getattr(options, name) is None:
            raise ValueError(f"`{name}` is missing: docs/grading.md explains how to grade.")
    task = given.task or named_task(str(options.task))
    if options.shape is not None and not options.images:
        raise ValueError(f"`shape={options.shape}` says what `images` show: give them too.")
    if options.out is not None:
        refuse_foreign(Path(options.out), "scores.json", what="grades", before=FILES)
    runs = graded_pictures.open_runs(options.run)
    controls = _controls(options)
    grid = options.grid or (graded_pictures.option_of(runs[0], "grid") if runs else None)
    transfer = _network("transfer_model", str(options.transfer_model), given.transfer, grid)
    model = _model(options, runs, given.model, grid) if runs or lists else None
    if model is not None:
        _check_pair(model, transfer, options)
    truth = graders.truth_of(task, model or transfer)
    both = [each for each in (model, transfer) if each is not None]
    cohort = cohort_of(options, voxel_size_mm=both[0].resampled_mm)
    held_out = graders.hold_out(cohort, both, options)
    units = {} if model is None else _units(options, runs, model, truth, held_out)
    return Job(options, task, runs, controls, model, transfer, truth, held_out, units)


def _controls(options: GradeOptions) -> dict[str, list[RunView]]:
    """The runs of controls by name."""
    found: dict[str, list[RunView]] = {}
    for text in options.control:
        name, equals, path = text.partition("=")
        if not (name and equals and path) or name in (PICTURE, *MADE):
            raise ValueError(
                f"`control={text}`: expected NAME=RUN with a name such as random or shuffled, and "
                "the directory of a run."
            )
        opened = graded_pictures.open_runs([path], told=f"control={name}")
        found.setdefault(name, []).extend(opened)
    return found


def _network(name: str, spec: str, given: Model | None, grid: str | None) -> Model:
    """The network that an option names, on a grid if it does not tell where it looks."""
    if given is None:
        with _of_option(name):
            given = models.load(spec)
    if grid is None:
        return given
    with errors_of("grid", grid):
        return models.on_grid(given, grid)


@contextlib.contextmanager
def _of_option(name: str) -> Iterator[None]:
    """Name the option in what goes wrong with its network."""
    try:
        yield
    except (FileNotFoundError, ValueError) as error:
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(str(error).replace("`model=", f"`{name}=")) from error


def _model(
    options: GradeOptions, runs: Sequence[RunView], given: Model | None, grid: str | None
) -> Model:
    """The network that the runs visualize."""
    spec = options.model or (graded_pictures.option_of(runs[0], "model") if runs else None)
    if spec is None:
        raise ValueError("`model` is missing: the run does not name its network.")
    model = _network("model", spec, given, grid)
    for run in runs:
        graded_pictures.refuse_other_weights(run, model, spec)
    return model


def _check_pair(model: Model, transfer: Model, options: GradeOptions) -> None:
    """Refuse a second network that sees other images, or is the first."""
    same = model.image_shape == transfer.image_shape
    if same and model.affine is not None and transfer.affine is not None:
        same = coincide(model.grid, transfer.grid, any_slice=True)
    if not same:
        raise ValueError(
            f"`transfer_model={options.transfer_model}` takes images of "
            f"{described(transfer.grid)}, the run's are of {described(model.grid)}: take one "
            "that was trained on the same grid."
        )
    if model.card["weights_sha256"] == transfer.card["weights_sha256"]:
        raise ValueError(
            f"`transfer_model={options.transfer_model}` is the run's own model: take one that was "
            "trained from another seed."
        )


def _units(
    options: GradeOptions, runs: Sequence[RunView], model: Model, truth: Truth, held_out: HeldOut
) -> Units:
    """The units that are graded, and the shape that each was trained on."""
    logits = graders.logits_of(model)
    if runs:
        present = graded_pictures.channels_of(runs)
    else:
        weighted = (layer for layer in model.network.layers if layer.has_weights)
        present = {layer.name: list(range(layer.channels)) for layer in weighted}
    found: dict[tuple[str, int], str] = {}
    hidden = [layer for layer in present if layer != logits]
    examples = graders.labelled(truth, held_out.all, seed=options.seed)
    effects = class_effects(model.network, hidden, examples) if hidden else {}
    for layer, channels in present.items():
        if layer == logits:
            chosen = [channel for channel in channels if channel in truth.names]
            found |= {(layer, channel): truth.names[channel] for channel in chosen}
            say(f"{layer}: {', '.join(f'{c} ({truth.names[c]})' for c in chosen) or 'none'}")
            continue
        best = most_selective(
            effects[layer], best=options.best, concepts=tuple(truth.names), among=channels
        )
        found |= {(layer, each.channel): truth.names[each.concept] for each in best}
        told = (f"{e.channel} ({truth.names[e.concept]}, effect {e.effect:.2f})" for e in best)
        say(f"{layer}: {', '.join(told) or 'no channel tells the classes apart'}")
    if not found:
        raise ValueError(
            f"`run={','.join(options.run)}`: none of its units detects a lesion; visualize the "
            "logits, or the channels that --list_channels lists."
        )
    return found
