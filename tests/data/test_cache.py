"""The cache of volumes: what it holds, when it is made again, and what damage does to it."""

import copy
import hashlib
import json
import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image

from featvis_jax.data import cache
from featvis_jax.data.cache import CachedVolume, cache_volumes, checksums
from featvis_jax.data.cohorts import Subject, read_cohort
from featvis_jax.data.errors import CohortError
from featvis_jax.data.intensities import rescale
from featvis_jax.data.masks import brain_fraction_per_slice, usable_slices
from featvis_jax.data.volumes import load_volume


@pytest.fixture
def subjects(write_cohort) -> tuple[Subject, ...]:
    return read_cohort(write_cohort({f"sub-{i}": "F" for i in range(5)})).subjects


def test_holds_the_rescaled_volume_axial_first(subjects, tmp_path):
    calls = []
    cached = cache_volumes(subjects, tmp_path / "a" / "b", progress=lambda *n: calls.append(n))
    assert list(cached) == [subject.participant_id for subject in subjects]
    assert calls == [(number, 5) for number in range(1, 6)]
    for subject in subjects:
        entry = cached[subject.participant_id]
        data = load_volume(subject.path).data
        voxels = entry.open()
        assert isinstance(voxels, np.memmap)
        assert voxels.dtype == np.float16
        assert voxels.shape == entry.shape == (8, 6, 7)
        for z in range(8):
            np.testing.assert_allclose(voxels[z], rescale(data)[:, :, z], atol=5e-4)
        with pytest.raises(ValueError, match="read-only"):
            voxels[0, 0, 0] = 1
        np.testing.assert_allclose(entry.brain_fraction, brain_fraction_per_slice(data))
    names = {path.name for path in (tmp_path / "a" / "b").iterdir()}
    assert names == {f"sub-{i}.{kind}" for i in range(5) for kind in ("npy", "json")}


def test_is_used_again(subjects, tmp_path, monkeypatch):
    first = cache_volumes(subjects, tmp_path / "cache")
    monkeypatch.setattr(cache, "load_volume", None)
    again = cache_volumes(subjects, tmp_path / "cache")
    for who, entry in first.items():
        assert again[who].path == entry.path
        assert again[who].shape == entry.shape
        np.testing.assert_array_equal(again[who].brain_fraction, entry.brain_fraction)


def test_raw_intensities_are_kept_to_the_last_unit(tmp_path, rng):
    """Of CT, and of a scanner's 16 bits: float16 has steps of 2 above 2048 and ends at 65504."""
    made = []
    for number, (low, high) in enumerate(((-1024, 3072), (0, 65536))):
        voxels = rng.integers(low, high, (6, 7, 8)).astype(np.int32)
        voxels[0, 0, :2] = low, high - 1
        made.append(voxels)
        path = tmp_path / f"sub-{number}" / "anat" / f"sub-{number}_T1w.nii.gz"
        path.parent.mkdir(parents=True)
        nibabel.save(Nifti1Image(voxels, np.eye(4)), path)
    (tmp_path / "participants.tsv").write_text("participant_id\nsub-0\nsub-1\n")
    cohort = read_cohort(tmp_path)
    for _ in range(2):  # Made, and found again.
        cached = cache_volumes(cohort.subjects, tmp_path / "cache", scaling="raw")
        for entry, voxels in zip(cached.values(), made, strict=True):
            np.testing.assert_array_equal(entry.open(), np.moveaxis(voxels, -1, 0))
            assert entry.outside == voxels.min()


@pytest.mark.parametrize("name", ["zscore", "zscore_nonzero"])
def test_holds_z_scores_of_the_scan_as_it_is_stored(subjects, tmp_path, name):
    cached = cache_volumes(subjects, tmp_path / "cache", scaling=name)
    for subject in subjects:
        scan = load_volume(subject.path).data
        data = scan.astype(np.float64)
        counted = data != 0 if name == "zscore_nonzero" else np.ones(data.shape, bool)
        expected = np.where(counted, (data - data[counted].mean()) / data[counted].std(), 0)
        entry = cached[subject.participant_id]
        # No percentile was cut off on the way; float16 has eleven bits.
        np.testing.assert_allclose(entry.open().transpose(1, 2, 0), expected, rtol=5e-4, atol=1e-4)
        np.testing.assert_allclose(entry.brain_fraction, brain_fraction_per_slice(scan))
        assert entry.outside == entry.open()[0, 0, 0]
    again = cache_volumes(subjects, tmp_path / "cache", scaling=name)
    assert [again[who].outside for who in again] == [cached[who].outside for who in cached]
    # In one directory the other scaling takes its place.
    assert cache_volumes(subjects, tmp_path / "cache")["sub-0"].open().max() == 1


def damage_source(subject: Subject, entry: CachedVolume) -> None:
    later = subject.path.stat().st_mtime_ns + 10**9
    os.utime(subject.path, ns=(later, later))


