"""Volumes: a NIfTI file, read to its last byte and reoriented.

A volume is float32 `(x, y, z)` in RAS (x to the right, y to the front, z up), an affine is float64
`(4, 4)` from voxel indices to mm.
"""

import io
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Shaped
from nibabel import orientations

from featvis_jax.data.errors import VolumeError
from featvis_jax.data.headers import DEFAULT_MAX_BYTES, NiftiHeader, open_nifti, read_header

_CHUNK_BYTES = 2**22
# Some writers pad the file; more than this after the last voxel is damage or a decompression bomb.
_MAX_TRAILING_BYTES = 2**20


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
