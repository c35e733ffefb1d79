r"""Train the paper's CNN to find artificial lesions, or to tell sexes apart.

    python -m experiments.train --task=square_lesion --cohort=DIR --out=DIR
    python -m experiments.train --task=gaussian_lesion --dims=3 --synthetic_voxel_size_mm=4 \
        --lesion_size_mm=16,28 --out=DIR

Started again with the same --out, training goes on where it stopped and ends with the same weights.
The model, its card and the report on held-out subjects end up in --out.
"""

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from nibabel.affines import voxel_sizes

from experiments import (
    cohort_flags,
    startup,
    stopping,
    tensorboard,
    training_plan,
    training_results,
)
from experiments.flag_values import numbers
from experiments.launch import start
from experiments.progress import Progress, announced, callback
from experiments.task_names import TASK_HELP, NamedTask, named_task
from featvis_jax import training
from featvis_jax.checkpoints import TrainedModel, load_model
from featvis_jax.data import pipeline, tasks
from featvis_jax.data.augmentation import Augmentation
from featvis_jax.nn.cnn import CNN
from featvis_jax.results import manifest, pixels, plots, tables
from featvis_jax.results.files import atomic_write_bytes, locked, make_directory, refuse_foreign

FLAGS = flags.FLAGS
flags.DEFINE_string("task", "square_lesion", f"What to learn: {TASK_HELP}")
flags.DEFINE_enum("dims", None, ["2", "3"], "Slices or volumes; 2, and 3 for sex.")
flags.DEFINE_string("out", None, "Directory for model, report and checkpoints.", required=True)
flags.DEFINE_string(
    "init",
    None,
    "Start from the weights of this trained model, a directory or a zoo name; where it tells other "
    "classes apart, from all but those of its linear head.",
)
flags.DEFINE_list("crop", None, "Size of an image in voxels, 140,192 for example.")
flags.DEFINE_integer(
    "seed",
    0,
    "Fixes split, weights, order and lesions.",
    lower_bound=0,
    upper_bound=2**32 - 1,
)
flags.DEFINE_integer(
    "split_seed",
    None,
    "Fixes the split instead of --seed, for several trainings that hold out the same people.",
    lower_bound=0,
    upper_bound=2**32 - 1,
)
flags.DEFINE_bool("shuffle_labels", False, "Labels without meaning: a control for pictures.")
flags.DEFINE_integer("batch", None, "Images per step; 32 for slices, 8 for volumes.", lower_bound=1)
flags.DEFINE_integer("steps", 2000, "Most training steps.", lower_bound=1)
flags.DEFINE_float(
    "learning_rate", None, "Adam's; 1e-3 for slices, 3e-4 for volumes.", lower_bound=0.0
)
flags.DEFINE_float("weight_decay", 1e-4, "L2, added to the gradient.", lower_bound=0.0)
flags.DEFINE_enum("decay", "cosine", ["cosine", "constant"], "Course of the learning rate.")
flags.DEFINE_integer("evaluate_every", 100, "Steps between evaluations.", lower_bound=1)
flags.DEFINE_integer("validation_images", 1024, "Most images to stop by; 0 for all.", lower_bound=0)
flags.DEFINE_integer("patience", 7, "Evaluations without progress before stopping.", lower_bound=1)
flags.DEFINE_integer(
    "curriculum", 600, "Steps until all lesions are hard; 0 for none.", lower_bound=0
)
flags.DEFINE_bool("augment", True, "Mirror, shift and re-tone the training images.")
flags.DEFINE_float(
    "noise",
    0.0,
    "Largest standard deviation of noise over training images, which lie on [0, 1].",
    lower_bound=0.0,
)
flags.DEFINE_list(
    "lesion_count", None, "Fewest and most lesions in an image; 1,5, and 3,6 for soft edges."
)
flags.DEFINE_list(
    "decoys",
    ["0", "0"],
    "Fewest and most lesions of other shapes that images of both classes have, 0,3 for example: "
    "without any a network need not know the shape of a lesion.",
)
flags.DEFINE_list("lesion_size_mm", ["9", "17"], "Smallest and largest lesion.")
flags.DEFINE_float(
    "lesion_contrast",
    None,
    "Least difference from the tissue under a lesion; 0.3, and 0.4 for soft edges.",
)
flags.DEFINE_enum("lesion_polarity", "both", ["both", "bright", "dark"], "Kind of contrast.")


def main(_: Sequence[str]) -> None:
    """Train in a directory that no other process writes to."""
    out = Path(FLAGS.out)
    startup.prepare(threads=training_plan.threads(out))
    task = named_task(FLAGS.task)
    schedule = _schedule()
    tensorboard.library()  # Missing, it is missed before anything is done.
    refuse_foreign(out, "settings.json", what="training")
    if FLAGS.dry_run:
        _train(out, task, schedule)
        return
    make_directory(out)
    with locked(out):
        _train(out, task, schedule)


