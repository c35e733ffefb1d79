"""The tables of what deformed scans have in common: regions, maps, and what shape is worth."""

import math
from dataclasses import dataclass

from featvis_jax.results.grids import minus
from featvis_jax.results.tables import Key, column


@dataclass(frozen=True)
class RegionRecord:
    """One row of anatomy.tsv: how a region changed in the scans of a unit.

    Example:
      >>> RegionRecord("logits", 1, "Left-Putamen", 80, 12, 14.2, energy=0.21).unit
      ('logits', 1)
    """

    layer: str = column("Layer of the network, as the model names it")
    channel: int = column("Channel of the layer, from 0, or number of a direction")
    region: str = column(
        "Region of the label image; without one, the places of the brain with the largest growth "
        "and the largest shrinkage of the mean map"
    )
    voxels: int = column("Voxels of it on the network's grid, in all images of the unit together")
    people: int = column("In how many people's images it is seen")
    change: float = column(
        "By how much its volume changed, of slices its area, as the network asks for it: the mean "
        "of exp(logjac) - 1 over its voxels, then over people",
        Units="%",
    )
    energy: float | None = column(
        "Share of the squared log growth of the whole image that lies in it, mean over people",
        default=None,
    )
    change_low: float | None = column(
        "Lower end of the 95 % interval of the change over people", Units="%", default=None
    )
    change_high: float | None = column("Upper end", Units="%", default=None)
    x: float | None = column(
        "Where in the world a place lies, to the right", Units="mm", default=None
    )
    y: float | None = column("The same, towards the front", Units="mm", default=None)
    z: float | None = column(
        "The same, upwards; n/a for slices at several heights", Units="mm", default=None
    )
    brightness_ratio: float | None = column(
        "Of the unit: what shape takes to reach the target over what brightness takes, median over "
        "its scans; inf where no shape reaches it, 0 where no brightness does",
        default=None,
    )
    asks_for: str | None = column(
        "Of the unit: what it asks for, by that ratio",
        Levels={
            "shape": "shape takes no more than brightness does, or little",
            "brightness": "shape takes far more, or never reaches the target",
        },
        default=None,
    )
    warning: str | None = column(
        "Of the unit: why its change of shape is not to be read as one", default=None
    )

    @property
    def unit(self) -> tuple[str, int]:
        """Layer and channel."""
        return self.layer, self.channel


@dataclass(frozen=True)
class MapRecord:
    """One row of anatomy_maps.tsv: what a map over the scans of a unit says.

    Example:
      >>> record = MapRecord("logits", 1, "logjac", 12, 12, 5040, degrees_of_freedom=11)
      >>> record.told
      'No place of the brain grows or shrinks alike in all: none of its 5040 voxels differs ...
    """

    layer: str = column("Layer of the network, as the model names it")
    channel: int = column("Channel of the layer, from 0, or number of a direction")
    map: str = column(
        "What it is of", Levels={"logjac": "log growth", "logbright": "log brightness ratio"}
    )
    images: int = column("Images of the unit")
    people: int = column("People whose scans they are")
    brain_voxels: int = column("Voxels of the brain, by the mean scan; they are tested")
    degrees_of_freedom: int | None = column(
        "Of the t-test over people; n/a for fewer than three, who have no t-map", default=None
    )
    t_threshold: float | None = column(
        "|t| from which on a voxel passes at a false discovery rate of 5 % over the brain; n/a "
        "where none does",
        default=None,
    )
    rising: float = column("Share of the brain that passes with a positive sign", default=0.0)
    falling: float = column("Share of the brain that passes with a negative sign", default=0.0)

    @property
    def unit(self) -> tuple[str, int]:
        """Layer and channel."""
        return self.layer, self.channel

    @property
    def told(self) -> str:
        """What is common to the scans, in a sentence."""
        grows, shrinks = ("grows", "shrinks") if self.map == "logjac" else ("brightens", "darkens")
        if self.degrees_of_freedom is None:
            whose = "one scan" if self.people == 1 else f"{self.people} people"
            return (
                f"The images are of {whose}: of fewer than three people nothing can be said to be "
                "common, and the map is their mean."
            )
        test = (
            f"(t-test over {self.people} people with {self.degrees_of_freedom} degrees of freedom, "
            "false discovery rate 5 %)"
        )
        if self.t_threshold is None:
            return (
                f"No place of the brain {grows} or {shrinks} alike in all: none of its "
                f"{self.brain_voxels} voxels differs from 0 {test}."
            )
        shares = ((self.rising, grows), (self.falling, shrinks))
        first, *second = [f"{_percent(share)} {verb}" for share, verb in shares if share]
        parts = [first.replace(" %", " % of the brain"), *second]
        return f"Common to the scans: {' and '.join(parts)} {test}."


