"""Classification tasks on a cohort, and everything that has to be settled before training one."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64
from nibabel.affines import voxel_sizes

from featvis_jax.data import lesions, pipeline
from featvis_jax.data.cache import cache_volumes, checksums
from featvis_jax.data.cohorts import Cohort
from featvis_jax.data.crops import centred_start, crop_affine
from featvis_jax.data.errors import CohortError
from featvis_jax.data.grids import Grid
from featvis_jax.data.lesions import SHAPES, Lesions, NoRoomError, Shape
from featvis_jax.data.participants import same_labels
from featvis_jax.data.pipeline import Examples, Source, Task
from featvis_jax.data.splits import Split, split_subjects

# Soft edges tell less than sharp ones, and a bright round spot in the cortex looks like white
# matter: at the squares' contrast and count, a network learns the dark lesions and stays there.
_DEFAULTS: Mapping[str, Mapping[str, object]] = {
    "gaussian_lesion": {"min_contrast": 0.4, "count": (3, 6), "easy_contrast": (0.4, 0.8)},
    # One, so that no image can be told by its easiest lesion.
    "square_or_disc": {"count": (1, 1)},
}

_MAX_WORKERS = 8
_FIRST_CHECKED = 8

# The paper's slices of 140 x 192 voxels, on a grid of 1 mm.
_SLICE_MM = (140.0, 192.0)


@dataclasses.dataclass(frozen=True)
class LesionTask:
    """Tell images with lesions from the same images without.

    Every image of the source gives a pair: as it is, and with lesions. Half of all images are thus
    lesioned, and what differs within a pair is the lesion and nothing else, which takes the
    variance of the anatomy out of each training step.

    Without decoys nothing but brains has to be told from lesions, and a network need not know their
    shape: a bar may drive it harder than the squares that it was trained on.

    Attributes:
      lesions: How lesions are drawn.
      decoys: Other shapes that images of both classes have, drawn as the lesions are.
      decoy_count: Fewest and most of them in an image.
    """

    lesions: Lesions
    decoys: tuple[Shape, ...] = ()
    decoy_count: tuple[int, int] = (0, 0)
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
        if self.decoys:
            for _ in range(rng.integers(self.decoy_count[0], self.decoy_count[1] + 1)):
                shape = self.decoys[rng.integers(len(self.decoys))]
                one = dataclasses.replace(self.lesions, shape=shape, count=(1, 1))
                image, _ = one.add(image, rng, difficulty=difficulty)
        damaged, _ = self.lesions.add(image, rng, difficulty=difficulty)
        return {"image": np.stack([image, damaged]), "label": np.array([0, 1], np.int32)}


@dataclasses.dataclass(frozen=True)
class OutlineTask:
    """Tell lesions of one shape from lesions of another.

    Every image of the source gives a pair: the same lesions at the same places with the same grey
    levels, drawn in one shape and in the other. Nothing else tells the classes apart.

    Attributes:
      lesions: How lesions are drawn; its own shape is not used.
      shapes: The two shapes, named as the classes are.
    """

    lesions: Lesions
    shapes: tuple[Shape, Shape]
    images_per_element = 2

    @property
    def class_names(self) -> tuple[str, str]:
        """Names of the two shapes."""
        return _name(self.shapes[0]), _name(self.shapes[1])

    def examples(
        self,
        image: Float32[np.ndarray, "*spatial 1"],
        owner: str,
        rng: np.random.Generator,
        difficulty: float,
    ) -> Examples:
        """The pair made from one image."""
        del owner
        drawn = self.lesions.add_each(self.shapes, image, rng, difficulty=difficulty)
        images = np.stack([damaged for damaged, _ in drawn])
        return {"image": images, "label": np.array([0, 1], np.int32)}


@dataclasses.dataclass(frozen=True)
class ShuffledTask:
    """A task whose labels say nothing: those of every element are shuffled.

    A network trained on it sees the same images as one trained on the task itself, and what its
    pictures show comes from the images and the architecture, not from the labels (Adebayo et al.,
    Sanity checks for saliency maps, 2018).

    Attributes:
      task: The task; it gives both classes for every element.
    """

    task: LesionTask | OutlineTask
    images_per_element = 2

    @property
    def class_names(self) -> tuple[str, str]:
        """The names that the labels would have had."""
        return self.task.class_names

    @property
    def lesions(self) -> Lesions:
        """How the task's lesions are drawn."""
        return self.task.lesions

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


