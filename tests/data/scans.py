"""Small scans and what is done to them, for the tests of what comes in."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from featvis_jax.data.cohorts import Cohort, Subject, read_cohort
from featvis_jax.data.errors import CohortError

SHAPE = (6, 7, 8)
AFFINE = np.array([[2.0, 0, 0, -10], [0, 2, 0, -12], [0, 0, 2, -14], [0, 0, 0, 1]])
OBLIQUE = np.array([[0, 0.2, 3.0, -9], [-2, 0, 0, 5], [0, 1.5, -0.3, 1], [0, 0, 0, 1]])


def cohort_of(labels: list[str]) -> Cohort:
    """A cohort of that many subjects, without files."""
    subjects = tuple(
        Subject(f"sub-{i:03d}", Path(f"{i}.nii"), {"sex": label}, line=i + 2)
        for i, label in enumerate(labels)
    )
    return Cohort("made", Path("made/participants.tsv"), subjects, (2, 2, 2), np.eye(4))


def overwrite(path: Path, offset: int, code: str, *values: float) -> None:
    """Puts numbers into the header of a little-endian `.nii` or `.nii.gz`."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as file:
        content = bytearray(file.read())
    struct.pack_into(f"<{code}", content, offset, *values)
    with opener(path, "wb") as file:
        file.write(content)


def problems_of(folder: Path, **options) -> tuple[str, ...]:
    with pytest.raises(CohortError) as caught:
        read_cohort(folder, **options)
    assert all(problem in str(caught.value) for problem in caught.value.problems)
    return caught.value.problems


def head(rng: np.random.Generator, *, stripped: bool) -> tuple[np.ndarray, np.ndarray]:
    """A ball in air with a dark hole in it, and where the ball is."""
    distance = np.linalg.norm(
        np.indices((40, 44, 36)) - np.array([20, 22, 18])[:, None, None, None], axis=0
    )
    ball = distance < 14
    image = np.where(ball, 600.0, 0.0)
    image[distance < 4] = 70
    image[ball] += rng.normal(0, 30, np.count_nonzero(ball)).clip(-60)
    if not stripped:
        air = rng.normal(0, 12, (2, *image.shape))
        image = np.sqrt((image + air[0]) ** 2 + air[1] ** 2)
    return image.astype(np.float32), ball
