"""A cohort's volumes on disk, as networks are shown them: scaled, slice by slice.

Each subject is a `.npy`, float16 or, for raw intensities, float32, axial first `(z, x, y)`, so that
slices stream from a memory map, and a `.json` that says what it was made of.
"""

import dataclasses
import functools
import hashlib
import io
import json
import math
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Float64

from featvis_jax.data.cohorts import Cohort, Subject
from featvis_jax.data.errors import CohortError, VolumeError
from featvis_jax.data.headers import DEFAULT_MAX_BYTES
from featvis_jax.data.intensities import SCALINGS
from featvis_jax.data.masks import brain_fraction_per_slice
from featvis_jax.data.pointers import pointer
from featvis_jax.data.resampling import resampled
from featvis_jax.data.volumes import load_volume

# Raise it when load_volume, SCALINGS or brain_mask change what they return, or the sidecar what it
# holds: caches are then rebuilt.
CACHE_VERSION = 3
_MAX_WORKERS = 8
# Hexadecimal digits that tell the scans of any cohort apart.
_SHORT = 16

_OPENING = threading.Lock()


@dataclasses.dataclass(frozen=True, eq=False)
class CachedVolume:
    """One subject's volume on disk, its intensities scaled.

    Attributes:
      participant_id: Whose.
      path: The `.npy`, `(z, x, y)`.
      shape: `(z, x, y)`.
      brain_fraction: `(z,)`, share of each axial slice that is brain.
      scan_sha256: Checksum of the file that it was made of.
      outside: The intensity of what the scan does not reach (`Scaling.outside`).
    """

    participant_id: str
    path: Path
    shape: tuple[int, int, int]
    brain_fraction: Float64[np.ndarray, " z"]
    scan_sha256: str
    outside: float = 0.0

    @property
    def scan_id(self) -> str:
        """The scan by the beginning of its checksum, wherever it lies and whatever it is called."""
        return self.scan_sha256[:_SHORT]

    def open(self) -> Float[np.ndarray, "z x y"]:
        """The volume as a read-only memory map, the same at every call."""
        return self._map

    @functools.cached_property
    def _map(self) -> Float[np.ndarray, "z x y"]:
        # NumPy reads the header with `ast`, which fails now and then in two threads of Python 3.11.
        with _OPENING:
            return np.load(self.path, mmap_mode="r", allow_pickle=False)


