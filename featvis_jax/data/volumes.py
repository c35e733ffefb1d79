"""Volumes: a NIfTI file, read to its last byte and reoriented.

A volume is float32 `(x, y, z)` in RAS (x to the right, y to the front, z up), an affine is float64
`(4, 4)` from voxel indices to mm.
"""

import io
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64
from nibabel import orientations
from nibabel.affines import voxel_sizes

from featvis_jax.data.errors import VolumeError
from featvis_jax.data.grids import Grid, GridError, Placement, centred, described, placement
from featvis_jax.data.headers import DEFAULT_MAX_BYTES, NiftiHeader, open_nifti, read_header

DEFAULT_MAX_IMAGE_BYTES = 2**30
_CHUNK_BYTES = 2**22
# Some writers pad the file; more than this after the last voxel is damage or a decompression bomb.
_MAX_TRAILING_BYTES = 2**20


class Volume(NamedTuple):
    """A scan in RAS: `data` float32 `(x, y, z)` as in the file, `affine` voxel indices to mm."""

    data: Float32[np.ndarray, "x y z"]
    affine: Float64[np.ndarray, "4 4"]


def load_volume(path: Path | str, *, max_bytes: int = DEFAULT_MAX_BYTES) -> Volume:
    """Read one NIfTI file to its end and reorient it to RAS without resampling.

    Reading to the end checks the CRC of a `.nii.gz`. Byte order, slope and intercept are honoured.
    No more memory is taken than the checked header claims, whatever the file unpacks to.

    Args:
      path: `.nii` or `.nii.gz`, one three-dimensional volume of real numbers.
      max_bytes: Largest volume accepted, in bytes as stored and as float32.

    Returns:
      The volume.

    Raises:
      FileNotFoundError: No such file.
      VolumeError: The header is unusable (see `read_header`), the file is truncated or corrupt or
        holds more than its header claims, or its voxels are constant or not all finite.
    """
    header = read_header(path, max_bytes=max_bytes)
    scaled = np.empty(header.shape, np.float32, order="F")
    for index, values in enumerate(_read_slices(header)):
        scaled[:, :, index] = values
    _refuse_odd(scaled, header.path)
    if scaled.min() == scaled.max():
        raise VolumeError(
            f"{header.path}: every voxel is {scaled.min():g}, there is no image; "
            "remove the subject or convert the scan again"
        )
    orientation = orientations.io_orientation(header.affine)
    data = np.ascontiguousarray(orientations.apply_orientation(scaled, orientation))
    return Volume(data, header.canonical_affine)


def load_on_grid(
    path: Path | str,
    grid: Grid,
    *,
    channels: int = 1,
    scale: Callable[[np.ndarray], np.ndarray] | None = None,
    max_bytes: int = DEFAULT_MAX_IMAGE_BYTES,
) -> Float32[np.ndarray, "*spatial channels"]:
    """Read a mask or an image onto a grid, by the place of every voxel in the world.

    Its axes may be in another order and run the other way, and it may be larger than the grid: a
    whole volume for a network of slices gives the slice at the grid's height. Nothing is resampled.
    On a grid without an affine it is taken as it is stored. The file is read to its end, as
    `load_volume` does, but only what lies on the grid is kept, unless it is scaled.

    Args:
      path: `.nii` or `.nii.gz`.
      grid: Of the network's input.
      channels: Volumes that the file holds along its fourth axis.
      scale: What is done to each volume as a whole, before anything is cut off
        (`featvis_jax.data.intensities`); nothing by default.
      max_bytes: Largest file accepted, see `read_header`.

    Returns:
      float32 `(*grid.shape, channels)`.

    Raises:
      FileNotFoundError: No such file.
      VolumeError: The file is damaged, lies elsewhere or does not cover the grid, does not tell
        where it lies, holds voxels on it that are not finite, or cannot be scaled.
    """
    header = read_header(path, max_bytes=max_bytes, images=True)
    if header.channels != channels:
        raise VolumeError(
            f"{header.path}: holds {header.channels} volumes, expected {channels}, as many as the "
            "network's images have channels"
        )
    placed = _placed(header, grid)
    # Of a large file no more is kept than the slices that the grid needs.
    along, depth = placed.axes.index(2), header.shape[2]
    first, count = placed.start[along], placed.shape[along]
    wanted = range(first, first + count)
    if placed.flips[along]:
        wanted = range(depth - first - count, depth - first)
    if scale is None:
        placed = placed._replace(
            start=tuple(0 if axis == along else n for axis, n in enumerate(placed.start))
        )
    else:
        wanted = range(depth)
    kept = np.empty((*header.shape[:2], len(wanted), channels), np.float32)
    for number, values in enumerate(_read_slices(header)):
        channel, index = divmod(number, depth)
        if index in wanted:
            kept[:, :, index - wanted.start, channel] = values
    if scale is not None:
        _refuse_odd(kept, header.path)
        try:
            kept = np.stack([scale(volume) for volume in np.moveaxis(kept, -1, 0)], axis=-1)
        except ValueError as error:
            raise VolumeError(f"{header.path}: {error}") from error
    found = np.ascontiguousarray(placed(kept))
    _refuse_odd(found, header.path)
    return found.reshape(*grid.shape, channels)


