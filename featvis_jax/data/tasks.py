"""Tasks on the images of a cohort: what is planted in them, or people to be told by a column."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32

from featvis_jax.data import distractors
from featvis_jax.data.anatomy import AnatomyTask, PlantedAnatomy
from featvis_jax.data.grids import Grid
from featvis_jax.data.lesions import Lesions
from featvis_jax.data.pipeline import Examples
from featvis_jax.data.renamed import current_names
from featvis_jax.data.shapes import SHAPES, Shape

# Soft edges tell less than sharp ones, and a bright round spot in the cortex looks like white
# matter: at the squares' contrast and count, a network learns the dark lesions and stays there.
_DEFAULTS: Mapping[str, Mapping[str, object]] = {
    "gaussian_lesion": {"min_contrast": 0.4, "count": (3, 6), "easy_contrast": (0.4, 0.8)},
    # One, so that no image can be told by its easiest lesion.
    "square_or_disc": {"count": (1, 1)},
    "square_disc_or_neither": {"count": (1, 1)},
}
_LABEL = "label:"

TASKS: Mapping[str, str] = {
    "square_lesion": "slices or volumes with square (cubic) lesions against the same without",
    "gaussian_lesion": "the same with round lesions that have a soft edge",
    "square_or_disc": "one square (cubic) lesion against one disc (ball) of the same area",
    "square_disc_or_neither": "the same, and a third class of images with neither",
    "anatomy": "places that grow or shrink (`grows`, `shrinks`) against the same elsewhere",
    "sex": "participants by the column `sex`; volumes only",
}
"""Tasks by name, each in one line; beside them there is ``label:COLUMN``."""

ANATOMY = "anatomy"
# Tasks that tell squares from discs, and whether images with neither are a class of their own.
_OUTLINE_TASKS = {"square_or_disc": False, "square_disc_or_neither": True}


def label_column(name: str) -> str | None:
    """The column of participants.tsv that a task learns; None for a task of lesions.

    Args:
      name: Of the task.

    Example:
      >>> label_column("label:age"), label_column("sex"), label_column("square_lesion")
      ('age', 'sex', None)
    """
    if name == "sex":
        return name
    return name.removeprefix(_LABEL) if name.startswith(_LABEL) else None


@dataclasses.dataclass(frozen=True)
class TaskSpec:
    """What is to be learned, before there is a cohort.

    Attributes:
      name: One of `TASKS`, ``label:COLUMN``, or any name for lesions of a shape of your own.
      shape: That shape (`featvis_jax.data.shapes.Shape`).
      lesion_options: Options of `featvis_jax.data.lesions.Lesions`.
      distractor_count: Fewest and most lesions of other shapes that images of both classes have.
      shuffle_labels: Whether all meaning is taken from the labels, for a control.
      planted: What grows or shrinks, for the task `ANATOMY`.
    """

    name: str
    shape: Shape | None = None
    lesion_options: Mapping[str, object] = dataclasses.field(default_factory=dict)
    distractor_count: tuple[int, int] = (0, 0)
    shuffle_labels: bool = False
    planted: PlantedAnatomy | None = None

    @property
    def column(self) -> str | None:
        """The column of participants.tsv that tells what is learned; None for lesions."""
        return None if self.shape is not None else label_column(self.name)

    def check(self, rank: int) -> None:
        """Refuse what does not exist or does not go together.

        Args:
          rank: 2 for axial slices, 3 for volumes.

        Raises:
          ValueError: It does not, with what would.
        """
        name, count = self.name, self.distractor_count
        if rank not in (2, 3):
            raise ValueError(f"rank is {rank}; expected 2 (axial slices) or 3 (volumes).")
        if self.shape is None and self.column is None and name not in TASKS:
            raise ValueError(
                f"There is no task {name!r}; expected one of {', '.join(TASKS)} or {_LABEL}COLUMN."
            )
        if (name == ANATOMY) != (self.planted is not None):
            raise ValueError(
                f"The task is {name!r} with planted={self.planted}: {ANATOMY!r} needs something "
                "planted, and no other task does."
            )
        if self.column is not None and rank != 3:
            raise ValueError(f"The task {name!r} takes whole volumes: use 3 dimensions.")
        if self.column is not None and self.shuffle_labels:
            raise ValueError(
                f"Only labels of what is planted can be shuffled, and the task is {name!r}."
            )
        if not 0 <= count[0] <= count[1]:
            raise ValueError(f"distractor_count is {count}; expected 0 <= fewest <= most.")
        if count[1] and (self.column is not None or name == ANATOMY):
            raise ValueError(f"The task {name!r} takes no distractors: only tasks of lesions do.")

    def on(
        self, grid: Grid, *, voxel_size_mm: float
    ) -> tuple[PlantedTask | ShuffledTask, dict[str, object]]:
        """The task of what is planted on a grid, and what a model card tells of it.

        Args:
          grid: Of the images.
          voxel_size_mm: Of the grid.

        Raises:
          ValueError: An option of the lesions is wrong, or a place is not on the grid.
        """
        rank = len(grid.shape)
        if self.planted is not None:
            task, told = AnatomyTask(self.planted, grid), _describe_anatomy(self.planted, rank)
        else:
            task, told = self._lesions(rank, voxel_size_mm)
        if self.shuffle_labels:
            return ShuffledTask(task), {**told, "labels": "shuffled"}
        return task, told

    def _lesions(
        self, rank: int, voxel_size_mm: float
    ) -> tuple[LesionTask | OutlineTask, dict[str, object]]:
        options = {"voxel_size_mm": voxel_size_mm, **self.lesion_options}
        task = lesion_task(self.name, options, shape=self.shape)
        told: dict[str, object] = {"lesions": _describe(task)}
        if self.distractor_count[1]:
            task = _with_distractors(task, self.distractor_count, rank)
            told["distractors"] = list(self.distractor_count)
        return task, told


@dataclasses.dataclass(frozen=True)
class LesionTask:
    """Tell images with lesions from the same images without.

    Every image of the source gives a pair: as it is, and with lesions. Half of all images are thus
    lesioned, and what differs within a pair is the lesion and nothing else, which takes the
    variance of the anatomy out of each training step.

    Without distractors a network only has to tell lesions from brains, and need not know their
    shape: a bar may drive it harder than the squares that it was trained on.

    Attributes:
      lesions: How lesions are drawn.
      distractors: Other shapes that images of both classes have, drawn as the lesions are.
      distractor_count: Fewest and most of them in an image.
    """

    lesions: Lesions
    distractors: tuple[Shape, ...] = ()
    distractor_count: tuple[int, int] = (0, 0)
    class_names = ("clean", "lesion")
    images_per_element = 2

    def examples(
        self,
        image: Float32[np.ndarray, "*spatial 1"],
        owner: str,
        rng: np.random.Generator,
        difficulty: float,
    ) -> Examples:
        """The pair made from one image."""
        del owner
        others = self.distractors, self.distractor_count, self.lesions
        image = distractors.add(*others, image, rng, difficulty=difficulty)
        damaged, _ = self.lesions.add(image, rng, difficulty=difficulty)
        return {"image": np.stack([image, damaged]), "label": np.array([0, 1], np.int32)}

    def check_room(
        self, image: Float32[np.ndarray, "*spatial 1"], rng: np.random.Generator
    ) -> None:
        """As `featvis_jax.data.lesions.Lesions.check_room`."""
        self.lesions.check_room(image, rng)


@dataclasses.dataclass(frozen=True)
class OutlineTask:
    """Tell lesions of one shape from lesions of another.

    Every image of the source gives a pair: the same lesions at the same places with the same grey
    levels, drawn in one shape and in the other. Nothing else tells the classes apart, but without
    distractors a part of an outline is enough: a corner.

    Of two classes a network need know only one: whatever is no square is a disc, an empty image,
    too. Against images with neither, it has to know both.

    Attributes:
      lesions: How lesions are drawn; its own shape is not used.
      shapes: The two shapes, named as the classes are.
      neither: Whether the image without either is a third class.
      distractors: Other shapes that all images of a pair have, drawn as the lesions are.
      distractor_count: Fewest and most of them in an image.
    """

    lesions: Lesions
    shapes: tuple[Shape, Shape]
    neither: bool = False
    distractors: tuple[Shape, ...] = ()
    distractor_count: tuple[int, int] = (0, 0)

    @property
    def images_per_element(self) -> int:
        """One for each class."""
        return len(self.class_names)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the two shapes, and ``"neither"``."""
        names = tuple(map(_name, self.shapes))
        return (*names, "neither") if self.neither else names

    def examples(
        self,
        image: Float32[np.ndarray, "*spatial 1"],
        owner: str,
        rng: np.random.Generator,
        difficulty: float,
    ) -> Examples:
        """The images made from one, one of each class."""
        del owner
        others = self.distractors, self.distractor_count, self.lesions
        image = distractors.add(*others, image, rng, difficulty=difficulty)
        drawn = self.lesions.add_each(self.shapes, image, rng, difficulty=difficulty)
        images = [damaged for damaged, _ in drawn]
        if self.neither:
            images.append(image)
        return {"image": np.stack(images), "label": np.arange(len(images), dtype=np.int32)}

    def check_room(
        self, image: Float32[np.ndarray, "*spatial 1"], rng: np.random.Generator
    ) -> None:
        """As `featvis_jax.data.lesions.Lesions.check_room`."""
        self.lesions.check_room(image, rng)


