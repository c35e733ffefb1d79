"""Comparison of runs: rows are channels, columns are runs, all in one window."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from featvis_jax.results import manifest
from featvis_jax.results.asked import Question, compared_with, intensity_unit
from featvis_jax.results.files import file_name
from featvis_jax.results.gallery import contents
from featvis_jax.results.gallery.contents import Layer, Unit
from featvis_jax.results.gallery.grid import Grid, contrast_options, view_options
from featvis_jax.results.gallery.pictures import write_planes, write_projections
from featvis_jax.results.gallery.site import Site, link
from featvis_jax.results.store import RunView


class Column(NamedTuple):
    """A run, as the templates see it.

    Example:
      >>> Column("blur", "runs/blur", {"regularization": '"blur"'}, 0, {}).label
      'blur'
    """

    label: str
    directory: str
    differences: dict[str, str]
    """settings in which the runs differ, as JSON"""
    finished: int
    """how many channels have all their images"""
    questions: dict[str, Question]
    """what was asked of the units of each layer"""


def build_comparison(runs: Sequence[RunView], *, out: Path | None = None) -> Path:
    """Build pages that put the channels of several runs side by side.

    Args:
      runs: At least two, of images of one shape; other processes may be writing to them.
      out: Directory of the pages; by default `comparison` inside the first run.

    Returns:
      The index, to be opened from the disk.

    Raises:
      RunInUse: If another process is building the same pages.
      ValueError: If there are fewer than two runs, or their images differ in shape or in what
        their channels are.
      OSError: If a page cannot be written.

    Example:
      >>> import tempfile
      >>> from featvis_jax.results.store import open_run
      >>> with tempfile.TemporaryDirectory() as directory:
      ...     for name in ("none", "blur"):
      ...         open_run(Path(directory) / name, {"regularization": name}, environment={}).close()
      ...     both = [RunView(Path(directory) / name) for name in ("none", "blur")]
      ...     build_comparison(both).relative_to(directory).as_posix()
      'none/comparison/index.html'
    """
    if len(runs) < 2:
        raise ValueError(f"got {len(runs)} run; expected at least two to compare.")
    records = [run.records() for run in runs]
    grid = Grid.of_runs(runs, records)
    layers = [contents.layers(run, rows) for run, rows in zip(runs, records, strict=True)]
    columns = _columns(runs, layers)
    names = list(dict.fromkeys(layer.name for some in layers for layer in some))
    with Site(out or runs[0].directory / "comparison") as site:
        site.looks(grid.planes, contrasts=grid.channels.labels)
        about = _about(runs, grid, columns)
        pages = []
        for name in names:
            same = [next((each for each in some if each.name == name), None) for some in layers]
            rows = _rows(site, runs, same)
            if not rows:
                continue
            _write_pictures(site, runs, same, grid)
            pages.append((name, f"layers/{file_name(name)}.html", rows))
        for before, (name, page, rows), after in contents.neighbours(pages):
            site.page(
                page,
                "comparison_layer.html",
                layer=name,
                rows=rows,
                before=before,
                after=after,
                **about,
            )
        return site.page("index.html", "comparison.html", pages=pages, **about)


def _about(runs: Sequence[RunView], grid: Grid, columns: list[Column]) -> dict[str, object]:
    """Return what every page may say."""
    return {
        "title": " and ".join(dict.fromkeys(_model(run) for run in runs)),
        "columns": columns,
        "settings": list(dict.fromkeys(name for c in columns for name in c.differences)),
        "planes": grid.planes,
        "view_options": view_options(grid.planes),
        "contrast_options": contrast_options(grid.channels.unheld),
        "places": grid.places,
        "windows": grid.channels.told_windows(grid.window),
        "marks": contents.MARKS,
        "compared_with": _compared_with(runs),
        "intensity_unit": grid.channels.told_unit(_intensity_unit(runs)),
    }


def _write_pictures(
    site: Site, runs: Sequence[RunView], layers: Sequence[Layer | None], grid: Grid
) -> None:
    """Draw the images that some runs have of one layer, one in memory at a time."""
    projected = []
    for number, (run, layer) in enumerate(zip(runs, layers, strict=True)):
        units = layer.units if layer else []
        for variant in (variant for unit in units for variant in unit.variants):
            image, _ = run.image(*variant.record.key)
            stem = f"pictures/{file_name(variant.record.layer)}/{variant.name}-{number}"
            projected += write_planes(
                site, variant, image, stem=stem, planes=grid.planes,
                window=grid.window,
                channels=run.input_channels._replace(ranges=grid.channels.ranges),
            )  # fmt: skip
    write_projections(site, projected)


def _compared_with(runs: Sequence[RunView]) -> str | None:
    """Say what strengths are shares of, where any run has them."""
    found = {compared_with(run.configuration) for run in runs} - {None}
    return found.pop() if len(found) < 2 and found else "its run's reference" if found else None


def _intensity_unit(runs: Sequence[RunView]) -> str | None:
    """Say what the numbers in all images are, where every run tells the same."""
    found = {intensity_unit(run.configuration) for run in runs}
    if len(found - {None}) > 1:
        each = ", ".join(f"{run.directory}: {intensity_unit(run.configuration)}" for run in runs)
        raise ValueError(f"runs to compare must have intensities of one kind; got {each}.")
    return found.pop() if len(found) == 1 else None


def _model(run: RunView) -> str:
    """Name the model of a run."""
    return str(run.configuration.get("model") or run.directory.resolve().name)


def _columns(runs: Sequence[RunView], layers: Sequence[Sequence[Layer]]) -> list[Column]:
    """Name runs by their regularization, where that tells them apart, else by their directory."""
    settings = []
    for run in runs:
        # What a run covers, and how it was cut into batches, is no way to make an image.
        every = {k: v for k, v in run.configuration.items() if k not in ("layers", "batch")}
        settings.append(manifest.leaves(every))
    names = sorted({name for each in settings for name in each})
    differing = [name for name in names if len({each.get(name) for each in settings}) > 1]
    labels = [str(run.configuration.get("regularization", "")) for run in runs]
    if len(set(labels)) < len(labels) or not all(labels):
        labels = [run.directory.resolve().name for run in runs]
    return [
        Column(
            label,
            str(run.directory),
            {name: _plain(each.get(name)) for name in differing},
            sum(layer.finished for layer in some),
            {layer.name: layer.question for layer in some},
        )
        for label, run, each, some in zip(labels, runs, settings, layers, strict=True)
    ]


def _plain(text: str | None) -> str:
    """Write a JSON value for people."""
    value = None if text is None else json.loads(text)
    return "\u2013" if value is None else value if isinstance(value, str) else str(text)


class Cell(NamedTuple):
    """A unit in one of the runs, and its page in the gallery of that run, if there is one.

    The address of the page starts from the directory of the comparison.

    Example:
      >>> Cell(None, None).page
    """

    unit: Unit | None
    page: str | None


def _rows(
    site: Site, runs: Sequence[RunView], layers: Sequence[Layer | None]
) -> list[tuple[int, str, list[Cell]]]:
    """Return, for every channel that some run has finished, what it is called, and its units."""
    found = [{u.record.channel: u for u in layer.units} if layer else {} for layer in layers]
    channels = sorted({channel for units in found for channel in units})
    rows = []
    for channel in channels:
        called = {layer.question.label(channel) for layer in layers if layer}
        label = called.pop() if len(called) == 1 else str(channel)
        units = [of_run.get(channel) for of_run in found]
        cells = [_cell(site, *each) for each in zip(runs, units, strict=True)]
        rows.append((channel, label, cells))
    return rows


def _cell(site: Site, run: RunView, unit: Unit | None) -> Cell:
    """Find the page of a unit."""
    page = run.directory / "gallery" / unit.page if unit else None
    if page is None or not page.exists():
        return Cell(unit, None)
    path = os.path.relpath(page.resolve(), site.directory.resolve())
    return Cell(unit, link(Path(path).as_posix()))
