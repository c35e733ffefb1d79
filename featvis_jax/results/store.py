"""The run directory: the only place that writes, whole files or none, and knows what is done.

    run.json                    configuration, environments, fingerprint, timings
    flags.txt                   --flagfile=flags.txt repeats the run
    dataset_description.json    the run is a BIDS derivative
    layers.tsv                  the layers of the network
    reference.tsv               with --reference, how strongly real inputs drive each channel
    units.tsv, units.json       one row per finished image, and what the columns mean
    images/<layer>/0012.nii.gz  the image of channel 12, on the grid of the model's input
    images/<layer>/0012.png     the same for the eye
    images/<layer>/0012-variant2.nii.gz, .png
                                its second image, if the run was asked for variants
    images/<layer>/0012_T1w.nii.gz, 0012_FLAIR.nii.gz, 0012.png
                                of a network of several input channels, a file for each
    images/<layer>/0012_desc-logjac.nii.gz, 0012_desc-displacement.nii.gz, ...
                                of a scan that was deformed: what grew, how far it moved, the scan
    transparency/<layer>/       for all, where the network was looking, if the run was asked
    traces/<layer>.npz          channel (n,), variant (n,), objective (n, steps), penalty (n, steps)
    sheets/<layer>.png          every finished channel of the layer on one page
    trust.tsv, trust.json       once it was measured, what speaks for and against every picture, and
                                what the columns mean
    trust/<layer>.png, .pdf     the same of a layer as a figure
    anatomy.tsv, anatomy_maps.tsv, anatomy_scans.tsv, each with .json
                                once it was asked, what deformed scans have in common: how regions
                                changed, what the maps say, and what shape and brightness took
    images/<layer>/0012_stat-mean_desc-logjac.nii.gz, 0012_stat-t_desc-logjac.nii.gz, ...
                                those maps: means over the variants of a unit, and t over people

An image is done when units.tsv has its row, and a channel when all its images are. Images and
traces are on the disk before the row, and every file is replaced as a whole, so that a run killed
at any moment has lost what it was computing and nothing else. Equal results give equal bytes,
except for times: the column `seconds` of units.tsv and the entry `timings` of run.json.
"""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from featvis_jax.results import asked, encoding, files, manifest, nifti, panels, pixels, tables
from featvis_jax.results.anatomy import MapRecord, RegionRecord, ScanRecord
from featvis_jax.results.channels import InputChannels
from featvis_jax.results.files import (
    SHARDS,
    atomic_write_bytes,
    lock,
    make_directory,
    remove_partial_files,
    unlock,
)
from featvis_jax.results.layer_sheet import layer_sheet
from featvis_jax.results.tables import (
    Key,
    LayerRecord,
    ReferenceRecord,
    UnitRecord,
    UnitResult,
)
from featvis_jax.results.trust import TrustRecord
from featvis_jax.results.view import ImageKind, RunView, read_run

__all__ = ["Run", "RunView", "open_run", "read_run", "refuse_foreign"]


def refuse_foreign(directory: Path) -> None:
    """Raise if a directory holds something, but no run; see `files.refuse_foreign`.

    Processes that share a run may have begun their shards before anybody begins the run itself.
    """
    files.refuse_foreign(directory, "run.json", what="run", before=(SHARDS,))


