"""Volumes: read a NIfTI file to its last byte, reorient, rescale, crop, mask, and cache on disk.

Conventions: a volume is float32 `(x, y, z)` in RAS (x to the right, y to the front, z up), an
affine is float64 `(4, 4)` from voxel indices to mm. `rescale` brings intensities to [0, 1]. The
cache holds each subject as a float16 `.npy`, axial first `(z, x, y)`, so that slices stream from a
memory map.
"""

import dataclasses
import functools
import io
import json
import math
import os
import threading
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float16, Float32, Float64, Int, Shaped
from nibabel import orientations
from scipy import ndimage

from featvis_jax.data.cohorts import (
    DEFAULT_MAX_BYTES,
    CohortError,
    NiftiHeader,
    Subject,
    VolumeError,
    open_nifti,
    read_header,
)

# Raise it when load_volume, rescale or brain_mask change what they return: caches are then rebuilt.
CACHE_VERSION = 1
LOWER_PERCENTILE = 0.1
UPPER_PERCENTILE = 99.8
DARK = 0.1
STRIPPED_SHARE = 0.9

_CHUNK_BYTES = 2**22
# Some writers pad the file; more than this after the last voxel is damage or a decompression bomb.
_MAX_TRAILING_BYTES = 2**20
_MAX_WORKERS = 8


class Volume(NamedTuple):
    """A scan in RAS: `data` float32 `(x, y, z)` as in the file, `affine` voxel indices to mm."""

    data: Float32[np.ndarray, "x y z"]
    affine: Float64[np.ndarray, "4 4"]


def load_volume(path: Path | str, *, max_bytes: int = DEFAULT_MAX_BYTES) -> Volume:
    """Reads one NIfTI file to its end and reorients it to RAS without resampling.

    Reading to the end checks the CRC of a `.nii.gz`. Byte order, slope and intercept are honoured.
    No more memory is taken than the checked header claims, whatever the file unpacks to.

    Args:
      path: `.nii` or `.nii.gz`, one three-dimensional volume of real numbers.
      max_bytes: largest volume accepted, in bytes as stored and as float32.

    Returns:
      The volume.

    Raises:
      FileNotFoundError: no such file.
      VolumeError: the header is unusable (see `read_header`), the file is truncated or corrupt or
        holds more than its header claims, or its voxels are constant or not all finite.
    """
    header = read_header(path, max_bytes=max_bytes)
    try:
        with open_nifti(header.path) as file:
            stored = _read_voxels(file, header)
    except (OSError, EOFError, zlib.error) as error:
        raise VolumeError(
            f"{header.path}: truncated or corrupt ({error}); copy or convert the file again"
        ) from error

    scaled = np.empty(header.shape, np.float32, order="F")
    # Slice by slice, so that the float64 needed for an exact slope is never a whole volume.
    with np.errstate(over="ignore", invalid="ignore"):
        for index in range(header.shape[2]):
            values = stored[:, :, index].astype(np.float64)
            scaled[:, :, index] = values * header.slope + header.intercept
    finite = np.isfinite(scaled)
    if not finite.all():
        raise VolumeError(
            f"{header.path}: {scaled.size - np.count_nonzero(finite):,} of {scaled.size:,} voxels "
            "are NaN, infinite or too large for float32; replace them, for example by 0"
        )
    if scaled.min() == scaled.max():
        raise VolumeError(
            f"{header.path}: every voxel is {scaled.min():g}, there is no image; "
            "remove the subject or convert the scan again"
        )
    orientation = orientations.io_orientation(header.affine)
    data = np.ascontiguousarray(orientations.apply_orientation(scaled, orientation))
    return Volume(data, header.canonical_affine)


def _read_voxels(file: io.BufferedIOBase, header: NiftiHeader) -> Shaped[np.ndarray, "i j k"]:
    """The voxels as stored; reads to the end of the file."""
    _read_into(file, memoryview(bytearray(header.data_offset)), header.path)
    buffer = bytearray(header.num_bytes)
    _read_into(file, memoryview(buffer), header.path)
    trailing = 0
    while chunk := file.read(_CHUNK_BYTES):
        trailing += len(chunk)
        if trailing > _MAX_TRAILING_BYTES:
            raise VolumeError(
                f"{header.path}: goes on after the {header.num_bytes:,} bytes of voxels that its "
                "header claims; the header is damaged, convert the scan again"
            )
    return np.frombuffer(buffer, header.dtype).reshape(header.shape, order="F")


