"""Training a network from options to a model with its card: checks, the loop, and files."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from featvis_jax import stopping, training
from featvis_jax.data.renamed import current_names
from featvis_jax.models import Model, load
from featvis_jax.options import say
from featvis_jax.progress import Progress, announced
from featvis_jax.results import encoding, manifest, pixels, plots
from featvis_jax.results.files import atomic_write_bytes, locked, make_directory, refuse_foreign
from featvis_jax.runs import tensorboard, training_plan, training_results
from featvis_jax.runs.tasks import named_task
from featvis_jax.runs.training_job import Job, job
from featvis_jax.runs.training_options import TrainOptions

OnCompiled = Callable[[training.Step], None]


def train(task: str, *, out: str | Path, **options: Any) -> Model:
    """Train the paper's network, and load what came of it.

    Started again with the same directory, a training goes on where it stopped and ends with the
    same weights; one that is finished is loaded. On a CPU sums are rounded by the number of its
    threads, which in Python is that of the machine: to end with the same bits on any machine, train
    by the command, which fixes it.

    Args:
      task: What to learn: one of `featvis_jax.data.tasks.TASKS`, such as "square_lesion";
        "label:COLUMN" for a column of participants.tsv, or "FILE.py:FUNCTION" for lesions of a
        shape of your own.
      out: Directory for the model, its report and checkpoints.
      **options: Any other field of `TrainOptions`: ``cohort``, ``dims``, ``crop``, ``steps``,
        ``seed``, ``init``, ...

    Returns:
      The model. Its card has the report on held-out people: ``model.card["report"]``.

    Raises:
      FileNotFoundError: A file that an option names is not there.
      TypeError: There is no such option.
      ValueError: Options contradict each other, do not fit the cohort, or the directory holds
        something else.
      FloatingPointError: The loss is no longer finite.
      MemoryError: Not even one image fits.

    Example:
      >>> model = train("label:age", cohort="my-bids", out="runs/age")  # doctest: +SKIP
      >>> model.card["report"]["mean_absolute_error"]  # doctest: +SKIP
      7.2
    """
    for name, value in options.items():
        if isinstance(value, os.PathLike):
            options[name] = os.fspath(value)
    run(TrainOptions(task=task, out=os.fspath(out), **options))
    return load(out)


def run(
    options: TrainOptions,
    *,
    threads: int | None = None,
    command: str | None = None,
    on_compiled: OnCompiled = lambda step: None,
) -> None:
    """Train in a directory that no other process writes to, and say what came of it.

    Args:
      options: What to do.
      threads: Of computations on a CPU, where somebody has fixed them.
      command: The command line, for the model card; None where Python called.
      on_compiled: Called with the step once it is compiled.

    Raises:
      OSError: Something cannot be written.
      ValueError: Options contradict each other or do not fit, or the directory holds something
        else.
      FloatingPointError: The loss is no longer finite.
      MemoryError: Not even one image fits.
    """
    out = _checked(options)
    make_directory(out)
    with locked(out), jax.default_matmul_precision(options.precision):
        begun = job(options)
        settings = _settings(begun, out, threads)
        if training_results.is_finished(out):
            say(_finished(out))
            return
        variables = begun.first_variables()
        step = _compiled(begun, out, variables, on_compiled)
        training_plan.try_step(step, begun.schedule.optimizer(), variables, begun.image_shape)
        # On an accelerator the parts of a new training are as large as fit.
        settings["microbatch"] = step.microbatch
        atomic_write_bytes(out / "settings.json", manifest.encode_json(settings))
        atomic_write_bytes(out / "split.json", begun.prepared.split.to_json())
        shape = "x".join(map(str, begun.prepared.shape))
        images = begun.prepared.description["images"]
        say(f"{begun.task.name}: images of {shape} voxels, {images}")
        started = time.monotonic()
        result = _fit(begun, out, variables, step)
        report = training_results.write(begun, out, result, step, command=command)
    minutes = (time.monotonic() - started) / 60
    say(f"Trained for {result.steps} steps in {minutes:.0f} min; best at {result.best_step}.")
    say(training_results.summary(report, begun.prepared.class_names))
    say(f"The model is in {out / 'model'}; the report beside it in {out / 'report.json'}.")


def plan(
    options: TrainOptions,
    *,
    threads: int | None = None,
    on_compiled: OnCompiled = lambda step: None,
) -> str:
    """Say what a training would take, from a short trial; nothing is written to its directory.

    Options in the text stand between backticks.

    Args:
      options: What to do.
      threads: As in `run`.
      on_compiled: Likewise.

    Raises:
      ValueError: Options contradict each other or do not fit, or the directory holds something
        else.
      MemoryError: Not even one image fits.
    """
    out = _checked(options)
    with jax.default_matmul_precision(options.precision):
        begun = job(options)
        _settings(begun, out, threads)
        if training_results.is_finished(out):
            return _finished(out)
        variables = begun.first_variables()
        step = _compiled(begun, out, variables, on_compiled)
        return training_plan.text(begun, step, variables)


def _checked(options: TrainOptions) -> Path:
    """The directory, once all is checked that can be before the cohort is read."""
    if options.out is None:
        raise ValueError("`out` is missing: name a directory for model, report and checkpoints.")
    named_task(options.task)
    options.schedule()
    tensorboard.library(options.tensorboard)  # Missing, it is missed before anything is done.
    refuse_foreign(options.out, "settings.json", what="training")
    return Path(options.out)


def _finished(out: Path) -> str:
    return f"The training in {out} is finished: the model is in {out / 'model'}."


def _settings(job: Job, out: Path, threads: int | None) -> dict[str, Any]:
    """All that decides the weights; another training than the one that was begun is refused."""
    batch = job.batch_size
    settings = {
        **job.settings(),
        **training_plan.settings(job, out, threads=threads),
        "batch": batch,
    }
    path = out / "settings.json"
    if path.exists():
        begun = json.loads(path.read_bytes())
        old = current_names(begun) if isinstance(begun, dict) else begun
        manifest.refuse_mismatch(out, old, settings)
    return settings


def _compiled(
    job: Job, out: Path, variables: Mapping[str, Any], on_compiled: OnCompiled
) -> training.Step:
    with announced("compiling the step of the training", after_s=0):
        step = training_plan.fitting_step(job, variables, out=out)
    on_compiled(step)
    return step


def _fit(job: Job, out: Path, variables: dict[str, Any], step: training.Step) -> training.Result:
    """Train, and tell of it on the terminal, in files and to TensorBoard."""
    steps = job.schedule.steps
    with (
        tensorboard.events(out, asked=job.options.tensorboard) as log,
        Progress(steps) as progress,
    ):

        def on_step(step: int, loss: float) -> None:
            if step > progress.done + 1:
                progress.skip(step - progress.done - 1)
            progress.measured("loss", loss)
            progress.advance(1)
            if math.isfinite(loss):
                log.scalar("loss/step", loss, step=step - 1)

        def on_evaluation(history: list[dict[str, Any]]) -> None:
            progress.write(_told(history[-1]))
            atomic_write_bytes(out / "metrics.tsv", encoding.encode_rows(history))
            atomic_write_bytes(out / "training.png", plots.training_curves(history))
            for row in history[-2:]:
                for name in set(row) - {"step", "split"}:
                    if row[name] is not None:
                        log.scalar(f"{name}/{row['split']}", row[name], step=row["step"])
            log.flush()

        for index, image in enumerate(_examples(job)):
            log.image(f"validation/{index}", image, step=0)
        # A signal waits for the end of a step, and for the exact state on the disk.
        with stopping.held():
            try:
                return training.fit(
                    job.module,
                    variables,
                    job.schedule,
                    training=job.training,
                    validation=job.validation,
                    directory=out / "checkpoints",
                    update=step,
                    on_step=on_step,
                    on_evaluation=on_evaluation,
                    stop=stopping.requested,
                )
            except training.Interrupted:
                stopping.check()
                raise


def _told(row: Mapping[str, Any]) -> str:
    """What is said of an evaluation."""
    if "r_squared" in row:
        measured = f"R squared {row['r_squared']:.3f}"
    else:
        measured = f"balanced accuracy {100 * row['balanced_accuracy']:.2f} %"
    return f"step {row['step']}: validation loss {row['loss']:.4f}, {measured}"


def _examples(job: Job) -> list[np.ndarray]:
    """Some images for TensorBoard, a volume by its middle axial plane."""
    if not job.options.tensorboard:
        return []
    images = next(job.validation())["image"][:8]
    return [pixels.picture(image, window=(0.0, 1.0)) for image in images]
