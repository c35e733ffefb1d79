"""How the images of a run lie and are shown: what is the same for all of them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from featvis_jax.ranges import Ranges
from featvis_jax.results import grids, nifti, pixels
from featvis_jax.results.channels import InputChannels
from featvis_jax.results.pixels import Window
from featvis_jax.results.store import RunView
from featvis_jax.results.tables import UnitRecord


class Grid(NamedTuple):
    """What is the same for all images of a run, or of runs that are compared.

    Example:
      >>> planes = grids.planes(np.eye(4), (4, 5))
      >>> Grid(np.eye(4), (4, 5), planes, (0.0, 1.0), InputChannels()).places
      ['z = 0 mm']
    """

    affine: nifti.Affine | None
    shape: tuple[int, ...]
    planes: list[grids.Plane]
    """none where there is no image"""
    window: Window
    """of intensities, or of shares where the channels have ranges of their own"""
    channels: InputChannels

    @classmethod
    def of_run(cls, run: RunView, records: Sequence[UnitRecord]) -> "Grid":
        """Return that of a run.

        Args:
          run: The run.
          records: Of its finished images.
        """
        channels, window = run.input_channels, shared_window(run, records)
        if not records:
            return cls(None, (), [], window, channels)
        image, affine = run.image(*records[0].key)
        shape = image.shape[:-1]
        planes = grids.planes(affine, shape, is_picture=channels.is_colour)
        return cls(affine, shape, planes, window, channels)

    @classmethod
    def of_runs(cls, runs: Sequence[RunView], records: Sequence[Sequence[UnitRecord]]) -> "Grid":
        """Return that of several runs; what they know of the affine, if they agree.

        Args:
          runs: At least one.
          records: Of the finished images of each.

        Raises:
          ValueError: If their images differ in shape or in what their channels are.
        """
        found = [cls.of_run(run, rows) for run, rows in zip(runs, records, strict=True)]
        known = [(run, grid) for run, grid in zip(runs, found, strict=True) if grid.shape]
        shapes = {grid.shape for _, grid in known}
        if len(shapes) > 1:
            each = ", ".join(f"{run.directory}: {grid.shape}" for run, grid in known)
            raise ValueError(f"runs to compare must have images of one shape; got {each}.")
        channels = runs[0].input_channels
        for run in runs[1:]:
            if run.input_channels.unheld.of_one_range != channels.unheld.of_one_range:
                raise ValueError(
                    "runs to compare must have the same input channels; got "
                    f"{runs[0].directory}: {channels.told}, {run.directory}: "
                    f"{run.input_channels.told}."
                )
        window, ranges = _common(found)
        channels = channels._replace(ranges=ranges)
        if not known:
            return cls(None, (), [], window, channels)
        affine, shape = grids.same([grid.affine for _, grid in known]), shapes.pop()
        planes = grids.planes(affine, shape, is_picture=channels.is_colour)
        return cls(affine, shape, planes, window, channels)

    @property
    def places(self) -> list[str]:
        """Where the middle of each plane lies."""
        indices = [(*self.shape, 1)[plane.normal] // 2 for plane in self.planes]
        return [
            grids.position(self.affine, self.shape, normal=plane.normal, index=index)
            for plane, index in zip(self.planes, indices, strict=True)
        ]


def _common(found: Sequence[Grid]) -> tuple[Window, Ranges | None]:
    """The window of several runs, and ranges of their channels, that hold those of each."""
    if all(grid.channels.ranges is None for grid in found):
        return pixels.value_range([np.array([grid.window for grid in found])]), None
    each = np.array([grid.channels.windows(grid.window) for grid in found])
    ends = zip(each[..., 0].min(0).tolist(), each[..., 1].max(0).tolist(), strict=True)
    return (0.0, 1.0), tuple(ends)


def shared_window(run: RunView, records: Sequence[UnitRecord]) -> Window:
    """Return the window in which all channels of a run are comparable.

    Args:
      run: The run.
      records: Of its finished channels.

    Returns:
      The window that its images ask viewers for, else the range of all images that are finite;
      the whole range of every channel, in shares, where each has its own.
    """
    if run.input_channels.ranges is not None:
        return 0.0, 1.0
    if records:
        layer, channel, variant = records[0].key
        path = run.image_paths(layer, channel, variant)[0]
        proposed = nifti.proposed_window(path.read_bytes())
        if proposed:
            return round(proposed[0], 6), round(proposed[1], 6)
    sound = [row for row in records if row.status != "diverged"] or list(records)
    values = np.array([[row.intensity_min, row.intensity_max] for row in sound], np.float64)
    return pixels.opened(pixels.value_range([values]) if len(sound) else (0.0, 1.0))


def view_options(planes: Sequence[grids.Plane]) -> list[tuple[str, str]]:
    """Return what tiles can show, as values and words; nothing if there is no choice.

    Args:
      planes: Of the grid.

    Example:
      >>> [value for value, _ in view_options(grids.planes(np.eye(4), (4, 5, 6)))]
      ['axial', 'coronal', 'sagittal', 'projection']
    """
    if len(planes) < 2:
        return []
    return [*((plane.name, plane.name) for plane in planes), ("projection", "maximum intensity")]


def contrast_options(channels: InputChannels) -> list[tuple[str, str]]:
    """Return which contrasts can be shown, as values and words; nothing if there is no choice.

    Args:
      channels: What the channels of the images are.

    Example:
      >>> contrast_options(InputChannels(("T1w", "FLAIR"), held={"T1w": "1b4f"}))
      [('', 'all'), ('T1w', 'T1w, held'), ('FLAIR', 'FLAIR')]
      >>> contrast_options(InputChannels())
      []
    """
    if len(channels.labels) < 2:
        return []
    return [("", "all"), *zip(channels.labels, channels.captions, strict=True)]
