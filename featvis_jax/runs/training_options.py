"""The options of a training, each with its help."""

from __future__ import annotations

import dataclasses
from typing import Any

from featvis_jax import training
from featvis_jax.data.tasks import label_column
from featvis_jax.nn.cnn import HEADS
from featvis_jax.options import Options, option
from featvis_jax.runs.cohorts import CohortOptions
from featvis_jax.runs.planting import PlantingOptions
from featvis_jax.runs.precision import PrecisionOptions
from featvis_jax.runs.tasks import TASK_HELP
from featvis_jax.runs.tensorboard import TensorboardOptions

_LARGEST_SEED = 2**32 - 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskOptions(Options):
    """The task."""

    task: str = option("square_lesion", f"What to learn: {TASK_HELP}")
    dims: str | int | None = option(
        None,
        "2 for slices, 3 for volumes; by default 2, and 3 for sex and label:COLUMN.",
        choices=("2", "3"),
    )
    crop: tuple[int, ...] | None = option(None, "Size of an image in voxels, such as 140,192.")
    patch: tuple[int, ...] | None = option(
        None,
        "Size in voxels of patches from anywhere in the brain, such as 48,48,48, to train on "
        "instead of whole slices or volumes: a random one in every step, and fixed ones, spread "
        "over each brain, to validate and to test with.",
    )
    shuffle_labels: bool = option(
        False, "Shuffle the labels, so that they mean nothing: a control for pictures."
    )
    lesion_count: tuple[int, int] | None = option(
        None, "Fewest and most lesions per image; by default 1,5, and 3,6 for soft edges."
    )
    distractors: tuple[int, int] = option(
        (0, 0),
        "Fewest and most lesions of other shapes in images of both classes, such as 0,3: squares, "
        "discs and bars, in volumes also plates, ellipsoids and the shape without a quarter, and "
        "to tell squares from discs the boxes among them and both without a quarter. Without any, "
        "a network can succeed without knowing the shape of a lesion.",
    )
    lesion_size_mm: tuple[float, float] = option(
        (9.0, 17.0), "Smallest and largest size of a lesion, in mm."
    )
    lesion_contrast: float | None = option(
        None,
        "Smallest difference between a lesion and the tissue under it; by default 0.3, and 0.4 for "
        "soft edges.",
    )
    lesion_polarity: str = option(
        "both",
        "Whether lesions are brighter or darker than the tissue.",
        choices=("both", "bright", "dark"),
    )

    @property
    def rank(self) -> int:
        """Number of dimensions of an image.

        Raises:
          ValueError: It is neither 2 nor 3.
        """
        if self.dims is None:
            return 2 if label_column(self.task) is None else 3
        if str(self.dims) not in ("2", "3"):
            raise ValueError(f"`dims={self.dims}`: expected 2 or 3.")
        return int(self.dims)

    @property
    def lesion_options(self) -> dict[str, Any]:
        """What is said about lesions; what is left open the task decides."""
        told: dict[str, Any] = {"size_mm": self.lesion_size_mm, "polarity": self.lesion_polarity}
        if self.lesion_count is not None:
            told["count"] = self.lesion_count
        if self.lesion_contrast is not None:
            told["min_contrast"] = self.lesion_contrast
        return told


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduleOptions(Options):
    """The training schedule."""

    steps: int = option(2000, "Largest number of training steps.", least=1)
    batch: int | None = option(
        None, "Images per step; by default about 32 for slices and 8 for volumes.", least=1
    )
    learning_rate: float | None = option(
        None, "Learning rate of Adam; by default 1e-3 for slices and 3e-4 for volumes.", least=0.0
    )
    weight_decay: float = option(1e-4, "L2 penalty, added to the gradient.", least=0.0)
    decay: str = option("cosine", "Schedule of the learning rate.", choices=("cosine", "constant"))
    evaluate_every: int = option(100, "Steps between evaluations.", least=1)
    validation_images: int = option(
        1024, "Largest number of images per evaluation; 0 for all.", least=0
    )
    patience: int = option(7, "Evaluations without improvement before the training stops.", least=1)
    curriculum: int = option(
        600, "Steps over which what is planted becomes harder; 0 for hard from the start.", least=0
    )
    microbatch: int | None = option(
        None,
        "Images whose gradient a device computes at once; the gradient of a batch is summed over "
        "such parts. By default a few on a CPU, and on a GPU its share of the batch if that fits.",
        least=1,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainOptions(
    TaskOptions,
    PlantingOptions,
    ScheduleOptions,
    CohortOptions,
    PrecisionOptions,
    TensorboardOptions,
):
    """The training."""

    out: str | None = option(None, "Directory for the model, its report and checkpoints.")
    head: str = option(
        "flatten",
        "What the linear layer sees: every feature at its place, as in the paper, or for lesions "
        "that mean the same wherever they are, each channel's mean or its maximum over all places; "
        "or every place by itself, and the strongest logits count.",
        choices=HEADS,
    )
    init: str | None = option(
        None,
        "Trained model to start from, a directory or a zoo name; if its classes differ, all its "
        "weights but those of the linear head are used.",
    )
    seed: int = option(
        0, "Seed of the split, the weights, the order and the lesions.", least=0, most=_LARGEST_SEED
    )
    split_seed: int | None = option(
        None,
        "Seed of the split, instead of `seed`, for trainings that hold out the same people.",
        least=0,
        most=_LARGEST_SEED,
    )
    augment: bool = option(
        True, "Mirror and shift the training images, and vary their intensities."
    )
    noise: float = option(
        0.0,
        "Largest standard deviation of the noise added to training and validation images, which "
        "are in [0, 1]; the report is on images without.",
        least=0.0,
    )

    def schedule(self) -> training.Schedule:
        """How long and how fast.

        Raises:
          ValueError: A number is none that a training takes.
        """
        rate = 1e-3 if self.rank == 2 else 3e-4
        return training.Schedule(
            steps=self.steps,
            learning_rate=rate if self.learning_rate is None else self.learning_rate,
            weight_decay=self.weight_decay,
            decay=self.decay,
            evaluate_every=self.evaluate_every,
            patience=self.patience,
            hard_after=self.curriculum if label_column(self.task) is None else 0,
        )
