"""A synthetic cohort: the MNI152 template, randomly deformed, so that nothing has to be downloaded.

Subject i is, from a generator seeded with (seed, i) only,

    image(v) = bias(v) * (1 - planted(u)) * template(u)^gamma + noise(v),   u = v + d(v)

inside the deformed brain, and 0 outside; it is stored as uint8 with 200 for 1. d and log(bias) are
smooth random fields in mm, so a subject looks the same at every voxel size, up to its noise.
`planted` is 0 but for the group `sex` = M, where it is a Gaussian bump in the right frontal lobe,
`group_difference` high.
"""

import csv
import dataclasses
import io
import json
import math
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel
import numpy as np
from jaxtyping import Float32, Float64
from scipy import ndimage

# Raise it when the same parameters give other images.
GENERATOR_VERSION = 1
GENERATOR_NAME = "featvis_jax.data.synthetic"

# The template's own voxels, and voxels that leave a dozen across a head.
FINEST_MM = 1.0
COARSEST_MM = 16.0
DISPLACEMENT_RMS_MM = 4.0
BIAS_RMS = 0.08
GAMMA_RMS = 0.1
NOISE_STD = 0.02
PLANTED_CENTER_MM = (30.0, 20.0, 24.0)
PLANTED_FWHM_MM = 30.0

# The template's 1 as uint8: leaves room above it for the bias field.
_STORED_WHITE = 200
_BRAIN_THRESHOLD = 0.2
_DEFORMATION_WAVES = 7
_BIAS_WAVES = 3
_GROUPS = ("F", "M")
_MAX_WORKERS = 8


@dataclasses.dataclass(frozen=True)
class _Template:
    """The template on the cohort's grid: spline coefficients, brain (0 or 1), and the affine."""

    spline: Float32[np.ndarray, "x y z"]
    brain: Float32[np.ndarray, "x y z"]
    affine: Float64[np.ndarray, "4 4"]


def write_synthetic_cohort(
    directory: Path | str,
    *,
    num_subjects: int = 40,
    voxel_size_mm: float = 2,
    seed: int = 0,
    group_difference: float = 0.0,
) -> Path:
    """Write a cohort in BIDS style, whole or not at all; one that is already there is used again.

    Subjects alternate between `sex` F and M, which means nothing: it is a stand-in for a label.
    With `group_difference` g > 0, M is darker by the factor `1 - g * exp(-r^2 / (2 s^2))` about
    (30, 20, 24) mm in MNI space before deformation, the right frontal lobe; s is 30 mm / 2.355.

    Args:
      directory: Of the cohort; must be missing, empty, or hold this very cohort.
      num_subjects: At least 1.
      voxel_size_mm: In [1, 16]; the template is resampled to it.
      seed: At least 0. A subject depends on the seed and its own number, not on `num_subjects`.
      group_difference: In [0, 1], share of the intensity taken away at the planted centre.

    Returns:
      `directory`, ready for `read_cohort`.

    Raises:
      ValueError: A parameter is out of range.
      FileExistsError: The directory holds something else, or a cohort with other parameters.
    """
    _check_parameters(num_subjects, voxel_size_mm, seed, group_difference)
    directory = Path(directory)
    parameters = {
        "generator_version": GENERATOR_VERSION,
        "num_subjects": int(num_subjects),
        "voxel_size_mm": float(voxel_size_mm),
        "seed": int(seed),
        "group_difference": float(group_difference),
    }
    if _holds_cohort(directory, parameters):
        return directory

    directory.parent.mkdir(parents=True, exist_ok=True)
    workshop = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}."))
    # Made inside, since mkdtemp keeps its own folder from everyone else.
    unfinished = workshop / directory.name
    try:
        template = _load_template(voxel_size_mm)

        def write(index: int) -> None:
            path = unfinished / _scan_path(index)
            path.parent.mkdir(parents=True)
            voxels = _draw_subject(template, index, seed, group_difference)
            image = nibabel.Nifti1Image(voxels, template.affine)
            image.set_qform(template.affine, code="mni")
            image.set_sform(template.affine, code="mni")
            image.header.set_xyzt_units("mm")
            image.to_filename(path)

        with ThreadPoolExecutor(min(_MAX_WORKERS, os.cpu_count() or 1)) as pool:
            list(pool.map(write, range(num_subjects)))
        _write_tables(unfinished, parameters, num_subjects, group_difference)
        try:
            unfinished.replace(directory)
        except OSError:
            # Another process may have been faster with the same cohort.
            if not _holds_cohort(directory, parameters):
                raise
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
    return directory


