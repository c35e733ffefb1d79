"""What the deformed scans of a unit have in common, as the templates see it: maps, words, rows."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from featvis_jax.results.anatomy import MapRecord, RegionRecord, ScanRecord
from featvis_jax.results.files import file_name
from featvis_jax.results.gallery import growth
from featvis_jax.results.gallery.grid import Grid
from featvis_jax.results.gallery.site import Site
from featvis_jax.results.grids import minus
from featvis_jax.results.starts import Start
from featvis_jax.results.store import RunView

# Rows of a table before the others are folded away.
_FRONT = 12
# How much of its colour a place keeps that does not pass.
_FADED = 0.3


class CommonMap(NamedTuple):
    """Pictures of a map over the scans of a unit.

    Example:
      >>> record = MapRecord("logits", 1, "logjac", 2, 2, 5040)
      >>> kind = growth.KINDS["logjac"]
      >>> CommonMap(record, kind, "scan.png", "mean.png", 20.0, False, None, 0.0, "").kind.more
      'larger'
    """

    record: MapRecord
    kind: growth.Kind
    scan: str
    """the mean scan"""
    mean: str
    most: float
    """per cent at both ends of the mean's colours, at most 100"""
    beyond: bool
    """whether anything grew by more than that"""
    t: str | None
    t_most: float
    place: str
    """where the slices lie: at the largest mean"""


@dataclass(frozen=True)
class Common:
    """What the scans of a unit have in common.

    Example:
      >>> Common([], [RegionRecord("fc", 1, "Putamen", 9, 3, 4.0, warning="No.")], [], []).warning
      'No.'
    """

    maps: list[CommonMap]
    regions: list[RegionRecord]
    scans: list[ScanRecord]
    starts: list[Start]

    @property
    def warning(self) -> str | None:
        """Why the change of shape is not to be read as one."""
        return self.regions[0].warning if self.regions else None

    @property
    def shape_or_brightness(self) -> str:
        """What the unit asks for, in a sentence."""
        row = self.regions[0] if self.regions else None
        if row is None or row.asks_for is None or row.brightness_ratio is None:
            return (
                "Not measured: neither shape nor brightness reaches the target, or neither has to."
            )
        ratio = row.brightness_ratio
        if math.isinf(ratio):
            why = "no change of shape reaches the target, and a change of brightness does"
        elif not ratio:
            why = "a change of shape reaches the target, and no change of brightness does"
        else:
            why = f"to reach the target, shape takes {ratio:.2f} times the effort of brightness"
        known = sum(each.ratio is not None for each in self.scans)
        of = f"{known} of {len(self.scans)} scans, the others tell nothing"
        of = "the scans" if known == len(self.scans) else of
        return f"It asks for {row.asks_for}: {why} (median over {of})."

    @property
    def front(self) -> list[RegionRecord]:
        """The regions that changed most."""
        return self.regions[:_FRONT]

    @property
    def rest(self) -> list[RegionRecord]:
        """All others."""
        return self.regions[_FRONT:]

    @property
    def heights(self) -> str:
        """Between which heights the slices lie; empty where they share one, or nobody knows."""
        known = [each.height_mm for each in self.starts if each.height_mm is not None]
        if not known or min(known) == max(known):
            return ""
        return minus(f"{min(known):.4g} to {max(known):.4g} mm")

    def whose(self, row: ScanRecord) -> str:
        """Say which scan a row is of; empty where all share one.

        Args:
          row: Of the table of scans.
        """
        person = row.person
        return "" if person is None else Start(person, row.slice, row.height_mm).words


def commons(site: Site, run: RunView, grid: Grid) -> dict[tuple[str, int], Common]:
    """Draw what the scans of units have in common, where it was looked at.

    Args:
      site: Where the pictures go.
      run: The run.
      grid: Of its images.

    Returns:
      By layer and channel.
    """
    maps, regions, scans, starts = (
        run.anatomy_maps(),
        run.anatomy(),
        run.anatomy_scans(),
        run.starts,
    )
    return {
        unit: Common(
            [_drawn(site, run, grid, row) for row in maps if row.unit == unit],
            [row for row in regions if row.unit == unit],
            [row for row in scans if row.key[:2] == unit],
            starts,
        )
        for unit in dict.fromkeys(row.unit for row in maps)
    }


def _drawn(site: Site, run: RunView, grid: Grid, record: MapRecord) -> CommonMap:
    """Draw a map over the scans of a unit."""
    layer, channel = record.unit
    stem = f"pictures/{file_name(layer)}/{channel:04d}-common"
    scan, mean, t = (
        run.stat(layer, channel, stat=stat, name=name)
        for stat, name in (("mean", "scan"), ("mean", record.map), ("t", record.map))
    )
    assert scan is not None and mean is not None
    percent = 100 * np.expm1(mean[..., 0].astype(np.float64))
    # Beyond the head there is nothing that could grow.
    head = scan[..., 0] > scan[..., 0].min()
    percent = np.where(head, percent, 0.0) if head.any() else percent
    seen = np.abs(percent)
    index = tuple(int(i) for i in np.unravel_index(np.argmax(seen), seen.shape))
    most, beyond = growth.ends(percent)
    ground = growth.beside(growth.planes_at(scan[..., 0], index), grid.window)
    pictures = {
        "scan": ground,
        "mean": growth.coloured(
            ground, growth.beside_values(growth.planes_at(percent / most, index))
        ),
    }
    t_most = 0.0
    if t is not None:
        values = np.nan_to_num(t[..., 0].astype(np.float64)) * (head if head.any() else 1)
        limit = np.inf if record.t_threshold is None else record.t_threshold
        # A few places where people are nearly alike would leave no colour for the others.
        usual = float(np.percentile(np.abs(values[head]), 99)) if head.any() else 0.0
        t_most = growth.rounded(max(usual, 0.0 if np.isinf(limit) else 1.5 * limit))
        shares = values / t_most * np.where(np.abs(values) >= limit, 1.0, _FADED)
        planes = growth.planes_at(shares, index)
        pictures["t"] = growth.coloured(ground, growth.beside_values(planes))
    names = {
        name: growth.write(site, f"{stem}-{record.map}-{name}", drawn)
        for name, drawn in pictures.items()
    }
    return CommonMap(
        record,
        growth.kind_of(record.map, rank=percent.ndim),
        names["scan"],
        names["mean"],
        most,
        beyond,
        names.get("t"),
        t_most,
        growth.place_of(grid.affine, percent.shape, index),
    )
