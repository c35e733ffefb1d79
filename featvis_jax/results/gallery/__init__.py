"""Pages to look at runs: static files, opened from the disk, built from run directories alone."""

from collections.abc import Sequence
from pathlib import Path

from featvis_jax.results.gallery.build import build_gallery
from featvis_jax.results.gallery.comparison import build_comparison
from featvis_jax.results.store import RunView

__all__ = ["build_comparison", "build_gallery", "build_pages"]


def build_pages(runs: Sequence[RunView], *, out: Path | None = None, volumes: bool = True) -> Path:
    """Build the gallery of one run, or the comparison of several.

    Args:
      runs: One or more; other processes may be writing to them.
      out: Directory of the pages; by default inside the first run.
      volumes: Whether pages of 3-D images offer a 3-D viewer, in the gallery of one run.

    Returns:
      The index, to be opened from the disk.

    Raises:
      RunInUse: If another process is building the same pages.
      ValueError: If a file of a run is damaged, or the runs cannot be compared.
      OSError: If a page cannot be written.
    """
    if len(runs) > 1:
        return build_comparison(runs, out=out)
    return build_gallery(runs[0], out=out, volumes=volumes)
