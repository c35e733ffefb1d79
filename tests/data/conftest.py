"""Tiny NIfTI files and cohorts for the tests of what comes in."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import nibabel
import numpy as np
import pytest

from tests.data.scans import AFFINE, SHAPE


@pytest.fixture
def write_nifti() -> Callable[..., Path]:
    """Writes a small scan: a bright box in a black background, noisy, of a seed."""

    def write(
        path: Path,
        *,
        shape: tuple[int, ...] = SHAPE,
        affine: np.ndarray = AFFINE,
        data: np.ndarray | None = None,
        seed: int = 0,
    ) -> Path:
        if data is None:
            rng = np.random.default_rng(seed)
            data = np.zeros(shape, np.int16)
            inside = tuple(slice(1, -1) if size > 2 else slice(None) for size in shape)
            data[inside] = rng.integers(100, 1000, data[inside].shape)
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.Nifti1Image(data, affine).to_filename(path)
        return path

    return write


@pytest.fixture
def write_cohort(
    tmp_path: Path, write_nifti: Callable[..., Path]
) -> Callable[[Mapping[str, str]], Path]:
    """Writes a folder in BIDS style from participant id to sex."""

    def write(sexes: Mapping[str, str], *, sessions: Sequence[str] = ("",)) -> Path:
        folder = tmp_path / "cohort"
        folder.mkdir()
        rows = ["participant_id\tsex", *(f"{who}\t{sex}" for who, sex in sexes.items())]
        (folder / "participants.tsv").write_text("\n".join(rows) + "\n", "utf-8")
        for seed, who in enumerate(sexes):
            for session in sessions:
                name = "_".join(part for part in (who, session, "T1w.nii.gz") if part)
                write_nifti(folder / who / session / "anat" / name, seed=seed)
        return folder

    return write
