"""Cohorts: who is in, which files are refused and in which words, and how subjects are split."""

import gzip
import json
import re
import struct
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pytest

from featvis_jax.data.cohorts import (
    Cohort,
    CohortError,
    Split,
    Subject,
    VolumeError,
    read_cohort,
    read_header,
    split_subjects,
)

AFFINE = np.array([[2.0, 0, 0, -10], [0, 2, 0, -12], [0, 0, 2, -14], [0, 0, 0, 1]])
SEXES = {"sub-01": "F", "sub-02": "M", "sub-03": "F"}


def cohort_of(labels: list[str]) -> Cohort:
    """A cohort of that many subjects, without files."""
    subjects = tuple(
        Subject(f"sub-{i:03d}", Path(f"{i}.nii"), {"sex": label}, line=i + 2)
        for i, label in enumerate(labels)
    )
    return Cohort("made", subjects, (2, 2, 2), np.eye(4))


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


class TestFolder:
    def test_reads_subjects_labels_and_grid(self, write_cohort):
        folder = write_cohort(SEXES)
        cohort = read_cohort(folder)
        assert cohort.name == "cohort"
        assert cohort.participant_ids == tuple(SEXES)
        assert [subject.labels["sex"] for subject in cohort.subjects] == list(SEXES.values())
        assert [subject.line for subject in cohort.subjects] == [2, 3, 4]
        assert cohort.subjects[0].path == folder / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
        assert cohort.shape == (6, 7, 8)
        np.testing.assert_allclose(cohort.affine, AFFINE)
        assert cohort.unlisted == ()

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
    @pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
    def test_byte_order_mark_line_ends_and_ids_without_prefix(
        self, write_cohort, encoding, newline
    ):
        folder = write_cohort(SEXES)
        text = newline.join(["participant_id\tsex\tsite", "01\tF\tKöln", "sub-02\tM\tA", "", ""])
        (folder / "participants.tsv").write_bytes(text.encode(encoding))
        cohort = read_cohort(folder)
        assert cohort.participant_ids == ("sub-01", "sub-02")
        assert cohort.subjects[0].labels == {"sex": "F", "site": "Köln"}
        assert [path.name for path in cohort.unlisted] == ["sub-03_T1w.nii.gz"]

    def test_sessions_and_derivative_entities(self, write_cohort, write_nifti):
        folder = write_cohort({"sub-01": "F"}, sessions=("ses-1",))
        write_nifti(folder / "sub-02" / "anat" / "sub-02_space-MNI_res-1_desc-brain_T1w.nii")
        (folder / "sub-02" / "anat" / "._sub-02_T1w.nii").write_bytes(b"resource fork")
        (folder / "participants.tsv").write_text("participant_id\n01\n02\n")
        names = [subject.path.name for subject in read_cohort(folder).subjects]
        assert names == ["sub-01_ses-1_T1w.nii.gz", "sub-02_space-MNI_res-1_desc-brain_T1w.nii"]

    def test_flat_folder_with_a_pattern(self, tmp_path, write_nifti):
        write_nifti(tmp_path / "sub-1_T1w.nii.gz")
        write_nifti(tmp_path / "sub-10_T1w.nii.gz")
        (tmp_path / "participants.tsv").write_text("participant_id\nsub-10\nsub-1\n")
        cohort = read_cohort(tmp_path, pattern="*_T1w.nii.gz")
        names = [subject.path.name for subject in cohort.subjects]
        assert names == ["sub-10_T1w.nii.gz", "sub-1_T1w.nii.gz"]

    def test_several_files_of_a_subject_are_refused_and_a_pattern_chooses(self, write_cohort):
        folder = write_cohort({"sub-01": "F"}, sessions=("ses-1", "ses-2"))
        (problem,) = problems_of(folder)
        assert "participants.tsv line 2: 2 files for sub-01" in problem
        assert "pattern" in problem
        assert "ses-2" in problem
        cohort = read_cohort(folder, pattern="sub-*/ses-2/anat/*_T1w.nii*")
        assert cohort.subjects[0].path.name == "sub-01_ses-2_T1w.nii.gz"

    def test_a_subject_without_file(self, write_cohort):
        folder = write_cohort(SEXES)
        with (folder / "participants.tsv").open("a") as file:
            file.write("sub-09\tF\n")
        (problem,) = problems_of(folder)
        assert "participants.tsv line 5: no file for sub-09" in problem

    def test_a_scan_in_another_subjects_folder(self, write_cohort):
        folder = write_cohort(SEXES)
        scan = folder / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
        scan.rename(scan.with_name("sub-02_T1w.nii.gz"))
        assert "named sub-02 but lies in sub-01" in problems_of(folder)[0]

    @pytest.mark.parametrize("pattern", ["/etc/*", "../*", ""])
    def test_pattern_must_stay_in_the_folder(self, write_cohort, pattern):
        with pytest.raises(CohortError, match="relative"):
            read_cohort(write_cohort(SEXES), pattern=pattern)

    def test_missing_folder_and_missing_table(self, tmp_path):
        for path in (tmp_path / "nowhere", tmp_path):
            with pytest.raises(FileNotFoundError, match=r"participants\.tsv"):
                read_cohort(path)


