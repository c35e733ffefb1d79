"""Which scan each variant of a unit started from, where a run took several."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from featvis_jax.results.grids import minus


class Start(NamedTuple):
    """A scan that was changed: whose it is, and of a slice where it lies.

    Example:
      >>> Start("sub-03", 41, -12.0).words, Start("sub-03").words
      ('sub-03, slice 41 (z = −12 mm)', 'sub-03')
    """

    person: str
    slice: int | None = None
    """index along the third axis of the person's scan, from below; None for a whole volume"""
    height_mm: float | None = None
    """of the slice, along the third axis of the world; None where nobody knows"""

    @property
    def words(self) -> str:
        """What it is called."""
        if self.slice is None:
            return self.person
        at = "" if self.height_mm is None else f" (z = {minus(f'{self.height_mm + 0.0:.4g}')} mm)"
        return f"{self.person}, slice {self.slice}{at}"


def of_run(configuration: Mapping[str, Any]) -> list[Start]:
    """Return the scans of the variants of a run, in their order; none if it took one for all.

    Args:
      configuration: Of the run; its entry "starts" has one for each variant.

    Example:
      >>> of_run({"starts": [{"person": "sub-03", "slice": 41, "height_mm": None}]})
      [Start(person='sub-03', slice=41, height_mm=None)]
    """
    found = configuration.get("starts")
    return [Start(**each) for each in found] if isinstance(found, list) else []
