"""The synthetic cohort: right as a cohort, smooth, repeatable, and different only where planned."""

import functools
import json
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest

from featvis_jax.data import synthetic
from featvis_jax.data.cohorts import read_cohort
from featvis_jax.data.masks import brain_mask
from featvis_jax.data.synthetic import write_synthetic_cohort
from featvis_jax.data.volumes import load_volume


@pytest.fixture(scope="module", autouse=True)
def template_loaded_once() -> Iterator[None]:
    """Resampling the template takes longer than drawing the few subjects of a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "_load_template", functools.cache(synthetic._load_template))
        yield


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("synthetic") / "cohort"
    return write_synthetic_cohort(directory, num_subjects=6, voxel_size_mm=4)


def volumes_of(directory: Path) -> np.ndarray:
    return np.stack([load_volume(s.path).data for s in read_cohort(directory).subjects])


def contents(directory: Path) -> dict[str, bytes]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def test_is_a_cohort_with_balanced_labels(cohort):
    read = read_cohort(cohort)
    assert [subject.labels["sex"] for subject in read.subjects] == ["F", "M"] * 3
    assert read.shape == (50, 59, 48)
    np.testing.assert_allclose(np.diag(read.affine), [4, 4, 4, 1])
    np.testing.assert_allclose(read.affine[:3, 3], [-98, -134, -72])
    image = nibabel.load(read.subjects[0].path)
    assert image.get_data_dtype() == np.uint8
    assert image.header["sform_code"] == 4
    description = json.loads((cohort / "dataset_description.json").read_text())
    assert description["GeneratedBy"][0]["Parameters"]["voxel_size_mm"] == 4
    described = json.loads((cohort / "participants.json").read_text())["sex"]["Description"]
    assert described.startswith("Synthetic")
    assert "do not differ" in (cohort / "README").read_text()
    assert not [path for path in cohort.parent.iterdir() if path != cohort]


def test_each_subject_is_a_brain_of_its_own(cohort):
    data = volumes_of(cohort)
    template = synthetic._load_template(4).brain > 0
    for index, volume in enumerate(data):
        mask = brain_mask(volume)
        np.testing.assert_array_equal(mask, volume > 0)
        overlap = 2 * (mask & template).sum() / (mask.sum() + template.sum())
        assert 0.9 < overlap < 1, index
        assert (volume == 255).mean() < 0.001, "clipped"
        for other in data[:index]:
            assert np.corrcoef(volume.ravel(), other.ravel())[0, 1] < 0.99


def test_same_parameters_give_the_same_bytes_and_are_used_again(cohort, tmp_path, monkeypatch):
    again = write_synthetic_cohort(tmp_path / "again", num_subjects=6, voxel_size_mm=4)
    assert contents(again) == contents(cohort)
    monkeypatch.setattr(synthetic, "_load_template", None)
    assert write_synthetic_cohort(again, num_subjects=6, voxel_size_mm=4.0) == again


def test_a_subject_depends_on_the_seed_and_its_number_only(cohort, tmp_path):
    fewer = write_synthetic_cohort(tmp_path / "fewer", num_subjects=2, voxel_size_mm=4)
    np.testing.assert_array_equal(volumes_of(fewer), volumes_of(cohort)[:2])
    other = write_synthetic_cohort(tmp_path / "other", num_subjects=2, voxel_size_mm=4, seed=1)
    assert not np.array_equal(volumes_of(other)[0], volumes_of(fewer)[0])


def test_a_voxel_size_between(tmp_path):
    directory = write_synthetic_cohort(tmp_path / "cohort", num_subjects=1, voxel_size_mm=5.5)
    cohort = read_cohort(directory)
    np.testing.assert_allclose(np.diag(cohort.affine), [5.5, 5.5, 5.5, 1])
    volume = load_volume(cohort.subjects[0].path).data
    # The template's brain has 1.89 litres.
    assert np.count_nonzero(volume) * 5.5**3 == pytest.approx(1.89e6, rel=0.1)


def test_the_planted_difference_is_where_and_what_it_says(cohort, tmp_path):
    planted = write_synthetic_cohort(
        tmp_path / "planted", num_subjects=6, voxel_size_mm=4, group_difference=0.5
    )
    without, with_difference = volumes_of(cohort), volumes_of(planted)
    np.testing.assert_array_equal(without[0::2], with_difference[0::2])
    affine = read_cohort(planted).affine
    world = np.indices(without.shape[1:]).reshape(3, -1).T @ affine[:3, :3].T + affine[:3, 3]
    away = np.linalg.norm(world - [30, 20, 24], axis=1).reshape(without.shape[1:])
    for before, after in zip(without[1::2], with_difference[1::2], strict=True):
        lost = (before - after) / np.maximum(before, 1)
        assert np.abs(lost[(away > 55) & (before > 20)]).max() < 0.06
        centre = lost[(away < 8) & (before > 20)]
        assert 0.35 < np.median(centre) <= 0.52
        mean_centre = (lost.clip(0)[..., None] * world.reshape(*lost.shape, 3)).sum((0, 1, 2))
        np.testing.assert_allclose(mean_centre / lost.clip(0).sum(), [30, 20, 24], atol=8)
    assert "darker by up to 50%" in (planted / "README").read_text()


@pytest.mark.parametrize("index", range(4))
def test_the_deformation_keeps_the_brain_in_one_piece(index):
    """No folding: the determinant of the deformation's derivative is positive everywhere."""
    rng = np.random.default_rng(index)
    shape, size = (50, 59, 48), np.full(3, 4.0)
    fields = [
        synthetic._smooth_field(rng, shape, size, size * shape, synthetic._DEFORMATION_WAVES)
        for _ in range(3)
    ]
    displacement_mm = synthetic.DISPLACEMENT_RMS_MM / np.sqrt(3) * np.array(fields)
    assert 1 < np.sqrt((displacement_mm**2).sum(axis=0).mean()) < 8
    derivative = np.stack([np.stack(np.gradient(d, 4.0)) for d in displacement_mm])
    derivative += np.eye(3)[:, :, None, None, None]
    assert np.linalg.det(np.moveaxis(derivative, (0, 1), (-2, -1))).min() > 0.3