class TestTable:
    def test_lists_paths_relative_to_itself(self, tmp_path, write_nifti):
        write_nifti(tmp_path / "scans" / "a.nii.gz")
        (tmp_path / "lists").mkdir()
        table = tmp_path / "lists" / "mine.tsv"
        table.write_text("sex\tpath\tparticipant_id\nF\t../scans/a.nii.gz\t7_b\n")
        cohort = read_cohort(table)
        assert cohort.name == "mine"
        assert cohort.participant_ids == ("sub-7_b",)
        assert cohort.subjects[0].labels == {"sex": "F"}

    def test_bad_paths_are_listed_with_lines(self, tmp_path, write_nifti):
        write_nifti(tmp_path / "a.nii.gz")
        table = tmp_path / "list.tsv"
        table.write_text(
            "participant_id\tpath\n1\ta.nii.gz\n2\t./a.nii.gz\n3\ta.png\n4\t\n5\tgone.nii\n"
        )
        problems = problems_of(table)
        assert len(problems) == 4
        assert "line 3" in problems[0]
        assert "already on line 2" in problems[0]
        assert "line 4" in problems[1]
        assert "line 5" in problems[2]
        assert "gone.nii: no such file" in problems[3]

    def test_needs_a_path_column(self, write_cohort):
        with pytest.raises(CohortError, match="needs a column path"):
            read_cohort(write_cohort(SEXES) / "participants.tsv")

    def test_bad_rows_are_all_listed_with_their_lines(self, write_cohort):
        folder = write_cohort(SEXES)
        (folder / "participants.tsv").write_text(
            "participant_id\tsex\n"
            "sub-01\tF\n"
            "01\tM\n"
            "SUB-01\tM\n"
            "../../x\tF\n"
            "n/a\tF\n"
            "\tF\n"
            "sub-02\tM\textra\n"
            "sub-\tM\n"
            f"{'a' * 200}\tM\n"
            "Sub\x0003\tM\n"
        )
        problems = problems_of(folder)
        lines = [int(re.search(r"line (\d+)", problem)[1]) for problem in problems]
        # SUB-01 is another id than sub-01 (it becomes sub-SUB-01), and has no file.
        assert lines == [3, 5, 6, 7, 8, 9, 10, 11, 4]
        assert "already on line 2" in problems[0]
        assert "'../../x' is not safe" in problems[1]
        assert "missing" in problems[2]
        assert "missing" in problems[3]
        assert "3 cells, expected 2" in problems[4]

    def test_ids_that_differ_by_case_only(self, write_cohort):
        folder = write_cohort({"sub-a1": "F", "sub-A1": "M"})
        assert "already on line 2" in problems_of(folder)[0]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "the file is empty"),
            (b"participant_id,sex\nsub-01,F\n", "separated by tabs"),
            (b"participant_id\tsex\tsex\nsub-01\tF\tF\n", "distinct column names"),
            (b"subject\tsex\nsub-01\tF\n", "participant_id"),
            ("participant_id\tsex\nsub-01\tF\n".encode("utf-16"), "UTF-8"),
            (b'participant_id\tsex\nsub-01\t"F\n', "tabs"),
            (b"participant_id\tsex\n", "one row per subject"),
        ],
    )
    def test_unreadable_tables(self, tmp_path, content, message):
        (tmp_path / "participants.tsv").write_bytes(content)
        with pytest.raises(CohortError, match=message):
            read_cohort(tmp_path)