PlantedTask = LesionTask | OutlineTask | AnatomyTask
"""Something is planted in every image, and makes a pair of it."""


@dataclasses.dataclass(frozen=True)
class ShuffledTask:
    """A task whose labels say nothing: those of every element are shuffled.

    A network trained on it sees the same images as one trained on the task itself, and what its
    pictures show comes from the images and the architecture, not from the labels (Adebayo et al.,
    Sanity checks for saliency maps, 2018).

    Attributes:
      task: The task; it gives every class for every element.
    """

    task: PlantedTask

    @property
    def images_per_element(self) -> int:
        """As many as of the task."""
        return self.task.images_per_element

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names that the labels would have had."""
        return self.task.class_names

    def examples(
        self,
        image: Float32[np.ndarray, "*spatial 1"],
        owner: str,
        rng: np.random.Generator,
        difficulty: float,
    ) -> Examples:
        """The task's examples with their labels in random order."""
        made = self.task.examples(image, owner, rng, difficulty)
        return {"image": made["image"], "label": rng.permutation(made["label"])}

    def check_room(
        self, image: Float32[np.ndarray, "*spatial 1"], rng: np.random.Generator
    ) -> None:
        """As the task's."""
        self.task.check_room(image, rng)


def _with_distractors(
    task: LesionTask | OutlineTask, count: tuple[int, int], rank: int
) -> LesionTask | OutlineTask:
    shapes = distractors.of_shapes(_shapes(task), rank)
    return dataclasses.replace(task, distractors=shapes, distractor_count=count)


