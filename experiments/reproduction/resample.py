r"""A stage of `experiments.reproduce_paper`: a cohort on coarser voxels, for quick 3-D trainings.

    python -m experiments.reproduction.resample --cohort=DIR --voxel_size_mm=2 --out=DIR

Scans that are there already are kept, so that it goes on where it stopped.
"""

import csv
import dataclasses
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from featvis_jax import stopping
from featvis_jax.commands.launch import Command, start
from featvis_jax.data.cohorts import Cohort, Subject
from featvis_jax.data.resampling import resampled
from featvis_jax.data.volumes import load_volume
from featvis_jax.options import option
from featvis_jax.results.files import atomic_write_bytes, locked, make_directory
from featvis_jax.results.manifest import encode_json
from featvis_jax.results.nifti import encode_nifti
from featvis_jax.runs.cohorts import CohortOptions, cohort_of

_WORKERS = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResampleOptions(CohortOptions):
    """The new cohort."""

    out: str | None = option(None, "Directory for the new cohort.")
    voxel_size_mm: float = option(2.0, "Of the new grid.", least=0.1, most=16.0)


def main(options: ResampleOptions) -> None:
    """Write every scan on the coarser grid, then the table."""
    cohort, out = cohort_of(options), Path(str(options.out))
    make_directory(out)
    with locked(out):
        _write(cohort, out, options.voxel_size_mm)
    print(f"{len(cohort.subjects)} scans of {options.voxel_size_mm:g} mm: {out}")


def _write(cohort: Cohort, out: Path, voxel_size_mm: float) -> None:
    def one(subject: Subject) -> None:
        name = subject.participant_id
        path = out / name / "anat" / f"{name}_T1w.nii.gz"
        if path.is_file() or stopping.requested():
            return
        make_directory(path.parent)
        coarse = resampled(load_volume(subject.path), voxel_size_mm)
        encoded = encode_nifti(coarse.data[..., None], coarse.affine, space="mni")
        atomic_write_bytes(path, encoded)

    with stopping.held(), ThreadPoolExecutor(_WORKERS) as pool:
        list(pool.map(one, cohort.subjects))
    description = {
        "Name": f"{cohort.name} on voxels of {voxel_size_mm:g} mm",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "experiments.reproduction.resample"}],
    }
    atomic_write_bytes(out / "dataset_description.json", encode_json(description))
    atomic_write_bytes(out / "participants.tsv", _participants(cohort))


def _participants(cohort: Cohort) -> bytes:
    labels = sorted({label for subject in cohort.subjects for label in subject.labels})
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(["participant_id", *labels])
    for subject in cohort.subjects:
        row = [subject.labels.get(label, "n/a") for label in labels]
        writer.writerow([subject.participant_id, *row])
    return text.getvalue().encode()


COMMAND = Command(
    name="resample",
    summary="write a cohort on coarser voxels",
    examples=("--cohort=DIR --voxel_size_mm=2 --out=DIR",),
    options=ResampleOptions,
    main=main,
    required=("out",),
    first=("cohort", "voxel_size_mm", "out"),
    program="python -m experiments.reproduction.resample",
)


if __name__ == "__main__":
    start(COMMAND)