def _read_into(file: io.BufferedIOBase, target: memoryview, path: Path) -> None:
    filled = 0
    while filled < len(target):
        chunk = file.read(min(_CHUNK_BYTES, len(target) - filled))
        if not chunk:
            raise VolumeError(
                f"{path}: truncated, {len(target) - filled:,} of {len(target):,} bytes are "
                "missing; copy or convert the file again"
            )
        target[filled : filled + len(chunk)] = chunk
        filled += len(chunk)


def rescale(data: Float32[np.ndarray, "*spatial"]) -> Float32[np.ndarray, "*spatial"]:
    """Scales intensities to [0, 1], robust to a few very bright or dark voxels.

    `lower` is the 0.1th percentile of all voxels (the background, where there is one), `upper` the
    99.8th percentile of the voxels above `lower`; the result is `(data - lower) / (upper - lower)`,
    clipped. A scan that was scaled by this rule stays as it is.

    Args:
      data: any shape, any finite range.

    Returns:
      float32 in [0, 1], same shape.

    Raises:
      ValueError: no voxel lies above `lower`, so there is no image to scale.

    >>> rescale(np.array([0, 0, 50, 100], np.float32)).round(2)
    array([0. , 0. , 0.5, 1. ], dtype=float32)
    """
    data = np.asarray(data, np.float32)
    # Of few voxels the interpolated percentile would lie above the background.
    lower = np.percentile(data, LOWER_PERCENTILE, method="lower")
    foreground = data[data > lower]
    if foreground.size == 0:
        raise ValueError(
            f"data of shape {data.shape}: no voxel above {lower:g}, the {LOWER_PERCENTILE}th "
            "percentile; expected an image that is not constant"
        )
    upper = np.percentile(foreground, UPPER_PERCENTILE, method="higher")
    # In float64: both ends of a float32 range may be near its limits.
    width = float(upper) - float(lower)
    return np.clip((data - np.float64(lower)) / width, 0, 1).astype(np.float32)


def crop_affine(
    affine: Float64[np.ndarray, "4 4"], start: Sequence[int]
) -> Float64[np.ndarray, "4 4"]:
    """The affine of a grid whose first voxel is voxel `start` of the old grid.

    Every kept voxel stays where it was in the world: `new @ v = old @ (v + start)`.

    Args:
      affine: `(4, 4)`, voxel indices to mm.
      start: up to three voxel indices, may be negative (padding); missing ones are 0. A slice at
        height z cut out at (x, y) has the start (x, y, z).

    Returns:
      `(4, 4)` float64.

    >>> crop_affine(np.diag([2.0, 2.0, 2.0, 1.0]), (10, 0, 5))[:3, 3]
    array([20.,  0., 10.])
    """
    if len(start) > 3:
        raise ValueError(f"start={tuple(start)}: expected at most three indices")
    moved = np.array(affine, np.float64)
    moved[:3, 3] += moved[:3, : len(start)] @ np.asarray(start, np.float64)
    return moved


def center_crop(
    array: Shaped[np.ndarray, "..."],
    shape: Sequence[int],
    *,
    affine: Float64[np.ndarray, "4 4"] | None = None,
) -> tuple[Shaped[np.ndarray, "..."], Float64[np.ndarray, "4 4"] | None]:
    """Crops the leading axes about their centre, and pads with zeros where the array is smaller.

    With n voxels and m wanted, `(n - m) // 2` are cut off before and the rest after; padding adds
    `(m - n) // 2` before. So cropping after padding to a size gives the array back.

    Args:
      array: spatial axes first, any further axes are kept.
      shape: wanted sizes of the leading axes.
      affine: affine of the array; at most three axes can then be cropped.

    Returns:
      The array (a view where nothing had to be padded) and its affine, None if none was given.

    >>> image, affine = center_crop(np.arange(6), (2,), affine=np.eye(4))
    >>> image, affine[:3, 3]
    (array([2, 3]), array([2., 0., 0.]))
    """
    if len(shape) > array.ndim or any(size < 1 for size in shape):
        raise ValueError(
            f"shape={tuple(shape)}: expected at most {array.ndim} sizes of at least 1 for an array "
            f"of shape {array.shape}"
        )
    starts, cuts, pads = [], [], []
    for have, want in zip(array.shape, shape, strict=False):
        before = abs(have - want) // 2
        starts.append(before if have >= want else -before)
        cuts.append(slice(before, before + want) if have >= want else slice(None))
        pads.append((0, 0) if have >= want else (before, want - have - before))
    cropped = array[tuple(cuts)]
    if any(pad != (0, 0) for pad in pads):
        cropped = np.pad(cropped, [*pads, *[(0, 0)] * (array.ndim - len(shape))])
    return cropped, None if affine is None else crop_affine(affine, starts)


