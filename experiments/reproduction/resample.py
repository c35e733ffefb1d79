r"""A stage of `experiments.reproduce_paper`: a cohort on coarser voxels, for quick 3-D trainings.

    python -m experiments.reproduction.resample --cohort=DIR --voxel_size_mm=2 --out=DIR

Scans that are there already are kept, so that it goes on where it stopped.
"""

import csv
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel
import numpy as np
from absl import flags
from nibabel.affines import voxel_sizes
from nilearn import image as nilearn_image

from experiments import cohort_flags, stopping
from experiments.launch import start
from featvis_jax.data.cohorts import Cohort, Subject
from featvis_jax.data.volumes import load_volume
from featvis_jax.results.files import atomic_write_bytes, locked, make_directory
from featvis_jax.results.manifest import encode_json
from featvis_jax.results.nifti import encode_nifti

FLAGS = flags.FLAGS
flags.DEFINE_string("out", None, "Directory for the new cohort.", required=True)
flags.DEFINE_float("voxel_size_mm", 2.0, "Of the new grid.", lower_bound=0.1, upper_bound=16.0)

_WORKERS = 2


def main(_: Sequence[str]) -> None:
    """Write every scan on the coarser grid, then the table."""
    cohort = cohort_flags.cohort_from_flags()
    out = Path(FLAGS.out)
    make_directory(out)
    with locked(out):
        _write(cohort, out)
    print(f"{len(cohort.subjects)} scans of {FLAGS.voxel_size_mm:g} mm: {out}")


def _write(cohort: Cohort, out: Path) -> None:
    def one(subject: Subject) -> None:
        name = subject.participant_id
        path = out / name / "anat" / f"{name}_T1w.nii.gz"
        if path.is_file() or stopping.requested():
            return
        make_directory(path.parent)
        atomic_write_bytes(path, resampled(subject.path, FLAGS.voxel_size_mm))

    with stopping.held(), ThreadPoolExecutor(_WORKERS) as pool:
        list(pool.map(one, cohort.subjects))
    description = {
        "Name": f"{cohort.name} on voxels of {FLAGS.voxel_size_mm:g} mm",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "experiments.reproduction.resample"}],
    }
    atomic_write_bytes(out / "dataset_description.json", encode_json(description))
    atomic_write_bytes(out / "participants.tsv", _participants(cohort))


def resampled(path: Path, voxel_size_mm: float) -> bytes:
    """A scan on a coarser grid, as the bytes of a .nii.gz file.

    The image is smoothed to the new voxel size first, so that nothing finer folds back.

    Args:
      path: The scan.
      voxel_size_mm: Side of the new voxels.
    """
    volume = load_volume(path)
    scan = nibabel.Nifti1Image(volume.data, volume.affine)
    old = np.asarray(voxel_sizes(volume.affine))
    # Widths add as squares: an old voxel blurred by this is as wide as a new one.
    widths = np.sqrt(np.maximum(voxel_size_mm**2 - old**2, 0.0))
    smooth = nilearn_image.smooth_img(scan, fwhm=[float(width) for width in widths])
    # The new grid begins at the same corner, not at the same centre of a voxel.
    ratio = voxel_size_mm / old
    scaling = np.diag([*ratio, 1.0])
    scaling[:3, 3] = (ratio - 1) / 2
    shape = [max(1, round(n / r)) for n, r in zip(volume.data.shape, ratio, strict=True)]
    new = nilearn_image.resample_img(
        smooth,
        target_affine=volume.affine @ scaling,
        target_shape=shape,
        interpolation="linear",
        copy_header=True,
        force_resample=True,
    )
    data = np.maximum(np.asarray(new.dataobj, np.float32), 0.0)
    assert new.affine is not None
    return encode_nifti(data[..., None], new.affine, space="mni")


def _participants(cohort: Cohort) -> bytes:
    labels = sorted({label for subject in cohort.subjects for label in subject.labels})
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(["participant_id", *labels])
    for subject in cohort.subjects:
        row = [subject.labels.get(label, "n/a") for label in labels]
        writer.writerow([subject.participant_id, *row])
    return text.getvalue().encode()


if __name__ == "__main__":
    start(main)