def damage_version(subject: Subject, entry: CachedVolume) -> None:
    sidecar = entry.path.with_suffix(".json")
    content = json.loads(sidecar.read_text())
    content["source"]["version"] -= 1
    sidecar.write_text(json.dumps(content))


def damage_sidecar(subject: Subject, entry: CachedVolume) -> None:
    entry.path.with_suffix(".json").write_text('{"source": ')


def damage_sidecar_type(subject: Subject, entry: CachedVolume) -> None:
    entry.path.with_suffix(".json").write_text("[]")


def damage_voxels(subject: Subject, entry: CachedVolume) -> None:
    entry.path.write_bytes(entry.path.read_bytes()[:-10])


def damage_by_removal(subject: Subject, entry: CachedVolume) -> None:
    entry.path.unlink()


@pytest.mark.parametrize(
    "damage",
    [
        damage_source,
        damage_version,
        damage_sidecar,
        damage_sidecar_type,
        damage_voxels,
        damage_by_removal,
    ],
)
def test_a_stale_or_damaged_entry_is_made_again(subjects, tmp_path, monkeypatch, damage):
    cached = cache_volumes(subjects, tmp_path / "cache")
    expected = np.array(cached["sub-2"].open())
    damage(subjects[2], cached["sub-2"])
    loaded = []

    def load(path, **options):
        loaded.append(path)
        return load_volume(path, **options)

    monkeypatch.setattr(cache, "load_volume", load)
    again = cache_volumes(subjects, tmp_path / "cache")
    assert loaded == [subjects[2].path]
    np.testing.assert_array_equal(again["sub-2"].open(), expected)


def test_every_file_of_a_cohort_is_told_from_another(write_cohort, tmp_path, write_nifti):
    folder = write_cohort({f"sub-{i}": "F" for i in range(3)})

    def found() -> dict[str, str]:
        cohort = read_cohort(folder)
        return checksums(cohort, cache_volumes(cohort.subjects, tmp_path / "cache"))

    before = found()
    files = {"participants.tsv", *(f"sub-{i}/anat/sub-{i}_T1w.nii.gz" for i in range(3))}
    assert {*before} == files
    for name, checksum in before.items():
        assert checksum == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    assert found() == before
    write_nifti(folder / "sub-1/anat/sub-1_T1w.nii.gz", seed=99)
    table = folder / "participants.tsv"
    table.write_bytes(table.read_bytes().replace(b"F", b"M"))
    after = found()
    changed = {name for name in files if before[name] != after[name]}
    assert changed == {"participants.tsv", "sub-1/anat/sub-1_T1w.nii.gz"}


def test_a_new_scan_of_the_same_name_replaces_the_entry(subjects, tmp_path, write_nifti):
    before = cache_volumes(subjects, tmp_path / "cache")["sub-0"]
    mapped = before.open()
    copy = np.array(mapped)
    write_nifti(subjects[0].path, seed=99)
    after = cache_volumes(subjects, tmp_path / "cache")["sub-0"]
    assert not np.array_equal(after.open(), copy)
    np.testing.assert_array_equal(mapped, copy)


def test_all_bad_files_are_listed_and_the_good_ones_kept(subjects, tmp_path, write_nifti):
    subjects[1].path.write_bytes(subjects[1].path.read_bytes()[:-9])
    write_nifti(subjects[3].path, data=np.zeros((3, 3, 3), np.int16))
    subjects[4].path.unlink()
    with pytest.raises(CohortError, match="3 of 5 scans") as caught:
        cache_volumes(subjects, tmp_path / "cache")
    assert len(caught.value.problems) == 3
    for problem, number in zip(caught.value.problems, (1, 3, 4), strict=True):
        assert f"sub-{number}_T1w.nii.gz" in problem
    assert {path.stem for path in (tmp_path / "cache").glob("*.npy")} == {"sub-0", "sub-2"}


def test_a_full_disk_leaves_no_half_entry(subjects, tmp_path, monkeypatch):
    def full(file, *_, **__):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="No space left"):
        cache_volumes(subjects, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_errors_survive_being_copied_as_between_processes():
    error = copy.copy(CohortError("heading:", ["one", "two"]))
    assert error.problems == ("one", "two")
    assert str(error) == "heading:\n  one\n  two"


def test_real_brain(shared_cohort, tmp_path):
    subject = read_cohort(shared_cohort).subjects[0]
    entry = cache_volumes([subject], tmp_path)[subject.participant_id]
    assert entry.shape == (182, 182, 218)
    assert 100 <= len(usable_slices(entry.brain_fraction)) <= 120
    voxels = entry.open()
    assert voxels.min() == 0
    assert voxels.max() == 1
    data = load_volume(subject.path).data
    # The file was scaled by the same rule, so float16 is the only difference.
    np.testing.assert_allclose(voxels[90], data[:, :, 90], atol=5e-4)
    assert Path(entry.path).stat().st_size < 2 * data.size + 1000
