"""What speaks for and against a picture, as the templates see it: words, numbers, small bars."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from featvis_jax.results.grids import minus
from featvis_jax.results.sheets import times
from featvis_jax.results.tables import Key
from featvis_jax.results.trust import (
    NOT_DRIVING,
    NOT_MEASURED,
    NOT_REFUTED,
    REFUTED,
    RULES,
    TrustRecord,
)

# The ends of a bar, in pixels of a picture that is 160 wide.
_LEFT, _RIGHT = 6, 154


class Look(NamedTuple):
    """How a verdict is shown where there is little room.

    Example:
      >>> LOOKS["does not drive its unit"].short
      'does not drive'
    """

    mark: str
    short: str
    slug: str
    """its name in addresses and styles"""


# Shape and word carry the verdict; the colour only helps the eye. No check mark: what is not
# refuted is not certified.
LOOKS = {
    NOT_REFUTED: Look("\u25c6", "not refuted", "not-refuted"),
    REFUTED: Look("\u2715", "refuted", "refuted"),
    NOT_DRIVING: Look("\u2298", "does not drive", "not-driving"),
    NOT_MEASURED: Look("\u25cc", "not measured", "not-measured"),
}


class Bar(NamedTuple):
    """A number on a line from the smallest to the largest that it can be, in pixels.

    Example:
      >>> bar(0.5, None, None).value
      80.0
    """

    value: float
    low: float | None
    high: float | None
    tick: float | None
    """where the number says nothing, or is as large as that of real inputs"""
    beyond: bool
    """whether the number lies beyond the end of the line"""


class Measure(NamedTuple):
    """A number with its interval, and what it means.

    Example:
      >>> evidence = Evidence(TrustRecord("conv1", 3, 1, REFUTED, belongs=0.25))
      >>> [(measure.name, measure.value) for measure in evidence.measures]
      [('Belongs to its unit', '0.25')]
    """

    column: str
    """of trust.tsv"""
    name: str
    value: str
    interval: str
    """empty where there is none"""
    meaning: str
    bar: Bar


class _Line(NamedTuple):
    """What is said of a column of trust.tsv."""

    column: str
    name: str
    meaning: str
    least: float = 0.0
    most: float = 1.0
    tick: float | None = None
    is_strength: bool = False


_LINES = (
    _Line(
        "belongs",
        "Belongs to its unit",
        "How probably the picture is this unit's own, among pictures of other units, scrambled "
        "ones and those of networks that have learned nothing.",
    ),
    _Line(
        "strength",
        "Strength",
        "The unit's response to it, as multiples of that to the strongest real input.",
        most=2.0,
        tick=1.0,
        is_strength=True,
    ),
    _Line(
        "pasted",
        "Pasted into real images",
        "The same of the picture's patch in images of other people.",
        most=2.0,
        tick=1.0,
        is_strength=True,
    ),
    _Line("selectivity", "Selectivity", "Share of the layer's other units that it drives less."),
    _Line("standing", "Standing", "Share of the layer's other pictures that drive the unit less."),
    _Line(
        "other_ways",
        "Other ways",
        "Share of the response that comes by ways through the network that strong real inputs do "
        "not take; much of it speaks against the picture.",
    ),
    _Line(
        "likeness",
        "Likeness to real inputs",
        "Correlation with the strongest real inputs as the layer below sees both; at 0 they have "
        "nothing in common.",
        least=-1.0,
        tick=0.0,
    ),
)
_PREDICTIONS = (
    _Line(
        "examples_predict", "Real examples", "By likeness to the strongest real inputs.", tick=0.5
    ),
    _Line("picture_predicts", "The picture", "By likeness to the picture.", tick=0.5),
)  # fmt: skip
_BOTH = _Line("both_predict", "Both together", "By likeness to both.", tick=0.5)
_LABEL = _Line(
    "label_auc",
    "Label",
    "How often, of two real inputs, the one with the label drives the unit more; at 0.5 the unit "
    "knows nothing of it.",
    tick=0.5,
)


_SORTS = (
    ("belongs", "belongs", "belongs"),
    ("examples", "examples predict", "examples_predict"),
    ("picture", "picture predicts", "picture_predicts"),
)


@dataclass(frozen=True)
class Evidence:
    """What speaks for and against one picture.

    Example:
      >>> Evidence(TrustRecord("conv1", 3, 1, REFUTED)).look.short
      'refuted'
    """

    record: TrustRecord

    @property
    def look(self) -> Look:
        """How its verdict is shown."""
        return LOOKS[self.record.verdict]

    @property
    def reason(self) -> str:
        """Why, or else what the verdict means."""
        return self.record.reason or RULES[self.record.verdict]

    def sortable(self, column: str) -> str:
        """Return the number of a column for scripts, n/a where there is none."""
        value = getattr(self.record, column)
        return "n/a" if value is None else str(value)

    @property
    def measures(self) -> list[Measure]:
        """What was measured of the picture itself."""
        return [found for line in _LINES if (found := self._measured(line))]

    @property
    def predictions(self) -> list[Measure]:
        """How well examples, the picture and both tell strong patches from weak ones.

        The better of the first two stands first; where they are level, the examples do.
        """
        found = [each for line in _PREDICTIONS if (each := self._measured(line))]
        found.sort(key=lambda each: -getattr(self.record, each.column))
        both = self._measured(_BOTH)
        return [*found, both] if both else found

    @property
    def label(self) -> Measure | None:
        """How the unit's response goes with the label of real inputs, if there is one."""
        measure = self._measured(_LABEL)
        name = self.record.label
        return measure and (measure._replace(name=f"Label: {name}") if name else measure)

    @property
    def missing(self) -> list[str]:
        """Names of what could not be measured; a label is no measure of the picture."""
        named = {line.column: line.name.lower() for line in _LINES}
        named |= {line.column: f"prediction by {line.name.lower()}" for line in _PREDICTIONS}
        return [name for column, name in named.items() if getattr(self.record, column) is None]

    @property
    def are_examples_better(self) -> bool:
        """Whether real examples are known to predict better than the picture."""
        examples, picture = self.record.examples_predict, self.record.picture_predicts
        return examples is not None and picture is not None and examples > picture

    @property
    def place(self) -> str:
        """Where in the brain the strongest real inputs drive the unit; empty if nobody knows."""
        row = self.record
        axes = zip("xyz", (row.examples_x, row.examples_y, row.examples_z), strict=True)
        known = [f"{axis} {minus(str(round(at)))}" for axis, at in axes if at is not None]
        lies = f"{', '.join(known)} mm" if known else ""
        if row.examples_region and lies:
            return f"{row.examples_region} ({lies})"
        return row.examples_region or lies

    def _measured(self, line: _Line) -> Measure | None:
        """Return a measure if it has a value."""
        value, low, high = (
            getattr(self.record, f"{line.column}{end}", None) for end in ("", "_low", "_high")
        )
        if value is None:
            return None
        told = _multiple if line.is_strength else _share
        interval = "" if low is None or high is None else f"{told(low)} to {told(high)}"
        meaning = line.meaning
        if line.column == "other_ways" and self.record.below:
            meaning = f"{meaning[:-1]} (looked at in {self.record.below})."
        drawn = bar(value, low, high, least=line.least, most=line.most, tick=line.tick)
        return Measure(line.column, line.name, told(value), interval, meaning, drawn)


