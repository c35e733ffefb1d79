"""What a training leaves: the model with its card, and the report on held-out subjects."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from featvis_jax import training
from featvis_jax.checkpoints import load_model, save_model
from featvis_jax.data import sources
from featvis_jax.data.anatomy import AnatomyTask
from featvis_jax.data.labels import LabelTask, ValueTask
from featvis_jax.evaluation.baselines import brightness_by_place, shape_blind_baselines
from featvis_jax.maximize.parameterizations import mean_magnitude_spectrum
from featvis_jax.results import plots
from featvis_jax.results.files import atomic_write_bytes
from featvis_jax.runs.environment import versions
from featvis_jax.runs.training_job import Job

# The picture of a report, of classes and of a number that is estimated.
_CONFUSION, _ESTIMATES = "confusion.png", "estimates.png"


def is_finished(out: Path) -> bool:
    """Whether all that a training ends with is there and whole.

    Args:
      out: Directory of the training.
    """
    try:
        card = load_model(out / "model").card
        report = json.loads((out / "report.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return False  # What is missing or damaged is made again.
    picture = _ESTIMATES if "estimated" in report else _CONFUSION
    return card.get("report") == report and (out / picture).is_file()


def write(
    job: Job, out: Path, result: training.Result, step: training.Step, *, command: str | None
) -> dict[str, Any]:
    """Report on the held-out subjects, and save the model.

    Args:
      job: The training.
      out: Its directory.
      result: Its weights.
      step: What computed them; the report is computed in parts of the same size.
      command: The command line; None where Python called.

    Returns:
      The report.
    """
    report = _report(job, result, step)
    save_model(
        out / "model",
        job.module,
        result.variables,
        _card(job, out, result, report, command),
        spectrum=mean_magnitude_spectrum(sources.spread(job.prepared.train, max_images=500)),
    )
    atomic_write_bytes(out / "report.json", json.dumps(report, indent=2).encode() + b"\n")
    if "estimated" in report:
        (name,) = job.prepared.class_names
        picture = plots.estimates(report["true"], report["estimated"], name)
        atomic_write_bytes(out / _ESTIMATES, picture)
    else:
        picture = plots.confusion_matrix(np.array(report["confusion"]), job.prepared.class_names)
        atomic_write_bytes(out / _CONFUSION, picture)
    return report


def _card(
    job: Job,
    out: Path,
    result: training.Result,
    report: dict[str, Any],
    command: str | None,
) -> dict[str, Any]:
    """What a user of the model must know about it."""
    prepared, parent = job.prepared, job.parent
    return {
        "name": out.resolve().name,
        "task": job.task.name,
        "class_names": prepared.class_names,
        "grid": {"shape": prepared.shape, "affine": prepared.affine.tolist()},
        "intensity_range": [0.0, 1.0],
        "data": {**prepared.description, "used_scans": sorted(prepared.used_scans)},
        "report": report,
        "training": {
            "best_step": result.best_step,
            "steps": result.steps,
            "batch": job.batch_size,
            **({} if command is None else {"command": command}),
            "versions": versions(),
            "init": None if parent is None else parent.card["training"],
        },
    }


def _report(job: Job, result: training.Result, step: training.Step) -> dict[str, Any]:
    """The network on images of held-out subjects, beside what knows nothing of them."""
    prepared = job.prepared
    found = training.measured(
        job.module,
        result.variables,
        job.images(prepared.test),
        microbatch=step.microbatch,
        num_devices=step.devices.size,
    )
    report: dict[str, Any] = {"subjects": list(prepared.split.test)}
    if isinstance(found, training.Estimates):
        assert isinstance(prepared.task, ValueTask)
        return {**report, **_estimates(found, prepared.task)}
    report |= {
        "images": int(found.confusion.sum()),
        "balanced_accuracy": found.balanced_accuracy,
        "auc": found.auc,
        "loss": found.loss,
        "confusion": found.confusion.tolist(),
    }
    if not isinstance(prepared.task, LabelTask):
        report["shape_blind_baselines"] = shape_blind_baselines(
            job.images(prepared.train), job.images(prepared.test)
        )
    if isinstance(prepared.task, AnatomyTask):
        report["volume_blind_baselines"] = brightness_by_place(
            job.images(prepared.train), job.images(prepared.test)
        )
    return report


def _estimates(found: training.Estimates, task: ValueTask) -> dict[str, Any]:
    """How well a number is estimated, in its own units."""
    true = task.mean + task.std * found.true
    return {
        "images": len(true),
        "mean_absolute_error": task.std * found.mean_absolute_error,
        "r_squared": _known(found.r_squared),
        "correlation": _known(found.correlation),
        "loss": found.loss,
        "baseline_mean_absolute_error": float(np.abs(true - task.mean).mean()),
        "true": true.tolist(),
        "estimated": (task.mean + task.std * found.estimated).tolist(),
    }


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def summary(report: Mapping[str, Any], class_names: Sequence[str]) -> str:
    """A report in a few lines.

    Args:
      report: What `write` returned.
      class_names: Name of every class.
    """
    of_whom = f"On {report['images']} images of {len(report['subjects'])} held-out subjects:"
    if "estimated" in report:
        return f"{of_whom}\n{_estimated(report, class_names[0])}"
    lines = [
        of_whom,
        f"  balanced accuracy {100 * report['balanced_accuracy']:.2f} %, AUC {report['auc']:.4f}",
    ]
    for name, row in zip(class_names, report["confusion"], strict=True):
        counts = ", ".join(f"{n} as {other}" for n, other in zip(row, class_names, strict=True))
        lines.append(f"  true {name}: {counts}")
    for blind in ("shape", "volume"):
        for name, value in report.get(f"{blind}_blind_baselines", {}).items():
            told = name.replace("_", " ")
            lines.append(f"  {blind}-blind baseline, {told}: {100 * value:.2f} %")
    return "\n".join(lines)


def _estimated(report: Mapping[str, Any], name: str) -> str:
    known = {
        key: "unknown" if report[key] is None else f"{report[key]:.3f}"
        for key in ("r_squared", "correlation")
    }
    return (
        f"  {name}: mean absolute error {report['mean_absolute_error']:.4g}, R squared "
        f"{known['r_squared']}, correlation {known['correlation']}\n"
        "  the mean of the people of the training, for everybody: mean absolute error "
        f"{report['baseline_mean_absolute_error']:.4g}"
    )
