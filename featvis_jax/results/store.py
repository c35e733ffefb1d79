"""The run directory: the only place that writes, whole files or none, and knows what is done.

    run.json                    configuration, environments, fingerprint, timings
    flags.txt                   --flagfile=flags.txt repeats the run
    dataset_description.json    the run is a BIDS derivative
    layers.tsv                  the layers of the network
    units.tsv, units.json       one row per finished unit, and what the columns mean
    images/<layer>/0012.nii.gz  the image of channel 12, on the grid of the model's input
    images/<layer>/0012.png     the same for the eye
    traces/<layer>.npz          channel (n,), objective (n, steps), penalty (n, steps)
    sheets/<layer>.png          every finished channel of the layer on one page

A unit is done when units.tsv has its row. Images and traces are on the disk before the row, and
every file is replaced as a whole, so that a run killed at any moment has lost what it was computing
and nothing else. Equal results give equal bytes, except for times: the column `seconds` of
units.tsv and the entry `timings` of run.json.
"""

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import re
import socket
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float, Int

from featvis_jax.results import nifti, sheets

STATUSES = ("alive", "dead", "uniform", "diverged")
_FORMAT = "featvis_jax run, version 1"
_BIDS_VERSION = "1.10.0"
_PARTIAL = ".partial"
_LOCK = ".lock"
_LONGEST_NAME = 100
_RESTORE = "Restore the file, or choose another directory with --out."
# Names that Windows keeps for devices, so that a run can be copied there.
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?\Z")


class ConfigurationMismatch(ValueError):
    """The directory holds a run of another configuration."""


class RunInUse(ValueError):
    """Another process is writing to the run."""