def bar(
    value: float,
    low: float | None,
    high: float | None,
    *,
    least: float = 0.0,
    most: float = 1.0,
    tick: float | None = None,
) -> Bar:
    """Lay a number out on a line; what lies beyond its ends is drawn at them.

    Args:
      value: The number.
      low: Lower end of its interval, or None.
      high: Upper end of its interval, or None.
      least: Number at the left end.
      most: Number at the right end.
      tick: Number that is marked, or None.

    Returns:
      Places in pixels from the left.

    Example:
      >>> bar(3.0, 0.0, 5.0, tick=1.0, most=2.0)
      Bar(value=154.0, low=6.0, high=154.0, tick=80.0, beyond=True)
    """

    def place(number: float) -> float:
        share = (number - least) / (most - least)
        return round(_LEFT + min(max(share, 0.0), 1.0) * (_RIGHT - _LEFT), 1)

    ends = [None if each is None else place(each) for each in (low, high, tick)]
    return Bar(place(value), *ends, beyond=not least <= value <= most)


def by_picture(records: Iterable[TrustRecord]) -> dict[Key, Evidence]:
    """Return the evidence by what names its picture.

    Args:
      records: Of trust.tsv.

    Example:
      >>> list(by_picture([TrustRecord("conv1", 3, 1, REFUTED)]))
      [('conv1', 3, 1)]
    """
    return {record.key: Evidence(record) for record in records}


def sorts(records: Sequence[TrustRecord]) -> list[tuple[str, str]]:
    """Return by what pictures can be sorted: values and words of the choice.

    Args:
      records: Of trust.tsv.

    Example:
      >>> sorts([TrustRecord("conv1", 3, 1, REFUTED, belongs=0.5)])
      [('belongs', 'belongs')]
    """
    return [
        (value, words)
        for value, words, column in _SORTS
        if any(getattr(record, column) is not None for record in records)
    ]


def _multiple(value: float) -> str:
    """Write a strength for people, as exactly as its interval."""
    return times(value) if abs(value) >= 10 else f"{_share(value)}\u00d7"


def _share(value: float) -> str:
    """Write a share or a correlation for people."""
    return minus(f"{round(value, 2) + 0.0:.2f}")
