"""What a gallery shows: the layers of a run, their channels, and how much of it is done."""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, TypeVar

import numpy as np

from featvis_jax.ranges import Range
from featvis_jax.results import tables, trust
from featvis_jax.results.asked import Question, question
from featvis_jax.results.files import file_name
from featvis_jax.results.gallery.anatomy import Common
from featvis_jax.results.gallery.charts import Chart
from featvis_jax.results.gallery.evidence import Evidence
from featvis_jax.results.gallery.growth import Change
from featvis_jax.results.pixels import Window
from featvis_jax.results.starts import Start
from featvis_jax.results.store import RunView
from featvis_jax.results.tables import STATUSES, LayerRecord, UnitRecord

_Any = TypeVar("_Any")

# Shape and word carry the status, as on the contact sheets; the colour only helps the eye.
MARKS = {
    "driven": "\u25c9",
    "weak": "\u25d4",
    "alive": "\u25cf",
    "unsettled": "\u25d0",
    "noise": "\u25a6",
    "uniform": "\u25a1",
    "unmoved": "\u25c7",
    "dead": "\u25cb",
    "diverged": "\u25b3",
}
RULES: Mapping[str, str] = next(
    column.metadata["Levels"] for column in fields(UnitRecord) if column.name == "status"
)


class Picture(NamedTuple):
    """One view of one image: two files, below the gallery, and their windows, in intensities.

    Example:
      >>> Picture("axial", "a.png", "b.png", (0.0, 1.0), (0.2, 0.8)).view
      'axial'
    """

    view: str
    shared: str
    own: str
    shared_window: Window
    own_window: Window

    @property
    def plane(self) -> str:
        """The plane that decides its size."""
        return self.view.removesuffix("-projection")


@dataclass(eq=False)
class Part:
    """What is seen of an image by itself, as the templates see it: a contrast, or all there is.

    Example:
      >>> Part("T1w", "T1w, held").pictures
      []
    """

    name: str
    """of the contrast; empty where there is one part"""
    caption: str
    own_range: Range | None = None
    """of the contrast, where what is drawn are shares of it"""
    ends: Window = (0.0, 0.0)
    """its lowest and highest intensity"""
    pictures: list[Picture] = field(default_factory=list)
    slices: list[tuple[int, int, str]] = field(default_factory=list)
    """left and top pixel of every slice of the mosaic, and where it lies"""
    mosaic: Picture | None = None
    volume: str | None = None
    """script with the volume, below the gallery"""

    def planes(self) -> list[Picture]:
        """Return the middle planes."""
        return [picture for picture in self.pictures if picture.view == picture.plane]

    def projections(self) -> list[Picture]:
        """Return the maximum-intensity projections; none for a slice."""
        return [picture for picture in self.pictures if picture.view != picture.plane]

    def tiles(self) -> list[Picture]:
        """Return the pictures that stand for it on a sheet: the planes and one projection."""
        return self.planes() + self.projections()[:1]


@dataclass(eq=False)
class Variant:
    """A finished image of a channel, as the templates see it.

    Example:
      >>> row = UnitRecord("conv1", 3, "alive", 0.1, 2.5, 0.0, 0.0, 1.0, 256, 1.5, 0, variant=2)
      >>> Variant(row).name
      '0003-variant2'
    """

    record: UnitRecord
    parts: list[Part] = field(default_factory=list)
    transparency: str | None = None
    """picture of where the network was looking, below the gallery"""
    changes: list[Change] = field(default_factory=list)
    """what changed of a scan that was deformed"""
    start: Start | None = None
    """whose scan that is, where each variant has its own"""
    chart: Chart | None = None
    penalty_chart: Chart | None = None
    trust: Evidence | None = None
    """what speaks for and against it, where that was measured"""

    @property
    def name(self) -> str:
        """Its part of a file name."""
        return tables.image_name(self.record.channel, self.record.variant)


