"""All that has to be settled before a task is trained on a cohort: people, volumes, grid."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from nibabel.affines import voxel_sizes

from featvis_jax.data import labels, sources
from featvis_jax.data.cache import cache_volumes, checksums
from featvis_jax.data.cohorts import Cohort
from featvis_jax.data.crops import centred_start, crop_affine
from featvis_jax.data.errors import CohortError
from featvis_jax.data.grids import Grid
from featvis_jax.data.labels import LabelTask, ValueTask, label_task
from featvis_jax.data.lesions import NoRoomError
from featvis_jax.data.patches import Patches
from featvis_jax.data.pipeline import Task
from featvis_jax.data.sources import Source
from featvis_jax.data.splits import Split, split_subjects
from featvis_jax.data.tasks import (
    PlantedTask,
    ShuffledTask,
    TaskSpec,
)

_MAX_WORKERS = 8
_FIRST_CHECKED = 8

# The paper's slices of 140 x 192 voxels, on a grid of 1 mm.
_SLICE_MM = (140.0, 192.0)


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
      affine: Its grid, voxel indices to mm. A slice is put in the middle axial plane of those that
        there are, and a patch, which may lie anywhere, in the middle of the cohort.
      description: All of this in words and numbers, for the model card.
      files_sha256: Checksum of the cohort's table and of every scan, by their paths.
      used_scans: Beginnings of the checksums of all scans but those of held-out subjects.
      left_out: Participants without a value in the column that is learned.
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
    left_out: tuple[str, ...] = ()

    @property
    def voxel_size_mm(self) -> float:
        """Distance between neighbouring voxels, the same along every axis."""
        return float(voxel_sizes(self.affine)[0])


# Many arguments: what there is to settle; all but the first four have a default.
def prepare(
    spec: TaskSpec,
    cohort: Cohort,
    *,
    rank: int,
    cache: Path,
    crop: Sequence[int] | None = None,
    patch: Sequence[int] | None = None,
    grid: Grid | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Prepared:
    """Settle a task: split the subjects, cache their volumes, choose the grid.

    Args:
      spec: What is to be learned.
      cohort: The subjects.
      rank: 2 for axial slices, 3 for volumes.
      cache: Directory for the cached volumes.
      crop: Spatial shape of an image in voxels. By default the paper's 140 x 192 mm for slices, and
        the whole volume in 3-D. Cut from the centre.
      patch: Spatial shape of a patch in voxels, for images from anywhere in the brain
        (`featvis_jax.data.patches`), into which lesions are drawn as a whole.
      grid: Of the images of a network that is there already; they are cut where it lies.
      seed: Fixes the split.
      progress: Called with (scans cached, scans in all) after each.

    Raises:
      ValueError: The task, the rank, the crop, the patch or the grid does not exist or does not
        fit, or it takes no distractors.
      CohortError: The cohort cannot be split, or has volumes that cannot be read, or images that
        have no room for what is planted; all of them are named.
    """
    spec.check(rank)
    if patch is not None:
        spec = _of_patches(spec, crop, patch, cohort)
        crop = patch
    voxel_size_mm = _isotropic_voxel_size(cohort)
    crop = _crop(crop if grid is None else grid.shape, cohort, rank, voxel_size_mm)
    heights = _heights(spec, cohort, rank)
    affine = _affine(cohort, crop, grid, heights)
    settled = _settled(
        spec, cohort, grid=Grid(crop, affine), voxel_size_mm=voxel_size_mm, seed=seed
    )
    task, split, cohort = settled.task, settled.split, settled.cohort
    cached = cache_volumes(
        cohort.subjects, cache, voxel_size_mm=cohort.resampled_mm, progress=progress
    )
    placement = None if grid is None else sources.cohort_placement(cohort, grid)
    parts: dict[str, Source] = {
        part: sources.source(
            [cached[who] for who in getattr(split, part)],
            crop,
            placement=placement,
            heights=heights,
            anywhere=patch is not None,
        )
        for part in ("train", "validation", "test")
    }
    if not isinstance(task, LabelTask | ValueTask):
        parts = _with_room(task, cohort, parts)
    return Prepared(
        task=task,
        class_names=task.class_names,
        split=split,
        shape=crop,
        affine=affine,
        description={
            "cohort": cohort.name,
            **({} if cohort.resampled_mm is None else {"resampled_mm": cohort.resampled_mm}),
            **({} if patch is None else {"patch": list(crop)}),
            "subjects": {part: len(getattr(split, part)) for part in parts},
            "images": {part: len(images) for part, images in parts.items()},
            **settled.told,
        },
        files_sha256=checksums(cohort, cached),
        used_scans=tuple(cached[who].scan_id for who in (*split.train, *split.validation)),
        left_out=settled.left_out,
        **parts,
    )


class _Settled(NamedTuple):
    """What is learned from whom.

    Attributes:
      task: Makes labelled examples.
      split: Who is in which part.
      cohort: Those who take part.
      told: What a card tells of the task.
      left_out: Those who do not take part.
    """

    task: PlantedTask | ShuffledTask | LabelTask | ValueTask
    split: Split
    cohort: Cohort
    told: Mapping[str, object]
    left_out: tuple[str, ...] = ()


def _settled(
    spec: TaskSpec, cohort: Cohort, *, grid: Grid, voxel_size_mm: float, seed: int
) -> _Settled:
    if spec.column is None:
        drawn, told = spec.on(grid, voxel_size_mm=voxel_size_mm)
        return _Settled(drawn, split_subjects(cohort, label=None, seed=seed), cohort, told)
    if spec.name == "sex":
        split = split_subjects(cohort, label="sex", seed=seed)
        sexes = {subject.participant_id: subject.labels["sex"] for subject in cohort.subjects}
        return _Settled(label_task(sexes), split, cohort, {})
    column = labels.read_column(cohort, spec.column)
    task, split = column.task(seed=seed)
    told = {"column": column.description(task)}
    return _Settled(task, split, column.cohort, told, column.left_out)


def _of_patches(
    spec: TaskSpec, crop: Sequence[int] | None, patch: Sequence[int], cohort: Cohort
) -> TaskSpec:
    """The task on patches, whose borders cut no lesion."""
    if crop is not None:
        raise ValueError(
            f"The crop is {tuple(crop)}, and patches are asked for as well: give one of the two."
        )
    if spec.column is not None:
        raise ValueError(f"The task {spec.name!r} takes whole volumes: ask for no patches.")
    if spec.planted is not None:
        raise ValueError(
            f"The task {spec.name!r} is about places, and a patch may come from anywhere: ask for "
            "no patches."
        )
    if any(want > have for want, have in zip(patch, cohort.shape, strict=False)):
        raise ValueError(
            f"The patch is {tuple(patch)}, and the scans have {cohort.shape} voxels: ask for a "
            "smaller one."
        )
    return dataclasses.replace(spec, lesion_options={**spec.lesion_options, "whole": True})


def _heights(spec: TaskSpec, cohort: Cohort, rank: int) -> tuple[int, int] | None:
    """Which axial slices show what is planted; None for all."""
    if rank != 2 or spec.planted is None or spec.planted.slices_mm is None:
        return None
    return sources.slices_between(cohort, spec.planted.slices_mm)


def _affine(
    cohort: Cohort, crop: tuple[int, ...], grid: Grid | None, heights: tuple[int, int] | None
) -> np.ndarray:
    """Where the images lie; slices in the middle of their heights."""
    if grid is not None and grid.affine is not None:
        return grid.affine
    start = centred_start(cohort.shape, crop)
    middle = cohort.shape[2] // 2 if heights is None else sum(heights) // 2
    start = start if len(crop) == 3 else (*start, middle)
    return crop_affine(cohort.affine, start)


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
        raise ValueError(
            f"The crop or patch is {tuple(crop)}; expected {rank} positive numbers of voxels."
        )
    return tuple(crop)


def _with_room(
    task: PlantedTask | ShuffledTask, cohort: Cohort, parts: Mapping[str, Source]
) -> dict[str, Source]:
    """Refuse images without room now, since training may come to one after hours.

    Patches without room are left out: there are others of the same person.
    """

    def problem(image: tuple[str, int]) -> str | None:
        source, position = parts[image[0]], image[1]
        try:
            task.check_room(source[position], np.random.default_rng(position))
        except NoRoomError as error:
            return f"{source.place(position)}: {error}"
        return None

    images = [(part, position) for part in parts for position in range(len(parts[part]))]
    # Threads: NumPy lets go of the lock for most of it, and the images come from disk.
    with ThreadPoolExecutor(min(_MAX_WORKERS, os.cpu_count() or 1)) as pool:
        found = list(pool.map(problem, images[:_FIRST_CHECKED]))
        # If none of these has room it is the options that are wrong, and the search takes long.
        if not all(found):
            found += pool.map(problem, images[_FIRST_CHECKED:])
    problems = {image: line for image, line in zip(images, found, strict=False) if line is not None}
    left = {
        part: source.only([n for n in range(len(source)) if (part, n) not in problems])
        for part, source in parts.items()
        if isinstance(source, Patches) and not all(found)
    }
    if problems and not (left and all(map(len, left.values()))):
        raise CohortError(
            f"{cohort.table}: {len(problems)} of {len(found)} images that were looked at have no "
            "room for what is planted; change that, or leave these subjects out:",
            problems.values(),
        )
    return {**parts, **left}


def _isotropic_voxel_size(cohort: Cohort) -> float:
    sizes = voxel_sizes(cohort.affine)
    if not np.allclose(sizes, sizes[0], rtol=0.01):
        raise CohortError(
            f"{cohort.table}: its scans have voxels of {sizes.round(3).tolist()} mm",
            [
                "expected the same size along every axis: resample the volumes first, or when they "
                "are read (`voxel_size_mm`)."
            ],
        )
    return float(sizes[0])
