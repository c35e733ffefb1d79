"""Any column of a cohort's table as what a network learns: classes, or a number of each person."""

from __future__ import annotations

import dataclasses
import textwrap
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from featvis_jax.data.cohorts import Cohort
from featvis_jax.data.errors import CohortError
from featvis_jax.data.participants import MISSING_VALUES, number, same_labels
from featvis_jax.data.pipeline import Examples
from featvis_jax.data.splits import Split, split_subjects

# A column of numbers that has more different ones is measured, not a set of classes.
_MOST_CLASSES = 10
# In training; one person is no class that others could be recognized by.
_FEWEST = 2
_TOLD = 12
# Over the parts of a split numbers are spread by quantiles; the shares are those of split_subjects.
_QUANTILE, _MOST_QUANTILES, _HELD_OUT = "quantile", 4, 0.2


@dataclasses.dataclass(frozen=True)
class LabelTask:
    """Tell participants apart by a column of participants.tsv, sex for example.

    Attributes:
      class_by_participant: Class number of every participant.
      class_names: Name of every class, in order.
    """

    class_by_participant: Mapping[str, int]
    class_names: tuple[str, ...]
    images_per_element = 1

    def examples(
        self,
        image: Float32[np.ndarray, "*spatial 1"],
        owner: str,
        rng: np.random.Generator,
        difficulty: float,
    ) -> Examples:
        """One image with its participant's class."""
        del rng, difficulty
        label = self.class_by_participant[owner]
        return {"image": image[None], "label": np.array([label], np.int32)}


@dataclasses.dataclass(frozen=True)
class ValueTask:
    """Tell a number of each participant, a column of participants.tsv such as age.

    Networks learn and give it standardized: minus the mean of the people that they are trained on,
    by their standard deviation.

    Attributes:
      value_by_participant: The number of every participant.
      name: Of the column.
      mean: Of the people of the training.
      std: Their standard deviation.
    """

    value_by_participant: Mapping[str, float]
    name: str
    mean: float
    std: float
    images_per_element = 1

    @property
    def class_names(self) -> tuple[str]:
        """The name of the one output."""
        return (self.name,)

    def examples(
        self,
        image: Float32[np.ndarray, "*spatial 1"],
        owner: str,
        rng: np.random.Generator,
        difficulty: float,
    ) -> Examples:
        """One image with its participant's standardized number."""
        del rng, difficulty
        value = (self.value_by_participant[owner] - self.mean) / self.std
        return {"image": image[None], "label": np.array([value], np.float32)}


def label_task(labels: Mapping[str, str]) -> LabelTask:
    """A task from each participant's value in a column; classes are the sorted values.

    Args:
      labels: Value of every participant.

    Raises:
      ValueError: There are fewer than two values, or two spellings of one.

    Example:
      >>> label_task({"sub-01": "10", "sub-02": "9", "sub-03": "10"}).class_names
      ('9', '10')
    """
    if spellings := same_labels(labels.values()):
        raise ValueError(f"The labels have one value in several spellings: {spellings}.")
    values = set(labels.values())
    names = tuple(sorted(values))
    if None not in map(number, values):
        names = tuple(sorted(values, key=float))  # 9 before 10.
    if len(names) < 2:
        raise ValueError(
            f"The labels have {len(names)} class(es): {names}. Two or more are needed to classify."
        )
    return LabelTask({who: names.index(value) for who, value in labels.items()}, names)


