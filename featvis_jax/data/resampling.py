"""Volumes on coarser voxels."""

from __future__ import annotations

import nibabel
import numpy as np
from nibabel.affines import voxel_sizes

from featvis_jax.data.volumes import Volume


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
    # The new grid begins at the same corner, not at the same centre of a voxel.
    ratio = voxel_size_mm / old
    scaling = np.diag([*ratio, 1.0])
    scaling[:3, 3] = (ratio - 1) / 2
    shape = [max(1, round(n / r)) for n, r in zip(volume.data.shape, ratio, strict=True)]
    new = nilearn_image.resample_img(
        smooth,
        target_affine=volume.affine @ scaling,
        target_shape=shape,
        interpolation="linear",
        copy_header=True,
        force_resample=True,
    )
    assert new.affine is not None
    return Volume(np.maximum(np.asarray(new.dataobj, np.float32), 0.0), new.affine)