def cache_volumes(
    subjects: Iterable[Subject],
    directory: Path | str,
    *,
    scaling: str = "unit",
    voxel_size_mm: float | None = None,
    progress: Callable[[int, int], None] | None = None,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> dict[str, CachedVolume]:
    """Loads, scales and stores every subject once; later calls find what is stored.

    An entry is `<id>.npy` and `<id>.json`, each written whole or not at all. It is used again if
    the source's path, size and modification time, the scaling, the voxel size and `CACHE_VERSION`
    are as they were. Use one directory per cohort, scaling and voxel size.

    Args:
      subjects: Whose volumes.
      directory: Of the cache, made if missing.
      scaling: How, a name in `featvis_jax.data.intensities.SCALINGS`.
      voxel_size_mm: What scans are resampled to before they are scaled (`Cohort.resampled_mm`);
        None leaves them as they are.
      progress: Called in this thread with (subjects done, subjects in all) after each.
      max_bytes: Largest volume accepted, see `load_volume`.

    Returns:
      Participant id to cached volume, in the order of `subjects`.

    Raises:
      CohortError: Files that cannot be used, all of them, after every subject was tried.
      OSError: The cache cannot be written.
    """
    subjects = tuple(subjects)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    found: dict[str, CachedVolume] = {}
    problems: dict[str, str] = {}
    # Threads: gzip and numpy let go of the lock, and a fork would not go well with jax's threads.
    with ThreadPoolExecutor(min(_MAX_WORKERS, os.cpu_count() or 1)) as pool:
        how = _How(scaling, voxel_size_mm, max_bytes)
        futures = {pool.submit(_cache_one, s, directory, how): s for s in subjects}
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                participant_id = futures[future].participant_id
                try:
                    found[participant_id] = future.result()
                except (VolumeError, FileNotFoundError) as error:
                    problems[participant_id] = str(error)
                if progress is not None:
                    progress(done, len(subjects))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    if problems:
        ordered = [problems[s.participant_id] for s in subjects if s.participant_id in problems]
        raise CohortError(f"{len(ordered)} of {len(subjects)} scans cannot be used:", ordered)
    return {subject.participant_id: found[subject.participant_id] for subject in subjects}


class _How(NamedTuple):
    """How scans become cached volumes, see `cache_volumes`."""

    scaling: str
    voxel_size_mm: float | None
    max_bytes: int

    def load(self, path: Path) -> Float32[np.ndarray, "x y z"]:
        """A scan on its voxels."""
        volume = load_volume(path, max_bytes=self.max_bytes)
        return (
            volume if self.voxel_size_mm is None else resampled(volume, self.voxel_size_mm)
        ).data


def _cache_one(subject: Subject, directory: Path, how: _How) -> CachedVolume:
    voxels_path = directory / f"{subject.participant_id}.npy"
    sidecar_path = directory / f"{subject.participant_id}.json"
    try:
        status = subject.path.stat()
    except FileNotFoundError:
        fault = pointer(subject.path) or "there is no such file; check the cohort"
        raise FileNotFoundError(f"{subject.path}: {fault}") from None
    source = {
        "version": CACHE_VERSION,
        "scaling": how.scaling,
        **({} if how.voxel_size_mm is None else {"voxel_size_mm": how.voxel_size_mm}),
        "path": str(subject.path.resolve()),
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
    }
    cached = _read_entry(subject.participant_id, voxels_path, sidecar_path, source)
    if cached is not None:
        return cached

    chosen = SCALINGS[how.scaling]
    data = how.load(subject.path)
    try:
        scaled = chosen.scale(data).astype(chosen.dtype)
        # Of the scan as it is: where a brain is does not depend on the scaling.
        fraction = brain_fraction_per_slice(data)
    except ValueError as error:
        raise VolumeError(f"{subject.path}: {error}") from error
    axial = np.ascontiguousarray(scaled.transpose(2, 0, 1))
    outside = chosen.outside(axial)
    with subject.path.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    # The sidecar last: until it is there, the entry does not count.
    _write_whole(voxels_path, lambda file: np.save(file, axial, allow_pickle=False))
    sidecar = {
        "source": source,
        "sha256": checksum,
        "voxels": _stamp(voxels_path),
        "shape": axial.shape,
        "brain_fraction": fraction.tolist(),
        "outside": outside,
    }
    _write_whole(sidecar_path, lambda file: file.write(json.dumps(sidecar).encode()))
    who = subject.participant_id
    return CachedVolume(who, voxels_path, axial.shape, fraction, checksum, outside)


def _stamp(path: Path) -> dict[str, int]:
    """Tell a `.npy` from one that was written later or cut short."""
    status = path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _read_entry(
    participant_id: str, voxels_path: Path, sidecar_path: Path, source: dict[str, object]
) -> CachedVolume | None:
    """The cached volume, or None if there is none, it is stale or damaged."""
    try:
        sidecar = json.loads(sidecar_path.read_text("utf-8"))
        if sidecar["source"] != source or sidecar["voxels"] != _stamp(voxels_path):
            return None
        fraction = np.array(sidecar["brain_fraction"], np.float64)
        depth, width, height = (int(size) for size in sidecar["shape"])
        checksum, outside = str(sidecar["sha256"]), float(sidecar["outside"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    shape = (depth, width, height)
    expected_bytes = math.prod(shape) * np.dtype(SCALINGS[str(source["scaling"])].dtype).itemsize
    if fraction.shape != (depth,) or voxels_path.stat().st_size < expected_bytes:
        return None
    return CachedVolume(participant_id, voxels_path, shape, fraction, checksum, outside)


def checksums(cohort: Cohort, cached: Mapping[str, CachedVolume]) -> dict[str, str]:
    """SHA-256 of every file that a cohort is made of, to tell whether one was replaced.

    Args:
      cohort: The cohort.
      cached: What `cache_volumes` gave for its subjects.

    Returns:
      Path to checksum, the table first, then the scans; relative to the table.
    """
    folder = cohort.table.parent
    scans = {
        os.path.relpath(subject.path, folder): cached[subject.participant_id].scan_sha256
        for subject in cohort.subjects
    }
    return {cohort.table.name: hashlib.sha256(cohort.table.read_bytes()).hexdigest(), **scans}


def _write_whole(path: Path, write: Callable[[io.BufferedIOBase], object]) -> None:
    """Write a file under another name and rename it, so that it is never seen half written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
