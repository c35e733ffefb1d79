"""NIfTI headers: what a file claims to hold, checked before anything is allocated from it."""

import dataclasses
import gzip
import io
import math
import zlib
from pathlib import Path

import nibabel
import numpy as np
from jaxtyping import Float64
from nibabel import orientations
from nibabel.affines import voxel_sizes
from nibabel.spatialimages import HeaderDataError

from featvis_jax.data.errors import VolumeError
from featvis_jax.data.pointers import existing_file

DEFAULT_MAX_BYTES = 4 * 2**30
NIFTI_SUFFIXES = (".nii", ".nii.gz")

# Deflate cannot shrink by more than this, so a small file cannot hold a large claim.
_MAX_DEFLATE_RATIO = 1032
_XFORM_CODES = range(6)
# Extensions lie before the voxels; a header that puts the voxels farther off is damaged.
_MAX_DATA_OFFSET = 2**24


@dataclasses.dataclass(frozen=True, eq=False)
class NiftiHeader:
    """What a NIfTI header claims, checked; nothing is allocated from it.

    Attributes:
      path: The file.
      shape: Voxels along the three axes as stored.
      dtype: As stored, byte order included.
      affine: `(4, 4)`, stored voxel indices to mm.
      data_offset: Bytes before the first voxel.
      slope: Value = slope * stored + intercept.
      intercept: See slope.
      canonical_shape: Shape after reorientation to RAS.
      canonical_affine: Affine after reorientation to RAS.
      channels: Volumes along the fourth axis, 1 if there is none.
      has_orientation: Whether its qform or sform says where the voxels lie.
    """

    path: Path
    shape: tuple[int, int, int]
    dtype: np.dtype
    affine: Float64[np.ndarray, "4 4"]
    data_offset: int
    slope: float
    intercept: float
    canonical_shape: tuple[int, int, int]
    canonical_affine: Float64[np.ndarray, "4 4"]
    channels: int = 1
    has_orientation: bool = True

    @property
    def num_bytes(self) -> int:
        """Bytes of all voxels as stored."""
        return math.prod(self.shape) * self.channels * self.dtype.itemsize


def open_nifti(path: Path) -> io.BufferedIOBase:
    """Open a `.nii` or `.nii.gz` for reading in order; gzip is told by its first bytes."""
    return gzip.open(path, "rb") if _is_gzip(path) else path.open("rb")


def read_header(
    path: Path | str, *, max_bytes: int = DEFAULT_MAX_BYTES, images: bool = False
) -> NiftiHeader:
    """Read and check one NIfTI-1 or NIfTI-2 header, and no voxel.

    Without a usable sform or qform code the orientation is nibabel's default for such files.

    Args:
      path: `.nii` or `.nii.gz`, either byte order.
      max_bytes: Largest volume accepted, in bytes as stored and as float32.
      images: Also accept a file of two dimensions, as one slice, and one with several volumes, as
        channels.

    Returns:
      The header.

    Raises:
      FileNotFoundError: No such file, or a pointer in its place.
      VolumeError: Not a three-dimensional NIfTI of real numbers with an invertible affine, or one
        whose claim is over `max_bytes` or over what the file can hold.
    """
    path = Path(path)
    block, possible_bytes = _read_start(path)
    header, minimum_offset = _parse_header(path, block)

    shape, channels = _checked_shape(path, header, images=images)
    dtype = _checked_dtype(path, header)
    num_voxels = math.prod(shape) * channels
    if num_voxels * max(dtype.itemsize, 4) > max_bytes:
        raise VolumeError(
            f"{path}: its header claims {(*shape, channels)[: 3 + (channels > 1)]} voxels of "
            f"{dtype}, more than the limit of {max_bytes:,} bytes; the header is damaged, or raise "
            "max_bytes"
        )
    stored_offset = float(header["vox_offset"])
    if stored_offset != 0 and not minimum_offset <= stored_offset <= _MAX_DATA_OFFSET:
        raise VolumeError(
            f"{path}: its header puts the voxels at byte {stored_offset:g}, expected "
            f"{minimum_offset} or a little more; the header is damaged, convert the scan again"
        )
    data_offset = int(stored_offset) or minimum_offset
    needed = data_offset + num_voxels * dtype.itemsize
    if needed > possible_bytes:
        raise VolumeError(
            f"{path}: truncated, its header claims {needed:,} bytes and the file can hold "
            f"{possible_bytes:,} at most; copy the file again"
        )
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if not math.isfinite(slope) or slope == 0:
        slope, intercept = 1.0, 0.0
    if not math.isfinite(intercept):
        raise VolumeError(f"{path}: scl_inter is {intercept}, expected a number; fix the header")

    affine = _checked_affine(path, header)
    orientation = orientations.io_orientation(affine)
    canonical_affine = affine @ orientations.inv_ornt_aff(orientation, shape)
    x, y, z = (shape[axis] for axis in orientation[:, 0].argsort())
    return NiftiHeader(
        path=path,
        shape=shape,
        dtype=dtype,
        affine=affine,
        data_offset=data_offset,
        slope=slope,
        intercept=intercept,
        canonical_shape=(x, y, z),
        canonical_affine=canonical_affine,
        channels=channels,
        has_orientation=int(header["qform_code"]) > 0 or int(header["sform_code"]) > 0,
    )


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _read_start(path: Path) -> tuple[bytes, int]:
    """What the header is in, and how many bytes the file can hold at most, unpacked."""
    try:
        existing_file(path, expected="a NIfTI file, .nii or .nii.gz")
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise VolumeError(str(error)) from error
    try:
        size = path.stat().st_size
        with open_nifti(path) as file:
            block = file.read(nibabel.Nifti2Header.sizeof_hdr)
        return block, size * (_MAX_DEFLATE_RATIO if _is_gzip(path) else 1)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise VolumeError(f"{path}: cannot be read ({error}); copy the file again") from error


