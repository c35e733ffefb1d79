"""The gallery of one run: index, a page per layer, a page per channel."""

import json
import os
from pathlib import Path

import numpy as np

from featvis_jax.ranges import to_intensities
from featvis_jax.results import grids, panels, trust
from featvis_jax.results.asked import compared_with, intensity_unit
from featvis_jax.results.files import file_name
from featvis_jax.results.gallery import (
    anatomy,
    charts,
    contents,
    growth,
    similarity,
    viewer,
    views,
)
from featvis_jax.results.gallery.contents import Layer, Part, Variant
from featvis_jax.results.gallery.evidence import by_picture
from featvis_jax.results.gallery.grid import Grid, contrast_options, view_options
from featvis_jax.results.gallery.pictures import write_picture, write_planes, write_projections
from featvis_jax.results.gallery.site import Site, link
from featvis_jax.results.store import RunView

_ALIKE = 6


def build_gallery(run: RunView, *, out: Path | None = None, volumes: bool = True) -> Path:
    """Build the pages of a run, finished or half done, from its directory alone.

    Args:
      run: The run; another process may be writing to it.
      out: Directory of the pages; by default `gallery` inside the run.
      volumes: Whether pages of 3-D images offer a 3-D viewer, for about one byte and a third per
        voxel and channel.

    Returns:
      The index, to be opened from the disk.

    Raises:
      RunInUse: If another process is building the same gallery.
      ValueError: If a file of the run is damaged.
      OSError: If a page cannot be written.

    Example:
      >>> import tempfile
      >>> from featvis_jax.results.store import open_run
      >>> with tempfile.TemporaryDirectory() as directory:
      ...     open_run(directory, {"model": "tiny"}, environment={}).close()
      ...     build_gallery(RunView(directory)).relative_to(directory).as_posix()
      'gallery/index.html'
    """
    records = run.records()
    layers = contents.layers(run, records)
    _add_trust(run, layers)
    grid = Grid.of_run(run, records)
    with Site(out or run.directory / "gallery") as site:
        site.looks(grid.planes, contrasts=grid.channels.labels)
        with_viewer = volumes and len(grid.planes) > 1
        if with_viewer:
            _write_viewer(site)
        _add_starts(site, run, layers, grid)
        about = _about(run, layers, grid, site)
        shown = [layer for layer in layers if layer.units]
        for layer in shown:
            _write_pictures(site, run, layer, grid, with_viewer=with_viewer)
            _add_charts(run, layer)
        for before, layer, after in contents.neighbours(shown):
            _write_units(site, run, layer, about)
            near = {"before": before, "after": after, "figure": _copy_figure(site, run, layer)}
            site.page(layer.page, "layer.html", layer=layer, **near, **about)
        return site.page("index.html", "index.html", layers=layers, **about)


def _about(run: RunView, layers: list[Layer], grid: Grid, site: Site) -> dict[str, object]:
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
        "finished": sum(layer.finished for layer in layers),
        "wanted": sum(layer.wanted for layer in layers),
        "variants": run.variants,
        "sought": contents.sought(layers),
        "verdicts": trust.counts([row for layer in layers for row in layer.trusts]),
        "compared_with": compared_with(configuration),
        "intensity_unit": grid.channels.told_unit(intensity_unit(configuration)),
        "units": contents.units_word(layers),
        "is_transformed": contents.is_transformed(configuration),
        "other_layers": [row for row in run.layers() if row.layer not in names],
        "view_options": view_options(grid.planes),
        "contrast_options": contrast_options(grid.channels),
        "channels": grid.channels,
        "planes": grid.planes,
        "shape": grid.shape,
        "voxel_size_mm": grids.voxel_size_mm(grid.affine, grid.shape),
        "places": grid.places,
        "windows": grid.channels.told_windows(grid.window),
        "marks": contents.MARKS,
        "rules": contents.RULES,
        "to_run": link(Path(to_run).as_posix()),
    }


def _write_pictures(
    site: Site, run: RunView, layer: Layer, grid: Grid, *, with_viewer: bool
) -> None:
    """Draw the images of a layer, one in memory at a time, and find out which look alike."""
    folder, described, projected = f"pictures/{file_name(layer.name)}", [], []
    for unit in layer.units:
        for variant in unit.variants:
            image, _ = run.image(*variant.record.key)
            stem = f"{folder}/{variant.name}"
            projected += write_planes(
                site, variant, image, stem=stem, planes=grid.planes, window=grid.window,
                channels=grid.channels,
            )  # fmt: skip
            if variant is unit.leader:
                apart = panels.planes(image, grid.channels.apart)
                described.append(similarity.features([plane for some in apart for plane in some]))
            for part, image_part in zip(variant.parts, grid.channels.seen(image), strict=True):
                _write_depth(site, part, image_part, grid, stem=f"{folder}/{variant.name}")
                if with_viewer:
                    _write_volume(site, layer, variant, part, image_part, grid)
            variant.changes = growth.changes(
                site, image, run.maps(*variant.record.key), stem=stem, affine=grid.affine,
                window=grid.channels.windows(grid.window)[0],
            )  # fmt: skip
            seen = run.picture_path(*variant.record.key, of="transparency")
            if seen.is_file():
                variant.transparency = f"{stem}-transparency.png"
                site.write(variant.transparency, seen.read_bytes())
        real = run.real_path(layer.name, unit.record.channel)
        if real.is_file():
            unit.real = f"{folder}/{unit.record.channel:04d}-real.png"
            site.write(unit.real, real.read_bytes())
    write_projections(site, projected)
    features = np.array(described)
    for place, index in enumerate(similarity.order(features)):
        layer.units[index].similarity = place
    if len(layer.units) > 1:
        nearest = similarity.nearest(features, count=_ALIKE)
        for unit, alike in zip(layer.units, nearest, strict=True):
            unit.alike = [layer.units[index] for index in alike]