class TestHeaders:
    @pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
    @pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
    @pytest.mark.parametrize("endianness", ["<", ">"])
    def test_says_what_nibabel_says(self, tmp_path, rng, suffix, kind, endianness):
        affine = np.array([[0, 0, 3.0, -9], [-2, 0, 0, 5], [0, 1.5, 0, 1], [0, 0, 0, 1]])
        data = rng.integers(-9, 9, (3, 4, 5)).astype(np.int16)
        header = kind.header_class(endianness=endianness)
        header.set_data_dtype(np.int16)
        path = tmp_path / f"scan{suffix}"
        kind(data, affine, header).to_filename(path)
        ours = read_header(path)
        reference = nibabel.as_closest_canonical(nibabel.load(path))
        assert ours.dtype == np.dtype(np.int16).newbyteorder(endianness)
        assert ours.shape == data.shape
        assert ours.canonical_shape == reference.shape
        assert ours.num_bytes == data.nbytes
        np.testing.assert_allclose(ours.canonical_affine, reference.affine, atol=1e-5)

    def test_a_qform_alone_and_a_qfac_of_zero(self, tmp_path, write_nifti):
        path = write_nifti(tmp_path / "scan.nii")
        overwrite(path, 254, "h", 0)  # sform_code
        overwrite(path, 252, "h", 1)  # qform_code
        overwrite(path, 76, "f", 0)  # qfac
        np.testing.assert_allclose(read_header(path).affine, AFFINE, atol=1e-5)

    def test_a_fourth_axis_of_one_is_fine(self, tmp_path, write_nifti):
        path = write_nifti(tmp_path / "scan.nii.gz", shape=(3, 4, 5, 1))
        assert read_header(path).shape == (3, 4, 5)

    @pytest.mark.parametrize(
        ("offset", "code", "values", "message"),
        [
            (40, "8h", (4, 6, 7, 8, 3, 1, 1, 1), "three dimensions"),
            (40, "8h", (2, 6, 7, 1, 1, 1, 1, 1), "three dimensions"),
            (40, "8h", (3, 6, 0, 8, 1, 1, 1, 1), "three dimensions"),
            (40, "8h", (3, 6, -7, 8, 1, 1, 1, 1), "three dimensions"),
            (40, "8h", (0, 6, 7, 8, 1, 1, 1, 1), "three dimensions"),
            (40, "8h", (9, 6, 7, 8, 1, 1, 1, 1), "three dimensions"),
            (40, "8h", (3, 32767, 32767, 32767, 1, 1, 1, 1), "limit of 4,294,967,296 bytes"),
            (40, "8h", (3, 500, 500, 500, 1, 1, 1, 1), "truncated"),
            (70, "2h", (128, 24), "real numbers"),  # RGB
            (70, "2h", (32, 64), "real numbers"),  # complex
            (70, "2h", (1, 1), "unknown NIfTI datatype|real numbers"),  # bits
            (70, "2h", (77, 16), "unknown NIfTI datatype"),
            (70, "2h", (4, 8), "bitpix 8"),
            (280, "4f", (0, 0, 0, 0), "not invertible"),
            (280, "4f", (float("nan"), 0, 0, 0), "not invertible|damaged"),
            (108, "f", (10.0,), "byte 10"),
            (108, "f", (1e30,), "byte 1e"),
            (112, "2f", (2.0, float("inf")), "scl_inter"),
            (344, "4s", (b"ni1\0",), "single-file NIfTI"),
            (0, "i", (1234,), "single-file NIfTI"),
        ],
    )
    @pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
    def test_damaged_headers(self, tmp_path, write_nifti, suffix, offset, code, values, message):
        path = write_nifti(tmp_path / f"scan{suffix}")
        overwrite(path, offset, code, *values)
        with pytest.raises(VolumeError, match=message) as caught:
            read_header(path)
        assert str(path) in str(caught.value)

    def test_axes_in_one_plane_have_no_inverse(self, tmp_path, write_nifti):
        path = write_nifti(tmp_path / "scan.nii")
        overwrite(path, 280, "12f", 1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 1, 0)
        with pytest.raises(VolumeError, match="not invertible"):
            read_header(path)

    @pytest.mark.parametrize("content", [b"", b"text", gzip.compress(b"x" * 900), b"\x1f\x8bzzzz"])
    def test_files_that_are_no_nifti(self, tmp_path, content):
        path = tmp_path / "scan.nii.gz"
        path.write_bytes(content)
        with pytest.raises(VolumeError, match=r"scan\.nii\.gz"):
            read_header(path)

    def test_missing_file_and_dangling_link(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="check the path"):
            read_header(tmp_path / "gone.nii")
        link = tmp_path / "link.nii"
        link.symlink_to("content/not/fetched")
        with pytest.raises(FileNotFoundError, match="fetch its content"):
            read_header(link)

    def test_all_bad_files_are_listed_at_once(self, write_cohort, write_nifti):
        folder = write_cohort({f"sub-{i:02d}": "FM"[i % 2] for i in range(9)})
        scans = sorted(folder.glob("sub-*/anat/*"))
        write_nifti(scans[1], shape=(6, 7, 9))
        write_nifti(scans[2], affine=AFFINE + 0.01 * np.eye(4, 4, 3))
        scans[3].write_bytes(b"nothing")
        overwrite(scans[4], 40, "8h", 4, 6, 7, 4, 2, 1, 1, 1)
        overwrite(scans[5], 280, "4f", 0, 0, 0, 0)
        scans[6].unlink()
        problems = problems_of(folder)
        assert len(problems) == 6
        for scan in scans[1:7]:
            assert any(scan.parts[-3] in problem for problem in problems), scan
        (shape,) = (problem for problem in problems if "sub-01" in problem)
        assert "shape (6, 7, 9)" in shape
        assert "(6, 7, 8)" in shape
        (affine,) = (problem for problem in problems if "sub-02" in problem)
        assert "up to 0.01 mm" in affine

    def test_orientations_that_agree_after_reorientation_are_one_grid(
        self, write_cohort, write_nifti, rng
    ):
        folder = write_cohort(SEXES)
        scan = folder / "sub-02" / "anat" / "sub-02_T1w.nii.gz"
        # Stored from right to left and with y and z exchanged, over the same points of the world.
        affine = AFFINE @ np.array([[-1.0, 0, 0, 5], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
        write_nifti(scan, data=rng.uniform(size=(6, 8, 7)).astype(np.float32), affine=affine)
        assert read_cohort(folder).shape == (6, 7, 8)
        write_nifti(scan, affine=AFFINE @ np.diag([-1.0, 1, 1, 1]))
        assert "mm from where" in problems_of(folder)[0]

    def test_real_cohort(self, shared_cohort):
        cohort = read_cohort(shared_cohort)
        assert len(cohort.subjects) == 36
        assert cohort.shape == (182, 218, 182)
        # Stored from right to left; FSL's origin is at voxel 90 of both directions plus one.
        np.testing.assert_array_equal(cohort.affine[:3, 3], [-91, -126, -72])
        np.testing.assert_array_equal(np.diag(cohort.affine), [1, 1, 1, 1])
        split = split_subjects(cohort, label="sex")
        assert [len(part) for part in (split.test, split.validation, split.train)] == [7, 6, 23]


class TestSelect:
    def test_order_asked_for_with_and_without_prefix(self):
        subjects = cohort_of(["F"] * 4).select(["sub-002", "000"])
        assert [subject.participant_id for subject in subjects] == ["sub-002", "sub-000"]

    def test_unknown_ids(self):
        with pytest.raises(CohortError, match="another cohort") as caught:
            cohort_of(["F"]).select(["sub-000", "sub-9", "8"])
        assert caught.value.problems == ("sub-9", "sub-8")


class TestSplit:
    def test_sizes_shares_and_no_overlap(self):
        cohort = cohort_of(["F"] * 60 + ["M"] * 40)
        split = split_subjects(cohort, label="sex")
        assert [len(part) for part in (split.test, split.validation, split.train)] == [20, 16, 64]
        everyone = [*split.train, *split.validation, *split.test]
        assert sorted(everyone) == sorted(cohort.participant_ids)
        for part in (split.train, split.validation, split.test):
            counts = Counter(subject.labels["sex"] for subject in cohort.select(part))
            assert abs(counts["M"] - 0.4 * len(part)) < 1

    def test_depends_on_the_seed_and_not_on_the_order(self):
        cohort = cohort_of(["F", "M"] * 20)
        shuffled = Cohort("made", cohort.subjects[::-1], cohort.shape, cohort.affine)
        assert split_subjects(cohort, label="sex") == split_subjects(shuffled, label="sex")
        assert split_subjects(cohort, label="sex") != split_subjects(cohort, label="sex", seed=1)

    def test_without_a_label_and_with_empty_parts(self):
        cohort = cohort_of(["n/a"] * 10)
        split = split_subjects(cohort, label=None, validation_fraction=0)
        assert (len(split.train), len(split.validation), len(split.test)) == (8, 0, 2)

    @pytest.mark.parametrize("fraction", [-0.1, 1, 1.5, float("nan")])
    def test_fractions_out_of_range(self, fraction):
        with pytest.raises(ValueError, match="test_fraction"):
            split_subjects(cohort_of(["F", "M"] * 9), label="sex", test_fraction=fraction)

    def test_unknown_label_names_the_columns(self):
        with pytest.raises(CohortError, match="no label 'age'") as caught:
            split_subjects(cohort_of(["F", "M"] * 9), label="age")
        assert caught.value.problems == ("sex",)

    @pytest.mark.parametrize("value", ["n/a", "", "N/A", "NaN"])
    def test_missing_values_are_named_with_their_lines(self, value):
        with pytest.raises(CohortError, match="'sex' is missing") as caught:
            split_subjects(cohort_of(["F", value, "M", "F", value]), label="sex")
        assert caught.value.problems == (
            f"sub-001 (line 3): {value!r}",
            f"sub-004 (line 6): {value!r}",
        )

    def test_a_single_class(self):
        with pytest.raises(CohortError, match="at least two values, it has 'F': 9"):
            split_subjects(cohort_of(["F"] * 9), label="sex")

    @pytest.mark.parametrize("number", [1, 2])
    def test_too_few_of_a_class(self, number):
        with pytest.raises(CohortError, match=f"'F': 30, 'M': {number}"):
            split_subjects(cohort_of(["F"] * 30 + ["M"] * number), label="sex")

    def test_too_few_subjects(self):
        with pytest.raises(CohortError, match="too few"):
            split_subjects(cohort_of(["F", "M"]), label=None)


class TestSplitFile:
    SPLIT = Split(("sub-01", "sub-02"), ("sub-03",), ("sub-04",))

    def test_round_trip(self, tmp_path):
        path = tmp_path / "split.json"
        self.SPLIT.save(path)
        self.SPLIT.save(path)
        assert Split.load(path) == self.SPLIT
        assert [entry.name for entry in tmp_path.iterdir()] == ["split.json"]
        assert json.loads(path.read_text())["train"] == ["sub-01", "sub-02"]

    def test_overlap_is_refused(self):
        with pytest.raises(CohortError, match="sub-01"):
            Split(("sub-01",), ("sub-02",), ("sub-01",))

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("{", "not JSON"),
            ("[]", "expected an object"),
            ('{"train": []}', "expected an object"),
            ('{"train": "ab", "validation": [], "test": []}', "list of ids"),
            ('{"train": [1], "validation": [], "test": []}', "list of ids"),
            ('{"train": ["sub-1"], "validation": [], "test": ["sub-1"]}', "come twice"),
        ],
    )
    def test_damaged_files(self, tmp_path, content, message):
        path = tmp_path / "split.json"
        path.write_text(content)
        with pytest.raises(CohortError, match=message) as caught:
            Split.load(path)
        assert str(path) in str(caught.value)