class Column(NamedTuple):
    """What a column tells of the people of a cohort.

    Attributes:
      name: Of the column.
      cohort: Those who have a value in it.
      values: Their values, by their ids.
      left_out: The others.
    """

    name: str
    cohort: Cohort
    values: Mapping[str, str]
    left_out: tuple[str, ...] = ()

    @property
    def is_measured(self) -> bool:
        """Whether it holds numbers to be estimated, not classes to be told apart."""
        several = set(self.values.values())
        return len(several) > _MOST_CLASSES and None not in map(number, several)

    def task(self, *, seed: int) -> tuple[LabelTask | ValueTask, Split]:
        """What is learned of it, and who is in which part.

        Args:
          seed: Fixes the split.

        Raises:
          CohortError: It has one class, or one with too few people, or people are too few.
        """
        return self._estimated(seed) if self.is_measured else self._classified(seed)

    def _classified(self, seed: int) -> tuple[LabelTask, Split]:
        place, counts = _place(self.cohort, self.name), Counter(self.values.values())
        if spellings := same_labels(self.values.values()):
            told = "; ".join(" and ".join(map(repr, each)) for each in spellings)
            raise CohortError(
                f"{place} has one value in several spellings, {told}: write it one way."
            )
        told = ", ".join(f"{value!r}: {counts[value]}" for value in sorted(counts)[:_TOLD])
        told += ", ..." if len(counts) > _TOLD else ""
        if len(counts) < 2:
            raise CohortError(
                f"{place} has one value only ({told}); two or more are needed to tell people apart."
            )
        try:
            split = split_subjects(self.cohort, label=self.name, seed=seed)
        except CohortError as error:
            lacking = textwrap.shorten("; ".join(error.problems), 200)
            raise CohortError(f"{place} has {told}: {lacking}. {_FIX}") from error
        trained = Counter(self.values[who] for who in split.train)
        if few := sorted(value for value in counts if trained[value] < _FEWEST):
            raise CohortError(
                f"{place} has {told}: of {', '.join(map(repr, few))} fewer than {_FEWEST} are left "
                f"to train on. {_FIX}"
            )
        return label_task(self.values), split

    def _estimated(self, seed: int) -> tuple[ValueTask, Split]:
        values = {who: float(value) for who, value in self.values.items()}
        split = split_subjects(_by_quantile(self.cohort, values), label=_QUANTILE, seed=seed)
        trained = np.array([values[who] for who in split.train])
        if not trained.std() > 0:
            raise CohortError(
                f"{_place(self.cohort, self.name)} has one value only, {trained[0]:g}, among the "
                f"{len(trained)} people to train on: add people, or take another seed."
            )
        return ValueTask(values, self.name, float(trained.mean()), float(trained.std())), split

    def description(self, task: LabelTask | ValueTask) -> dict[str, object]:
        """What a model card tells of it.

        Args:
          task: What is learned.
        """
        told = {"name": self.name, "left_out": len(self.left_out)}
        if isinstance(task, ValueTask):
            return {**told, "mean": task.mean, "std": task.std}
        return told


def _by_quantile(cohort: Cohort, values: Mapping[str, float]) -> Cohort:
    """The people, labelled by the part of the range of values that they are in.

    Parts of the split that all hold low and high values alike tell more of so few people. There are
    as many quantiles as the smallest part of the split can hold.
    """
    ranked = sorted(values, key=lambda who: (values[who], who))
    held_out = round(_HELD_OUT * len(ranked))
    count = min(_MOST_QUANTILES, round(_HELD_OUT * (len(ranked) - held_out)))
    label = {who: str(count * rank // len(ranked)) for rank, who in enumerate(ranked)}
    return dataclasses.replace(
        cohort,
        subjects=tuple(
            dataclasses.replace(subject, labels={_QUANTILE: label[subject.participant_id]})
            for subject in cohort.subjects
        ),
    )


_FIX = "Add people, join rare values, or leave their people out by n/a."


def read_column(cohort: Cohort, name: str) -> Column:
    """What a column tells; people without a value in it are left out.

    Args:
      cohort: The people.
      name: Of the column.

    Raises:
      CohortError: There is no such column, or nobody has a value in it.
    """
    found = {subject.participant_id: subject.labels.get(name) for subject in cohort.subjects}
    if all(value is None for value in found.values()):
        columns = sorted({column for subject in cohort.subjects for column in subject.labels})
        raise CohortError(
            f"{_place(cohort, name)} is not there; the table has "
            f"{', '.join(map(repr, columns)) or 'no column beside participant_id'}."
        )
    values = {
        who: value
        for who, value in found.items()
        if value is not None and value.lower() not in MISSING_VALUES
    }
    if not values:
        raise CohortError(f"{_place(cohort, name)} is empty or n/a for all {len(found)} people.")
    kept = tuple(subject for subject in cohort.subjects if subject.participant_id in values)
    left_out = tuple(who for who in found if who not in values)
    return Column(name, dataclasses.replace(cohort, subjects=kept), values, left_out)


def _place(cohort: Cohort, name: str) -> str:
    return f"{cohort.table}: the column {name!r}"