def _schedule() -> training.Schedule:
    """How long and how fast, by the flags."""
    rank = _rank()
    return training.Schedule(
        steps=FLAGS.steps,
        learning_rate=_or_default(FLAGS.learning_rate, 1e-3 if rank == 2 else 3e-4),
        weight_decay=FLAGS.weight_decay,
        decay=FLAGS.decay,
        evaluate_every=FLAGS.evaluate_every,
        patience=FLAGS.patience,
        hard_after=0 if FLAGS.task == "sex" else FLAGS.curriculum,
    )


def _rank() -> int:
    """Number of dimensions, by the flags."""
    return int(FLAGS.dims or (3 if FLAGS.task == "sex" else 2))


def _train(out: Path, task: NamedTask, schedule: training.Schedule) -> None:
    """Train, report and save, or tell what it would take."""
    rank = _rank()
    batch = FLAGS.batch or (32 if rank == 2 else 8)
    cohort = cohort_flags.cohort_from_flags()
    with callback("reading scans", unit="scan") as on_scans:
        prepared = tasks.prepare(
            task.name,
            cohort,
            rank=rank,
            cache=cohort_flags.volume_cache_directory(cohort),
            crop=numbers("crop", int) if FLAGS.crop else None,
            seed=FLAGS.seed if FLAGS.split_seed is None else FLAGS.split_seed,
            shape=task.shape,
            shuffle_labels=FLAGS.shuffle_labels,
            lesion_options=_lesion_options(),
            decoy_count=tuple(numbers("decoys", int, 2)),
            progress=on_scans,
        )
    model = CNN(rank=rank, num_classes=len(prepared.class_names))
    augmentation = Augmentation(prepared.voxel_size_mm) if FLAGS.augment else None

    def validation() -> Iterator[pipeline.Examples]:
        return pipeline.evaluation_batches(
            prepared.validation,
            prepared.task,
            batch_size=batch,
            seed=FLAGS.seed,
            max_images=FLAGS.validation_images or None,
        )

    _check(model, prepared.shape, validation)
    parent = _parent(model, prepared)
    settings = {
        **_settings(task, prepared, schedule, parent, augmentation),
        **training_plan.settings(out, batch, (*prepared.shape, 1)),
        "batch": batch,
    }
    _compare_settings(out, settings)
    if training_results.is_finished(out):
        print(f"The training in {out} is finished: the model is in {out / 'model'}.")
        return
    variables = _first_variables(model, prepared, parent)
    image_shape = (*prepared.shape, 1)
    with announced("compiling the step of the training", after_s=0):
        step = training_plan.fitting_step(
            model, schedule.optimizer(), variables, image_shape, batch=batch, out=out
        )
    if FLAGS.dry_run:
        images = prepared.task.images_per_element * len(prepared.validation)
        if FLAGS.validation_images:
            images = min(images, FLAGS.validation_images)
        print(
            training_plan.text(
                step, schedule, model, variables, image_shape, validation_images=images
            )
        )
        return
    training_plan.try_step(step, schedule.optimizer(), variables, image_shape)
    # On an accelerator the parts of a new training are as large as fit.
    settings["microbatch"] = step.microbatch
    atomic_write_bytes(out / "settings.json", manifest.encode_json(settings))
    atomic_write_bytes(out / "split.json", prepared.split.to_json())
    images = prepared.description["images"]
    print(f"{task.name}: images of {'x'.join(map(str, prepared.shape))} voxels, {images}")

    def batches(first: int) -> Iterator[pipeline.Examples]:
        return pipeline.training_batches(
            prepared.train,
            prepared.task,
            batch_size=batch,
            seed=FLAGS.seed,
            first_step=first,
            difficulty=schedule.difficulty,
            augmentation=augmentation,
            noise=FLAGS.noise,
        )

    started = time.monotonic()
    result = _fit(out, model, variables, schedule, step, batches, validation)
    report = training_results.write(
        out, task, prepared, parent, model, result, step, seed=FLAGS.seed
    )
    minutes = (time.monotonic() - started) / 60
    print(f"Trained for {result.steps} steps in {minutes:.0f} min; best at {result.best_step}.")
    print(training_results.summary(report, prepared.class_names))
    print(f"The model is in {out / 'model'}; the report beside it in {out / 'report.json'}.")


def _settings(
    task: NamedTask,
    prepared: tasks.Prepared,
    schedule: training.Schedule,
    parent: TrainedModel | None,
    augmentation: Augmentation | None,
) -> dict[str, Any]:
    """What decides the weights, but for how a batch is computed."""
    return {
        "task": task.name,
        **({} if task.sha256 is None else {"task_sha256": task.sha256}),
        "shape": list(prepared.shape),
        "seed": FLAGS.seed,
        "validation_images": FLAGS.validation_images,
        "augment": augmentation and dataclasses.asdict(augmentation),
        **({"noise": FLAGS.noise} if FLAGS.noise else {}),
        "init_sha256": None if parent is None else parent.card["weights_sha256"],
        **dataclasses.asdict(schedule),
        **prepared.description,
        "files_sha256": prepared.files_sha256,
        "split_sha256": hashlib.sha256(repr(prepared.split).encode()).hexdigest(),
    }


