"""The gallery of one run: index, a page per layer, a page per channel."""

import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from featvis_jax.results import pixels
from featvis_jax.results.files import file_name
from featvis_jax.results.gallery import charts, contents, grids, similarity, viewer, views
from featvis_jax.results.gallery.contents import Layer
from featvis_jax.results.gallery.pictures import write_picture, write_planes, write_projections
from featvis_jax.results.gallery.site import Site, link
from featvis_jax.results.pixels import Window
from featvis_jax.results.store import RunView

_ALIKE = 6


class _Grid(NamedTuple):
    """What is the same for all images of a run."""

    affine: Float[np.ndarray, "4 4"]
    shape: tuple[int, ...]
    planes: list[grids.Plane]
    window: Window


def build_gallery(run: RunView, *, out: Path | None = None, volumes: bool = True) -> Path:
    """Build the pages of a run, finished or half done, from its directory alone.

    Args:
        run: the run; another process may be writing to it.
        out: directory of the pages; by default `gallery` inside the run.
        volumes: whether pages of 3-D images offer a 3-D viewer, for about one byte and a third per
            voxel and channel.

    Returns:
        The index, to be opened from the disk.

    Raises:
        RunInUse: if another process is building the same gallery.
        ValueError: if a file of the run is damaged.
        OSError: if a page cannot be written.

    >>> import tempfile
    >>> from featvis_jax.results.store import open_run
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     open_run(directory, {"model": "tiny"}, environment={}).close()
    ...     build_gallery(RunView(directory)).relative_to(directory).as_posix()
    'gallery/index.html'
    """
    records = run.records()
    layers = contents.layers(run, records)
    grid = _Grid(*contents.grid(run, records), contents.shared_window(run, records))
    with Site(out or run.directory / "gallery") as site:
        site.looks(grid.planes)
        with_viewer = volumes and len(grid.planes) > 1
        if with_viewer:
            _write_viewer(site)
        about = _about(run, layers, grid, site)
        shown = [layer for layer in layers if layer.units]
        for layer in shown:
            _write_pictures(site, run, layer, grid, with_viewer=with_viewer)
            _add_charts(run, layer)
        for before, layer, after in contents.neighbours(shown):
            _write_units(site, run, layer, about)
            site.page(layer.page, "layer.html", layer=layer, before=before, after=after, **about)
        return site.page("index.html", "index.html", layers=layers, **about)


def _about(run: RunView, layers: list[Layer], grid: _Grid, site: Site) -> dict[str, object]:
    """Return what every page of a run may say."""
    configuration = run.configuration
    names = {layer.name for layer in layers}
    # The page of a unit stands two directories below the gallery.
    to_run = os.path.relpath(run.directory.resolve(), (site.directory / "units/x").resolve())
    return {
        "title": str(configuration.get("model") or run.directory.resolve().name),
        "configuration": configuration,
        "configuration_json": json.dumps(configuration, indent=2, ensure_ascii=False),
        "environments": run.environments,
        "fingerprint": run.fingerprint,
        "seconds": sum(each["seconds"] for each in run.timings),
        "counts": contents.count(unit.record for layer in layers for unit in layer.units),
        "finished": sum(len(layer.units) for layer in layers),
        "wanted": sum(layer.wanted for layer in layers),
        "other_layers": [row for row in run.layers() if row.layer not in names],
        "view_options": contents.view_options(grid.planes),
        "planes": grid.planes,
        "shape": grid.shape,
        "voxel_size_mm": grids.voxel_size_mm(grid.affine, grid.shape),
        "places": [
            grids.position(
                grid.affine,
                grid.shape,
                normal=plane.normal,
                index=(*grid.shape, 1)[plane.normal] // 2,
            )
            for plane in grid.planes
        ],
        "window": grid.window,
        "marks": contents.MARKS,
        "rules": contents.RULES,
        "to_run": link(Path(to_run).as_posix()),
    }


