"""Who is for training, for validation and for the test; a subject is in one part only."""

import dataclasses
import json
import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from featvis_jax.data.cohorts import Cohort, Subject
from featvis_jax.data.errors import CohortError
from featvis_jax.data.participants import MISSING_VALUES, same_labels
from featvis_jax.data.pointers import existing_file

# Lines that an error lists of each spelling.
_LINES_TOLD = 8


@dataclasses.dataclass(frozen=True)
class Split:
    """Which subjects are for training, validation and test; a subject is in one part only.

    Example:
      >>> Split(train=("sub-01",), validation=("sub-02",), test=("sub-03",)).test
      ('sub-03',)
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    def __post_init__(self):
        """Refuse a subject that is in the split twice."""
        counts = Counter([*self.train, *self.validation, *self.test])
        repeated = [participant_id for participant_id, count in counts.items() if count > 1]
        if repeated:
            raise CohortError("a split must hold each subject once, these come twice:", repeated)

    def to_json(self) -> bytes:
        """The split as `load` reads it from a file."""
        return json.dumps(dataclasses.asdict(self), indent=1).encode() + b"\n"

    @classmethod
    def load(cls, path: Path | str) -> "Split":
        """Read a split from a file that holds what `to_json` gives.

        Raises:
          FileNotFoundError: No such file.
          CohortError: Not a split, or one with a subject in two parts.
        """
        path = existing_file(path, expected="a split, .json")
        parts = [field.name for field in dataclasses.fields(cls)]
        try:
            content = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise CohortError(f"{path}: not JSON, make the split again:", [str(error)]) from error
        if not isinstance(content, dict) or sorted(content) != sorted(parts):
            raise CohortError(f"{path}: expected an object with these lists of ids:", parts)
        for part, ids in content.items():
            if not isinstance(ids, list) or not all(isinstance(i, str) for i in ids):
                raise CohortError(f"{path}: expected {part} to be a list of ids, got:", [repr(ids)])
        try:
            return cls(**{part: tuple(content[part]) for part in parts})
        except CohortError as error:
            raise CohortError(f"{path}: {error.args[0].splitlines()[0]}", error.problems) from None


def split_subjects(
    cohort: Cohort,
    *,
    label: str | None,
    test_fraction: float = 0.2,
    validation_fraction: float = 0.2,
    seed: int = 0,
) -> Split:
    """Split a cohort by subject, with each label value at its share in every part.

    As in the paper the test part is taken first, and the validation part from what is left:
    `n_test = round(test_fraction * n)`, `n_validation = round(validation_fraction * (n - n_test))`.
    The draw depends on the set of ids, their labels and the seed, not on the order of the table.

    Args:
      cohort: The cohort.
      label: The column to stratify by; None draws without regard to labels.
      test_fraction: In [0, 1); 0 leaves the part empty.
      validation_fraction: In [0, 1), of the subjects that are not in the test part.
      seed: Seed of the draw.

    Returns:
      The split, ids sorted within each part.

    Raises:
      ValueError: A fraction is out of range.
      CohortError: The label is unknown, has missing values, one value only or one in several
        spellings, or a part would be empty or lack a value.
    """
    for name, fraction in (
        ("test_fraction", test_fraction),
        ("validation_fraction", validation_fraction),
    ):
        if not 0 <= fraction < 1:
            raise ValueError(f"{name}={fraction}: expected a number in [0, 1), such as 0.2")
    subjects = sorted(cohort.subjects, key=lambda subject: subject.participant_id)
    ids = [subject.participant_id for subject in subjects]
    labels = None if label is None else _label_values(cohort, subjects, label)

    rest, test = _draw(ids, labels, test_fraction, seed)
    train, validation = _draw(rest, labels, validation_fraction, seed)
    split = Split(tuple(train), tuple(validation), tuple(test))
    _check_parts(cohort, split, label, labels, test_fraction, validation_fraction)
    return split


def _label_values(cohort: Cohort, subjects: list[Subject], label: str) -> dict[str, str]:
    columns = sorted({column for subject in subjects for column in subject.labels})
    if label not in columns:
        raise CohortError(
            f"{cohort.table}: has no label {label!r}; use one of its columns, or no label:",
            columns,
        )
    values = {s.participant_id: s.labels.get(label, "") for s in subjects}
    missing = [
        f"{subject.participant_id} (line {subject.line}): {values[subject.participant_id]!r}"
        for subject in subjects
        if values[subject.participant_id].lower() in MISSING_VALUES
    ]
    if missing:
        raise CohortError(
            f"{cohort.table}: label {label!r} is missing (empty or n/a) for these "
            f"subjects; fill it in or remove their rows. Values: {_describe(values.values())}:",
            missing,
        )
    _refuse_spellings(cohort, subjects, label, values)
    if len(set(values.values())) < 2:
        raise CohortError(
            f"{cohort.table}: label {label!r} needs at least two values, it has "
            f"{_describe(values.values())}; choose another label, or no label"
        )
    return values


def _refuse_spellings(
    cohort: Cohort, subjects: list[Subject], label: str, values: Mapping[str, str]
) -> None:
    """Refuse F beside f: two sites would be told apart, not two classes."""
    problems = []
    for spellings in same_labels(values.values()):
        told = []
        look_alike = len({unicodedata.normalize("NFC", each) for each in spellings})
        shown = repr if look_alike == len(spellings) else ascii
        for spelling in spellings:
            lines = sorted(s.line for s in subjects if values[s.participant_id] == spelling)
            first = ", ".join(map(str, lines[:_LINES_TOLD]))
            more = ", ..." if len(lines) > _LINES_TOLD else ""
            told.append(f"{shown(spelling)}: {len(lines)} subjects (line {first}{more})")
        problems.append("; ".join(told))
    if problems:
        raise CohortError(
            f"{cohort.table}: label {label!r} has one value in several spellings, which would be "
            "classes of their own; write it one way:",
            problems,
        )


def _describe(values: Iterable[str]) -> str:
    return ", ".join(f"{value!r}: {count}" for value, count in sorted(Counter(values).items()))


def _draw(
    ids: list[str], labels: Mapping[str, str] | None, fraction: float, seed: int
) -> tuple[list[str], list[str]]:
    """Split ids into those that stay and `round(fraction * n)` that are drawn."""
    # Imported here: it takes a second, and every data worker imports this module.
    from sklearn.model_selection import train_test_split

    count = math.floor(fraction * len(ids) + 0.5)
    if count == 0 or count == len(ids):
        return (ids, []) if count == 0 else ([], ids)
    strata = None if labels is None else [labels[participant_id] for participant_id in ids]
    try:
        stay, drawn = train_test_split(ids, test_size=count, stratify=strata, random_state=seed)
    except ValueError:
        # Too few of some value to stratify; the check of the parts says so with the counts.
        return ids, []
    return sorted(stay), sorted(drawn)


def _check_parts(
    cohort: Cohort,
    split: Split,
    label: str | None,
    labels: Mapping[str, str] | None,
    test_fraction: float,
    validation_fraction: float,
) -> None:
    every_value = set(labels.values()) if labels else set()
    asked_for = (
        ("train", split.train, True),
        ("validation", split.validation, validation_fraction > 0),
        ("test", split.test, test_fraction > 0),
    )
    problems = []
    for part, ids, is_asked_for in asked_for:
        values = {labels[participant_id] for participant_id in ids} if labels else set()
        if is_asked_for and not ids:
            problems.append(f"{part}: empty, or too small to hold every value")
        elif is_asked_for and values != every_value:
            lacking = ", ".join(repr(value) for value in sorted(every_value - values))
            problems.append(f"{part}: {len(ids)} subjects, none with {lacking}")
    if problems:
        counts = f"; label {label!r} has {_describe(labels.values())}" if labels else ""
        raise CohortError(
            f"{cohort.table}: {len(cohort.subjects)} subjects are too few to split with "
            f"test_fraction={test_fraction} and validation_fraction={validation_fraction}{counts}; "
            "add subjects, join rare values, or raise the fractions:",
            problems,
        )