def _parent(model: CNN, prepared: tasks.Prepared) -> TrainedModel | None:
    """The model of --init, which has to be of the same kind."""
    if not FLAGS.init:
        return None
    parent = load_model(FLAGS.init)
    if (parent.module, parent.image_shape[:-1]) != (model, prepared.shape):
        raise ValueError(
            f"--init={FLAGS.init}: a network for {parent.image_shape[:-1]} voxels, "
            f"{parent.module}; expected one for {prepared.shape}, {model}."
        )
    sizes = voxel_sizes(parent.affine)
    if not np.allclose(sizes, prepared.voxel_size_mm, rtol=0.01):
        raise ValueError(
            f"--init={FLAGS.init}: trained on voxels of {sizes.round(3).tolist()} mm, the cohort "
            f"has {prepared.voxel_size_mm:.3g} mm: resample the cohort, or start without --init."
        )
    return parent


def _first_variables(
    model: CNN, prepared: tasks.Prepared, parent: TrainedModel | None
) -> dict[str, Any]:
    """Random weights or those of --init, with the statistics of the training images."""
    mean, std = pipeline.intensity_statistics(prepared.train)
    variables = training.initialize(
        model, (*prepared.shape, 1), mean=mean, std=std, seed=FLAGS.seed
    )
    if parent is None:
        return variables
    # What a head says of other classes means nothing for these.
    same_classes = parent.card["class_names"] == list(prepared.class_names)
    own = {} if same_classes else {"logits": variables["params"]["logits"]}
    return {**variables, "params": {**parent.variables["params"], **own}}


def _fit(
    out: Path,
    model: CNN,
    variables: dict[str, Any],
    schedule: training.Schedule,
    step: training.Step,
    batches: Callable[[int], Iterator[pipeline.Examples]],
    validation: Callable[[], Iterator[pipeline.Examples]],
) -> training.Result:
    """Train, and tell of it on the terminal, in files and to TensorBoard."""
    with tensorboard.events(out) as log, Progress(schedule.steps) as progress:

        def on_step(step: int, loss: float) -> None:
            if step > progress.done + 1:
                progress.skip(step - progress.done - 1)
            progress.measured("loss", loss)
            progress.advance(1)
            if math.isfinite(loss):
                log.scalar("loss/step", loss, step=step - 1)

        def on_evaluation(history: list[dict[str, Any]]) -> None:
            last = history[-1]
            progress.write(
                f"step {last['step']}: validation loss {last['loss']:.4f}, balanced accuracy "
                f"{100 * last['balanced_accuracy']:.2f} %"
            )
            atomic_write_bytes(out / "metrics.tsv", tables.encode_rows(history))
            atomic_write_bytes(out / "training.png", plots.training_curves(history))
            for row in history[-2:]:
                for name in ("loss", "balanced_accuracy", "auc"):
                    if row[name] is not None:
                        log.scalar(f"{name}/{row['split']}", row[name], step=row["step"])
            log.flush()

        for index, image in enumerate(_examples(validation)):
            log.image(f"validation/{index}", image, step=0)
        # A signal waits for the end of a step, and for the exact state on the disk.
        with stopping.held():
            try:
                return training.fit(
                    model,
                    variables,
                    schedule,
                    training=batches,
                    validation=validation,
                    directory=out / "checkpoints",
                    update=step,
                    on_step=on_step,
                    on_evaluation=on_evaluation,
                    stop=stopping.requested,
                )
            except training.Interrupted:
                stopping.check()
                raise


def _examples(validation: Callable[[], Iterator[pipeline.Examples]]) -> list[np.ndarray]:
    """Some images for TensorBoard, a volume by its middle axial plane."""
    if not tensorboard.TENSORBOARD.value:
        return []
    return [pixels.picture(image, window=(0.0, 1.0)) for image in next(validation())["image"][:8]]


def _check(
    model: CNN, shape: tuple[int, ...], validation: Callable[[], Iterator[pipeline.Examples]]
) -> None:
    """Try what may not fit together before anything is compiled."""
    try:
        jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((*shape, 1), np.float32))
    except ValueError as error:
        grid = ",".join(map(str, shape))
        raise ValueError(f"--crop={grid} is too small for the network. {error}") from error
    try:
        next(validation())
    except ValueError as error:
        raise ValueError(f"No image to validate with can be made. {error}") from error


def _compare_settings(out: Path, settings: Mapping[str, Any]) -> None:
    """Refuse to go on with a training that was begun with other settings."""
    path = out / "settings.json"
    if path.exists():
        manifest.refuse_mismatch(out, json.loads(path.read_bytes()), settings)


def _lesion_options() -> dict[str, Any]:
    """What the flags say about lesions; what they leave open the task decides."""
    options: dict[str, Any] = {
        "size_mm": tuple(numbers("lesion_size_mm", float, 2)),
        "polarity": FLAGS.lesion_polarity,
    }
    if FLAGS.lesion_count is not None:
        options["count"] = tuple(numbers("lesion_count", int, 2))
    if FLAGS.lesion_contrast is not None:
        options["min_contrast"] = FLAGS.lesion_contrast
    return options


def _or_default(value: float | None, default: float) -> float:
    return default if value is None else value


if __name__ == "__main__":
    start(main)
