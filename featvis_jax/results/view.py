"""A run directory as readers see it: what `featvis_jax.results.store` wrote, checked."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from featvis_jax.results import asked, channels, encoding, manifest, nifti, tables
from featvis_jax.results.anatomy import MapRecord, RegionRecord, ScanRecord
from featvis_jax.results.channels import InputChannels
from featvis_jax.results.files import file_name
from featvis_jax.results.starts import Start, of_run
from featvis_jax.results.tables import (
    Key,
    LayerRecord,
    ReferenceRecord,
    Traces,
    UnitRecord,
    UnitResult,
)
from featvis_jax.results.trust import TrustRecord

ImageKind = Literal["images", "transparency"]
"""What a unit has images of: the image that drives it, and where the network was looking."""


class RunView:
    """A run directory as readers see it, finished or half done. Every call reads the disk."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        """Point at a run directory; see `read_run`."""
        self.directory = Path(directory)

    @property
    def configuration(self) -> dict[str, Any]:
        """The resolved configuration, as JSON values."""
        return manifest.read(self.directory)["configuration"]

    @property
    def environments(self) -> list[dict[str, Any]]:
        """Versions and devices that computed the run: more than one if it went on elsewhere."""
        return manifest.read(self.directory)["environments"]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the configuration's canonical JSON."""
        return manifest.read(self.directory)["fingerprint"]

    @property
    def timings(self) -> list[dict[str, Any]]:
        """What took how many seconds, in the order in which it was recorded."""
        return manifest.read(self.directory)["timings"]

    @property
    def variants(self) -> int:
        """How many images the run was asked for of every channel."""
        asked_for = self.configuration.get("variants")
        return asked_for if isinstance(asked_for, int) and asked_for > 1 else 1

    @property
    def input_channels(self) -> InputChannels:
        """What the channels of its images are."""
        return channels.of_run(self.configuration)

    @property
    def starts(self) -> list[Start]:
        """The scan that each variant started from, in order; none where they share one."""
        return of_run(self.configuration)

    def records(self) -> list[UnitRecord]:
        """Return the row of every finished image, by layer, channel and variant."""
        return encoding.read_table(self.directory / "units.tsv", UnitRecord)

    def layers(self) -> list[LayerRecord]:
        """Return the layers of the network; none if they were not written yet."""
        return encoding.read_table(self.directory / "layers.tsv", LayerRecord)

    def reference(self) -> list[ReferenceRecord]:
        """Return how strongly real inputs drive the channels; none if the run has no reference."""
        return encoding.read_table(self.directory / "reference.tsv", ReferenceRecord)

    def trust(self) -> list[TrustRecord]:
        """Return what speaks for and against its pictures; none before that was measured."""
        return encoding.read_table(self.directory / "trust.tsv", TrustRecord)

    def anatomy(self) -> list[RegionRecord]:
        """Return how regions changed in the scans of each unit; none before that was measured."""
        return encoding.read_table(self.directory / "anatomy.tsv", RegionRecord)

    def anatomy_maps(self) -> list[MapRecord]:
        """Return what the maps over the scans of each unit say."""
        return encoding.read_table(self.directory / "anatomy_maps.tsv", MapRecord)

    def anatomy_scans(self) -> list[ScanRecord]:
        """Return what shape and brightness took in each scan."""
        return encoding.read_table(self.directory / "anatomy_scans.tsv", ScanRecord)

    def finished(self, layer: str) -> frozenset[int]:
        """Return the channels of a layer of which every image is finished."""
        keys = (row.key for row in self.records() if row.layer == layer)
        return frozenset(channel for _, channel in tables.complete(keys, variants=self.variants))

    def picture_path(
        self, layer: str, channel: int, variant: int = 1, *, of: ImageKind = "images"
    ) -> Path:
        """Return where the picture of an image of a unit lies, all input channels on it."""
        return self.directory / of / file_name(layer) / f"{tables.image_name(channel, variant)}.png"

    def image_paths(
        self, layer: str, channel: int, variant: int = 1, *, of: ImageKind = "images"
    ) -> list[Path]:
        """Return where an image of a unit lies: a file for every input channel."""
        stem, place = tables.image_name(channel, variant), self.directory / of / file_name(layer)
        return [place / f"{stem}{suffix}.nii.gz" for suffix in self.input_channels.suffixes]

    def map_path(self, layer: str, channel: int, variant: int = 1, *, name: str) -> Path:
        """Return where a map of an image lies, beside it."""
        stem = tables.image_name(channel, variant)
        return self.directory / "images" / file_name(layer) / f"{stem}_desc-{name}.nii.gz"

    def stat_path(self, layer: str, channel: int, *, stat: str, name: str) -> Path:
        """Return where a map over all variants of a unit lies: their mean, or t over people."""
        place = self.directory / "images" / file_name(layer)
        return place / f"{tables.image_name(channel, 1)}_stat-{stat}_desc-{name}.nii.gz"

    def sheet_path(self, layer: str) -> Path:
        """Return where the contact sheet of a layer lies."""
        return self.directory / "sheets" / f"{file_name(layer)}.png"

    def real_path(self, layer: str, channel: int) -> Path:
        """Return where the real images that drive a unit most lie, if the run has any."""
        return self.directory / "real" / file_name(layer) / f"{channel:04d}.png"

    def trust_path(self, layer: str, *, kind: Literal["png", "pdf"] = "png") -> Path:
        """Return where the figure of what speaks for and against a layer's pictures lies."""
        return self.directory / "trust" / f"{file_name(layer)}.{kind}"

    def traces_path(self, layer: str) -> Path:
        """Return where the traces of a layer lie."""
        return self.directory / "traces" / f"{file_name(layer)}.npz"

    def image(
        self, layer: str, channel: int, variant: int = 1
    ) -> tuple[Float[np.ndarray, "*spatial channels"], nifti.Affine | None]:
        """Return an image (*spatial, channels) of a unit, and its affine in mm if it has one."""
        return _decoded(self.image_paths(layer, channel, variant))

    def transparency(
        self, layer: str, channel: int, variant: int = 1
    ) -> Float[np.ndarray, "*spatial channels"] | None:
        """Return the transparency map of an image, of its shape; None if it has none."""
        paths = self.image_paths(layer, channel, variant, of="transparency")
        return _decoded(paths)[0] if paths[0].is_file() else None

    def map_names(self, layer: str, channel: int, variant: int = 1) -> list[str]:
        """Return what the maps of an image are called."""
        pattern = self.map_path(layer, channel, variant, name="*")
        paths = sorted(pattern.parent.glob(pattern.name))
        return [path.name.removesuffix(".nii.gz").partition("_desc-")[2] for path in paths]

    def maps(
        self, layer: str, channel: int, variant: int = 1
    ) -> dict[str, Float[np.ndarray, "*spatial components"]]:
        """Return by name what there is at each voxel beside an image; most runs have nothing."""
        names = self.map_names(layer, channel, variant)
        return {name: self.map(layer, channel, variant, name=name) for name in names}

    def map(
        self, layer: str, channel: int, variant: int = 1, *, name: str
    ) -> Float[np.ndarray, "*spatial components"]:
        """Return one map of an image, one of `map_names`."""
        return _decoded_map(self.map_path(layer, channel, variant, name=name))

    def stat(
        self, layer: str, channel: int, *, stat: str, name: str
    ) -> Float[np.ndarray, "*spatial components"] | None:
        """Return a map over all variants of a unit; None if there is none."""
        path = self.stat_path(layer, channel, stat=stat, name=name)
        return _decoded_map(path) if path.is_file() else None

    def units(
        self, layer: str | None = None, *, without: frozenset[Key] = frozenset()
    ) -> Iterator[UnitResult]:
        """Read finished images with all that belongs to them, one after the other.

        Args:
          layer: Whose; of every layer by default.
          without: Images that are left out.
        """
        records = [row for row in self.records() if row.key not in without]
        starts = dict(enumerate(self.starts, start=1))
        for name in dict.fromkeys(row.layer for row in records):
            if layer not in (None, name):
                continue
            traces = self.traces(name)
            place = {key: index for index, key in enumerate(traces.keys(name))}
            question = asked.question(self.configuration, name)
            for record in (row for row in records if row.layer == name):
                at = place[record.key]
                image, _ = self.image(*record.key)
                seen = self.transparency(*record.key)
                called = question.label(record.channel) if question.names else None
                curves = traces.objective[at], traces.penalty[at]
                yield UnitResult(
                    record,
                    image,
                    *curves,
                    transparency=seen,
                    name=called,
                    maps=self.maps(*record.key),
                    start=starts.get(record.variant),
                )

    def traces(self, layer: str) -> Traces:
        """Return objective and penalty before every step, for the finished images of a layer."""
        done = {row.key for row in self.records() if row.layer == layer}
        if not done:
            return Traces(*np.zeros((2, 0), np.int64), *np.zeros((2, 0, 0), np.float32))
        path = self.traces_path(layer)
        with np.load(path, allow_pickle=False) as stored:
            traces = Traces(*(stored[name] for name in Traces._fields))
        # A run that was killed may have left traces without rows; those images are not done.
        kept = np.array([key in done for key in traces.keys(layer)], bool)
        if kept.sum() != len(done):
            names = sorted(tables.image_name(channel, variant) for _, channel, variant in done)
            raise ValueError(f"{path} lacks some of {', '.join(names)}. Restore the file.")
        return Traces(*(array[kept] for array in traces))


