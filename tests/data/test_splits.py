"""Splits by subject: sizes, shares, seeds, and labels that cannot be split by."""

import dataclasses
import json
from collections import Counter

import pytest

from featvis_jax.data.errors import CohortError
from featvis_jax.data.splits import Split, split_subjects
from tests.data.scans import cohort_of


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
        shuffled = dataclasses.replace(cohort, subjects=cohort.subjects[::-1])
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
        with pytest.raises(CohortError, match=r"participants\.tsv: .*'sex' is missing") as caught:
            split_subjects(cohort_of(["F", value, "M", "F", value]), label="sex")
        assert caught.value.problems == (
            f"sub-001 (line 3): {value!r}",
            f"sub-004 (line 6): {value!r}",
        )

    def test_a_single_class(self):
        told = r"participants\.tsv: .*at least two values, it has 'F': 9"
        with pytest.raises(CohortError, match=told):
            split_subjects(cohort_of(["F"] * 9), label="sex")

    def test_two_spellings_of_a_class_are_refused_with_counts_and_lines(self):
        cohort = cohort_of(["F", "M", "f", "F", "m", "M"] * 3)
        with pytest.raises(CohortError, match=r"participants\.tsv: .*'sex'.*spellings") as caught:
            split_subjects(cohort, label="sex")
        assert caught.value.problems == (
            "'F': 6 subjects (line 2, 5, 8, 11, 14, 17); 'f': 3 subjects (line 4, 10, 16)",
            "'M': 6 subjects (line 3, 7, 9, 13, 15, 19); 'm': 3 subjects (line 6, 12, 18)",
        )

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
        path.write_bytes(self.SPLIT.to_json())
        assert Split.load(path) == self.SPLIT
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
