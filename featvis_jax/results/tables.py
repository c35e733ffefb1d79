"""The tables and arrays of a run: one row per unit, one per layer, and the traces of the ascent."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from featvis_jax.results.files import file_name
from featvis_jax.results.starts import Start

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


def column(description: str, *, default: Any = _REQUIRED, **more: object) -> Any:
    """Describe a column of a table, in the words of a BIDS sidecar."""
    metadata = {"Description": description, **more}
    if default is _REQUIRED:
        return field(metadata=metadata)
    return field(default=default, kw_only=True, metadata=metadata)


@dataclass(frozen=True)
class UnitRecord:
    """One row of units.tsv: what became of one image of one channel of one layer.

    Example:
      >>> UnitRecord("conv1", 3, "alive", 0.1, 2.5, 0.0, 0.0, 1.0, 256, 1.5, 0, variant=2).key
      ('conv1', 3, 2)
    """

    layer: str = column("Layer of the network, as the model names it")
    channel: int = column(
        "Channel of the layer, from 0, or of several directions the number of one, which run.json "
        "names under unit_names; 0 if a layer as a whole was asked for"
    )
    variant: int = column(
        "Image of the channel, from 1; a run with several variants has a row for each",
        default=1,
    )
    status: str = column(
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
    initial_objective: float = column(
        "Objective of the first image, measured on the image as it is; run.json says what the "
        "objective is"
    )
    final_objective: float = column(
        "Objective of the image that is stored, measured on the image as it is"
    )
    transformed_objective: float | None = column(
        "Objective before the last step, measured through the random transforms of that step as "
        "all steps are: the last finite value of the channel's trace",
        default=None,
    )
    response: float | None = column(
        "Largest activation of the channel in the image that is stored, with the sign of the "
        "objective, or the objective itself where it is not about the places of a channel",
        default=None,
    )
    target: float | None = column("Response that the ascent aimed at", default=None)
    strength: float | None = column(
        "Response as a share of that to the strongest real input, which reference.tsv has; n/a "
        "without --reference, and where no real input drives the channel",
        default=None,
    )
    penalty: float = column("Penalty of the image that is stored")
    intensity_min: float = column("Smallest intensity of the image")
    intensity_max: float = column("Largest intensity of the image")
    steps: int = column("Steps of the ascent that were taken")
    seconds: float = column(
        "Share of the image in the time of its batch; the only column that differs when a run "
        "is repeated",
        Units="s",
    )
    seed: int = column("Seed that the random numbers of the channel come from")

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

    Example:
      >>> LayerRecord("conv1", (138, 190), 8, (3, 3), (1, 1)).channels
      8
    """

    layer: str = column("Layer of the network, as the model names it")
    output_shape: tuple[int, ...] = column("Shape of the output without channels")
    channels: int = column("Number of channels")
    receptive_field: tuple[int, ...] = column("Voxels of the input that one output value sees")
    stride: tuple[int, ...] = column("Voxels of the input between neighbouring output values")


@dataclass(frozen=True)
class ReferenceRecord:
    """One row of reference.tsv: how strongly real inputs drive a channel.

    Example:
      >>> ReferenceRecord("conv1", 3, 2.5).unit
      ('conv1', 3)
    """

    layer: str = column("Layer of the network, as the model names it")
    channel: int = column("Channel of the layer, from 0; 0 if a layer as a whole was asked for")
    reference: float = column("Response to the strongest real input, or to the percentile of them")

    @property
    def unit(self) -> tuple[str, int]:
        """Layer and channel."""
        return self.layer, self.channel


@dataclass(frozen=True, eq=False)
class UnitResult:
    """A finished image: its row, its voxels (*spatial, channels), its values at every step.

    `transparency` is a second image, where the network was looking, or None; `name` is what the
    unit is called, where it is one of several directions; `maps` has by name what there is at each
    voxel beside the image (*spatial, components): of a scan that was deformed, "scan" itself,
    "logjac", "displacement" in mm along the axes of the world, "logbright"; `start` says whose scan
    that is, where each variant has its own.
    """

    record: UnitRecord
    image: Float[np.ndarray, "*spatial channels"]
    objective: Float[np.ndarray, " steps"]
    penalty: Float[np.ndarray, " steps"]
    transparency: Float[np.ndarray, "*spatial channels"] | None = None
    name: str | None = None
    maps: Mapping[str, Float[np.ndarray, "*spatial components"]] = field(default_factory=dict)
    start: Start | None = None

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
        return f"{self.layer} {self.name or self.channel}: {self.status}, an image of {shape}"


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

    def joined(self, layer: str, new: Sequence[UnitResult]) -> "Traces":
        """Return the traces of the images that are done together with those of new ones.

        Args:
          layer: Its name, for errors.
          new: Images of it, at least one.

        Raises:
          ValueError: If traces differ in length.
        """
        shapes = {np.shape(trace) for unit in new for trace in (unit.objective, unit.penalty)}
        if len(self.channel):
            shapes.add(self.objective.shape[1:])
        if len(shapes) > 1 or any(len(shape) != 1 for shape in shapes):
            raise ValueError(
                f"layer {layer!r}: traces have the shapes {sorted(shapes)}; expected (steps,) with "
                "one number of steps for all. Pad the trace of a unit that stopped with NaN."
            )
        (steps,) = shapes.pop()
        channel = np.array([*self.channel, *(unit.record.channel for unit in new)], np.int64)
        variant = np.array([*self.variant, *(unit.record.variant for unit in new)], np.int64)
        order = np.lexsort((variant, channel))
        both = [
            np.concatenate([before.reshape(len(before), steps), np.array(after, np.float32)])[order]
            for before, after in (
                (self.objective, [unit.objective for unit in new]),
                (self.penalty, [unit.penalty for unit in new]),
            )
        ]
        return Traces(channel[order], variant[order], *both)


def natural_order(record: UnitRecord) -> tuple[list[str], Key]:
    """Sort conv2 before conv10, and channels and variants by number.

    Args:
      record: Of a unit.

    Returns:
      A key for `sorted`.

    Example:
      >>> rest = (0, "alive", 0.0, 1.0, 0.0, 0.0, 1.0, 256, 1.0, 0)
      >>> natural_order(UnitRecord("conv2", *rest)) < natural_order(UnitRecord("conv10", *rest))
      True
    """
    parts = re.split("([0-9]+)", record.layer)
    return [part.zfill(9) if i % 2 else part for i, part in enumerate(parts)], record.key


def image_name(channel: int, variant: int) -> str:
    """Name the files of an image; those of the first variant carry the number of the channel alone.

    Args:
      channel: From 0.
      variant: From 1.

    Example:
      >>> image_name(12, 1), image_name(12, 2)
      ('0012', '0012-variant2')
    """
    return f"{channel:04d}" if variant == 1 else f"{channel:04d}-variant{variant}"


def leading(records: Iterable[UnitRecord]) -> list[UnitRecord]:
    """Choose, of every channel, the image that stands for it where there is room for one number.

    Args:
      records: Of images, any number of each channel.

    Returns:
      For each channel the row of its largest final objective, in the order of the first rows.

    Example:
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
      keys: Of the images that are there.
      variants: How many a channel has.

    Returns:
      Pairs of layer and channel.

    Example:
      >>> complete([("conv1", 0, 1), ("conv1", 0, 2), ("conv1", 3, 1)], variants=2)
      frozenset({('conv1', 0)})
    """
    there = set(keys)
    units = {(layer, channel) for layer, channel, _ in there}
    wanted = range(1, variants + 1)
    return frozenset(unit for unit in units if all((*unit, each) in there for each in wanted))