class Run(RunView):
    """A run directory that this process writes to, until `close`. Made by `open_run`."""

    def __init__(self, directory: Path, lock: int) -> None:
        """Keep the lock on the run; see `open_run`."""
        super().__init__(directory)
        self._lock: int | None = lock

    def close(self) -> None:
        """Give the run back; further writes are refused."""
        if self._lock is not None:
            unlock(self._lock)
            self._lock = None

    def __enter__(self) -> "Run":
        """Return the run."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give the run back."""
        self.close()

    def write_units(
        self,
        results: Sequence[UnitResult],
        *,
        affine: nifti.Affine | None,
        window: pixels.Window = (0.0, 1.0),
    ) -> None:
        """Store finished images, then traces, then their rows, all rows at once.

        Args:
          results: The images of a batch, of any layers.
          affine: Of the grid of the model's input, in millimetres; None if nobody knows how it
            lies in the body.
          window: Intensities that are black and white in the PNG, and proposed to NIfTI viewers;
            shares where the run's channels have ranges of their own.

        Raises:
          ValueError: If an image comes twice or is done already, has other channels than the
            run's, or the traces of one layer differ in length. Nothing is written then.
          OSError: If something cannot be written. The units before are intact, and none of
            these is done.
        """
        if not results:
            return
        rows = self.records()
        keys = [record.key for record in (*rows, *(result.record for result in results))]
        if len(set(keys)) < len(keys):
            twice = sorted({key for key in keys if keys.count(key) > 1})
            raise ValueError(f"units are done already or come twice: {twice}. Leave them out.")
        channels, unit = self.input_channels, asked.intensity_unit(self.configuration)
        for result in results:
            channels.refuse_other(result.image)
        layers = dict.fromkeys(result.record.layer for result in results)
        of_layer = {
            layer: [result for result in results if result.record.layer == layer]
            for layer in layers
        }
        traces = {layer: self.traces(layer).joined(layer, new) for layer, new in of_layer.items()}
        for new in of_layer.values():
            for result in new:
                key = result.record.key
                for name, values in result.maps.items():
                    path = self.map_path(*key, name=name)
                    self._write(path, nifti.encode_map(values, affine))
                self._write_image("images", key, result.image, channels, affine, window, unit)
                seen = result.transparency
                if seen is not None:
                    # From nothing to the most: its unit is that of a gradient, which no two units
                    # share.
                    most = 0.0, float(seen.max()) or 1.0
                    self._write_image(
                        "transparency", key, seen, channels.of_one_range, affine, most, None
                    )
        for layer, merged in traces.items():
            self._write(self.traces_path(layer), encoding.encode_arrays(merged._asdict()))
        rows = sorted([*rows, *(result.record for result in results)], key=tables.natural_order)
        self._write(self.directory / "units.tsv", encoding.encode_table(rows, UnitRecord))

    def _write_image(
        self,
        kind: ImageKind,
        key: Key,
        image: Float[np.ndarray, "*spatial channels"],
        channels: InputChannels,
        affine: nifti.Affine | None,
        window: pixels.Window,
        unit: str | None,
    ) -> None:
        """Store an image: a NIfTI file for every channel, and a picture."""
        paths = self.image_paths(*key, of=kind)
        for index, (path, own) in enumerate(zip(paths, channels.windows(window), strict=True)):
            channel = image[..., index : index + 1]
            self._write(path, nifti.encode_nifti(channel, affine, window=own, unit=unit))
        shown = panels.picture(image, channels=channels, window=window)
        self._write(self.picture_path(*key, of=kind), pixels.encode_png(shown))

    def write_layers(self, rows: Sequence[LayerRecord]) -> None:
        """Store the layers of the network, in the order given."""
        self._write(self.directory / "layers.tsv", encoding.encode_table(rows, LayerRecord))

    def write_reference(self, rows: Sequence[ReferenceRecord]) -> None:
        """Store how strongly real inputs drive the channels, all at once."""
        self._write(self.directory / "reference.tsv", encoding.encode_table(rows, ReferenceRecord))

    def write_flags(self, text: str) -> None:
        """Store the flags that repeat the run, one a line."""
        self._write(self.directory / "flags.txt", text.encode())

    def write_sheet(
        self, layer: str, *, window: Literal["shared", "own"] | pixels.Window = "shared"
    ) -> Path:
        """Draw the finished channels of a layer on one page, from what is stored.

        Args:
          layer: A layer with at least one finished channel.
          window: As in `sheets.Look`.

        Returns:
          Where the page lies.

        Raises:
          ValueError: If no channel of the layer is finished.
        """
        rows = [row for row in self.records() if row.layer == layer]
        if not rows:
            raise ValueError(f"layer {layer!r} has no finished channel in {self.directory}.")
        channels = len({row.channel for row in rows})
        page = layer_sheet(
            rows,
            (self.image(*row.key)[0] for row in rows),
            configuration=self.configuration,
            total={each.layer: each.channels for each in self.layers()}.get(layer, channels),
            affine=self.image(*rows[0].key)[1],
            window=window,
        )
        self._write(self.sheet_path(layer), page)
        return self.sheet_path(layer)

    def write_trust(self, rows: Sequence[TrustRecord]) -> None:
        """Store what speaks for and against pictures, all at once, with a figure of every layer.

        Figures come before the table, so that what it has is drawn.

        Args:
          rows: Of any finished images, in any order; they replace those that are stored.

        Raises:
          ValueError: If a row comes twice or is of no finished image. Nothing is written then.
          OSError: If something cannot be written.
        """
        from featvis_jax.results.trust_figure import trust_figure  # Matplotlib takes a while.

        place = {record.key: number for number, record in enumerate(self.records())}
        count = Counter(row.key for row in rows)
        wrong = sorted(key for key in count if key not in place or count[key] > 1)
        if wrong:
            raise ValueError(
                f"pictures come twice or are none of {self.directory}: {wrong}. Leave them out."
            )
        rows = sorted(rows, key=lambda row: place[row.key])
        for layer in dict.fromkeys(row.layer for row in rows):
            question = asked.question(self.configuration, layer)
            own = [row for row in rows if row.layer == layer]
            names = {row.channel: question.label(row.channel) for row in own}
            for kind in ("png", "pdf"):
                figure = trust_figure(own, title=layer, names=names, kind=kind)
                self._write(self.trust_path(layer, kind=kind), figure)
        described = manifest.encode_json(manifest.sidecar(TrustRecord))
        self._write(self.directory / "trust.json", described)
        self._write(self.directory / "trust.tsv", encoding.encode_table(rows, TrustRecord))

    def write_stat(
        self,
        layer: str,
        channel: int,
        values: Float[np.ndarray, "*spatial components"],
        affine: nifti.Affine | None,
        *,
        stat: str,
        name: str,
        degrees_of_freedom: int | None = None,
    ) -> None:
        """Store a map over all variants of a unit.

        Args:
          layer: Of the unit.
          channel: Of the unit.
          values: Shape (*spatial, components).
          affine: Of the grid.
          stat: "mean" or "t".
          name: What it is of, such as "logjac".
          degrees_of_freedom: Of t.
        """
        # Many arguments: which unit, which map of it, and where that lies.
        path = self.stat_path(layer, channel, stat=stat, name=name)
        self._write(path, nifti.encode_map(values, affine, degrees_of_freedom=degrees_of_freedom))

    def write_anatomy(
        self,
        regions: Sequence[RegionRecord],
        maps: Sequence[MapRecord],
        scans: Sequence[ScanRecord],
    ) -> None:
        """Store what the deformed scans of units have in common, all at once.

        Args:
          regions: How regions changed; they replace those that are stored, as all of these do.
          maps: What the maps over the scans say.
          scans: What shape and brightness took in each scan.
        """
        written = {
            "anatomy_scans": (ScanRecord, encoding.encode_table(scans, ScanRecord)),
            "anatomy_maps": (MapRecord, encoding.encode_table(maps, MapRecord)),
            # The regions last: what they stand on is there when they are.
            "anatomy": (RegionRecord, encoding.encode_table(regions, RegionRecord)),
        }
        for name, (kind, data) in written.items():
            described = manifest.encode_json(manifest.sidecar(kind))
            self._write(self.directory / f"{name}.json", described)
            self._write(self.directory / f"{name}.tsv", data)

    def record_timing(self, name: str, seconds: float, **details: object) -> None:
        """Add a measured time to run.json.

        Args:
          name: What was timed, such as "batch".
          seconds: How long it took.
          **details: JSON values that say more, such as the layer or the number of units.
        """
        stored = manifest.read(self.directory)
        stored["timings"].append({"name": name, "seconds": round(float(seconds), 6), **details})
        self._write(self.directory / "run.json", manifest.encode_json(stored))

    def record_shard(self, shard: RunView) -> None:
        """Add to run.json on what a shard ran and what it timed, once however often it is asked.

        Args:
          shard: A run of the same configuration, whose units this one takes over.
        """
        stored = manifest.read(self.directory)
        before = manifest.encode_json(stored)
        timings = [{**timing, "shard": shard.directory.name} for timing in shard.timings]
        for entries, new in (("environments", shard.environments), ("timings", timings)):
            stored[entries] += [entry for entry in new if entry not in stored[entries]]
        if (after := manifest.encode_json(stored)) != before:
            self._write(self.directory / "run.json", after)

    def _write(self, path: Path, data: bytes) -> None:
        """Write a file of the run, if the run is open."""
        if self._lock is None:
            raise ValueError(f"{self.directory} is closed; open it again with open_run.")
        make_directory(path.parent)
        atomic_write_bytes(path, data)


