"""The tables and arrays of a run: one row per unit, one per layer, and the traces of the ascent.

Tables are tab-separated text with BIDS's `n/a` for what is missing, arrays are .npz without pickle.
Equal values give equal bytes.
"""

import io
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float, Int

from featvis_jax.results.files import file_name

Key = tuple[str, int, int]
"""Layer, channel and variant: what names an image of a run."""

STATUSES = (
    "driven", "weak", "alive", "unsettled", "noise", "uniform", "unmoved", "dead", "diverged"
)  # fmt: skip
SOUND = ("driven", "alive")
"""Statuses that sheets and pages leave unmarked."""
PATTERNED = ("driven", "weak", "alive", "unsettled", "noise")
"""Statuses of images that the ascent drew something into, whatever it is worth."""


_REQUIRED: Any = object()


def _column(description: str, *, default: Any = _REQUIRED, **more: object) -> Any:
    """Describe a column of a table, in the words of a BIDS sidecar."""
    metadata = {"Description": description, **more}
    if default is _REQUIRED:
        return field(metadata=metadata)
    return field(default=default, kw_only=True, metadata=metadata)


@dataclass(frozen=True)
class UnitRecord:
    """One row of units.tsv: what became of one image of one channel of one layer.

    >>> UnitRecord("conv1", 3, "alive", 0.1, 2.5, 0.0, 0.0, 1.0, 256, 1.5, 0, variant=2).key
    ('conv1', 3, 2)
    """

    layer: str = _column("Layer of the network, as the model names it")
    channel: int = _column("Channel of the layer, from 0; 0 if a layer as a whole was asked for")
    variant: int = _column(
        "Image of the channel, from 1; a run with several variants has a row for each",
        default=1,
    )
    status: str = _column(
        "What became of the image",
        Levels={
            "driven": "the unit responds to the image as strongly as was aimed at, or more",
            "weak": "the unit responds to the image less than was aimed at",
            "alive": "the objective rose and came to rest, and the ascent made a pattern",
            "unsettled": "the objective was still rising: more steps would give another image",
            "noise": "the objective rose, but what the ascent made has the spectrum of noise",
            "uniform": "the image has a single intensity: a grey level is asked for, no pattern",
            "unmoved": "the objective did not rise, or the image is still the first one",
            "dead": "the channel does not react to its input",
            "diverged": "the ascent left the finite numbers; the image is the last finite one",
        },
    )
    initial_objective: float = _column(
        "Objective of the first image, measured on the image as it is; run.json says what the "
        "objective is"
    )
    final_objective: float = _column(
        "Objective of the image that is stored, measured on the image as it is"
    )
    transformed_objective: float | None = _column(
        "Objective before the last step, measured through the random transforms of that step as "
        "all steps are: the last finite value of the channel's trace",
        default=None,
    )
    response: float | None = _column(
        "Largest activation of the channel in the image that is stored, with the sign of the "
        "objective, or the objective itself where it is not about the places of a channel",
        default=None,
    )
    target: float | None = _column("Response that the ascent aimed at", default=None)
    strength: float | None = _column(
        "Response as a share of that to the strongest real input, which reference.tsv has; n/a "
        "without --reference, and where no real input drives the channel",
        default=None,
    )
    penalty: float = _column("Penalty of the image that is stored")
    intensity_min: float = _column("Smallest intensity of the image")
    intensity_max: float = _column("Largest intensity of the image")
    steps: int = _column("Steps of the ascent that were taken")
    seconds: float = _column(
        "Share of the image in the time of its batch; the only column that differs when a run "
        "is repeated",
        Units="s",
    )
    seed: int = _column("Seed that the random numbers of the channel come from")

    def __post_init__(self) -> None:
        """Refuse what cannot be stored."""
        file_name(self.layer)
        if self.status not in STATUSES or self.channel < 0 or self.variant < 1:
            raise ValueError(
                f"layer {self.layer!r}: got channel {self.channel}, variant {self.variant}, with "
                f"status {self.status!r}; expected a channel from 0, a variant from 1 and one of "
                f"{', '.join(STATUSES)}."
            )

    @property
    def unit(self) -> tuple[str, int]:
        """Layer and channel, which all variants share."""
        return self.layer, self.channel

    @property
    def key(self) -> Key:
        """Layer, channel and variant, which no two rows of a table share."""
        return self.layer, self.channel, self.variant


@dataclass(frozen=True)
class LayerRecord:
    """One row of layers.tsv.

    >>> LayerRecord("conv1", (138, 190), 8, (3, 3), (1, 1)).channels
    8
    """

    layer: str = _column("Layer of the network, as the model names it")
    output_shape: tuple[int, ...] = _column("Shape of the output without channels")
    channels: int = _column("Number of channels")
    receptive_field: tuple[int, ...] = _column("Voxels of the input that one output value sees")
    stride: tuple[int, ...] = _column("Voxels of the input between neighbouring output values")


