"""Volumes against nibabel and slow arithmetic; damaged files; the cache."""

import copy
import gzip
import json
import os
import struct
import tracemalloc
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from featvis_jax.data import volumes
from featvis_jax.data.cohorts import CohortError, Subject, VolumeError, read_cohort
from featvis_jax.data.volumes import (
    brain_fraction_per_slice,
    brain_mask,
    cache_volumes,
    center_crop,
    crop_affine,
    load_volume,
    rescale,
    usable_slices,
)

OBLIQUE = np.array([[0, 0.2, 3.0, -9], [-2, 0, 0, 5], [0, 1.5, -0.3, 1], [0, 0, 0, 1]])


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


class TestLoad:
    @pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
    @pytest.mark.parametrize("endianness", ["<", ">"])
    @pytest.mark.parametrize(
        "dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64]
    )
    def test_equals_nibabel(self, tmp_path, rng, suffix, endianness, dtype):
        data = rng.integers(0, 200, (3, 4, 5)).astype(dtype)
        header = nibabel.Nifti1Header(endianness=endianness)
        header.set_data_dtype(dtype)
        image = nibabel.Nifti1Image(data, OBLIQUE, header)
        path = tmp_path / f"scan{suffix}"
        image.to_filename(path)
        reference = nibabel.as_closest_canonical(nibabel.load(path))
        volume = load_volume(path)
        assert volume.data.dtype == np.float32
        assert volume.affine.dtype == np.float64
        np.testing.assert_allclose(volume.data, reference.get_fdata(), rtol=1e-6)
        np.testing.assert_allclose(volume.affine, reference.affine, atol=1e-5)

    @pytest.mark.parametrize(("slope", "intercept"), [(0.25, -7.5), (-2, 100), (1 / 255, 0)])
    def test_slope_and_intercept(self, tmp_path, write_nifti, slope, intercept):
        path = write_nifti(tmp_path / "scan.nii")
        content = bytearray(path.read_bytes())
        struct.pack_into("<2f", content, 112, slope, intercept)
        path.write_bytes(content)
        expected = nibabel.load(path).get_fdata()
        assert expected.max() != nibabel.load(path).dataobj.get_unscaled().max()
        np.testing.assert_allclose(load_volume(path).data, expected, rtol=1e-6)

    def test_every_voxel_stays_where_it_is_in_the_world(self, tmp_path, write_nifti, rng):
        data = rng.uniform(1, 2, (4, 5, 6)).astype(np.float32)
        volume = load_volume(write_nifti(tmp_path / "scan.nii", data=data, affine=OBLIQUE))
        for index in [(0, 0, 0), (3, 0, 5), (1, 4, 2)]:
            world = OBLIQUE @ [*index, 1]
            there = np.round(np.linalg.solve(volume.affine, world)[:3]).astype(int)
            assert volume.data[tuple(there)] == data[index]
        assert (np.abs(volume.affine[:3, :3]).argmax(axis=1) == [0, 1, 2]).all()
        assert (np.diag(volume.affine)[:3] > 0).all()

    def test_fourth_axis_of_one(self, tmp_path, write_nifti):
        path = write_nifti(tmp_path / "scan.nii.gz", shape=(3, 4, 5, 1))
        assert load_volume(path).data.shape == (3, 4, 5)

    def test_header_extensions_are_skipped(self, tmp_path, write_nifti):
        path = write_nifti(tmp_path / "scan.nii")
        image = nibabel.load(path)
        expected = image.get_fdata()
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"x" * 500))
        image.to_filename(tmp_path / "extended.nii.gz")
        np.testing.assert_array_equal(load_volume(tmp_path / "extended.nii.gz").data, expected)

    def test_time_series(self, tmp_path, write_nifti):
        path = write_nifti(tmp_path / "scan.nii.gz", shape=(3, 4, 5, 2))
        with pytest.raises(VolumeError, match=r"scan\.nii\.gz: expected one volume"):
            load_volume(path)

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
    def test_voxels_that_are_no_float32(self, tmp_path, write_nifti, rng, bad):
        data = rng.uniform(size=(3, 4, 5))
        data[1, 2, 3] = bad
        path = write_nifti(tmp_path / "scan.nii", data=data)
        with pytest.raises(VolumeError, match=r"scan\.nii: 1 of 60 voxels are NaN, infinite"):
            load_volume(path)

    def test_constant(self, tmp_path, write_nifti):
        path = write_nifti(tmp_path / "scan.nii", data=np.full((3, 4, 5), 7, np.int16))
        with pytest.raises(VolumeError, match=r"scan\.nii: every voxel is 7"):
            load_volume(path)

    @pytest.mark.parametrize("lost", [1, 8, 9, 40, 700])
    @pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
    def test_truncated(self, tmp_path, write_nifti, suffix, lost):
        path = write_nifti(tmp_path / f"scan{suffix}", shape=(9, 9, 9))
        path.write_bytes(path.read_bytes()[:-lost])
        with pytest.raises(VolumeError, match=r"truncated|cannot be read"):
            load_volume(path)

    def test_corrupt_checksum_and_corrupt_stream(self, tmp_path, write_nifti):
        path = write_nifti(tmp_path / "scan.nii.gz", shape=(20, 20, 20))
        content = path.read_bytes()
        for position in (-6, len(content) // 2):
            damaged = bytearray(content)
            damaged[position] ^= 0xFF
            path.write_bytes(damaged)
            with pytest.raises(VolumeError, match="corrupt"):
                load_volume(path)

    def test_claims_over_the_limit(self, tmp_path, write_nifti):
        path = write_nifti(tmp_path / "scan.nii.gz", shape=(9, 9, 9))
        load_volume(path, max_bytes=9**3 * 4)
        with pytest.raises(VolumeError, match="max_bytes"):
            load_volume(path, max_bytes=9**3 * 4 - 1)

    def test_a_decompression_bomb_takes_no_memory(self, tmp_path, write_nifti):
        plain = write_nifti(tmp_path / "scan.nii").read_bytes()
        path = tmp_path / "bomb.nii.gz"
        with gzip.open(path, "wb") as file:
            file.write(plain)
            for _ in range(64):
                file.write(bytes(2**20))
        tracemalloc.start()
        try:
            with pytest.raises(VolumeError, match="goes on after"):
                load_volume(path)
            assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
        finally:
            tracemalloc.stop()

    def test_a_little_padding_is_fine(self, tmp_path, write_nifti):
        path = write_nifti(tmp_path / "scan.nii")
        expected = load_volume(path).data
        path.write_bytes(path.read_bytes() + bytes(100))
        np.testing.assert_array_equal(load_volume(path).data, expected)

    def test_missing(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"gone\.nii"):
            load_volume(tmp_path / "gone.nii")


class TestRescale:
    def test_equals_sorting_by_hand(self, rng):
        data = rng.normal(300, 100, (20, 21, 22)).astype(np.float32)
        data[:, :5] = -50
        data[0, 0, 0] = 1e6
        ordered = np.sort(data.ravel().astype(np.float64))
        lower = ordered[int(np.floor(0.001 * (ordered.size - 1)))]
        bright = ordered[ordered > lower]
        upper = bright[int(np.ceil(0.998 * (bright.size - 1)))]
        expected = np.clip((data.astype(np.float64) - lower) / (upper - lower), 0, 1)
        scaled = rescale(data)
        assert scaled.dtype == np.float32
        np.testing.assert_allclose(scaled, expected, atol=1e-6)

    def test_a_background_becomes_exactly_zero_and_a_second_time_changes_nothing(self, rng):
        image, ball = head(rng, stripped=True)
        scaled = rescale(image * 3 - 1000)
        assert (scaled[~ball] == 0).all()
        assert (scaled[ball] > 0).mean() > 0.999
        assert scaled.max() == 1
        np.testing.assert_array_equal(rescale(scaled), scaled)

    def test_the_ends_of_float32(self):
        data = np.array([-3e38, 0, 3e38], np.float32)
        np.testing.assert_allclose(rescale(data), [0, 0.5, 1])

    def test_constant(self):
        with pytest.raises(ValueError, match="constant"):
            rescale(np.full((2, 3), 5, np.float32))


class TestCrop:
    @pytest.mark.parametrize("have", [(7, 8, 9), (8, 7), (5,)])
    @pytest.mark.parametrize("change", [-3, -2, -1, 0, 1, 2, 3])
    def test_voxels_keep_their_place_in_the_world(self, rng, have, change):
        array = rng.uniform(1, 2, have)
        wanted = tuple(size + change for size in have)
        cropped, affine = center_crop(array, wanted, affine=OBLIQUE)
        assert cropped.shape == wanted
        seen = 0
        for index in np.ndindex(*wanted):
            world = affine @ [*index, *(0,) * (3 - len(have)), 1]
            old = np.round(np.linalg.solve(OBLIQUE, world)[: len(have)]).astype(int)
            if all(0 <= i < size for i, size in zip(old, have, strict=True)):
                assert cropped[index] == array[tuple(old)]
                seen += 1
            else:
                assert cropped[index] == 0
        assert seen == np.prod(np.minimum(have, wanted))

    @pytest.mark.parametrize(("small", "large"), [(3, 6), (4, 6), (3, 5), (5, 5)])
    def test_cropping_undoes_padding(self, rng, small, large):
        array = rng.normal(size=(small, small))
        padded, moved = center_crop(array, (large, large), affine=OBLIQUE)
        restored, back = center_crop(padded, (small, small), affine=moved)
        np.testing.assert_array_equal(restored, array)
        np.testing.assert_allclose(back, OBLIQUE)

    def test_further_axes_are_kept_and_a_crop_is_a_view(self, rng):
        array = rng.normal(size=(6, 8, 2))
        cropped, affine = center_crop(array, (4, 4))
        assert affine is None
        np.testing.assert_array_equal(cropped, array[1:5, 2:6])
        assert np.shares_memory(cropped, array)
        assert center_crop(array, (8, 4))[0].shape == (8, 4, 2)

    def test_a_slice_at_a_height(self):
        affine = crop_affine(OBLIQUE, (2, -1, 7))
        for index in [(0, 0, 0), (3, 5, 0)]:
            expected = OBLIQUE @ [index[0] + 2, index[1] - 1, index[2] + 7, 1]
            np.testing.assert_allclose(affine @ [*index, 1], expected)

    def test_bad_arguments(self):
        with pytest.raises(ValueError, match="shape="):
            center_crop(np.zeros((3, 3)), (2, 2, 2))
        with pytest.raises(ValueError, match="shape="):
            center_crop(np.zeros((3, 3)), (0, 2))
        with pytest.raises(ValueError, match="start="):
            crop_affine(np.eye(4), (1, 2, 3, 4))


class TestMask:
    @pytest.mark.parametrize("scale", [1.0, 0.001])
    @pytest.mark.parametrize("offset", [0.0, -300.0])
    def test_stripped_is_everything_above_the_background(self, rng, scale, offset):
        image, ball = head(rng, stripped=True)
        mask = brain_mask(np.float32(scale) * image + np.float32(offset))
        np.testing.assert_array_equal(mask, ball)
        middle = np.ascontiguousarray(image[:, :, 18])
        np.testing.assert_array_equal(brain_mask(middle), ball[:, :, 18])

    def test_not_stripped_is_the_head_without_the_air(self, rng):
        image, ball = head(rng, stripped=False)
        image[2, 2, 2] = 600
        mask = brain_mask(image)
        assert not mask[2, 2, 2]
        assert mask[20, 22, 18], "the dark hole is inside"
        overlap = 2 * (mask & ball).sum() / (mask.sum() + ball.sum())
        assert overlap > 0.99
        assert ndimage.label(mask)[1] == 1

    def test_constant(self):
        assert not brain_mask(np.ones((3, 4), np.float32)).any()

    def test_fraction_per_slice(self, rng):
        image, ball = head(rng, stripped=True)
        expected = [ball[:, :, z].sum() / ball[:, :, z].size for z in range(ball.shape[2])]
        np.testing.assert_allclose(brain_fraction_per_slice(image), expected)


class TestUsableSlices:
    def test_share_of_the_fullest(self):
        fraction = np.array([0, 0.05, 0.1, 0.25, 0.5, 0.2, 0])
        np.testing.assert_array_equal(usable_slices(fraction, minimum=0.5), [3, 4])
        np.testing.assert_array_equal(usable_slices(fraction), [3, 4, 5])
        np.testing.assert_array_equal(usable_slices(fraction, minimum=0), [1, 2, 3, 4, 5])

    @pytest.mark.parametrize("fraction", [np.zeros(4), np.zeros(0)])
    def test_no_brain(self, fraction):
        with pytest.raises(ValueError, match="no slice with brain"):
            usable_slices(fraction)

    def test_minimum_out_of_range(self):
        with pytest.raises(ValueError, match="minimum=20"):
            usable_slices(np.ones(3), minimum=20.0)


class TestCache:
    @pytest.fixture
    def subjects(self, write_cohort) -> tuple[Subject, ...]:
        return read_cohort(write_cohort({f"sub-{i}": "F" for i in range(5)})).subjects

    def test_holds_the_rescaled_volume_axial_first(self, subjects, tmp_path):
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

    def test_is_used_again(self, subjects, tmp_path, monkeypatch):
        first = cache_volumes(subjects, tmp_path / "cache")
        monkeypatch.setattr(volumes, "load_volume", None)
        again = cache_volumes(subjects, tmp_path / "cache")
        for who, entry in first.items():
            assert again[who].path == entry.path
            assert again[who].shape == entry.shape
            np.testing.assert_array_equal(again[who].brain_fraction, entry.brain_fraction)

    def damage_source(self, subject: Subject, entry: volumes.CachedVolume) -> None:
        later = subject.path.stat().st_mtime_ns + 10**9
        os.utime(subject.path, ns=(later, later))

    def damage_version(self, subject: Subject, entry: volumes.CachedVolume) -> None:
        sidecar = entry.path.with_suffix(".json")
        content = json.loads(sidecar.read_text())
        content["source"]["version"] -= 1
        sidecar.write_text(json.dumps(content))

    def damage_sidecar(self, subject: Subject, entry: volumes.CachedVolume) -> None:
        entry.path.with_suffix(".json").write_text('{"source": ')

    def damage_sidecar_type(self, subject: Subject, entry: volumes.CachedVolume) -> None:
        entry.path.with_suffix(".json").write_text("[]")

    def damage_voxels(self, subject: Subject, entry: volumes.CachedVolume) -> None:
        entry.path.write_bytes(entry.path.read_bytes()[:-10])

    def damage_by_removal(self, subject: Subject, entry: volumes.CachedVolume) -> None:
        entry.path.unlink()

    @pytest.mark.parametrize(
        "damage",
        ["source", "version", "sidecar", "sidecar_type", "voxels", "by_removal"],
    )
    def test_a_stale_or_damaged_entry_is_made_again(self, subjects, tmp_path, monkeypatch, damage):
        cached = cache_volumes(subjects, tmp_path / "cache")
        expected = np.array(cached["sub-2"].open())
        getattr(self, f"damage_{damage}")(subjects[2], cached["sub-2"])
        loaded = []

        def load(path, **options):
            loaded.append(path)
            return load_volume(path, **options)

        monkeypatch.setattr(volumes, "load_volume", load)
        again = cache_volumes(subjects, tmp_path / "cache")
        assert loaded == [subjects[2].path]
        np.testing.assert_array_equal(again["sub-2"].open(), expected)

    def test_a_new_scan_of_the_same_name_replaces_the_entry(self, subjects, tmp_path, write_nifti):
        before = cache_volumes(subjects, tmp_path / "cache")["sub-0"]
        mapped = before.open()
        copy = np.array(mapped)
        write_nifti(subjects[0].path, seed=99)
        after = cache_volumes(subjects, tmp_path / "cache")["sub-0"]
        assert not np.array_equal(after.open(), copy)
        np.testing.assert_array_equal(mapped, copy)

    def test_all_bad_files_are_listed_and_the_good_ones_kept(self, subjects, tmp_path, write_nifti):
        subjects[1].path.write_bytes(subjects[1].path.read_bytes()[:-9])
        write_nifti(subjects[3].path, data=np.zeros((3, 3, 3), np.int16))
        subjects[4].path.unlink()
        with pytest.raises(CohortError, match="3 of 5 scans") as caught:
            cache_volumes(subjects, tmp_path / "cache")
        assert len(caught.value.problems) == 3
        for problem, number in zip(caught.value.problems, (1, 3, 4), strict=True):
            assert f"sub-{number}_T1w.nii.gz" in problem
        assert {path.stem for path in (tmp_path / "cache").glob("*.npy")} == {"sub-0", "sub-2"}

    def test_a_full_disk_leaves_no_half_entry(self, subjects, tmp_path, monkeypatch):
        def full(file, *_, **__):
            file.write(b"half")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(np, "save", full)
        with pytest.raises(OSError, match="No space left"):
            cache_volumes(subjects, tmp_path / "cache")
        assert list((tmp_path / "cache").iterdir()) == []

    def test_errors_survive_being_copied_as_between_processes(self):
        error = copy.copy(CohortError("heading:", ["one", "two"]))
        assert error.problems == ("one", "two")
        assert str(error) == "heading:\n  one\n  two"

    def test_real_brain(self, shared_cohort, tmp_path):
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