def open_run(
    directory: str | os.PathLike[str],
    configuration: Mapping[str, Any],
    *,
    environment: Mapping[str, Any],
) -> Run:
    """Start a run, or go on with one of the same configuration; other units may be asked for.

    Args:
      directory: A new or empty directory, or one that holds a run.
      configuration: Everything that decides the results, as JSON values.
      environment: Versions and device; does not decide whether a run may go on. Its entry
        "featvis_jax", if there is one, becomes the version in dataset_description.json.

    Returns:
      The run, locked until it is closed; use it in a `with` statement.

    Raises:
      ConfigurationMismatch: If the directory holds a run of another configuration.
      RunInUse: If another process is writing to it.
      ValueError: If the directory holds something else, or the configuration is not JSON.
      OSError: If the directory cannot be written.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as out, open_run(out, {}, environment={}) as run:
      ...     run.finished("conv1")
      frozenset()
    """
    directory = Path(directory)
    settings = json.loads(manifest.canonical(configuration, "configuration"))
    surroundings = json.loads(manifest.canonical(environment, "environment"))
    refuse_foreign(directory)
    make_directory(directory)
    run = Run(directory, lock(directory))
    try:
        refuse_foreign(directory)
        if (directory / "run.json").exists():
            stored = manifest.read(directory)
            manifest.refuse_mismatch(directory, stored["configuration"], settings)
            settings = manifest.grown(stored["configuration"], settings)
        else:
            stored = {
                "format": manifest.FORMAT,
                "fingerprint": manifest.fingerprint(settings),
                "configuration": settings,
                "environments": [],
                "timings": [],
            }
        remove_partial_files(directory)
        known = surroundings in stored["environments"]
        if not known or stored["configuration"] != settings:
            if not known:
                stored["environments"].append(surroundings)
            stored["configuration"] = settings
            stored["fingerprint"] = manifest.fingerprint(settings)
            atomic_write_bytes(directory / "run.json", manifest.encode_json(stored))
        for name, content in manifest.descriptions(stored["environments"][0]).items():
            if not (directory / name).exists():
                atomic_write_bytes(directory / name, manifest.encode_json(content))
    except BaseException:
        run.close()
        raise
    return run