@dataclasses.dataclass(frozen=True)
class LabelTask:
    """Tell participants apart by a column of participants.tsv, sex for example.

    Attributes:
      class_by_participant: Class number of every participant.
      class_names: Name of every class, in order.
    """

    class_by_participant: Mapping[str, int]
    class_names: tuple[str, ...]
    images_per_element = 1

    def examples(
        self,
        image: Float32[np.ndarray, "*spatial 1"],
        owner: str,
        rng: np.random.Generator,
        difficulty: float,
    ) -> Examples:
        """One image with its participant's class."""
        del rng, difficulty
        label = self.class_by_participant[owner]
        return {"image": image[None], "label": np.array([label], np.int32)}


def label_task(labels: Mapping[str, str]) -> LabelTask:
    """A task from each participant's value in a column; classes are the sorted values.

    Args:
      labels: Value of every participant.

    Raises:
      ValueError: There are fewer than two values, or two spellings of one.
    """
    if spellings := same_labels(labels.values()):
        raise ValueError(f"The labels have one value in several spellings: {spellings}.")
    names = tuple(sorted(set(labels.values())))
    if len(names) < 2:
        raise ValueError(
            f"The labels have {len(names)} class(es): {names}. Two or more are needed to classify."
        )
    return LabelTask({who: names.index(value) for who, value in labels.items()}, names)


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """A task on a cohort, ready to train.

    Attributes:
      task: Makes labelled examples.
      class_names: Name of every class.
      split: Who is in which part.
      train: Images to train on.
      validation: Images to stop by.
      test: Images of held-out subjects, for the report.
      shape: Spatial shape of an image.
      affine: Its grid, voxel indices to mm. A slice is put in the cohort's middle axial plane.
      description: All of this in words and numbers, for the model card.
      files_sha256: Checksum of the cohort's table and of every scan, by their paths.
      used_scans: Beginnings of the checksums of all scans but those of held-out subjects.
    """

    task: Task
    class_names: tuple[str, ...]
    split: Split
    train: Source
    validation: Source
    test: Source
    shape: tuple[int, ...]
    affine: Float64[np.ndarray, "4 4"]
    description: dict[str, object]
    files_sha256: dict[str, str]
    used_scans: tuple[str, ...]

    @property
    def voxel_size_mm(self) -> float:
        """Distance between neighbouring voxels, the same along every axis."""
        return float(voxel_sizes(self.affine)[0])


TASKS: Mapping[str, str] = {
    "square_lesion": "slices or volumes with square (cubic) lesions against the same without",
    "gaussian_lesion": "the same with round lesions that have a soft edge",
    "square_or_disc": "one square (cubic) lesion against one disc (ball) of the same area",
    "sex": "participants by the column `sex`; volumes only",
}
"""Tasks by name, each in one line."""


