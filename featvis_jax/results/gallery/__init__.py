"""Pages to look at runs: static files, opened from the disk, built from run directories alone."""

from featvis_jax.results.gallery.build import build_gallery
from featvis_jax.results.gallery.comparison import build_comparison

__all__ = ["build_comparison", "build_gallery"]