def _write_pictures(
    site: Site, run: RunView, layer: Layer, grid: _Grid, *, with_viewer: bool
) -> None:
    """Draw the channels of a layer, one image in memory at a time, and find out who looks alike."""
    folder, described, projected = f"pictures/{file_name(layer.name)}", [], []
    for unit in layer.units:
        image, _ = run.image(layer.name, unit.record.channel)
        stem = f"{folder}/{unit.name}"
        projected.append(
            write_planes(site, unit, image, stem=stem, planes=grid.planes, window=grid.window)
        )
        own = unit.pictures[0].own_window
        described.append(similarity.features(pixels.middle_planes(image)))
        if len(grid.planes) > 1:
            mosaic = views.mosaic(image)
            unit.mosaic = write_picture(site, stem, "slices", mosaic.values, grid.window, own)
            unit.slices = [
                (*corner, grids.position(grid.affine, grid.shape, normal=2, index=index))
                for corner, index in zip(mosaic.corners, mosaic.indices, strict=True)
            ]
        real = run.real_path(layer.name, unit.record.channel)
        if real.is_file():
            unit.real = f"{stem}-real.png"
            site.write(unit.real, real.read_bytes())
        seen = run.transparency_path(layer.name, unit.record.channel, ".png")
        if seen.is_file():
            unit.transparency = f"{stem}-transparency.png"
            site.write(unit.transparency, seen.read_bytes())
        if with_viewer:
            name = f"{layer.name}, channel {unit.record.channel}"
            data = viewer.encode_volume(image, grid.affine, name=name, shared=grid.window, own=own)
            unit.volume = f"volumes/{file_name(layer.name)}/{unit.name}.js"
            site.write(unit.volume, data)
    write_projections(site, projected)
    features = np.array(described)
    for place, index in enumerate(similarity.order(features)):
        layer.units[index].similarity = place
    if len(layer.units) > 1:
        nearest = similarity.nearest(features, count=_ALIKE)
        for unit, alike in zip(layer.units, nearest, strict=True):
            unit.alike = [layer.units[index] for index in alike]


def _add_charts(run: RunView, layer: Layer) -> None:
    """Lay out how the activation rose, channel by channel and for the layer."""
    traces = run.traces(layer.name)
    row = {int(channel): index for index, channel in enumerate(traces.channel)}
    curves = []
    for unit in layer.units:
        index = row[unit.record.channel]
        curves.append(traces.objective[index].astype(np.float64))
        unit.chart = charts.chart(curves[-1:])
        penalty = traces.penalty[index].astype(np.float64)
        if np.isfinite(penalty).any() and np.nanmax(np.abs(penalty)) > 0:
            unit.penalty_chart = charts.chart([penalty])
    layer.chart = charts.chart(curves)


def _write_units(site: Site, run: RunView, layer: Layer, about: dict[str, object]) -> None:
    """Write the page of every channel of a layer."""
    flags = run.directory / "flags.txt"
    text = flags.read_text(encoding="utf-8", errors="replace") if flags.exists() else None
    ranks = layer.ranks()
    for before, unit, after in contents.neighbours(layer.units):
        record = unit.record
        paths = {
            suffix: run.image_path(record.layer, record.channel, suffix).relative_to(run.directory)
            for suffix in (".nii.gz", ".png")
        }
        traces = run.traces_path(record.layer).relative_to(run.directory)
        command = text and contents.unit_command(text, record, batch=run.configuration.get("batch"))
        site.page(
            unit.page,
            "unit.html",
            unit=unit,
            layer=layer,
            before=before,
            after=after,
            rank=ranks[record.channel],
            nifti=link(paths[".nii.gz"].as_posix()),
            png=link(paths[".png"].as_posix()),
            traces=link(traces.as_posix()),
            command=command,
            **about,
        )


def _write_viewer(site: Site) -> None:
    """Put the 3-D viewer beside the pages."""
    for name, data in viewer.files().items():
        site.write(f"viewer/{name}", data)
