"""Images as NIfTI-1 bytes and back, without touching the disk.

A picture of what a channel looks for is only useful to an imaging scientist if it lies where the
input lay. The affine of the input grid therefore travels with every image, the qform and sform
agree wherever a qform can say the same thing, and equal images give equal bytes.
"""

import gzip
import io
import itertools
import zlib
from typing import Literal

import nibabel
import numpy as np
from jaxtyping import Float
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

Affine = Float[np.ndarray, "4 4"]
"""From voxel indices to millimetres; None stands for a grid that nobody knows the place of."""

Space = Literal["scanner", "aligned", "talairach", "mni"]

# Below this many millimetres, a qform that differs from the affine says the same thing.
_AGREEMENT_MM = 1e-3
# Pictures of channels are close to noise: more effort costs seconds per volume and saves nothing.
_COMPRESSION = 1
# What gzip and nibabel raise on bytes that are cut off, changed or something else.
_DAMAGED = (
    EOFError, HeaderDataError, ImageFileError, OSError, ValueError, WrapStructError, zlib.error,
)  # fmt: skip


def encode_nifti(
    image: Float[np.ndarray, "*spatial 1"],
    affine: Affine | None,
    *,
    space: Space = "aligned",
    window: tuple[float, float] | None = None,
    unit: str | None = None,
    levels: Literal["float32", "uint8"] = "float32",
) -> bytes:
    """Encode an image as a gzip-compressed NIfTI-1 file.

    The voxel (i, j, k) lies at the world position affine @ (i, j, k, 1), in millimetres. A 2-D
    image is stored as one slice of shape (x, y, 1). The qform holds rotation and voxel size only;
    for an affine with shears it is marked unknown, so that no program places the image by it.
    Without an affine both are: the file says how many voxels there are, and not where.

    Args:
      image: Shape (x, y, 1) or (x, y, z, 1).
      affine: Shape (4, 4), from voxel indices to millimetres, invertible; None if the grid has no
        known place, side or voxel size.
      space: What the world coordinates are; the default claims no template.
      window: Intensities that a viewer should show as black and white. By default unset.
      unit: What the intensities are, for the field of the header that describes the file, which
        has room for 80 characters. By default unset.
      levels: "float32" keeps every value, NaN and infinity too; "uint8" has 256 of them between
        the smallest and the largest finite one, for a viewer: a quarter of the size.

    Returns:
      The bytes of a .nii.gz file. They hold no time and no name: equal input, equal bytes.

    Raises:
      ValueError: If the image is neither 2-D nor 3-D with one channel, or the affine is not an
        invertible, finite matrix of shape (4, 4).

    References:
      https://nifti.nimh.nih.gov/nifti-1

    Example:
      >>> image = np.linspace(0, 1, 12, dtype=np.float32).reshape(4, 3, 1)
      >>> decoded, affine = decode_nifti(encode_nifti(image, np.diag([2.0, 2.0, 2.0, 1.0])))
      >>> bool((decoded == image).all()), affine[0, 0].item()
      (True, 2.0)
    """
    if image.ndim not in (3, 4) or image.shape[-1] != 1 or 0 in image.shape:
        raise ValueError(
            f"image has shape {image.shape}; expected (x, y, 1) or (x, y, z, 1), none of them 0. "
            "Pass one unbatched image with its channel axis last."
        )
    matrix = None if affine is None else _checked(affine)
    volume = np.asarray(image if image.ndim == 3 else image[..., 0], np.float32)
    if levels == "uint8":
        finite = volume[np.isfinite(volume)]
        low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
        volume = np.nan_to_num(volume, nan=low, posinf=high, neginf=low)
    nifti = nibabel.Nifti1Image(volume, matrix)
    nifti.set_data_dtype(levels)  # Writing scales to the range of the values.
    if window is not None:
        nifti.header["cal_min"], nifti.header["cal_max"] = window
    if unit is not None:
        nifti.header["descrip"] = f"intensity: {unit}".encode()
    if matrix is not None:
        _place(nifti, matrix, space)
    return gzip.compress(nifti.to_bytes(), compresslevel=_COMPRESSION, mtime=0)


def encode_map(
    values: Float[np.ndarray, "*spatial components"],
    affine: Affine | None,
    *,
    degrees_of_freedom: int | None = None,
) -> bytes:
    """Encode what there is at every voxel beside an image: a number, or a vector.

    Vectors are stored along the fifth axis, as NIfTI has it, which viewers and statistics
    packages read as a vector image.

    Args:
      values: Shape (x, y, components) or (x, y, z, components).
      affine: As in `encode_nifti`.
      degrees_of_freedom: Of Student's t, where that is what the numbers are; the header then says
        so.

    Returns:
      The bytes of a .nii.gz file.

    Raises:
      ValueError: As `encode_nifti`.

    Example:
      >>> decode_map(encode_map(np.ones((5, 4, 3), np.float32), np.eye(4))).shape
      (5, 4, 3)
    """
    if values.shape[-1] == 1 and degrees_of_freedom is None:
        return encode_nifti(values, affine)
    matrix = None if affine is None else _checked(affine)
    volume = np.asarray(values if values.ndim == 4 else values[:, :, None], np.float32)
    if degrees_of_freedom is None:
        nifti = nibabel.Nifti1Image(volume[:, :, :, None], matrix)
        nifti.header.set_intent("vector")
    else:
        nifti = nibabel.Nifti1Image(volume[..., 0], matrix)
        nifti.header.set_intent("t test", (degrees_of_freedom,))
    if matrix is not None:
        _place(nifti, matrix, "aligned")
    return gzip.compress(nifti.to_bytes(), compresslevel=_COMPRESSION, mtime=0)