def test_the_smooth_field_is_the_sum_of_cosines_it_says():
    shape, size = (5, 4, 3), np.array([2.0, 3.0, 1.0])
    field = synthetic._smooth_field(np.random.default_rng(3), shape, size, size * shape, 3)
    amplitudes = np.random.default_rng(3).standard_normal((3, 3, 3))
    expected, power = np.zeros(shape), 0.0
    for waves in np.ndindex(3, 3, 3):
        if any(waves):
            spread = 1 / np.sqrt(1 + sum(k * k for k in waves))
            term = amplitudes[waves] * spread * np.ones(shape)
            for axis, k in enumerate(waves):
                x = (np.arange(shape[axis]) + 0.5) / shape[axis]
                term *= np.cos(np.pi * k * x).reshape([-1 if a == axis else 1 for a in range(3)])
            expected += term
            power += spread**2 * 0.5 ** sum(k > 0 for k in waves)
    np.testing.assert_allclose(field, expected / np.sqrt(power), atol=1e-5)


def test_a_subject_looks_the_same_at_two_voxel_sizes(cohort, tmp_path):
    coarse = write_synthetic_cohort(tmp_path / "coarse", num_subjects=1, voxel_size_mm=8)
    eight, four = volumes_of(coarse)[0], volumes_of(cohort)[0]
    # Both grids start at the same point, so every other voxel of the fine one is in the coarse one.
    shared = four[::2, ::2, ::2]
    shape = tuple(np.minimum(shared.shape, eight.shape))
    box = tuple(slice(0, size) for size in shape)
    assert np.corrcoef(shared[box].ravel(), eight[box].ravel())[0, 1] > 0.97


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"seed": 3}, "seed is 0, asked for 3"),
        ({"num_subjects": 7}, "num_subjects is 6, asked for 7"),
        ({"group_difference": 0.5}, "group_difference is 0.0, asked for 0.5"),
    ],
)
def test_another_cohort_is_refused_with_the_difference(cohort, parameters, message):
    with pytest.raises(FileExistsError, match=message):
        write_synthetic_cohort(cohort, **{"num_subjects": 6, "voxel_size_mm": 4, **parameters})


def test_other_contents_are_refused_and_an_empty_folder_is_used(tmp_path):
    write_synthetic_cohort(tmp_path, num_subjects=1, voxel_size_mm=8)
    next(tmp_path.rglob("*.nii.gz")).unlink()
    with pytest.raises(FileExistsError, match="lacks 1 of its files"):
        write_synthetic_cohort(tmp_path, num_subjects=1, voxel_size_mm=8)
    (tmp_path / "dataset_description.json").write_text("{}")
    with pytest.raises(FileExistsError, match="not a synthetic cohort"):
        write_synthetic_cohort(tmp_path, num_subjects=1, voxel_size_mm=8)


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(synthetic, "_write_tables", fail)
    with pytest.raises(OSError, match="No space left"):
        write_synthetic_cohort(tmp_path / "cohort", num_subjects=1, voxel_size_mm=8)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "parameters",
    [
        {"num_subjects": 0},
        {"voxel_size_mm": 0.5},
        {"voxel_size_mm": float("nan")},
        {"seed": -1},
        {"group_difference": -0.1},
        {"group_difference": 1.1},
    ],
)
def test_parameters_out_of_range(tmp_path, parameters):
    (name,) = parameters
    with pytest.raises(ValueError, match=f"{name}="):
        write_synthetic_cohort(tmp_path / "cohort", **parameters)