@dataclass(frozen=True)
class ReferenceRecord:
    """One row of reference.tsv: how strongly real inputs drive a channel.

    >>> ReferenceRecord("conv1", 3, 2.5).unit
    ('conv1', 3)
    """

    layer: str = _column("Layer of the network, as the model names it")
    channel: int = _column("Channel of the layer, from 0; 0 if a layer as a whole was asked for")
    reference: float = _column("Response to the strongest real input, or to the percentile of them")

    @property
    def unit(self) -> tuple[str, int]:
        """Layer and channel."""
        return self.layer, self.channel


@dataclass(frozen=True, eq=False)
class UnitResult:
    """A finished image: its row, its voxels (*spatial, channels), its values at every step.

    `transparency` is a second image, where the network was looking, or None.
    """

    record: UnitRecord
    image: Float[np.ndarray, "*spatial channels"]
    objective: Float[np.ndarray, " steps"]
    penalty: Float[np.ndarray, " steps"]
    transparency: Float[np.ndarray, "*spatial channels"] | None = None

    @property
    def layer(self) -> str:
        """Name of the layer."""
        return self.record.layer

    @property
    def channel(self) -> int:
        """Number of the channel."""
        return self.record.channel

    @property
    def variant(self) -> int:
        """Which of the channel's images it is, from 1."""
        return self.record.variant

    @property
    def status(self) -> str:
        """How the ascent ended, one of `STATUSES`."""
        return self.record.status

    @property
    def strength(self) -> float | None:
        """Its response as a share of that to the strongest real input, where that is known."""
        return self.record.strength

    @property
    def trace(self) -> Float[np.ndarray, " steps"]:
        """The objective before every step."""
        return self.objective

    def __repr__(self) -> str:
        """What it is, without its voxels."""
        shape = " x ".join(map(str, self.image.shape))
        return f"{self.layer} {self.channel}: {self.status}, an image of {shape}"


class Traces(NamedTuple):
    """Objective and penalty of the images of a layer before every step, through its transforms."""

    channel: Int[np.ndarray, " n"]
    variant: Int[np.ndarray, " n"]
    objective: Float[np.ndarray, "n steps"]
    penalty: Float[np.ndarray, "n steps"]

    def keys(self, layer: str) -> list[Key]:
        """Return what names each row."""
        pairs = zip(self.channel.tolist(), self.variant.tolist(), strict=True)
        return [(layer, channel, variant) for channel, variant in pairs]


_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}


_Record = TypeVar("_Record", UnitRecord, LayerRecord, ReferenceRecord)


def encode_cell(value: object, *, digits: int | None = None) -> str:
    """Write one value of a table; what is missing or not a number becomes BIDS's n/a.

    Args:
        value: text, a number, a tuple of whole numbers, or None.
        digits: significant ones of a float; all by default.

    >>> encode_cell(1 / 3, digits=3), encode_cell(None), encode_cell((3, 3))
    ('0.333', 'n/a', '3x3')
    """
    if value is None:
        return "n/a"
    if isinstance(value, str):
        return "".join(_ESCAPES.get(letter, letter) for letter in value)
    if isinstance(value, tuple):
        return "x".join(str(int(each)) for each in value) or "n/a"
    if isinstance(value, float | np.floating):
        if np.isnan(value):
            return "n/a"
        return f"{value:.{digits}g}" if digits else repr(float(value))
    return str(value)


def _decode_cell(text: str, kind: object) -> Any:
    """Read what `encode_cell` wrote."""
    if kind is str:
        codes = {code: letter for letter, code in _ESCAPES.items()}
        return re.sub(r"\\.", lambda match: codes[match[0]], text)
    if kind is int:
        return int(text)
    if kind == float | None and text == "n/a":
        return None
    if kind in (float, float | None):
        return float("nan") if text == "n/a" else float(text)
    return () if text == "n/a" else tuple(int(part) for part in text.split("x"))


def encode_table(records: Iterable[_Record], kind: type[_Record]) -> bytes:
    r"""Encode records as tab-separated lines under a line of names.

    Args:
        records: all of one kind.
        kind: `UnitRecord`, `LayerRecord` or `ReferenceRecord`.

    Returns:
        UTF-8; without records it holds the names alone.

    >>> encode_table([], LayerRecord)
    b'layer\toutput_shape\tchannels\treceptive_field\tstride\n'
    """
    names = [column.name for column in fields(kind)]
    lines = [[encode_cell(getattr(record, name)) for name in names] for record in records]
    return _lines([names, *lines])