def _decoded_map(path: Path) -> Float[np.ndarray, "*spatial components"]:
    """Read a map from its file."""
    try:
        return nifti.decode_map(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error} Delete the run or restore the file.") from error


def _decoded(
    paths: Sequence[Path],
) -> tuple[Float[np.ndarray, "*spatial channels"], nifti.Affine | None]:
    """Read the channels of an image, each from its file."""
    found: list[np.ndarray] = []
    affine = None
    for path in paths:
        try:
            channel, affine = nifti.decode_nifti(path.read_bytes())
            if found and channel.shape != found[0].shape:
                raise ValueError(f"has shape {channel.shape}; expected {found[0].shape}.")
        except ValueError as error:
            raise ValueError(f"{path}: {error} Delete the run or restore the file.") from error
        found.append(channel)
    return found[0] if len(found) == 1 else np.concatenate(found, axis=-1), affine


def read_run(directory: str | os.PathLike[str]) -> RunView:
    """Open a run for reading; another process may be writing to it.

    Args:
      directory: What was given to `open_run`.

    Returns:
      A view of the run.

    Raises:
      FileNotFoundError: If there is no run.
      ValueError: If its run.json is damaged.

    Example:
      >>> import tempfile
      >>> from featvis_jax.results.store import open_run
      >>> with tempfile.TemporaryDirectory() as directory:
      ...     open_run(directory, {"steps": 256}, environment={}).close()
      ...     read_run(directory).configuration
      {'steps': 256}
    """
    manifest.read(Path(directory))
    return RunView(directory)
