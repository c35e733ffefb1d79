"""Cohorts: who is in, whether scans fit together, and that all bad files are told at once."""

import numpy as np
import pytest

from featvis_jax.data.cohorts import read_cohort
from featvis_jax.data.errors import CohortError
from featvis_jax.data.splits import split_subjects
from tests.data.scans import AFFINE, cohort_of, overwrite, problems_of

SEXES = {"sub-01": "F", "sub-02": "M", "sub-03": "F"}


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

    @pytest.mark.parametrize("pattern", ["/etc/*", "../*", "", "**x"])
    def test_pattern_must_be_a_glob_in_the_folder(self, write_cohort, pattern):
        with pytest.raises(CohortError, match=r"pattern='.*(relative|no glob)"):
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
            "6\tb\0.nii\n7\tloop.nii\n"
        )
        (tmp_path / "loop.nii").symlink_to("loop.nii")
        problems = problems_of(table)
        assert len(problems) == 6
        assert "line 7" in problems[0]
        assert "line 3" in problems[1]
        assert "already on line 2" in problems[1]
        assert "line 4" in problems[2]
        assert "line 5" in problems[3]
        assert "gone.nii: there is no such file" in problems[4]
        assert "loop.nii: cannot be opened" in problems[5]

    def test_needs_a_path_column(self, write_cohort):
        with pytest.raises(CohortError, match="needs a column path"):
            read_cohort(write_cohort(SEXES) / "participants.tsv")


class TestGrid:
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
