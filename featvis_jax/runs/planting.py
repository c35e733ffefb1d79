"""What grows or shrinks in planted anatomy, by options."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from nibabel.affines import apply_affine

from featvis_jax.data.anatomy import CUES, PlantedAnatomy, Point
from featvis_jax.data.headers import NIFTI_SUFFIXES
from featvis_jax.data.participants import number
from featvis_jax.data.regions import read_regions
from featvis_jax.data.tasks import ANATOMY
from featvis_jax.options import Options, errors_of, option

_PLACES = (
    "of the task anatomy, as x,y,z in mm of the cohort's space, such as 0,18,8, or as "
    "LABELS.nii.gz:17, the middle of a region of a label image by its number or name; several are "
    "separated by semicolons."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlantingOptions(Options):
    """Planted anatomy."""

    grows: str | None = option(None, f"Places that grow in one class {_PLACES}")
    shrinks: str | None = option(None, "Places that shrink, likewise.")
    radius_mm: float | None = option(None, "How far around a place it changes; 26 by default.")
    change: tuple[float, float] | None = option(
        None,
        "Smallest and largest change in the middle of a place, as a share: by default 0.3,1 of a "
        "volume (the area of a slice), 0.1,0.4 of brightness.",
    )
    cue: str | None = option(
        None,
        "What tells the classes apart: the size of the places (shape, the default), their "
        "brightness, or pattern, one smooth deformation of all of the brain against others.",
        choices=CUES,
    )
    decoys: tuple[int, int] | None = option(
        None,
        "Fewest and most further places of images of both classes that change in the same way, "
        "each somewhere else in every image; 0,2 by default.",
    )


def planted(task: str, options: PlantingOptions, *, seed: int) -> PlantedAnatomy | None:
    """What is planted; None for another task.

    Args:
      task: Its name.
      options: What grows or shrinks.
      seed: Of a pattern.

    Raises:
      FileNotFoundError: There is no such label image.
      ValueError: An option is out of range, belongs to another task, or names no place.
    """
    given = {
        field.name: getattr(options, field.name)
        for field in dataclasses.fields(PlantingOptions)
        if getattr(options, field.name) is not None
    }
    if task != ANATOMY:
        for name, value in given.items():
            raise ValueError(
                f"`{name}={value}` concerns the task {ANATOMY}, and the task is {task}: leave it "
                "out."
            )
        return None
    if not {"grows", "shrinks"} & set(given) and given.get("cue") != "pattern":
        raise ValueError(
            f"`task={ANATOMY}` needs a place: give `grows=x,y,z` or `shrinks=x,y,z`, in mm."
        )
    told: dict[str, Any] = {
        **given,
        **{name: _places(name, given[name]) for name in ("grows", "shrinks") if name in given},
    }
    try:
        return PlantedAnatomy(**told, seed=seed)
    except ValueError as error:
        raise ValueError(f"`task={ANATOMY}`: {error}") from error


def _places(name: str, text: str) -> tuple[Point, ...]:
    return tuple(_place(name, each.strip()) for each in text.split(";"))


def _place(name: str, text: str) -> Point:
    numbers = [number(each) for each in text.split(",")]
    if len(numbers) == 3 and all(each is not None for each in numbers):
        x, y, z = (float(each) for each in numbers if each is not None)
        return x, y, z
    path, _, region = text.rpartition(":")
    if not path.endswith(NIFTI_SUFFIXES):
        raise ValueError(
            f"`{name}={text}`: expected x,y,z in mm, or LABELS.nii.gz:REGION, a label image with "
            "the number or name of a region."
        )
    with errors_of(name, text):
        regions = read_regions(path)
    labels = [label for label, told in regions.names.items() if told == region]
    label = labels[0] if labels else number(region)
    inside = np.argwhere(regions.labels == label) if label is not None else np.empty((0, 3))
    if not len(inside):
        raise ValueError(
            f"`{name}={text}`: {path} has no region {region}: give one of its numbers, or a name "
            "of the table beside it."
        )
    x, y, z = apply_affine(regions.affine, inside.mean(axis=0)).round(1)
    return float(x), float(y), float(z)
