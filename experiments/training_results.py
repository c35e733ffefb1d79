"""What a training leaves: the model with its card, and the report on held-out subjects."""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.launch import versions
from experiments.task_names import NamedTask
from featvis_jax import training
from featvis_jax.checkpoints import TrainedModel, load_model, save_model
from featvis_jax.data import pipeline, tasks
from featvis_jax.evaluation.baselines import shape_blind_baselines
from featvis_jax.nn.cnn import CNN
from featvis_jax.results import plots
from featvis_jax.results.files import atomic_write_bytes
from featvis_jax.visualize.parameterizations import mean_magnitude_spectrum


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
    return card.get("report") == report and (out / "confusion.png").is_file()


def write(
    out: Path,
    task: NamedTask,
    prepared: tasks.Prepared,
    parent: TrainedModel | None,
    model: CNN,
    result: training.Result,
    step: training.Step,
    *,
    seed: int,
) -> dict[str, Any]:
    """Report on the held-out subjects, and save the model.

    Args:
      out: Directory of the training.
      task: What was learned.
      prepared: The task on the cohort.
      parent: The model that it started from.
      model: The network.
      result: Its weights.
      step: What computed them, and computes the report in parts of the same size.
      seed: Of the lesions that the network is tested on.

    Returns:
      The report.
    """
    report = _report(prepared, model, result, step, seed=seed)
    save_model(
        out / "model",
        model,
        result.variables,
        _card(out, task, prepared, parent, result, report, step.batch_size),
        spectrum=mean_magnitude_spectrum(pipeline.spread(prepared.train, max_images=500)),
    )
    atomic_write_bytes(out / "report.json", json.dumps(report, indent=2).encode() + b"\n")
    confusion = plots.confusion_matrix(report["confusion"], prepared.class_names)
    atomic_write_bytes(out / "confusion.png", confusion)
    return report


def _card(
    out: Path,
    task: NamedTask,
    prepared: tasks.Prepared,
    parent: TrainedModel | None,
    result: training.Result,
    report: dict[str, Any],
    batch: int,
) -> dict[str, Any]:
    """What a user of the model must know about it."""
    return {
        "name": out.resolve().name,
        "task": task.name,
        "class_names": prepared.class_names,
        "grid": {"shape": prepared.shape, "affine": prepared.affine.tolist()},
        "intensity_range": [0.0, 1.0],
        "data": {**prepared.description, "used_scans": sorted(prepared.used_scans)},
        "report": report,
        "training": {
            "best_step": result.best_step,
            "steps": result.steps,
            "batch": batch,
            "command": shlex.join(["python", "-m", "experiments.train", *sys.argv[1:]]),
            "versions": versions(),
            "init": None if parent is None else parent.card["training"],
        },
    }


def _report(
    prepared: tasks.Prepared,
    model: CNN,
    result: training.Result,
    step: training.Step,
    *,
    seed: int,
) -> dict[str, Any]:
    """The network and the shape-blind baselines on the same images of held-out subjects."""

    def images(source: pipeline.Source) -> Any:
        return pipeline.evaluation_batches(
            source, prepared.task, batch_size=step.batch_size, seed=seed
        )

    found = training.evaluate(
        model,
        result.variables,
        images(prepared.test),
        microbatch=step.microbatch,
        num_devices=step.devices.size,
    )
    report: dict[str, Any] = {
        "subjects": list(prepared.split.test),
        "images": int(found.confusion.sum()),
        "balanced_accuracy": found.balanced_accuracy,
        "auc": found.auc,
        "loss": found.loss,
        "confusion": found.confusion.tolist(),
    }
    if not isinstance(prepared.task, tasks.LabelTask):
        report["shape_blind_baselines"] = shape_blind_baselines(
            images(prepared.train), images(prepared.test)
        )
    return report


def summary(report: Mapping[str, Any], class_names: Sequence[str]) -> str:
    """A report in a few lines.

    Args:
      report: What `write` returned.
      class_names: Name of every class.
    """
    lines = [
        f"On {report['images']} images of {len(report['subjects'])} held-out subjects:",
        f"  balanced accuracy {100 * report['balanced_accuracy']:.2f} %, AUC {report['auc']:.4f}",
    ]
    for name, row in zip(class_names, report["confusion"], strict=True):
        counts = ", ".join(f"{n} as {other}" for n, other in zip(row, class_names, strict=True))
        lines.append(f"  true {name}: {counts}")
    for name, value in report.get("shape_blind_baselines", {}).items():
        lines.append(f"  shape-blind baseline, {name}: {100 * value:.2f} %")
    return "\n".join(lines)