def _shapes(task: LesionTask | OutlineTask) -> tuple[Shape, ...]:
    """The shapes that a task is about."""
    return task.shapes if isinstance(task, OutlineTask) else (task.lesions.shape,)


def lesion_task(
    name: str, options: Mapping[str, Any], *, shape: Shape | None = None
) -> LesionTask | OutlineTask:
    """The task of a name, or of a shape of the user's own, without distractors.

    Args:
      name: One of `TASKS` that is about lesions; any, where `shape` is given.
      options: Of `featvis_jax.data.lesions.Lesions`; what is left out is as the task has it.
      shape: The user's own.

    Raises:
      ValueError: An option is wrong.

    Example:
      >>> lesion_task("square_disc_or_neither", {"voxel_size_mm": 2.0}).class_names
      ('disc', 'square', 'neither')
    """
    if shape is None:
        options = {**_DEFAULTS.get(name, {}), **options}
    drawn = Lesions(shape or SHAPES[name.split("_")[0]], **options)
    if shape is None and name in _OUTLINE_TASKS:
        return OutlineTask(drawn, (SHAPES["disc"], SHAPES["square"]), neither=_OUTLINE_TASKS[name])
    return LesionTask(drawn)


def described_task(
    name: str, description: Mapping[str, Any], *, rank: int, shape: Shape | None = None
) -> LesionTask | OutlineTask | None:
    """The lesion task that a model was trained on, from what its card tells.

    Args:
      name: Of the task, the card's entry ``task``.
      description: `Prepared.description`, the card's entry ``data``.
      rank: 2 for slices, 3 for volumes.
      shape: The user's own, where the task is not one of `TASKS`.

    Returns:
      The task, whose lesions are drawn as they were in training; ``None`` where there are none, or
      they have a shape that is not given.

    Example:
      >>> square = lesion_task("square_lesion", {"voxel_size_mm": 2.0, "count": (1, 2)})
      >>> told = {"lesions": _describe(square)}
      >>> described_task("square_lesion", told, rank=2) == square
      True
    """
    drawn = description.get("lesions")
    if not drawn or (shape is None and name not in TASKS):
        return None
    options: dict[str, Any] = {
        option: tuple(value) if isinstance(value, list) else value
        for option, value in drawn.items()
        if option != "shape"
    }
    task = lesion_task(name, options, shape=shape)
    count = current_names(description).get("distractors")
    return _with_distractors(task, (count[0], count[1]), rank) if count else task


def _describe(task: LesionTask | OutlineTask) -> dict[str, object]:
    """How a task's lesions are drawn, for the model card."""
    drawn = dataclasses.asdict(task.lesions)
    if not task.lesions.whole:
        del drawn["whole"]  # As cards of whole brains always were.
    return {
        **drawn,
        "shape": " or ".join(_name(shape) for shape in _shapes(task)),
    }


def _describe_anatomy(planted: PlantedAnatomy, rank: int) -> dict[str, object]:
    """What is planted, for the model card, and at which heights slices were looked at."""
    told: dict[str, object] = {
        "planted": {**dataclasses.asdict(planted), "change": planted.usual_change}
    }
    if rank == 2 and planted.slices_mm is not None:
        told["slices_mm"] = planted.slices_mm
    return told


def _name(shape: Shape) -> str:
    return str(getattr(shape, "__name__", repr(shape)))
