"""Tables of participants, as people and their programs write them."""

import re

import pytest

from featvis_jax.data.cohorts import read_cohort
from featvis_jax.data.errors import CohortError
from featvis_jax.data.participants import same_labels
from tests.data.scans import problems_of

SEXES = {"sub-01": "F", "sub-02": "M", "sub-03": "F"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_byte_order_mark_line_ends_and_ids_without_prefix(write_cohort, encoding, newline):
    folder = write_cohort(SEXES)
    text = newline.join(["participant_id\tsex\tsite", "01\tF\tKöln", "sub-02\tM\tA", "", ""])
    (folder / "participants.tsv").write_bytes(text.encode(encoding))
    cohort = read_cohort(folder)
    assert cohort.participant_ids == ("sub-01", "sub-02")
    assert cohort.subjects[0].labels == {"sex": "F", "site": "Köln"}
    assert [path.name for path in cohort.unlisted] == ["sub-03_T1w.nii.gz"]


def test_bad_rows_are_all_listed_with_their_lines(write_cohort):
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
    assert problems[-1] == "2 scans have no row in participants.tsv: sub-02, sub-03"
    lines = [int(re.search(r"line (\d+)", problem)[1]) for problem in problems[:-1]]
    # SUB-01 is another id than sub-01 (it becomes sub-SUB-01), and has no file.
    assert lines == [3, 5, 6, 7, 8, 9, 10, 11, 4]
    assert "already on line 2" in problems[0]
    assert "'../../x' is not safe" in problems[1]
    assert "missing" in problems[2]
    assert "missing" in problems[3]
    assert "3 cells, expected 2" in problems[4]


def test_ids_that_differ_by_case_only(write_cohort):
    folder = write_cohort({"sub-a1": "F", "sub-A1": "M"})
    assert "already on line 2" in problems_of(folder)[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\n\n", "the file is empty"),
        (b"participant_id,sex\nsub-01,F\n", "separated by tabs"),
        (b"participant_id\tsex\tsex\nsub-01\tF\tF\n", "distinct column names"),
        (b"subject\tsex\nsub-01\tF\n", "participant_id"),
        (
            "participant_id\tsex\nsub-01\tF\n".encode("utf-16"),
            "UTF-8 text(.|\\n)*line 1: the mark of UTF-16",
        ),
        ("participant_id\tsex\nsub-01\tF\n".encode("utf-16-le"), "NUL bytes, as in UTF-16"),
        ("participant_id\tsite\nsub-01\tKöln\n".encode("latin-1"), "UTF-8(.|\n)*line 2: "),
        (b'participant_id\tsex\nsub-01\t"F\n', "line 2: nothing closes a quotation mark"),
        (b'participant_id\tsex\nsub-01\t"F"x\n', "line 2: '\t' expected"),
        (b"participant_id\tsex\n", "1 problem found.*\n.*participants.tsv: no row below"),
        (b"participant_id\tsex\n\n\t\n", "one row per subject"),
        (b"\x1f\x8b\x08\0\0\0", "expected UTF-8 text with tabs"),
    ],
)
def test_unreadable_tables(tmp_path, content, message):
    (tmp_path / "participants.tsv").write_bytes(content)
    with pytest.raises(CohortError, match=message) as caught:
        read_cohort(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "participants.tsv" in str(caught.value)


def test_a_stray_quotation_mark_swallows_nobody(write_cohort):
    folder = write_cohort({f"sub-{number:02d}": "FM"[number % 2] for number in range(1, 17)})
    table = folder / "participants.tsv"
    sound = table.read_text().splitlines()
    for first, last in ((4, 11), (2, 3), (1, 16)):
        lines = list(sound)
        lines[first] = lines[first].replace("\t", '\t"')
        lines[last] += '"'
        table.write_text("\n".join(lines) + "\n")
        (problem,) = problems_of(folder)
        assert f"line {first + 1}: a quotation mark opens" in problem
        assert f"ends on line {last + 1}" in problem
    lines = list(sound)
    lines[4] = lines[4].replace("\t", '\t"')
    table.write_text("\n".join(lines) + "\n")
    assert "line 5: nothing closes" in problems_of(folder)[0]
    # A mark that is text, and one around a cell with a tab in it, are as BIDS has them.
    lines = [f"{line}\t5" for line in sound]
    lines[0], lines[3], lines[4] = f"{sound[0]}\tnote", f'{sound[3]}\t5"', f'{sound[4]}\t"a\tb"'
    table.write_text("\n".join(lines) + "\n")
    labels = [subject.labels["note"] for subject in read_cohort(folder).subjects]
    assert labels[:5] == ["5", "5", '5"', "a\tb", "5"]


def test_rows_without_a_scan_and_scans_without_a_row_are_named_together(write_cohort):
    folder = write_cohort(SEXES)
    (folder / "participants.tsv").write_text("participant_id\n1\n02\n3\n")
    assert [problem.split(";")[0] for problem in problems_of(folder)] == [
        "participants.tsv line 2: no file for sub-1 matches 'sub-*/**/anat/*_T1w.nii*'",
        "participants.tsv line 4: no file for sub-3 matches 'sub-*/**/anat/*_T1w.nii*'",
        "2 scans have no row in participants.tsv: sub-01, sub-03",
    ]


def test_a_scan_and_an_empty_folder_are_no_cohort(write_cohort, tmp_path):
    scan = min(write_cohort(SEXES).glob("*/*/*.nii.gz"))
    with pytest.raises(CohortError, match=r"sub-01_T1w\.nii\.gz: a scan by its name, not a cohort"):
        read_cohort(scan)
    (tmp_path / "subdataset").mkdir()
    with pytest.raises(FileNotFoundError, match=r"an empty folder.*datalad get -n .*subdataset"):
        read_cohort(tmp_path / "subdataset")


def test_a_subject_that_datalad_has_not_installed_is_told(write_cohort):
    folder = write_cohort({"sub-1": "F", "sub-2": "M"})
    for path in sorted((folder / "sub-2").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    with pytest.raises(CohortError, match=r"no file for sub-2 .* run: datalad get \S*/sub-2"):
        read_cohort(folder)


def test_pointers_in_place_of_scans_and_tables_are_told(write_cohort):
    folder = write_cohort(SEXES)
    scans = sorted(folder.glob("*/*/*.nii.gz"))
    scans[0].unlink()
    scans[0].symlink_to("../../.git/annex/objects/k/x/MD5E-s9--d/MD5E-s9--d")
    scans[1].write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 9\n")
    first, second = problems_of(folder)
    assert first.endswith(f"run: datalad get {scans[0]}")
    assert "lfs pull --include=sub-02_T1w.nii.gz" in second
    (folder / "participants.tsv").write_text("/annex/objects/MD5E-s9--d\n")
    with pytest.raises(FileNotFoundError, match=r"datalad get .*participants\.tsv"):
        read_cohort(folder)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["F", "M", "F"], []),
        (["F", "f", "M"], [("F", "f")]),
        (["F", 'F"', "M"], [("F", 'F"')]),
        (["Köln", "Ko\u0308ln", "KÖLN"], [("Ko\u0308ln", "KÖLN", "Köln")]),
        (["F", "\uff26", "M\u200b", "M"], [("F", "\uff26"), ("M", "M\u200b")]),
        (["left  hand", "Left\xa0hand"], [("Left\xa0hand", "left  hand")]),
        (["1", "1.0", "2", "02"], [("02", "2"), ("1", "1.0")]),
        (["ß", "SS", "ss"], [("SS", "ss", "ß")]),
        (["female", "F", "1", "10", "-", "+"], []),
    ],
)
def test_spellings_of_one_label(values, expected):
    assert same_labels(values) == expected
