"""A training before it begins: its options, checked against a cohort and each other."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from nibabel.affines import voxel_sizes

from featvis_jax import training
from featvis_jax.checkpoints import TrainedModel, load_model
from featvis_jax.data import pipeline, sources
from featvis_jax.data.augmentation import Augmentation
from featvis_jax.data.cohorts import named
from featvis_jax.data.labels import ValueTask
from featvis_jax.data.preparation import Prepared, prepare
from featvis_jax.data.tasks import TaskSpec
from featvis_jax.nn.cnn import CNN
from featvis_jax.options import shown_value, tell
from featvis_jax.progress import callback
from featvis_jax.runs.cohorts import cohort_of, cohort_volumes_directory
from featvis_jax.runs.planting import planted
from featvis_jax.runs.tasks import NamedTask, named_task
from featvis_jax.runs.training_options import TrainOptions


class Job(NamedTuple):
    """A training that was checked and can begin.

    Attributes:
      options: What was asked for.
      task: What is learned.
      schedule: How long and how fast.
      prepared: The task on the cohort.
      module: The network.
      parent: The model that it starts from, if there is one.
    """

    options: TrainOptions
    task: NamedTask
    schedule: training.Schedule
    prepared: Prepared
    module: CNN
    parent: TrainedModel | None = None

    @property
    def image_shape(self) -> tuple[int, ...]:
        """``(*spatial, 1)``."""
        return (*self.prepared.shape, 1)

    @property
    def estimates(self) -> bool:
        """Whether a number is estimated, and no classes are told apart."""
        return isinstance(self.prepared.task, ValueTask)

    @property
    def augmentation(self) -> Augmentation | None:
        """What is done to the training images."""
        if not self.options.augment:
            return None
        usual = Augmentation(self.prepared.voxel_size_mm)
        # A patch lies anywhere as it is; shifted, it would get a black border.
        return usual if self.options.patch is None else dataclasses.replace(usual, max_shift_mm=0.0)

    @property
    def batch_size(self) -> int:
        """Images per step; by default, of a scan all that are made of it."""
        usual, each = 32 if self.options.rank == 2 else 8, self.prepared.task.images_per_element
        return self.options.batch or each * math.ceil(usual / each)

    @property
    def validation_images(self) -> int:
        """Images of each evaluation."""
        images = self.prepared.task.images_per_element * len(self.prepared.validation)
        most = self.options.validation_images
        return min(images, most) if most else images

    def training(self, first: int) -> Iterator[pipeline.Examples]:
        """The batches from a step on."""
        return pipeline.training_batches(
            self.prepared.train,
            self.prepared.task,
            batch_size=self.batch_size,
            seed=self.options.seed,
            first_step=first,
            difficulty=self.schedule.difficulty,
            augmentation=self.augmentation,
            noise=self.options.noise,
        )

    def validation(self) -> Iterator[pipeline.Examples]:
        """The batches of an evaluation, through the noise of the training.

        On clean images the best weights would be those from before a training through noise had
        taught anything.
        """
        return self.images(
            self.prepared.validation,
            max_images=self.options.validation_images or None,
            noise=self.options.noise,
        )

    def images(
        self, source: sources.Source, *, max_images: int | None = None, noise: float = 0.0
    ) -> Iterator[pipeline.Examples]:
        """Labelled images of a part of the cohort, each once.

        Args:
          source: The part.
          max_images: At most this many, spread evenly.
          noise: Largest standard deviation of the noise that they are seen through.
        """
        return pipeline.evaluation_batches(
            source,
            self.prepared.task,
            batch_size=self.batch_size,
            seed=self.options.seed,
            max_images=max_images,
            noise=noise,
        )

    def settings(self) -> dict[str, Any]:
        """What decides the weights, but for how a batch is computed."""
        options, task = self.options, self.task
        split = repr(self.prepared.split)
        return {
            "task": task.name,
            **({} if task.sha256 is None else {"task_sha256": task.sha256}),
            "shape": list(self.prepared.shape),
            "seed": options.seed,
            "validation_images": options.validation_images,
            "augment": self.augmentation and dataclasses.asdict(self.augmentation),
            **({"noise": options.noise} if options.noise else {}),
            **({"precision": options.precision} if options.precision else {}),
            **({"head": options.head} if options.head != "flatten" else {}),
            "init_sha256": None if self.parent is None else self.parent.card["weights_sha256"],
            **dataclasses.asdict(self.schedule),
            **self.prepared.description,
            "files_sha256": self.prepared.files_sha256,
            "split_sha256": hashlib.sha256(split.encode()).hexdigest(),
        }

    def first_variables(self) -> dict[str, Any]:
        """Random weights or those of the parent, with the statistics of the training images."""
        mean, std = sources.intensity_statistics(self.prepared.train)
        variables = training.initialize(
            self.module, self.image_shape, mean=mean, std=std, seed=self.options.seed
        )
        if self.parent is None:
            return variables
        # What a head says of other classes means nothing for these.
        same_classes = self.parent.card["class_names"] == list(self.prepared.class_names)
        own = {} if same_classes else {"logits": variables["params"]["logits"]}
        return {**variables, "params": {**self.parent.variables["params"], **own}}


def job(options: TrainOptions) -> Job:
    """Check a training, and read its cohort, before anything is compiled.

    Args:
      options: What to do.

    Raises:
      FileNotFoundError: A file that an option names is not there.
      ValueError: The options contradict each other, or do not fit the cohort.
    """
    task, schedule = named_task(options.task), options.schedule()
    anatomy = planted(task.name, options, seed=options.seed)
    cohort = cohort_of(options)
    with callback("reading scans", unit="scan") as on_scans:
        prepared = prepare(
            TaskSpec(
                task.name,
                task.shape,
                lesion_options=options.lesion_options,
                distractor_count=options.distractors,
                shuffle_labels=options.shuffle_labels,
                planted=anatomy,
            ),
            cohort,
            rank=options.rank,
            cache=cohort_volumes_directory(cohort, options),
            crop=options.crop,
            patch=options.patch,
            seed=options.seed if options.split_seed is None else options.split_seed,
            progress=on_scans,
        )
    if prepared.left_out:
        tell(
            f"`task={options.task}`: {len(prepared.left_out)} of {len(cohort.subjects)} people "
            f"have no value in {cohort.table} and are left out: {named(prepared.left_out)}"
        )
    module = CNN(rank=options.rank, num_classes=len(prepared.class_names), head=options.head)
    found = Job(options, task, schedule, prepared, module)
    _check(found)
    return found._replace(parent=_parent(found))


def _check(job: Job) -> None:
    """Try what may not fit together before anything is compiled."""
    if job.batch_size % (each := job.prepared.task.images_per_element):
        raise ValueError(
            f"`batch={job.batch_size}`: the task {job.task.name!r} makes {each} images of each of "
            f"the cohort's: give a multiple of {each}."
        )
    try:
        image = jax.ShapeDtypeStruct(job.image_shape, np.float32)
        jax.eval_shape(job.module.init, jax.random.key(0), image)
    except ValueError as error:
        shape = shown_value(job.prepared.shape)
        name = "crop" if job.options.patch is None else "patch"
        raise ValueError(f"`{name}={shape}` is too small for the network. {error}") from error
    try:
        next(job.validation())
    except ValueError as error:
        raise ValueError(f"No image can be made to validate with. {error}") from error


def _parent(job: Job) -> TrainedModel | None:
    """The model to start from, which has to be of the same kind."""
    init, shape = job.options.init, job.prepared.shape
    if not init:
        return None
    parent = load_model(init)
    # Another number of classes takes another head, which is not taken over anyhow; all heads but
    # the flattened one have the same weights.
    same = parent.module.clone(num_classes=job.module.num_classes)
    if "flatten" not in (same.head, job.module.head):
        same = same.clone(head=job.module.head)
    if (same, parent.image_shape[:-1]) != (job.module, shape):
        raise ValueError(
            f"`init={init}`: a network for {parent.image_shape[:-1]} voxels, {parent.module}; "
            f"expected one for {shape}, {job.module}."
        )
    sizes = voxel_sizes(parent.affine)
    if not np.allclose(sizes, job.prepared.voxel_size_mm, rtol=0.01):
        raise ValueError(
            f"`init={init}`: trained on voxels of {sizes.round(3).tolist()} mm, the cohort has "
            f"{job.prepared.voxel_size_mm:.3g} mm: resample the cohort, or leave `init` out."
        )
    return parent