def encode_rows(rows: Sequence[Mapping[str, object]], *, digits: int | None = None) -> bytes:
    r"""Encode rows of any kind as tab-separated lines under a line of names.

    Args:
        rows: at least one; the first one's keys are the columns.
        digits: significant ones of a float; all by default.

    Returns:
        UTF-8. What is missing or not a number is written as "n/a".

    >>> encode_rows([{"step": 1, "loss": 0.25, "auc": None}])
    b'step\tloss\tauc\n1\t0.25\tn/a\n'
    """
    names = list(rows[0])
    lines = [[encode_cell(row[name], digits=digits) for name in names] for row in rows]
    return _lines([names, *lines])


def _lines(cells: Iterable[Sequence[str]]) -> bytes:
    return "".join("\t".join(line) + "\n" for line in cells).encode()


def read_table(path: Path, kind: type[_Record]) -> list[_Record]:
    """Read a table; one that was not written yet has no rows.

    Args:
        path: what `encode_table` encoded lies there, or nothing.
        kind: `UnitRecord`, `LayerRecord` or `ReferenceRecord`.

    Returns:
        The records, in the order of the lines.

    Raises:
        ValueError: if the table has other columns or a line that cannot be read.

    >>> read_table(Path("no such file"), LayerRecord)
    []
    """
    if not path.exists():
        return []
    columns = fields(kind)
    header, *lines = path.read_bytes().decode().split("\n")
    expected = "\t".join(column.name for column in columns)
    if header != expected:
        raise ValueError(f"{path}: expected the columns {expected!r}; got {header!r}.")
    records = []
    for number, line in enumerate(lines[:-1], start=2):
        cells = line.split("\t")
        try:
            pairs = zip(columns, cells, strict=True)
            values = {column.name: _decode_cell(cell, column.type) for column, cell in pairs}
            records.append(kind(**values))
        except (ValueError, KeyError) as error:
            raise ValueError(f"{path}, line {number}: cannot read {line!r} ({error}).") from error
    return records


def natural_order(record: UnitRecord) -> tuple[list[str], Key]:
    """Sort conv2 before conv10, and channels and variants by number.

    Args:
        record: of a unit.

    Returns:
        A key for `sorted`.

    >>> rest = (0, "alive", 0.0, 1.0, 0.0, 0.0, 1.0, 256, 1.0, 0)
    >>> natural_order(UnitRecord("conv2", *rest)) < natural_order(UnitRecord("conv10", *rest))
    True
    """
    parts = re.split("([0-9]+)", record.layer)
    return [part.zfill(9) if i % 2 else part for i, part in enumerate(parts)], record.key


def image_name(channel: int, variant: int) -> str:
    """Name the files of an image; those of the first variant carry the number of the channel alone.

    Args:
        channel: from 0.
        variant: from 1.

    >>> image_name(12, 1), image_name(12, 2)
    ('0012', '0012-variant2')
    """
    return f"{channel:04d}" if variant == 1 else f"{channel:04d}-variant{variant}"


def leading(records: Iterable[UnitRecord]) -> list[UnitRecord]:
    """Choose, of every channel, the image that stands for it where there is room for one number.

    Args:
        records: of images, any number of each channel.

    Returns:
        For each channel the row of its largest final objective, in the order of the first rows.

    >>> rest = ("alive", 0.0, 1.0, 0.0, 0.0, 1.0, 256, 1.0, 0)
    >>> stronger = UnitRecord("conv2", 7, "alive", 0.0, 2.0, *rest[3:], variant=2)
    >>> leading([UnitRecord("conv2", 7, *rest), stronger]) == [stronger]
    True
    """
    found: dict[tuple[str, int], UnitRecord] = {}
    for record in records:
        if _strength(record) > _strength(found.setdefault(record.unit, record)):
            found[record.unit] = record
    return list(found.values())


def _strength(record: UnitRecord) -> float:
    """Return the objective of an image; what has none loses against any."""
    return -np.inf if np.isnan(record.final_objective) else record.final_objective


def complete(keys: Iterable[Key], *, variants: int) -> frozenset[tuple[str, int]]:
    """Return the channels of which every image is there.

    Args:
        keys: of the images that are there.
        variants: how many a channel has.

    Returns:
        Pairs of layer and channel.

    >>> complete([("conv1", 0, 1), ("conv1", 0, 2), ("conv1", 3, 1)], variants=2)
    frozenset({('conv1', 0)})
    """
    there = set(keys)
    units = {(layer, channel) for layer, channel, _ in there}
    wanted = range(1, variants + 1)
    return frozenset(unit for unit in units if all((*unit, each) in there for each in wanted))


def encode_arrays(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Encode arrays as an .npz file that holds no time.

    Args:
        arrays: of numbers, by name.

    Returns:
        The bytes of the file; equal arrays give equal bytes.

    >>> encoded = encode_arrays({"channel": np.arange(3)})
    >>> np.load(io.BytesIO(encoded), allow_pickle=False)["channel"]
    array([0, 1, 2])
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, member.getvalue())
    return buffer.getvalue()
