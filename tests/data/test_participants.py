"""Tables of participants, as people and their programs write them."""

import re

import pytest

from featvis_jax.data.cohorts import read_cohort
from featvis_jax.data.errors import CohortError
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
    lines = [int(re.search(r"line (\d+)", problem)[1]) for problem in problems]
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
        (b"participant_id,sex\nsub-01,F\n", "separated by tabs"),
        (b"participant_id\tsex\tsex\nsub-01\tF\tF\n", "distinct column names"),
        (b"subject\tsex\nsub-01\tF\n", "participant_id"),
        ("participant_id\tsex\nsub-01\tF\n".encode("utf-16"), "UTF-8"),
        (b'participant_id\tsex\nsub-01\t"F\n', "tabs"),
        (b"participant_id\tsex\n", "one row per subject"),
    ],
)
def test_unreadable_tables(tmp_path, content, message):
    (tmp_path / "participants.tsv").write_bytes(content)
    with pytest.raises(CohortError, match=message):
        read_cohort(tmp_path)