@dataclass(eq=False)
class Unit:
    """A channel with its finished images, as the templates see it.

    Example:
      >>> row = UnitRecord("conv1", 3, "alive", 0.1, 2.5, 0.0, 0.0, 1.0, 256, 1.5, 0)
      >>> Unit([Variant(row)]).page
      'units/conv1/0003.html'
    """

    variants: list[Variant]
    """at least one"""
    real: str | None = None
    """picture of the real images that drive it most, below the gallery"""
    similarity: int = 0
    """place in the order in which neighbours look alike"""
    alike: list["Unit"] = field(default_factory=list)
    common: Common | None = None
    """what its deformed scans have in common, where that was looked at"""

    @property
    def leader(self) -> Variant:
        """The variant that stands for it: that of the largest objective."""
        (record,) = tables.leading(variant.record for variant in self.variants)
        return next(variant for variant in self.variants if variant.record is record)

    @property
    def record(self) -> UnitRecord:
        """The row of that variant, whose number and status are the channel's."""
        return self.leader.record

    @property
    def trust(self) -> Evidence | None:
        """What speaks for and against the strongest of its images of which that is known."""
        known = [variant for variant in self.variants if variant.trust]
        return Unit(known).leader.trust if known else None

    @property
    def page(self) -> str:
        """Its page, below the gallery."""
        return f"units/{file_name(self.record.layer)}/{self.record.channel:04d}.html"