# What writes. Every change to a run directory goes through these three functions and the lock.


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Replace a file as a whole: after a crash it holds the old bytes or the new ones.

    Args:
        path: the file, in a directory that exists.
        data: its new content.

    Raises:
        OSError: if the file cannot be written; the old one is then untouched.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     atomic_write_bytes(Path(directory) / "name", b"content")
    ...     (Path(directory) / "name").read_bytes()
    b'content'
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}{_PARTIAL}")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(partial, path)
        _sync_directory(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        if isinstance(error, OSError):
            raise _explained(error, f"cannot write {path}") from error
        raise


def make_directory(path: str | os.PathLike[str]) -> None:
    """Make a directory and the ones above it, so that they survive a crash.

    Args:
        path: the directory; it may exist.

    Raises:
        OSError: if a directory cannot be made.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     make_directory(Path(directory) / "images" / "conv1")
    ...     (Path(directory) / "images" / "conv1").is_dir()
    True
    """
    path = Path(path)
    missing = [each for each in (path, *path.parents) if not each.is_dir()]
    for each in reversed(missing):
        try:
            os.mkdir(each)
            _sync_directory(each.parent)
        except FileExistsError:
            if not each.is_dir():
                raise FileExistsError(
                    errno.EEXIST, "is a file, expected a directory; choose another one", str(each)
                ) from None
        except OSError as error:
            raise _explained(error, f"cannot make the directory {each}") from error


def remove_partial_files(directory: str | os.PathLike[str]) -> None:
    """Remove what interrupted calls of `atomic_write_bytes` left in a directory and below.

    Args:
        directory: where to look; nobody else may be writing there.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     _ = (Path(directory) / ".units.tsv.partial").write_bytes(b"half a ta")
    ...     remove_partial_files(directory)
    ...     list(Path(directory).iterdir())
    []
    """
    for path in sorted(Path(directory).rglob(f".*{_PARTIAL}")):
        try:
            os.unlink(path)
        except OSError as error:
            raise _explained(error, f"cannot remove {path}") from error


def _sync_directory(path: Path) -> None:
    """Force the names in a directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems refuse this for a directory and keep its order themselves.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _explained(error: OSError, what: str) -> OSError:
    """Return an error of the same kind that says what was lost, and what to do."""
    cause = error.strerror or str(error)
    return OSError(
        error.errno or errno.EIO,
        f"{what}: {cause}. Files written before are intact. Make room, or make the directory "
        "writable, and give the same command again; or choose another directory with --out.",
    )


def _lock(directory: Path) -> int:
    """Take the kernel's lock on a run; it ends with the process, however that ends."""
    path = directory / _LOCK
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise _explained(error, f"cannot write {path}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    except BlockingIOError:
        holder = os.pread(descriptor, 1000, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise RunInUse(
            f"{directory} is being written by {holder or 'another process'}. Wait for it or stop "
            "it and give the same command again, or choose another directory with --out."
        ) from None
    except OSError as error:
        os.close(descriptor)
        raise _explained(error, f"cannot lock {path} (does its file system have locks?)") from error
    return descriptor


def file_name(layer: str) -> str:
    """Return a file name for a layer: safe everywhere, and another one for every layer.

    Small letters, digits, "_", "-" and inner dots stay, "/" becomes "+", other characters become
    "=" and their UTF-8 bytes in hexadecimal. Capitals stay too, and "~" with a hexadecimal number
    whose bit i says that letter i is a capital tells them apart where file systems do not. A name
    longer than 100 characters ends in "~~" and a SHA-256 hash instead.

    Args:
        layer: any text but the empty one.

    Returns:
        A name without directory and suffix.

    Raises:
        ValueError: if the text is empty or cannot be encoded in UTF-8.

    >>> file_name("conv3"), file_name("conv3/relu"), file_name("Conv_0"), file_name("a:../b")
    ('conv3', 'conv3+relu', 'Conv_0~1', 'a=3a..+b')
    """
    if not layer:
        raise ValueError("a layer has an empty name; expected at least one character.")
    encoded = re.sub(
        r"[^a-zA-Z0-9_.+/-]|\+|\A[.-]|\.\Z",
        lambda match: "".join(f"={byte:02x}" for byte in match[0].encode()),
        layer,
    ).replace("/", "+")
    if _DEVICES.match(encoded.lower()):
        encoded = f"={ord(encoded[0]):02x}{encoded[1:]}"
    capitals = sum(1 << i for i, letter in enumerate(layer) if "A" <= letter <= "Z")
    encoded += f"~{capitals:x}" if capitals else ""
    if len(encoded) > _LONGEST_NAME:
        digest = hashlib.sha256(layer.encode()).hexdigest()[:40]
        encoded = f"{encoded[:40].rstrip('.')}~~{digest}"
    return encoded


def _column(description: str, **more: object) -> Any:
    """Describe a column of a table, in the words of a BIDS sidecar."""
    return field(metadata={"Description": description, **more})


@dataclass(frozen=True)
class UnitRecord:
    """One row of units.tsv: what became of one channel of one layer.

    >>> UnitRecord("conv1", 3, "alive", 0.1, 2.5, 0.0, 0.0, 1.0, 256, 1.5, 0).status
    'alive'
    """

    layer: str = _column("Layer of the network, as the model names it")
    channel: int = _column("Channel of the layer, from 0")
    status: str = _column(
        "What became of the channel",
        Levels={
            "alive": "the objective rose and the image shows structure",
            "dead": "the channel does not react to its input",
            "uniform": "the image that drives the channel most has a single intensity",
            "diverged": "the ascent left the finite numbers; the image is the last finite one",
        },
    )
    initial_objective: float = _column("Objective of the first image")
    final_objective: float = _column("Objective of the image that is stored")
    penalty: float = _column("Penalty of the image that is stored")
    intensity_min: float = _column("Smallest intensity of the image")
    intensity_max: float = _column("Largest intensity of the image")
    steps: int = _column("Steps of the ascent that were taken")
    seconds: float = _column(
        "Share of the channel in the time of its batch; the only column that differs when a run "
        "is repeated",
        Units="s",
    )
    seed: int = _column("Seed that the random numbers of the channel come from")

    def __post_init__(self) -> None:
        """Refuse what cannot be stored."""
        file_name(self.layer)
        if self.status not in STATUSES or self.channel < 0:
            raise ValueError(
                f"layer {self.layer!r}: got channel {self.channel} with status {self.status!r}; "
                f"expected a channel from 0 and one of {', '.join(STATUSES)}."
            )


@dataclass(frozen=True)
class LayerRecord:
    """One row of layers.tsv.

    >>> LayerRecord("conv1", (138, 190), 8, (3, 3), (1, 1)).channels
    8
    """

    layer: str = _column("Layer of the network, as the model names it")
    output_shape: tuple[int, ...] = _column("Shape of the output without channels")
    channels: int = _column("Number of channels")
    receptive_field: tuple[int, ...] = _column("Voxels of the input that one output value sees")
    stride: tuple[int, ...] = _column("Voxels of the input between neighbouring output values")


@dataclass(frozen=True, eq=False)
class UnitResult:
    """A finished unit: its row, its image (*spatial, 1), and its values at every step (steps,)."""

    record: UnitRecord
    image: Float[np.ndarray, "*spatial 1"]
    objective: Float[np.ndarray, " steps"]
    penalty: Float[np.ndarray, " steps"]


class Traces(NamedTuple):
    """Objective and penalty of the channels of a layer at every step."""

    channel: Int[np.ndarray, " n"]
    objective: Float[np.ndarray, "n steps"]
    penalty: Float[np.ndarray, "n steps"]


_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}


_Record = TypeVar("_Record", UnitRecord, LayerRecord)


def _encode_cell(value: object) -> str:
    """Write one value of a table; a number that is not one becomes BIDS's n/a."""
    if isinstance(value, str):
        return "".join(_ESCAPES.get(letter, letter) for letter in value)
    if isinstance(value, tuple):
        return "x".join(str(int(each)) for each in value) or "n/a"
    if isinstance(value, float | np.floating):
        return "n/a" if np.isnan(value) else repr(float(value))
    return str(value)


def _decode_cell(text: str, kind: object) -> Any:
    """Read what `_encode_cell` wrote."""
    if kind is str:
        codes = {code: letter for letter, code in _ESCAPES.items()}
        return re.sub(r"\\.", lambda match: codes[match[0]], text)
    if kind is int:
        return int(text)
    if kind is float:
        return float("nan") if text == "n/a" else float(text)
    return () if text == "n/a" else tuple(int(part) for part in text.split("x"))


def _encode_table(records: Iterable[UnitRecord] | Iterable[LayerRecord], kind: type) -> bytes:
    """Encode records as tab-separated lines under a line of names."""
    names = [column.name for column in fields(kind)]
    lines = [[_encode_cell(getattr(record, name)) for name in names] for record in records]
    return "".join("\t".join(line) + "\n" for line in [names, *lines]).encode()


def _read_table(path: Path, kind: type[_Record]) -> list[_Record]:
    """Read a table; one that was not written yet has no rows."""
    if not path.exists():
        return []
    columns = fields(kind)
    header, *lines = path.read_bytes().decode().split("\n")
    expected = "\t".join(column.name for column in columns)
    if header != expected:
        raise ValueError(f"{path}: expected the columns {expected!r}; got {header!r}.")
    records = []
    for number, line in enumerate(lines[:-1], start=2):
        cells = line.split("\t")
        try:
            values = [_decode_cell(*pair) for pair in zip(cells, _kinds(kind), strict=True)]
            records.append(kind(*values))
        except (ValueError, KeyError) as error:
            raise ValueError(f"{path}, line {number}: cannot read {line!r} ({error}).") from error
    return records


def _kinds(kind: type[UnitRecord] | type[LayerRecord]) -> list[object]:
    """Return the type of every column of a table."""
    return [column.type for column in fields(kind)]


def _natural_order(record: UnitRecord) -> tuple[list[str], str, int]:
    """Sort conv2 before conv10, and channels by number."""
    parts = re.split("([0-9]+)", record.layer)
    return [part.zfill(9) if i % 2 else part for i, part in enumerate(parts)], *_unit(record)


def _unit(record: UnitRecord) -> tuple[str, int]:
    """Name a unit."""
    return record.layer, record.channel


def _encode_arrays(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Encode arrays as an .npz file that holds no time."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, member.getvalue())
    return buffer.getvalue()


def _encode_json(value: object) -> bytes:
    """Encode what people read."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # Names of files that are not UTF-8 reach a configuration as surrogates.
    return text.encode(errors="surrogatepass")


def _canonical(value: object, name: str) -> str:
    """Return the one JSON text of a value: keys sorted, no spaces, tuples as lists."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} cannot be stored as JSON ({error}); expected dictionaries with text as keys, "
            "lists, text, finite numbers, booleans and None."
        ) from error


def _fingerprint(configuration: object) -> str:
    """Hash a configuration."""
    return hashlib.sha256(_canonical(configuration, "configuration").encode()).hexdigest()


def _leaves(value: object, name: str = "") -> dict[str, str]:
    """Flatten nested settings to dotted names, with every value as JSON."""
    if isinstance(value, Mapping) and (value or not name):
        nested = [_leaves(value[key], f"{name}.{key}".lstrip(".")) for key in sorted(value)]
        return {name: text for leaves in nested for name, text in leaves.items()}
    return {name: json.dumps(value, sort_keys=True, ensure_ascii=False)}


def _read_manifest(directory: Path) -> dict[str, Any]:
    """Read run.json and check that it is one, and that nobody edited the configuration."""
    path = directory / "run.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{directory} holds no run: {path.name} is missing. Pass the directory that was given "
            "as --out."
        )
    try:
        manifest = json.loads(path.read_bytes())
        sound = manifest["format"] == _FORMAT
        sound = sound and manifest["fingerprint"] == _fingerprint(manifest["configuration"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no description of a run ({error!r}). {_RESTORE}") from error
    if not sound:
        raise ValueError(
            f"{path}: its configuration does not fit its fingerprint, or its format is not "
            f"{_FORMAT!r}. {_RESTORE}"
        )
    return manifest


class RunView:
    """A run directory as readers see it, finished or half done. Every call reads the disk."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        """Point at a run directory; see `read_run`."""
        self.directory = Path(directory)

    @property
    def configuration(self) -> dict[str, Any]:
        """The resolved configuration, as JSON values."""
        return _read_manifest(self.directory)["configuration"]

    @property
    def environments(self) -> list[dict[str, Any]]:
        """Versions and devices that computed the run: more than one if it went on elsewhere."""
        return _read_manifest(self.directory)["environments"]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the configuration's canonical JSON."""
        return _read_manifest(self.directory)["fingerprint"]

    @property
    def timings(self) -> list[dict[str, Any]]:
        """What took how many seconds, in the order in which it was recorded."""
        return _read_manifest(self.directory)["timings"]

    def records(self) -> list[UnitRecord]:
        """Return the row of every finished unit, by layer and channel."""
        return _read_table(self.directory / "units.tsv", UnitRecord)

    def layers(self) -> list[LayerRecord]:
        """Return the layers of the network; none if they were not written yet."""
        return _read_table(self.directory / "layers.tsv", LayerRecord)

    def finished(self, layer: str) -> frozenset[int]:
        """Return the finished channels of a layer."""
        return frozenset(row.channel for row in self.records() if row.layer == layer)

    def image_path(self, layer: str, channel: int, suffix: Literal[".nii.gz", ".png"]) -> Path:
        """Return where the image of a unit lies."""
        return self.directory / "images" / file_name(layer) / f"{channel:04d}{suffix}"

    def sheet_path(self, layer: str) -> Path:
        """Return where the contact sheet of a layer lies."""
        return self.directory / "sheets" / f"{file_name(layer)}.png"

    def traces_path(self, layer: str) -> Path:
        """Return where the traces of a layer lie."""
        return self.directory / "traces" / f"{file_name(layer)}.npz"

    def image(
        self, layer: str, channel: int
    ) -> tuple[Float[np.ndarray, "*spatial 1"], Float[np.ndarray, "4 4"]]:
        """Return the image (*spatial, 1) of a finished unit, and its affine in millimetres."""
        path = self.image_path(layer, channel, ".nii.gz")
        try:
            return nifti.decode_nifti(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{path}: {error} Delete the run or restore the file.") from error

    def traces(self, layer: str) -> Traces:
        """Return objective and penalty at every step, for the finished channels of a layer."""
        done = sorted(self.finished(layer))
        if not done:
            return Traces(np.zeros(0, np.int64), *np.zeros((2, 0, 0), np.float32))
        path = self.traces_path(layer)
        with np.load(path, allow_pickle=False) as stored:
            traces = Traces(*(stored[name] for name in Traces._fields))
        # A run that was killed may have left traces without rows; those units are not done.
        kept = np.isin(traces.channel, done)
        if kept.sum() != len(done):
            raise ValueError(f"{path} lacks some of the channels {done}. Restore the file.")
        return Traces(*(array[kept] for array in traces))


def read_run(directory: str | os.PathLike[str]) -> RunView:
    """Open a run for reading; another process may be writing to it.

    Args:
        directory: what was given to `open_run`.

    Returns:
        A view of the run.

    Raises:
        FileNotFoundError: if there is no run.
        ValueError: if its run.json is damaged.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     open_run(directory, {"steps": 256}, environment={}).close()
    ...     read_run(directory).configuration
    {'steps': 256}
    """
    _read_manifest(Path(directory))
    return RunView(directory)


class Run(RunView):
    """A run directory that this process writes to, until `close`. Made by `open_run`."""

    def __init__(self, directory: Path, lock: int) -> None:
        """Keep the lock on the run; see `open_run`."""
        super().__init__(directory)
        self._lock: int | None = lock

    def close(self) -> None:
        """Give the run back; further writes are refused."""
        if self._lock is not None:
            os.ftruncate(self._lock, 0)
            os.close(self._lock)
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
        affine: Float[np.ndarray, "4 4"],
        window: sheets.Window = (0.0, 1.0),
    ) -> None:
        """Store finished units: images, then traces, then their rows, all rows at once.

        Args:
            results: the units of a batch, of any layers.
            affine: of the grid of the model's input, in millimetres.
            window: intensities that are black and white in the PNG, and proposed to NIfTI viewers.

        Raises:
            ValueError: if a unit comes twice or is done already, or the traces of one layer differ
                in length. Nothing is written then.
            OSError: if something cannot be written. The units before are intact, and none of
                these is done.
        """
        if not results:
            return
        rows = self.records()
        units = [_unit(record) for record in (*rows, *(result.record for result in results))]
        if len(set(units)) < len(units):
            twice = sorted({unit for unit in units if units.count(unit) > 1})
            raise ValueError(f"units are done already or come twice: {twice}. Leave them out.")
        layers = dict.fromkeys(result.record.layer for result in results)
        of_layer = {
            layer: [result for result in results if result.record.layer == layer]
            for layer in layers
        }
        traces = {layer: self._merged_traces(layer, new) for layer, new in of_layer.items()}
        for layer, new in of_layer.items():
            for result in new:
                volume = nifti.encode_nifti(result.image, affine, window=window)
                pixels = sheets.picture(result.image, window=window)
                channel = result.record.channel
                self._write(self.image_path(layer, channel, ".nii.gz"), volume)
                self._write(self.image_path(layer, channel, ".png"), sheets.encode_png(pixels))
        for layer, merged in traces.items():
            self._write(self.traces_path(layer), _encode_arrays(merged._asdict()))
        rows = sorted([*rows, *(result.record for result in results)], key=_natural_order)
        self._write(self.directory / "units.tsv", _encode_table(rows, UnitRecord))

    def write_layers(self, rows: Sequence[LayerRecord]) -> None:
        """Store the layers of the network, in the order given."""
        self._write(self.directory / "layers.tsv", _encode_table(rows, LayerRecord))

    def write_flags(self, text: str) -> None:
        """Store the flags that repeat the run, one a line."""
        self._write(self.directory / "flags.txt", text.encode())

    def write_sheet(
        self, layer: str, *, window: Literal["shared", "own"] | sheets.Window = "shared"
    ) -> Path:
        """Draw the finished channels of a layer on one page, from what is stored.

        Args:
            layer: a layer with at least one finished channel.
            window: as in `sheets.contact_sheet`.

        Returns:
            Where the page lies.

        Raises:
            ValueError: if no channel of the layer is finished.
        """
        rows = [row for row in self.records() if row.layer == layer]
        if not rows:
            raise ValueError(f"layer {layer!r} has no finished channel in {self.directory}.")
        total = {each.layer: each.channels for each in self.layers()}.get(layer, len(rows))
        page = sheets.contact_sheet(
            (self.image(layer, row.channel)[0] for row in rows),
            titles=[str(row.channel) for row in rows],
            statuses=[row.status for row in rows],
            title=layer,
            subtitle=f"{len(rows)} of {total} channels" if total > len(rows) else None,
            window=window,
        )
        self._write(self.sheet_path(layer), page)
        return self.sheet_path(layer)

    def record_timing(self, name: str, seconds: float, **details: object) -> None:
        """Add a measured time to run.json.

        Args:
            name: what was timed, such as "batch".
            seconds: how long it took.
            **details: JSON values that say more, such as the layer or the number of units.
        """
        manifest = _read_manifest(self.directory)
        manifest["timings"].append({"name": name, "seconds": round(float(seconds), 6), **details})
        self._write(self.directory / "run.json", _encode_json(manifest))

    def _merged_traces(self, layer: str, new: Sequence[UnitResult]) -> Traces:
        """Return the traces of the units that are done together with those of new ones."""
        old = self.traces(layer)
        shapes = {np.shape(trace) for unit in new for trace in (unit.objective, unit.penalty)}
        if len(old.channel):
            shapes.add(old.objective.shape[1:])
        if len(shapes) > 1 or any(len(shape) != 1 for shape in shapes):
            raise ValueError(
                f"layer {layer!r}: traces have the shapes {sorted(shapes)}; expected (steps,) with "
                "one number of steps for all. Pad the trace of a unit that stopped with NaN."
            )
        (steps,) = shapes.pop()
        channel = np.array([*old.channel, *(unit.record.channel for unit in new)], np.int64)
        order = np.argsort(channel)
        joined = [
            np.concatenate([before.reshape(len(before), steps), np.array(after, np.float32)])[order]
            for before, after in (
                (old.objective, [unit.objective for unit in new]),
                (old.penalty, [unit.penalty for unit in new]),
            )
        ]
        return Traces(channel[order], *joined)

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
    """Start a run, or go on with one of the same configuration.

    Args:
        directory: a new or empty directory, or one that holds a run.
        configuration: everything that decides the results, as JSON values.
        environment: versions and device; does not decide whether a run may go on. Its entry
            "featvis_jax", if there is one, becomes the version in dataset_description.json.

    Returns:
        The run, locked until it is closed; use it in a `with` statement.

    Raises:
        ConfigurationMismatch: if the directory holds a run of another configuration.
        RunInUse: if another process is writing to it.
        ValueError: if the directory holds something else, or the configuration is not JSON.
        OSError: if the directory cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as out, open_run(out, {}, environment={}) as run:
    ...     run.finished("conv1")
    frozenset()
    """
    directory = Path(directory)
    settings = json.loads(_canonical(configuration, "configuration"))
    surroundings = json.loads(_canonical(environment, "environment"))
    _refuse_foreign(directory)
    make_directory(directory)
    run = Run(directory, _lock(directory))
    try:
        _refuse_foreign(directory)
        if (directory / "run.json").exists():
            manifest = _read_manifest(directory)
            _refuse_mismatch(directory, manifest["configuration"], settings)
        else:
            manifest = {
                "format": _FORMAT,
                "fingerprint": _fingerprint(settings),
                "configuration": settings,
                "environments": [],
                "timings": [],
            }
        remove_partial_files(directory)
        if surroundings not in manifest["environments"]:
            manifest["environments"].append(surroundings)
            atomic_write_bytes(directory / "run.json", _encode_json(manifest))
        for name, content in _descriptions(manifest["environments"][0]).items():
            if not (directory / name).exists():
                atomic_write_bytes(directory / name, _encode_json(content))
    except BaseException:
        run.close()
        raise
    return run


def _descriptions(environment: Mapping[str, Any]) -> dict[str, object]:
    """Return what BIDS wants to know about a data set that was computed, and about its table."""
    program = {"Name": "featvis_jax"}
    if "featvis_jax" in environment:
        program["Version"] = str(environment["featvis_jax"])
    return {
        "dataset_description.json": {
            "Name": "Feature visualization: what the channels of a network look for",
            "BIDSVersion": _BIDS_VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [program],
        },
        "units.json": {column.name: dict(column.metadata) for column in fields(UnitRecord)},
    }


def _refuse_foreign(directory: Path) -> None:
    """Raise if a directory holds something, but no run; a start that was killed holds a lock."""
    names = {path.name for path in directory.iterdir()} if directory.is_dir() else set()
    foreign = sorted(names - {_LOCK, f".run.json{_PARTIAL}"})
    if foreign and "run.json" not in names:
        raise ValueError(
            f"{directory} is not empty and holds no run (there is {foreign[0]!r}, and no "
            "run.json). Choose a new or empty directory with --out."
        )


def _refuse_mismatch(directory: Path, old: object, new: object) -> None:
    """Raise if two configurations differ, and say where."""
    before, after = _leaves(old), _leaves(new)
    lines = [
        f"  {name}: the run has {before.get(name, 'no such setting')}, "
        f"asked for is {after.get(name, 'no such setting')}"
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]
    if lines:
        raise ConfigurationMismatch(
            f"{directory} holds a run of another configuration:\n"
            + "\n".join(lines)
            + "\nChoose another directory with --out, or the settings of the run to go on with it."
        )