def _check_parameters(
    num_subjects: int, voxel_size_mm: float, seed: int, group_difference: float
) -> None:
    if num_subjects < 1:
        raise ValueError(f"num_subjects={num_subjects}: expected at least 1")
    if not FINEST_MM <= voxel_size_mm <= COARSEST_MM:
        raise ValueError(
            f"voxel_size_mm={voxel_size_mm}: expected a number in [{FINEST_MM:g}, {COARSEST_MM:g}]"
        )
    if seed < 0:
        raise ValueError(f"seed={seed}: expected at least 0")
    if not 0 <= group_difference <= 1:
        raise ValueError(f"group_difference={group_difference}: expected a share in [0, 1]")


def _holds_cohort(directory: Path, parameters: dict[str, object]) -> bool:
    """True if the complete cohort is there, False if the directory is missing or empty."""
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return False
    try:
        text = (directory / "dataset_description.json").read_text("utf-8")
        made_by = json.loads(text)["GeneratedBy"][0]
        found = made_by["Parameters"] if made_by["Name"] == GENERATOR_NAME else None
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        found = None
    if not isinstance(found, dict):
        raise FileExistsError(
            f"{directory}: exists and is not a synthetic cohort; give another directory"
        )
    names = sorted({*found, *parameters})
    differences = [
        f"{name} is {found.get(name)!r}, asked for {parameters.get(name)!r}"
        for name in names
        if found.get(name) != parameters.get(name)
    ]
    if differences:
        raise FileExistsError(
            f"{directory}: holds a synthetic cohort with other parameters "
            f"({'; '.join(differences)}); give another directory, or delete this one"
        )
    num_subjects = found["num_subjects"]
    wanted = [Path("participants.tsv"), *(_scan_path(index) for index in range(num_subjects))]
    missing = [str(path) for path in wanted if not (directory / path).is_file()]
    if missing:
        raise FileExistsError(
            f"{directory}: a synthetic cohort that lacks {len(missing)} of its files "
            f"({', '.join(missing[:3])}); delete the directory, it will be made again"
        )
    return True


def _participant_id(index: int) -> str:
    return f"sub-{index + 1:04d}"


def _scan_path(index: int) -> Path:
    name = f"{_participant_id(index)}_space-MNI152NLin2009cSym_desc-synthetic_T1w.nii.gz"
    return Path(_participant_id(index), "anat", name)


def _load_template(voxel_size_mm: float) -> _Template:
    # A second to import, and needed only where there is no cohort yet.
    from nilearn import image as nilearn_image
    from nilearn.datasets import load_mni152_template

    image = load_mni152_template(resolution=1)
    if voxel_size_mm != 1:
        image = nilearn_image.resample_img(image, np.eye(3) * voxel_size_mm)
    values = np.asarray(image.dataobj, np.float32)
    brain = np.asarray(ndimage.binary_fill_holes(values > _BRAIN_THRESHOLD), np.float32)
    spline = ndimage.spline_filter(brain * values, order=3).astype(np.float32)
    return _Template(spline, brain, np.asarray(image.affine, np.float64))


def _draw_subject(
    template: _Template, index: int, seed: int, group_difference: float
) -> np.ndarray:
    """One subject as uint8 `(x, y, z)`; 0 is background, and nothing in the brain is 0."""
    generator = np.random.default_rng([seed, index])
    shape = template.brain.shape
    voxel_size_mm = np.linalg.norm(template.affine[:3, :3], axis=0)
    extent_mm = voxel_size_mm * shape
    gamma = math.exp(GAMMA_RMS * generator.standard_normal())
    log_bias = BIAS_RMS * _smooth_field(generator, shape, voxel_size_mm, extent_mm, _BIAS_WAVES)
    where = np.indices(shape, np.float32)
    for axis in range(3):
        field = _smooth_field(generator, shape, voxel_size_mm, extent_mm, _DEFORMATION_WAVES)
        where[axis] += (DISPLACEMENT_RMS_MM / math.sqrt(3) / voxel_size_mm[axis]) * field

    inside = ndimage.map_coordinates(template.brain, where, order=1) > 0.5
    points = where[:, inside]
    values = ndimage.map_coordinates(template.spline, points, order=3, prefilter=False)
    values = np.clip(values, 0, 1) ** gamma
    if group_difference > 0 and _GROUPS[index % 2] == "M":
        values *= 1 - group_difference * _planted_bump(template.affine, points)
    values *= np.exp(log_bias[inside])
    values += NOISE_STD * generator.standard_normal(values.shape)
    voxels = np.zeros(shape, np.uint8)
    voxels[inside] = np.clip(np.round(_STORED_WHITE * values), 1, 255)
    return voxels