@dataclass(eq=False)
class Layer:
    """A layer that was asked for.

    Example:
      >>> drives = Question("channel('conv1')", suppresses=False, unit="channel")
      >>> Layer("conv1", None, wanted=8, question=drives).page
      'layers/conv1.html'
    """

    name: str
    record: LayerRecord | None
    wanted: int
    """how many channels were asked for"""
    question: Question
    """what was asked of them"""
    variants: int = 1
    """how many images of each were asked for"""
    parts: int = 1
    """how many contrasts an image has"""
    units: list[Unit] = field(default_factory=list)
    chart: Chart | None = None

    @property
    def page(self) -> str:
        """Its page, below the gallery."""
        return f"layers/{file_name(self.name)}.html"

    @property
    def total(self) -> int | None:
        """How many units it has, as far as a run tells."""
        return None if self.record is None else self.question.total(self.record.channels)

    @property
    def finished(self) -> int:
        """How many channels have all their images."""
        return sum(len(unit.variants) >= self.variants for unit in self.units)

    @property
    def counts(self) -> dict[str, int]:
        """How many channels with an image there are of each status that occurs."""
        return count(unit.record for unit in self.units)

    @property
    def trusts(self) -> list[trust.TrustRecord]:
        """What speaks for and against its channels, as far as that was measured."""
        return [unit.trust.record for unit in self.units if unit.trust]

    @property
    def verdicts(self) -> dict[str, int]:
        """How many channels there are of each verdict that occurs."""
        return trust.counts(self.trusts)

    @property
    def has_strengths(self) -> bool:
        """Whether it is known how strongly real inputs drive any of its channels."""
        return any(unit.record.strength is not None for unit in self.units)

    def ranks(self) -> dict[int, int]:
        """Return the place of every channel by its objective, from 1."""
        values = [-np.nan_to_num(unit.record.final_objective, nan=-np.inf) for unit in self.units]
        order = np.argsort(values, kind="stable")
        return {self.units[i].record.channel: rank + 1 for rank, i in enumerate(order)}

    def strip(self, most: int = 12) -> list[tuple[Unit, bool]]:
        """Return channels for one row, and whether they are there before a status is chosen.

        Evenly spaced ones come first to mind; the others are there for their status. Where a
        channel has many images or contrasts, fewer channels fill the row.
        """
        most = max(1, most // (self.variants * self.parts))
        front = spaced(self.units, most)
        shown = {id(unit) for unit in front}
        for status in STATUSES:
            same = [unit for unit in self.units if unit.record.status == status]
            shown |= {id(unit) for unit in spaced(same, most)}
        chosen = {id(unit) for unit in front}
        return [(unit, id(unit) in chosen) for unit in self.units if id(unit) in shown]


def spaced(units: Sequence[Unit], most: int) -> list[Unit]:
    """Return some of many, evenly spaced.

    Args:
      units: To choose from.
      most: How many to return at most.

    Example:
      >>> row = UnitRecord("conv1", 3, "alive", 0.1, 2.5, 0.0, 0.0, 1.0, 256, 1.5, 0)
      >>> units = [Unit([Variant(row)]) for _ in range(5)]
      >>> [units.index(unit) for unit in spaced(units, 3)]
      [0, 2, 4]
    """
    places = np.linspace(0, len(units) - 1, min(most, len(units)))
    return [units[round(float(place))] for place in places]


def neighbours(some: Sequence[_Any]) -> list[tuple[_Any | None, _Any, _Any | None]]:
    """Return each with the one before and the one after it.

    Args:
      some: In order.

    Example:
      >>> neighbours("ab")
      [(None, 'a', 'b'), ('a', 'b', None)]
    """
    padded = [None, *some, None]
    return [(padded[i], each, padded[i + 2]) for i, each in enumerate(some)]


def count(records: Any) -> dict[str, int]:
    """Count records by status, in the order of the statuses, without those that do not occur.

    Example:
      >>> count([])
      {}
    """
    counts = Counter(record.status for record in records)
    return {status: counts[status] for status in STATUSES if counts[status]}


def layers(run: RunView, records: Sequence[UnitRecord]) -> list[Layer]:
    """Return the layers that a run was asked for, in its order, with their finished channels.

    Args:
      run: The run.
      records: Of its finished images.

    Returns:
      Those that the configuration names under "layers", and any other with a finished channel.
    """
    rows = {row.layer: row for row in run.layers()}
    asked = run.configuration.get("layers")
    wanted: dict[str, int] = {}
    if isinstance(asked, Mapping):
        wanted = {str(name): len(some) for name, some in asked.items() if isinstance(some, list)}
    for record in records:
        known = rows.get(record.layer)
        wanted.setdefault(record.layer, known.channels if known else 0)
    names = [name for name in rows if name in wanted]
    names += [name for name in wanted if name not in rows]
    configuration, found = run.configuration, []
    for name in names:
        variants: dict[int, list[Variant]] = {}
        for record in records:
            if record.layer == name:
                variants.setdefault(record.channel, []).append(Variant(record))
        units = [Unit(same) for same in variants.values()]
        total, asked_for = max(wanted[name], len(units)), question(configuration, name)
        parts = len(run.input_channels.labels)
        found.append(Layer(name, rows.get(name), total, asked_for, run.variants, parts, units))
    return found


def sought(layers: Sequence[Layer]) -> str:
    """Say what the images of a run show, as far as its layers were asked the same.

    Args:
      layers: Of the run.

    Example:
      >>> sought([])
      'what drives each channel most'
    """
    asked = {layer.question.sought for layer in layers} or {question({}, "").sought}
    return asked.pop() if len(asked) == 1 else "what each layer was asked for"


def units_word(layers: Sequence[Layer]) -> str:
    """Name what is counted, in the plural: channels, logits, or units where layers differ.

    Args:
      layers: Of the run.

    Example:
      >>> units_word([])
      'channels'
    """
    words = {layer.question.unit for layer in layers if layer.question.has_several}
    alike = len(words) == 1 and all(layer.question.has_several for layer in layers)
    return "channels" if not layers else f"{words.pop()}s" if alike else "units"


def is_transformed(configuration: Mapping[str, Any]) -> bool:
    """Whether the ascent looked at its images through transforms, as far as a run says.

    Example:
      >>> [is_transformed({"robustness": each}) for each in ("chain(jitter(2))", "chain()")]
      [True, False]
    """
    return configuration.get("robustness") not in (None, "", "chain()", "identity()")


def unit_command(
    flags_text: str, record: UnitRecord, question: Question, *, batch: object
) -> str | None:
    r"""Return the command that makes the images of one channel again.

    Args:
      flags_text: Flags.txt of the run.
      record: Of the channel.
      question: What was asked of it.
      batch: Units per batch of the run; the same gives, on the same machine, the same bits.

    Returns:
      A command for a shell, with a directory of its own; None where flags cannot say it, since
      something was given in Python.

    Example:
      >>> row = UnitRecord("conv1", 3, "alive", 0.1, 2.5, 0.0, 0.0, 1.0, 256, 1.5, 0)
      >>> asked = question({}, "conv1")
      >>> print(unit_command("--model=m\n--layer=all\n--out=o\n", row, asked, batch=8))
      python -m experiments.visualize --model=m --batch=8 --layer=conv1 --channels=3
          --out=runs/conv1-3
    """
    own = {"layer", "channels", "out", "batch"}
    lines = [line for line in flags_text.splitlines() if line]
    if any(line.startswith("#") for line in lines):
        return None
    kept = [line for line in lines if line.lstrip("-").split("=")[0] not in own]
    if isinstance(batch, int):
        kept.append(f"--batch={batch}")
    kept.append(f"--layer={record.layer}")
    if question.has_several:
        kept.append(f"--channels={question.label(record.channel)}")
    kept.append(f"--out=runs/{file_name(record.layer)}-{record.channel}")
    return shlex.join(["python", "-m", "experiments.visualize", *kept])
