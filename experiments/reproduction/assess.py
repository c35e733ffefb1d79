r"""A stage of `experiments.reproduce_paper`: what a model says of held-out people, image by image.

    python -m experiments.reproduction.assess --model=DIR --run=DIR --cohort=DIR --out=DIR

Tells what the network takes every image for: whole, without the channels whose pictures in --run
are uniform, and without as many of those with a pattern, drawn anew several times. Writes
predictions.tsv, ablation.json, and for lesions example.npz: a slice before and after, and where
they are.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from featvis_jax import stopping
from featvis_jax.checkpoints import TrainedModel, load_model
from featvis_jax.commands import startup
from featvis_jax.commands.launch import Command, start
from featvis_jax.commands.startup import StartupOptions
from featvis_jax.data import pipeline, preparation, sources, tasks
from featvis_jax.data.grids import Grid
from featvis_jax.data.labels import LabelTask
from featvis_jax.evaluation.ablation import Variables, as_many_others, silenced
from featvis_jax.nn.programs import fast
from featvis_jax.options import option
from featvis_jax.results.encoding import encode_arrays, encode_rows
from featvis_jax.results.files import atomic_write_bytes, locked, make_directory
from featvis_jax.results.manifest import encode_json
from featvis_jax.results.store import read_run
from featvis_jax.results.tables import PATTERNED
from featvis_jax.runs import cohort_images, cohorts
from featvis_jax.runs.cohorts import CohortOptions

_LESION_OPTIONS = ("count", "size_mm", "min_contrast", "polarity", "easy_contrast")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AssessOptions(CohortOptions, StartupOptions):
    """What is assessed."""

    model: str | None = option(None, "A zoo name, or the directory of a training.")
    run: str | None = option(None, "Directory of its pictures, for their statuses.")
    out: str | None = option(None, "Directory for the results.")
    batch: int = option(16, "Images that are classified together.", least=2)
    draws: int = option(5, "Drawings of channels with a pattern to compare with.", least=1)
    seed: int = option(0, "Of lesions and drawings; a training's own.", least=0)


def main(options: AssessOptions) -> None:
    """Classify, silence, classify again."""
    startup.prepare(options)
    model = load_model(str(options.model))
    prepared, source = held_out(model, options)
    statuses = _statuses(Path(str(options.run)))
    uniform, patterned = _of_status(statuses, "uniform"), _of_status(statuses, *PATTERNED)
    variants: dict[str, dict[str, list[int]]] = {"whole": {}}
    if uniform:
        variants["without_uniform"] = uniform
        rng = np.random.default_rng(options.seed)
        for draw in range(options.draws):
            variants[f"without_patterned_{draw + 1}"] = as_many_others(rng, uniform, patterned)

    owners = [source.owner(position) for position in range(len(source))]
    columns: dict[str, Any] = {
        "subject": np.repeat(owners, prepared.task.images_per_element).tolist()
    }
    for name, channels in variants.items():
        labels, found = _classified(
            model, silenced(model.variables, channels), prepared.task, source, options
        )
        columns["label"] = labels
        columns[name] = found
        print(f"{name}: {float(np.mean(labels == found)):.4f} of {len(labels)} right", flush=True)
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    out = Path(str(options.out))
    make_directory(out)
    with locked(out), stopping.held():
        if not isinstance(prepared.task, LabelTask):
            example = _example(prepared, source, seed=options.seed)
            atomic_write_bytes(out / "example.npz", encode_arrays(example))
        atomic_write_bytes(out / "predictions.tsv", encode_rows(rows))
        about = {
            "class_names": list(prepared.class_names),
            "images": len(rows),
            "subjects": sorted(set(owners)),
            "silenced": variants,
        }
        atomic_write_bytes(out / "ablation.json", encode_json(about))
    print(f"Results: {out}")


def held_out(
    model: TrainedModel, options: AssessOptions
) -> tuple[preparation.Prepared, sources.Source]:
    """The model's task on the cohort of the options, and the images of people it never saw.

    Those are the ones of its own report where it was trained on this cohort, and otherwise those
    that a training on this cohort would hold out.

    Raises:
      ValueError: The cohort has another grid, or lacks people of the report.
    """
    card, cohort = model.card, cohorts.cohort_of(options)
    drawn = card["data"].get("lesions")
    lesion_options = None
    if drawn is not None:
        kept = {name: drawn[name] for name in _LESION_OPTIONS}
        lesion_options = {name: tuple(v) if isinstance(v, list) else v for name, v in kept.items()}
    grid = Grid(model.image_shape[:-1], model.affine)
    cache = cohorts.cohort_volumes_directory(cohort, options)
    prepared = preparation.prepare(
        tasks.TaskSpec(card["task"], lesion_options=lesion_options or {}),
        cohort,
        rank=len(grid.shape),
        cache=cache,
        grid=grid,
        seed=options.seed,
    )
    if card["data"]["cohort"] != cohort.name:
        return prepared, prepared.test
    cached = cohorts.cached_volumes(cohort, cache, ids=card["report"]["subjects"])
    told = f"`cohort={options.cohort}`"
    return prepared, cohort_images.source(cohort, list(cached.values()), grid, told=told)


def _classified(
    model: TrainedModel,
    variables: Variables,
    task: pipeline.Task,
    source: sources.Source,
    options: AssessOptions,
) -> tuple[np.ndarray, np.ndarray]:
    """True and predicted class of every image."""

    @jax.jit
    def logits(variables: Variables, images: jax.Array) -> jax.Array:
        return fast(model.module.apply)(variables, images)  # pyright: ignore[reportReturnType]

    size = options.batch
    labels, predicted = [], []
    for batch in pipeline.evaluation_batches(source, task, batch_size=size, seed=options.seed):
        stopping.check()
        count = len(batch["label"])
        padding = [(0, size - count)] + [(0, 0)] * (batch["image"].ndim - 1)
        found = np.asarray(logits(variables, np.pad(batch["image"], padding)))[:count]
        labels.append(batch["label"])
        predicted.append(found.argmax(axis=1))
    return np.concatenate(labels), np.concatenate(predicted)


def _example(
    prepared: preparation.Prepared, source: sources.Source, *, seed: int
) -> dict[str, np.ndarray]:
    """An image from the middle of the first held-out brain, the same with lesions, and where."""
    assert isinstance(prepared.task, tasks.LesionTask)
    of_first = [i for i in range(len(source)) if source.owner(i) == source.owner(0)]
    position = of_first[len(of_first) // 2]
    image = source[position]
    # Few lesions, so that each can be found in print.
    lesions = dataclasses.replace(prepared.task.lesions, count=(3, 3))
    damaged, mask = lesions.add(image, np.random.default_rng([seed, 1, position]))
    return {"original": image, "damaged": damaged, "mask": mask}


def _statuses(directory: Path) -> list[tuple[str, int, str]]:
    return [(row.layer, row.channel, row.status) for row in read_run(directory).records()]


def _of_status(statuses: Sequence[tuple[str, int, str]], *wanted: str) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for layer, channel, status in statuses:
        if status in wanted:
            found.setdefault(layer, []).append(channel)
    return found


COMMAND = Command(
    name="assess",
    summary="what a model says of held-out people, image by image",
    examples=("--model=DIR --run=DIR --cohort=DIR --out=DIR",),
    options=AssessOptions,
    main=main,
    required=("model", "run", "out"),
    first=("model", "run", "cohort", "out"),
    program="python -m experiments.reproduction.assess",
)


if __name__ == "__main__":
    start(COMMAND)