def decode_map(data: bytes) -> Float[np.ndarray, "*spatial components"]:
    """Decode what `encode_map` made.

    Args:
      data: The bytes of a .nii.gz file.

    Raises:
      ValueError: If the bytes are no complete gzip-compressed NIfTI-1 file.
    """
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
            volume = np.asarray(nibabel.Nifti1Image.from_bytes(stream.read()).dataobj, np.float32)
    except _DAMAGED as error:
        raise ValueError(f"not a complete .nii.gz image: {error}") from error
    values = volume[..., 0, :] if volume.ndim == 5 else volume[..., None]
    return values[:, :, 0] if values.shape[2] == 1 else values


def _place(nifti: nibabel.Nifti1Image, matrix: Affine, space: Space) -> None:
    """Say in the header where an image lies."""
    nifti.header.set_xyzt_units("mm")
    nifti.set_qform(matrix, code=space)
    if _largest_disagreement_mm(nifti.get_qform(), matrix, nifti.shape[:3]) > _AGREEMENT_MM:
        nifti.set_qform(None, code="unknown")
    nifti.set_sform(matrix, code=space)


def _checked(affine: Affine) -> Affine:
    """Return an affine in float64 that places every voxel somewhere else."""
    matrix = np.asarray(affine, np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise ValueError(f"affine must be a finite matrix of shape (4, 4); got {matrix!r}.")
    if abs(np.linalg.det(matrix[:3, :3])) < 1e-12 or (matrix[3] != (0, 0, 0, 1)).any():
        raise ValueError(
            f"affine must be invertible with the last row 0, 0, 0, 1; got {matrix.tolist()}. "
            "Pass the affine of the grid that the model's input lies on."
        )
    return matrix


def decode_nifti(data: bytes) -> tuple[Float[np.ndarray, "*spatial 1"], Affine | None]:
    """Decode what `encode_nifti` made.

    Args:
      data: The bytes of a .nii.gz file.

    Returns:
      The image, float32 of shape (x, y, 1) if the file holds one slice, else (x, y, z, 1); and
      the affine, float64 from voxel indices to millimetres, None if neither qform nor sform is
      set.

    Raises:
      ValueError: If the bytes are no complete gzip-compressed NIfTI-1 file of one volume.

    Example:
      >>> decode_nifti(encode_nifti(np.zeros((5, 4, 3, 1), np.float32), np.eye(4)))[0].shape
      (5, 4, 3, 1)
    """
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
            nifti = nibabel.Nifti1Image.from_bytes(stream.read())
        volume = np.asarray(nifti.dataobj, np.float32)
    except _DAMAGED as error:
        raise ValueError(f"not a complete .nii.gz image: {error}") from error
    if volume.ndim != 3 or nifti.affine is None:
        raise ValueError(f"expected a NIfTI file of one volume; got shape {volume.shape}.")
    placed = int(nifti.header["qform_code"]) > 0 or int(nifti.header["sform_code"]) > 0
    image = volume if volume.shape[2] == 1 else volume[..., None]
    return image, nifti.affine if placed else None


def proposed_window(data: bytes) -> tuple[float, float] | None:
    """Return the intensities that a file asks viewers to show as black and white.

    Args:
      data: The bytes of a .nii.gz file.

    Returns:
      The `window` of `encode_nifti`; None if it was not set.

    Raises:
      ValueError: If the bytes do not begin with a NIfTI-1 header.

    Example:
      >>> proposed_window(encode_nifti(np.zeros((5, 4, 1)), np.eye(4), window=(0.0, 0.5)))
      (0.0, 0.5)
    """
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
            header = nibabel.Nifti1Header.from_fileobj(stream)
    except _DAMAGED as error:
        raise ValueError(f"not a complete .nii.gz image: {error}") from error
    low, high = float(header["cal_min"]), float(header["cal_max"])
    return (low, high) if low < high else None


def _largest_disagreement_mm(
    first: Float[np.ndarray, "4 4"], second: Float[np.ndarray, "4 4"], shape: tuple[int, ...]
) -> float:
    """Return how far apart two affines place the corner of a grid that they disagree on most."""
    corners = np.array([(*corner, 1) for corner in itertools.product(*((0, n - 1) for n in shape))])
    difference = (corners @ (first - second).T)[:, :3]
    return float(np.linalg.norm(difference, axis=1).max())