@dataclass(frozen=True)
class ScanRecord:
    """One row of anatomy_scans.tsv: what shape and brightness took in one scan.

    Example:
      >>> ScanRecord("logits", 1, 2, person="sub-03", slice=41).key
      ('logits', 1, 2)
    """

    layer: str = column("Layer of the network, as the model names it")
    channel: int = column("Channel of the layer, from 0, or number of a direction")
    variant: int = column("Image of the channel, from 1")
    person: str | None = column("Whose scan it started from; n/a where all share one", default=None)
    slice: int | None = column("Index of the slice along the scan's third axis", default=None)
    height_mm: float | None = column("Where the slice lies", Units="mm", default=None)
    target: float | None = column("Objective that was to be reached (--up_to)", default=None)
    shape_objective: float | None = column("Objective that shape alone reached", default=None)
    shape_effort: float | None = column(
        "What that took: root of the mean squared slopes of the displacement", default=None
    )
    brightness_objective: float | None = column(
        "Objective that brightness alone reached", default=None
    )
    brightness_effort: float | None = column(
        "What that took: root of the mean squared logarithm of the brightness ratio", default=None
    )
    ratio: float | None = column(
        "Effort by shape over effort by brightness; inf where no shape reaches the target, 0 where "
        "no brightness does, n/a where nothing can be said",
        default=None,
    )
    outcome: str | None = column(
        "Which of the two reached at least 95 % of the target", default=None
    )

    @property
    def key(self) -> Key:
        """Layer, channel and variant."""
        return self.layer, self.channel, self.variant


def place_told(row: RegionRecord) -> str:
    """Say where a place lies; empty for a region.

    Args:
      row: Of a region or a place.

    Example:
      >>> place_told(RegionRecord("fc", 1, "largest growth", 9, 3, 4.0, x=-12.0, y=4.0))
      'x −12, y 4 mm'
    """
    axes = zip("xyz", (row.x, row.y, row.z), strict=True)
    known = [f"{axis} {minus(f'{at:.0f}')}" for axis, at in axes if at is not None]
    return f"{', '.join(known)} mm" if known else ""


def interval_told(row: RegionRecord) -> str:
    """Write the interval of a change for people; empty where there is none.

    Args:
      row: Of a region or a place.

    Example:
      >>> row = RegionRecord("fc", 1, "Putamen", 9, 3, 4.0, change_low=-1.0, change_high=9.25)
      >>> interval_told(row)
      '−1.0 to +9.2'
    """
    if row.change_low is None or row.change_high is None:
        return ""
    return f"{percent_told(row.change_low)} to {percent_told(row.change_high)}"


def percent_told(value: float) -> str:
    """Write a change in per cent for people, with its sign.

    Args:
      value: The change.

    Example:
      >>> percent_told(12.34), percent_told(-0.04), percent_told(0.0)
      ('+12.3', '0.0', '0.0')
    """
    shown = round(value, 1) + 0.0
    return minus(f"{shown:+.1f}") if shown else "0.0"


def warning(ratio: float, limit: float) -> str:
    """Say why a unit's change of shape is not to be read as one.

    Args:
      ratio: What shape takes over what brightness takes, at least the limit.
      limit: From which on that is said.

    Example:
      >>> warning(2.6, 1.7)
      'This unit asks for brightness rather than shape: to reach the target, shape takes 2.6 ...
    """
    why = (
        "no change of shape reaches the target, and a change of brightness does"
        if math.isinf(ratio)
        else f"to reach the target, shape takes {ratio:.2g} times the effort of brightness (the "
        f"limit is {limit:g})"
    )
    return (
        f"This unit asks for brightness rather than shape: {why}. What grows or shrinks below only "
        "moves bright and dark tissue about; do not read it as anatomy."
    )


def _percent(share: float) -> str:
    """Write a share for people; what is there is not 0."""
    return f"{100 * share:.0f} %" if share >= 0.01 else "less than 1 %"