def _parse_header(path: Path, block: bytes) -> tuple[nibabel.Nifti1Header, int]:
    """The header as nibabel's struct, unchecked, and the first byte where voxels may start."""
    for kind, magic, magic_at in (
        (nibabel.Nifti1Header, b"n+1\0", 344),
        (nibabel.Nifti2Header, b"n+2\0", 4),
    ):
        length = kind.sizeof_hdr
        sizes = {int.from_bytes(block[:4], "little"), int.from_bytes(block[:4], "big")}
        if len(block) >= length and length in sizes:
            if block[magic_at : magic_at + 4] != magic:
                break
            endianness = "<" if int.from_bytes(block[:4], "little") == length else ">"
            # Unchecked: nibabel's own check mends some damage and only logs it.
            return kind(block[:length], endianness=endianness, check=False), length + 4
    raise VolumeError(
        f"{path}: not a single-file NIfTI (starts with {block[:4]!r}, {len(block)} header bytes); "
        "expected .nii or .nii.gz, convert the scan with dcm2niix or nibabel"
    )


def _checked_shape(
    path: Path, header: nibabel.Nifti1Header, *, images: bool
) -> tuple[tuple[int, int, int], int]:
    """Voxels along three axes, and how many volumes of them there are."""
    stored = [int(size) for size in header["dim"]]
    rank = stored[0]
    sizes = stored[1 : rank + 1] if 1 <= rank <= 7 else []
    if images and len(sizes) == rank == 2:
        sizes.append(1)
    volumes = [size for size in sizes[3:] if size != 1]
    most = 1 if images else 0
    if len(sizes) < max(3, rank) or min(sizes) < 1 or len(volumes) > most:
        raise VolumeError(
            f"{path}: expected one volume of three dimensions, its header has dim={stored}; "
            "for a time series save one volume or the mean as its own file"
        )
    return (sizes[0], sizes[1], sizes[2]), math.prod(volumes)


def _checked_dtype(path: Path, header: nibabel.Nifti1Header) -> np.dtype:
    try:
        dtype = np.dtype(header.get_data_dtype())
    except (HeaderDataError, KeyError, TypeError) as error:
        raise VolumeError(
            f"{path}: unknown NIfTI datatype code {int(header['datatype'])}; "
            "save the scan as int16 or float32"
        ) from error
    if dtype.kind not in "iuf" or dtype.itemsize * 8 != int(header["bitpix"]):
        raise VolumeError(
            f"{path}: its voxels are {dtype} (bitpix {int(header['bitpix'])}), expected real "
            "numbers; save the scan as int16 or float32"
        )
    return dtype


def _checked_affine(path: Path, header: nibabel.Nifti1Header) -> Float64[np.ndarray, "4 4"]:
    for name in ("qform_code", "sform_code"):
        if int(header[name]) not in _XFORM_CODES:
            raise VolumeError(
                f"{path}: its {name} is {int(header[name])}, expected 0 to {_XFORM_CODES[-1]}; "
                "the header is damaged, convert the scan again"
            )
    header = header.copy()
    # The standard reads a qfac of 0 as 1, and some programs write left-handed voxels by a sign.
    if header["pixdim"][0] == 0:
        header["pixdim"][0] = 1
    header["pixdim"][1:4] = np.abs(header["pixdim"][1:4])
    try:
        affine = np.asarray(header.get_best_affine(), np.float64)
    except (HeaderDataError, ValueError) as error:
        raise VolumeError(f"{path}: its affine is damaged ({error}); register it again") from error
    with np.errstate(over="ignore"):
        sizes_mm = voxel_sizes(affine)
    if not np.isfinite(affine).all() or not np.isfinite(sizes_mm).all():
        fault = "not finite"
    elif sizes_mm.min() == 0 or abs(np.linalg.det(affine[:3, :3] / sizes_mm)) < 1e-4:
        fault = "not invertible"
    else:
        return affine
    raise VolumeError(
        f"{path}: its affine is {fault}: {affine[:3].tolist()}; "
        "write the right sform or qform into the header"
    )
