"""Volumes, and whole cohorts, on coarser voxels."""

from __future__ import annotations

import dataclasses

import nibabel
import numpy as np
from nibabel.affines import voxel_sizes

from featvis_jax.data.cohorts import Cohort
from featvis_jax.data.errors import CohortError
from featvis_jax.data.grids import Grid
from featvis_jax.data.volumes import Volume

# Voxels that differ by less than this share have one size: affines in files are rounded.
_SAME = 0.01


def resampled_cohort(cohort: Cohort, voxel_size_mm: float) -> Cohort:
    """A cohort whose scans are brought to coarser voxels when they are read.

    Args:
      cohort: The cohort; nothing of it is read here.
      voxel_size_mm: Side of the new voxels, the same along every axis.

    Returns:
      The cohort with the shape, the affine and the voxel size that its scans will have; the cohort
      as it is where they have that size.

    Raises:
      CohortError: Its voxels are larger: nothing would be gained.
    """
    sizes = np.asarray(voxel_sizes(cohort.affine))
    if np.allclose(sizes, voxel_size_mm, rtol=_SAME):
        return cohort
    if (sizes > voxel_size_mm * (1 + _SAME)).any():
        raise CohortError(
            f"{cohort.table}: its scans have voxels of {sizes.round(3).tolist()} mm, which are not "
            f"brought to {voxel_size_mm:g} mm: ask for voxels as large or larger."
        )
    grid = coarser(Grid(cohort.shape, cohort.affine), voxel_size_mm)
    return dataclasses.replace(
        cohort, shape=grid.box, affine=grid.affine, resampled_mm=float(voxel_size_mm)
    )


def coarser(grid: Grid, voxel_size_mm: float) -> Grid:
    """The grid of coarser voxels that begins at the same corner, whole to half a voxel.

    Args:
      grid: Of a volume.
      voxel_size_mm: Side of the new voxels.

    Raises:
      ValueError: The grid does not tell where it lies.

    Example:
      >>> coarse = coarser(Grid((8, 10, 5), np.eye(4)), 2.0)
      >>> coarse.shape, coarse.affine[0].tolist()
      ((4, 5, 2), [2.0, 0.0, 0.0, 0.5])
    """
    if grid.affine is None:
        raise ValueError("A grid without an affine has no voxel size.")
    ratio = voxel_size_mm / np.asarray(voxel_sizes(grid.affine))
    scaling = np.diag([*ratio, 1.0])
    # Not at the same centre of a voxel.
    scaling[:3, 3] = (ratio - 1) / 2
    shape = tuple(max(1, round(n / r)) for n, r in zip(grid.box, ratio, strict=True))
    return Grid(shape, grid.affine @ scaling)


def resampled(volume: Volume, voxel_size_mm: float) -> Volume:
    """A volume on a coarser grid that begins at the same corner.

    It is smoothed to the new voxel size first, so that nothing finer folds back.

    Args:
      volume: The volume.
      voxel_size_mm: Side of the new voxels.

    Example:
      >>> fine = Volume(np.random.default_rng(0).random((8, 10, 6), np.float32), np.eye(4))
      >>> coarse = resampled(fine, 2.0)
      >>> coarse.data.shape, coarse.affine[0].tolist()
      ((4, 5, 3), [2.0, 0.0, 0.0, 0.5])
    """
    # Imported here: it takes seconds, and most runs resample nothing.
    from nilearn import image as nilearn_image

    scan = nibabel.Nifti1Image(volume.data, volume.affine)
    old = np.asarray(voxel_sizes(volume.affine))
    # Widths add as squares: an old voxel blurred by this is as wide as a new one.
    widths = np.sqrt(np.maximum(voxel_size_mm**2 - old**2, 0.0))
    smooth = nilearn_image.smooth_img(scan, fwhm=[float(width) for width in widths])
    grid = coarser(Grid(volume.data.shape, volume.affine), voxel_size_mm)
    new = nilearn_image.resample_img(
        smooth,
        target_affine=grid.affine,
        target_shape=grid.shape,
        interpolation="linear",
        copy_header=True,
        force_resample=True,
    )
    assert new.affine is not None
    return Volume(np.maximum(np.asarray(new.dataobj, np.float32), 0.0), new.affine)