def read_grid(path: Path | str, *, rank: int) -> Grid:
    """The grid of a NIfTI file, its axes in the order in which they are stored.

    Args:
      path: `.nii` or `.nii.gz`; no voxel of it is read.
      rank: 2 for a file of one slice, or 3.

    Raises:
      FileNotFoundError: No such file.
      VolumeError: The header is unusable, or does not tell where the voxels lie.
    """
    header = read_header(path, images=True)
    _refuse_nowhere(header)
    one_slice = rank == 2 and header.shape[2] == 1
    return Grid(header.shape[:2] if one_slice else header.shape, header.affine)


def _refuse_nowhere(header: NiftiHeader) -> None:
    if not header.has_orientation:
        raise VolumeError(
            f"{header.path}: does not tell where it lies (qform_code and sform_code are 0); copy "
            "the affine of the image it was made from into it, for example with nibabel"
        )


def _placed(header: NiftiHeader, grid: Grid) -> Placement:
    """Where a file's voxels are on a grid that it has to cover."""
    here = Grid(header.shape, header.affine)
    expected = f"expected {described(grid)}"
    if grid.affine is None:
        if header.shape != grid.box:
            raise VolumeError(
                f"{header.path}: {' x '.join(map(str, header.shape))} voxels, {expected}: the "
                "network does not tell where it looks, so its axes are taken as they are stored; "
                "crop or resample it to that grid, or give --grid"
            )
        return centred(header.shape, grid.box)
    _refuse_nowhere(header)
    found = f"It has {described(here)}; {expected}: crop or resample it to that grid"
    try:
        placed = placement(here, grid)
    except GridError as error:
        raise VolumeError(f"{header.path}: {error}. {found}") from error
    missing = placed.outside(header.shape)
    if any(missing):
        far = np.linalg.norm(np.array(missing) * voxel_sizes(grid.affine))
        raise VolumeError(
            f"{header.path}: lies elsewhere or is too small: the network's grid reaches up to "
            f"{far:.4g} mm beyond it. {found}"
        )
    return placed


def _refuse_odd(values: Float32[np.ndarray, "..."], path: Path) -> None:
    finite = np.isfinite(values)
    if not finite.all():
        raise VolumeError(
            f"{path}: {values.size - np.count_nonzero(finite):,} of {values.size:,} voxels "
            "are NaN, infinite or too large for float32; replace them, for example by 0"
        )


def _read_slices(header: NiftiHeader) -> Iterator[Float32[np.ndarray, "i j"]]:
    """The slices along the third axis as stored, one volume after the other, to the file's end.

    One by one, so that what is needed to read them is never a whole volume.
    """
    try:
        with open_nifti(header.path) as file:
            _read_into(file, memoryview(bytearray(header.data_offset)), header.path)
            width, height, depth = header.shape
            buffer = bytearray(width * height * header.dtype.itemsize)
            for _ in range(depth * header.channels):
                _read_into(file, memoryview(buffer), header.path)
                stored = np.frombuffer(buffer, header.dtype).reshape(width, height, order="F")
                with np.errstate(over="ignore", invalid="ignore"):
                    # In float64, so that slope and intercept are exact.
                    values = stored.astype(np.float64) * header.slope + header.intercept
                    scaled = values.astype(np.float32)
                yield scaled
            _read_rest(file, header)
    except (OSError, EOFError, zlib.error) as error:
        raise VolumeError(
            f"{header.path}: truncated or corrupt ({error}); copy or convert the file again"
        ) from error


def _read_rest(file: io.BufferedIOBase, header: NiftiHeader) -> None:
    """Read what follows the voxels: the end of a gzip file has its checksum."""
    trailing = 0
    while chunk := file.read(_CHUNK_BYTES):
        trailing += len(chunk)
        if trailing > _MAX_TRAILING_BYTES:
            raise VolumeError(
                f"{header.path}: goes on after the {header.num_bytes:,} bytes of voxels that its "
                "header claims; the header is damaged, convert the scan again"
            )


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