def prepare(
    name: str,
    cohort: Cohort,
    *,
    rank: int,
    cache: Path,
    crop: Sequence[int] | None = None,
    grid: Grid | None = None,
    seed: int = 0,
    shape: Shape | None = None,
    shuffle_labels: bool = False,
    lesion_options: Mapping[str, object] | None = None,
    decoy_count: tuple[int, int] = (0, 0),
    progress: Callable[[int, int], None] | None = None,
) -> Prepared:
    """Settle a task: split the subjects, cache their volumes, choose the grid.

    Args:
      name: One of `TASKS`, or any name for a lesion task with a shape of your own.
      cohort: The subjects.
      rank: 2 for axial slices, 3 for volumes.
      cache: Directory for the cached volumes.
      crop: Spatial shape of an image in voxels. By default the paper's 140 x 192 mm for slices, and
        the whole volume in 3-D. Cut from the centre.
      grid: Of the images of a network that is there already; they are cut where it lies.
      seed: Fixes the split.
      shape: Your own lesion shape (`featvis_jax.data.lesions.Shape`).
      shuffle_labels: Take all meaning from the labels, for a control.
      lesion_options: Options of `featvis_jax.data.lesions.Lesions`.
      decoy_count: Fewest and most lesions of other shapes that images of both classes have.
      progress: Called with (scans cached, scans in all) after each.

    Raises:
      ValueError: The task, the rank, the crop or the grid does not exist or does not fit, or it
        takes no decoys.
      CohortError: The cohort cannot be split, or has volumes that cannot be read, or images that
        have no room for a lesion; all of them are named.
    """
    _refuse(name, rank, shape, shuffle_labels, decoy_count)
    voxel_size_mm = _isotropic_voxel_size(cohort)
    crop = _crop(crop if grid is None else grid.shape, cohort, rank, voxel_size_mm)
    split = split_subjects(cohort, label="sex" if name == "sex" else None, seed=seed)
    details: dict[str, object] = {}
    task: LesionTask | OutlineTask | ShuffledTask | LabelTask
    if name == "sex":
        task = label_task({s.participant_id: s.labels["sex"] for s in cohort.subjects})
    else:
        task = _lesion_task(name, shape, voxel_size_mm, lesion_options or {})
        details["lesions"] = _describe(task)
        if isinstance(task, LesionTask) and decoy_count[1]:
            task, details["decoys"] = _with_decoys(task, decoy_count, rank), list(decoy_count)
        if shuffle_labels:
            task, details["labels"] = ShuffledTask(task), "shuffled"
    cached = cache_volumes(cohort.subjects, cache, progress=progress)
    placement = None if grid is None else pipeline.cohort_placement(cohort, grid)
    start = centred_start(cohort.shape, crop)
    affine = crop_affine(cohort.affine, start if rank == 3 else (*start, cohort.shape[2] // 2))
    if grid is not None and grid.affine is not None:
        affine = grid.affine
    parts = {
        part: pipeline.source(
            [cached[participant_id] for participant_id in getattr(split, part)],
            crop,
            placement=placement,
        )
        for part in ("train", "validation", "test")
    }
    if not isinstance(task, LabelTask):
        _check_room(task.lesions, cohort, parts.values())
    return Prepared(
        task=task,
        class_names=task.class_names,
        split=split,
        shape=crop,
        affine=affine,
        description={
            "cohort": cohort.name,
            "subjects": {part: len(getattr(split, part)) for part in parts},
            "images": {part: len(images) for part, images in parts.items()},
            **details,
        },
        files_sha256=checksums(cohort, cached),
        used_scans=tuple(cached[who].scan_id for who in (*split.train, *split.validation)),
        **parts,
    )


def _refuse(
    name: str,
    rank: int,
    shape: Shape | None,
    shuffle_labels: bool,
    decoy_count: tuple[int, int],
) -> None:
    """Refuse what does not exist or does not go together."""
    if rank not in (2, 3):
        raise ValueError(f"rank is {rank}; expected 2 (axial slices) or 3 (volumes).")
    if shape is None and name not in TASKS:
        raise ValueError(f"There is no task {name!r}; expected one of {', '.join(TASKS)}.")
    if name == "sex" and rank != 3:
        raise ValueError("The task 'sex' classifies whole volumes: use 3 dimensions.")
    if name == "sex" and shuffle_labels:
        raise ValueError("Only labels of lesion tasks can be shuffled, and the task is 'sex'.")
    if not 0 <= decoy_count[0] <= decoy_count[1]:
        raise ValueError(f"decoy_count is {decoy_count}; expected 0 <= fewest <= most.")
    if decoy_count[1] and shape is None and name in ("sex", "square_or_disc"):
        raise ValueError(f"The task {name!r} takes no decoys: only tasks of one shape do.")


def _crop(
    crop: Sequence[int] | None, cohort: Cohort, rank: int, voxel_size_mm: float
) -> tuple[int, ...]:
    """The spatial shape of an image, by default as the paper has it."""
    if crop is None:
        crop = cohort.shape
        if rank == 2:
            crop = [
                min(n, round(mm / voxel_size_mm)) for n, mm in zip(crop[:2], _SLICE_MM, strict=True)
            ]
    if len(crop) != rank or min(crop) < 1:
        raise ValueError(f"The crop is {tuple(crop)}; expected {rank} positive numbers of voxels.")
    return tuple(crop)


def _with_decoys(task: LesionTask, count: tuple[int, int], rank: int) -> LesionTask:
    shapes = lesions.decoys(task.lesions.shape, rank)
    return dataclasses.replace(task, decoys=shapes, decoy_count=count)


def _lesion_task(
    name: str, shape: Shape | None, voxel_size_mm: float, options: Mapping[str, object]
) -> LesionTask | OutlineTask:
    """The task of a name, or of a shape of the user's own."""
    if shape is None:
        options = {**_DEFAULTS.get(name, {}), **options}
    options = {"voxel_size_mm": voxel_size_mm, **options}
    first = shape or SHAPES[name.split("_")[0]]
    drawn = Lesions(first, **options)  # pyright: ignore[reportArgumentType]
    if shape is None and name == "square_or_disc":
        return OutlineTask(drawn, (SHAPES["disc"], SHAPES["square"]))
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
      >>> square = _lesion_task("square_lesion", None, 2.0, {"count": (1, 2)})
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
    task = _lesion_task(name, shape, options["voxel_size_mm"], options)
    decoy_count = description.get("decoys")
    if decoy_count and isinstance(task, LesionTask):
        return _with_decoys(task, (decoy_count[0], decoy_count[1]), rank)
    return task


def _describe(task: LesionTask | OutlineTask) -> dict[str, object]:
    """How a task's lesions are drawn, for the model card."""
    shapes = task.shapes if isinstance(task, OutlineTask) else (task.lesions.shape,)
    return {
        **dataclasses.asdict(task.lesions),
        "shape": " or ".join(_name(shape) for shape in shapes),
    }


def _name(shape: Shape) -> str:
    return str(getattr(shape, "__name__", repr(shape)))


def _check_room(lesions: Lesions, cohort: Cohort, sources: Iterable[Source]) -> None:
    """Refuse images without room for lesions now, since training may come to one after hours."""

    def problem(image: tuple[Source, int]) -> str | None:
        source, position = image
        try:
            lesions.check_room(source[position], np.random.default_rng(position))
        except NoRoomError as error:
            return f"{source.place(position)}: {error}"
        return None

    images = [(source, position) for source in sources for position in range(len(source))]
    # Threads: NumPy lets go of the lock for most of it, and the images come from disk.
    with ThreadPoolExecutor(min(_MAX_WORKERS, os.cpu_count() or 1)) as pool:
        found = list(pool.map(problem, images[:_FIRST_CHECKED]))
        # If none of these has room it is the options that are wrong, and the search takes long.
        if not all(found):
            found += pool.map(problem, images[_FIRST_CHECKED:])
    problems = [line for line in found if line is not None]
    if problems:
        raise CohortError(
            f"{cohort.table}: {len(problems)} of {len(found)} images that were looked at have no "
            "room for lesions; choose other lesions, or leave these subjects out:",
            problems,
        )


def _isotropic_voxel_size(cohort: Cohort) -> float:
    sizes = voxel_sizes(cohort.affine)
    if not np.allclose(sizes, sizes[0], rtol=0.01):
        raise CohortError(
            f"{cohort.table}: its scans have voxels of {sizes.round(3).tolist()} mm",
            ["expected the same size along every axis: resample the volumes first."],
        )
    return float(sizes[0])