def _write_volume(
    site: Site, layer: Layer, variant: Variant, part: Part, image: np.ndarray, grid: Grid
) -> None:
    """Write what the viewer shows."""
    _, channel, number = variant.record.key
    name = f"{layer.name}, {layer.question.called(channel)}"
    name += f", variant {number}" if layer.variants > 1 else ""
    name += f", {part.caption}" if part.name else ""
    picture = part.pictures[0]
    shared, own = picture.shared_window, picture.own_window
    image = to_intensities(image, None if part.own_range is None else (part.own_range,))
    data = viewer.encode_volume(image, grid.affine, name=name, shared=shared, own=own)
    suffix = f"_{part.name}" if part.name else ""
    part.volume = f"volumes/{file_name(layer.name)}/{variant.name}{suffix}.js"
    site.write(part.volume, data)


def _write_depth(site: Site, part: Part, image: np.ndarray, grid: Grid, *, stem: str) -> None:
    """Draw the series of slices through a volume; a slice has none."""
    if len(grid.planes) == 1:
        return
    mosaic, windows = views.mosaic(image), (grid.window, views.own_window(image))
    stem += f"_{part.name}" if part.name else ""
    part.mosaic = write_picture(site, part, stem, "slices", mosaic.values, windows)
    part.slices = [
        (*corner, grids.position(grid.affine, grid.shape, normal=2, index=index))
        for corner, index in zip(mosaic.corners, mosaic.indices, strict=True)
    ]


def _add_charts(run: RunView, layer: Layer) -> None:
    """Lay out how the objective rose, image by image and for the layer."""
    traces = run.traces(layer.name)
    row = {key: index for index, key in enumerate(traces.keys(layer.name))}
    curves = {}
    for variant in (variant for unit in layer.units for variant in unit.variants):
        index, record = row[variant.record.key], variant.record
        curves[record.key] = traces.objective[index].astype(np.float64)
        ends = [(record.initial_objective, record.final_objective)]
        variant.chart = charts.chart([curves[record.key]], ends=ends)
        penalty = traces.penalty[index].astype(np.float64)
        if np.isfinite(penalty).any() and np.nanmax(np.abs(penalty)) > 0:
            variant.penalty_chart = charts.chart([penalty])
    leading = [unit.record for unit in layer.units]
    layer.chart = charts.chart(
        [curves[record.key] for record in leading],
        ends=[(record.initial_objective, record.final_objective) for record in leading],
    )


def _add_trust(run: RunView, layers: list[Layer]) -> None:
    """Tell every image what speaks for and against it, where that was measured."""
    known = by_picture(run.trust())
    for unit in (unit for layer in layers for unit in layer.units):
        for variant in unit.variants:
            variant.trust = known.get(variant.record.key)


def _add_starts(site: Site, run: RunView, layers: list[Layer], grid: Grid) -> None:
    """Tell every image whose scan it is, and units what their scans have in common."""
    starts, found = dict(enumerate(run.starts, start=1)), anatomy.commons(site, run, grid)
    for unit in (unit for layer in layers for unit in layer.units):
        unit.common = found.get(unit.record.unit)
        for variant in unit.variants:
            variant.start = starts.get(variant.record.variant)


def _copy_figure(site: Site, run: RunView, layer: Layer) -> str | None:
    """Put the figure of what was measured of a layer beside its pictures, if there is one."""
    drawn = run.trust_path(layer.name)
    if not layer.trusts or not drawn.is_file():
        return None
    name = f"pictures/{file_name(layer.name)}/trust.png"
    site.write(name, drawn.read_bytes())
    return link(name)


def _write_units(site: Site, run: RunView, layer: Layer, about: dict[str, object]) -> None:
    """Write the page of every channel of a layer."""
    flags = run.directory / "flags.txt"
    text = flags.read_text(encoding="utf-8", errors="replace") if flags.exists() else None
    ranks = layer.ranks()
    traces = run.traces_path(layer.name).relative_to(run.directory)
    for before, unit, after in contents.neighbours(layer.units):
        record = unit.record
        files = {variant.name: _files(run, variant) for variant in unit.variants}
        batch = run.configuration.get("batch")
        command = text and contents.unit_command(text, record, layer.question, batch=batch)
        site.page(
            unit.page,
            "unit.html",
            unit=unit,
            layer=layer,
            before=before,
            after=after,
            rank=ranks[record.channel],
            files=files,
            traces=link(traces.as_posix()),
            command=command,
            **about,
        )


def _files(run: RunView, variant: Variant) -> list[tuple[str, str]]:
    """Return where an image lies, from the directory of the run, and what each file is called."""
    key = variant.record.key
    paths, names = run.image_paths(*key), run.input_channels.apart.labels
    named = [(f"NIfTI {name}".strip(), path) for name, path in zip(names, paths, strict=True)]
    named.append(("PNG", run.picture_path(*key)))
    named += [(name, run.map_path(*key, name=name)) for name in run.map_names(*key)]
    return [(name, link(path.relative_to(run.directory).as_posix())) for name, path in named]


def _write_viewer(site: Site) -> None:
    """Put the 3-D viewer beside the pages."""
    for name, data in viewer.files().items():
        site.write(f"viewer/{name}", data)