def brain_mask(data: Float32[np.ndarray, "*spatial"]) -> Bool[np.ndarray, "*spatial"]:
    """Where the brain is, in a slice or a volume.

    A skull-stripped scan has a background of one value, its minimum: of the voxels darker than a
    tenth of the robust range at least 90 % have it (after `rescale`: are 0). Everything above it is
    then brain. Any other scan gets its largest connected part that is brighter than that tenth,
    with holes filled: the head, since nothing here strips a skull.

    Args:
      data: one slice or volume, any range.

    Returns:
      bool, same shape; all False for a constant image.

    >>> brain_mask(np.array([[0, 0, 0], [0, 5, 9], [0, 0, 7]], np.float32)).astype(int)
    array([[0, 0, 0],
           [0, 1, 1],
           [0, 0, 1]])
    """
    data = np.asarray(data, np.float32)
    if data.min() == data.max():
        return np.zeros(data.shape, bool)
    return _mask_of_rescaled(rescale(data))


def _mask_of_rescaled(scaled: Float32[np.ndarray, "*spatial"]) -> Bool[np.ndarray, "*spatial"]:
    bright = scaled >= DARK
    above_background = scaled > 0
    num_dark = bright.size - np.count_nonzero(bright)
    if bright.size - np.count_nonzero(above_background) >= STRIPPED_SHARE * num_dark:
        return above_background
    parts = np.empty(bright.shape, np.int32)
    ndimage.label(bright, output=parts)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return np.asarray(ndimage.binary_fill_holes(parts == sizes.argmax()))


def brain_fraction_per_slice(volume: Float32[np.ndarray, "x y z"]) -> Float64[np.ndarray, " z"]:
    """The share of each axial slice that is brain, by the mask of the whole volume.

    Args:
      volume: `(x, y, z)` in RAS.

    Returns:
      `(z,)` in [0, 1].
    """
    return brain_mask(volume).mean(axis=(0, 1), dtype=np.float64)


def usable_slices(
    brain_fraction: Float64[np.ndarray, " z"], *, minimum: float = 0.4
) -> Int[np.ndarray, " n"]:
    """The axial slices with enough brain.

    Of the 182 slices of a brain on FSL's 1 mm MNI grid, `minimum` 0.4 keeps about 109, 0.3 about
    119 and 0.2 about 129.

    Args:
      brain_fraction: `(z,)`, share of each slice that is brain.
      minimum: share of the fullest slice's brain that a slice must have, in [0, 1].

    Returns:
      Indices, ascending.

    Raises:
      ValueError: no slice has any brain, or `minimum` is out of range.

    >>> usable_slices(np.array([0.0, 0.1, 0.3, 0.4, 0.2, 0.0]))
    array([2, 3, 4])
    """
    if not 0 <= minimum <= 1:
        raise ValueError(f"minimum={minimum}: expected a share in [0, 1], such as 0.4")
    fraction = np.asarray(brain_fraction)
    if fraction.size == 0 or fraction.max() <= 0:
        raise ValueError(f"brain_fraction of shape {fraction.shape} has no slice with brain")
    return np.flatnonzero((fraction >= minimum * fraction.max()) & (fraction > 0))


_OPENING = threading.Lock()