def _smooth_field(
    generator: np.random.Generator,
    shape: tuple[int, ...],
    voxel_size_mm: Float64[np.ndarray, "3"],
    extent_mm: Float64[np.ndarray, "3"],
    num_waves: int,
) -> Float32[np.ndarray, "x y z"]:
    """A smooth random field with mean square 1 over draws and voxels, and mean 0.

    A sum of cosines `a_k cos(pi k_x x / X) cos(pi k_y y / Y) cos(pi k_z z / Z)`, each of k_x, k_y,
    k_z below `num_waves` and not all 0, with normal a_k of standard deviation in proportion to
    `1 / sqrt(1 + |k|^2)`.
    """
    waves = np.arange(num_waves)
    squared = sum(np.meshgrid(*[waves**2] * 3, indexing="ij"))
    spread = 1.0 / np.sqrt(1.0 + squared)
    spread[0, 0, 0] = 0
    # The mean square of a cosine over its range is 1/2, of k = 0 it is 1.
    power = np.where(waves == 0, 1.0, 0.5)
    mean_square = np.einsum("abc,a,b,c->", spread**2, power, power, power)
    amplitudes = spread * generator.standard_normal(spread.shape) / math.sqrt(mean_square)
    bases = [
        np.cos(np.pi * np.outer((np.arange(n) + 0.5) * size / extent, waves)).astype(np.float32)
        for n, size, extent in zip(shape, voxel_size_mm, extent_mm, strict=True)
    ]
    return np.einsum("abc,xa,yb,zc->xyz", amplitudes.astype(np.float32), *bases, optimize=True)


def _planted_bump(
    affine: Float64[np.ndarray, "4 4"], points: Float32[np.ndarray, "3 n"]
) -> Float64[np.ndarray, " n"]:
    """The planted difference, 1 at its centre, at voxel coordinates of the template."""
    world = affine[:3, :3] @ points + affine[:3, 3:]
    squared = ((world - np.array(PLANTED_CENTER_MM)[:, None]) ** 2).sum(axis=0)
    return np.exp(-4 * math.log(2) * squared / PLANTED_FWHM_MM**2)


def _write_tables(
    directory: Path, parameters: dict[str, object], num_subjects: int, group_difference: float
) -> None:
    table = io.StringIO(newline="")
    writer = csv.writer(table, delimiter="\t", lineterminator="\n")
    writer.writerow(["participant_id", "sex"])
    for index in range(num_subjects):
        writer.writerow([_participant_id(index), _GROUPS[index % 2]])
    difference = (
        f"M is darker by up to {group_difference:.0%} about {PLANTED_CENTER_MM} mm "
        f"(MNI, right frontal lobe), a Gaussian of {PLANTED_FWHM_MM:g} mm full width at half "
        "maximum."
        if group_difference
        else "The two groups do not differ: there is nothing to learn from this label."
    )
    texts = {
        "participants.tsv": table.getvalue(),
        "participants.json": _json(
            {
                "sex": {
                    "Description": f"Synthetic: a stand-in for a label, alternating. {difference}",
                    "Levels": {"F": "synthetic group 1", "M": "synthetic group 2"},
                }
            }
        ),
        "dataset_description.json": _json(
            {
                "Name": "Synthetic brains from the MNI152 template",
                "BIDSVersion": "1.9.0",
                "DatasetType": "derivative",
                "GeneratedBy": [{"Name": GENERATOR_NAME, "Parameters": parameters}],
            }
        ),
        "README": (
            "Synthetic T1-weighted brains of no real person: the skull-stripped ICBM152 template\n"
            "that comes with nilearn, and for each subject a smooth random deformation of\n"
            f"{DISPLACEMENT_RMS_MM:g} mm root mean square, a gamma, a bias field and noise.\n"
            "uint8, 0 is background. The column sex is a stand-in for a label.\n"
            f"{difference}\n"
        ),
    }
    for name, text in texts.items():
        (directory / name).write_text(text, "utf-8")


def _json(content: dict[str, object]) -> str:
    return json.dumps(content, indent=1) + "\n"