@dataclasses.dataclass(frozen=True, eq=False)
class CachedVolume:
    """One subject's volume on disk, rescaled to [0, 1].

    Attributes:
      participant_id: whose.
      path: the `.npy`, float16 `(z, x, y)`.
      shape: `(z, x, y)`.
      brain_fraction: `(z,)`, share of each axial slice that is brain.
    """

    participant_id: str
    path: Path
    shape: tuple[int, int, int]
    brain_fraction: Float64[np.ndarray, " z"]

    def open(self) -> Float16[np.ndarray, "z x y"]:
        """The volume as a read-only memory map, the same at every call."""
        return self._map

    @functools.cached_property
    def _map(self) -> Float16[np.ndarray, "z x y"]:
        # NumPy reads the header with `ast`, which fails now and then in two threads of Python 3.11.
        with _OPENING:
            return np.load(self.path, mmap_mode="r", allow_pickle=False)


def cache_volumes(
    subjects: Iterable[Subject],
    directory: Path | str,
    *,
    progress: Callable[[int, int], None] | None = None,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> dict[str, CachedVolume]:
    """Loads, rescales and stores every subject once; later calls find what is stored.

    An entry is `<id>.npy` and `<id>.json`, each written whole or not at all. It is used again if
    the source's path, size and modification time, and `CACHE_VERSION`, are as they were. Use one
    directory per cohort.

    Args:
      subjects: whose volumes.
      directory: of the cache, made if missing.
      progress: called in this thread with (subjects done, subjects in all) after each.
      max_bytes: largest volume accepted, see `load_volume`.

    Returns:
      Participant id to cached volume, in the order of `subjects`.

    Raises:
      CohortError: files that cannot be used, all of them, after every subject was tried.
      OSError: the cache cannot be written.
    """
    subjects = tuple(subjects)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    found: dict[str, CachedVolume] = {}
    problems: dict[str, str] = {}
    # Threads: gzip and numpy let go of the lock, and a fork would not go well with jax's threads.
    with ThreadPoolExecutor(min(_MAX_WORKERS, os.cpu_count() or 1)) as pool:
        futures = {pool.submit(_cache_one, s, directory, max_bytes): s for s in subjects}
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


def _cache_one(subject: Subject, directory: Path, max_bytes: int) -> CachedVolume:
    voxels_path = directory / f"{subject.participant_id}.npy"
    sidecar_path = directory / f"{subject.participant_id}.json"
    try:
        status = subject.path.stat()
    except FileNotFoundError:
        raise FileNotFoundError(f"{subject.path}: no such file; check the cohort") from None
    source = {
        "version": CACHE_VERSION,
        "path": str(subject.path.resolve()),
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
    }
    cached = _read_entry(subject.participant_id, voxels_path, sidecar_path, source)
    if cached is not None:
        return cached

    data = load_volume(subject.path, max_bytes=max_bytes).data
    try:
        scaled = rescale(data)
    except ValueError as error:
        raise VolumeError(f"{subject.path}: {error}") from error
    axial = np.ascontiguousarray(scaled.astype(np.float16).transpose(2, 0, 1))
    fraction = _mask_of_rescaled(scaled).mean(axis=(0, 1), dtype=np.float64)
    # The sidecar last: until it is there, the entry does not count.
    _write_whole(voxels_path, lambda file: np.save(file, axial, allow_pickle=False))
    sidecar = {
        "source": source,
        "voxels": _stamp(voxels_path),
        "shape": axial.shape,
        "brain_fraction": fraction.tolist(),
    }
    _write_whole(sidecar_path, lambda file: file.write(json.dumps(sidecar).encode()))
    return CachedVolume(subject.participant_id, voxels_path, axial.shape, fraction)


def _stamp(path: Path) -> dict[str, int]:
    """Tells a `.npy` from one that was written later or cut short."""
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
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    expected_bytes = math.prod((depth, width, height)) * 2
    if fraction.shape != (depth,) or voxels_path.stat().st_size < expected_bytes:
        return None
    return CachedVolume(participant_id, voxels_path, (depth, width, height), fraction)


def _write_whole(path: Path, write: Callable[[io.BufferedIOBase], object]) -> None:
    """Writes a file under another name and renames it, so that it is never seen half written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
