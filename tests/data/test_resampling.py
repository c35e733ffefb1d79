"""Coarser volumes lie where the fine ones do, and are as bright."""

import numpy as np
import pytest
from nibabel.affines import apply_affine, voxel_sizes

from featvis_jax.data.resampling import resampled
from featvis_jax.data.volumes import Volume


def center_mm(volume: Volume) -> np.ndarray:
    return apply_affine(volume.affine, np.argwhere(volume.data > 50).mean(axis=0))


def test_a_coarser_volume_keeps_its_place_and_its_brightness(rng):
    data = np.zeros((40, 44, 36), np.float32)
    data[8:32, 10:34, 6:30] = 100 + 10 * rng.standard_normal((24, 24, 24))
    fine = Volume(data, np.array([[1.0, 0, 0, -20], [0, 1, 0, -25], [0, 0, 1, -10], [0, 0, 0, 1]]))
    coarse = resampled(fine, 2.0)
    assert coarse.data.shape == (20, 22, 18)
    np.testing.assert_allclose(voxel_sizes(coarse.affine), 2.0)
    # Both grids begin at the same corner, so that nothing is cut off.
    corner = [-0.5, -0.5, -0.5, 1.0]
    np.testing.assert_allclose(coarse.affine @ corner, fine.affine @ corner, atol=1e-6)
    assert coarse.data[7:13, 8:14, 6:12].mean() == pytest.approx(100, rel=0.02)
    np.testing.assert_allclose(center_mm(coarse), center_mm(fine), atol=0.6)


def test_what_is_finer_than_the_new_voxels_does_not_fold_back():
    data = np.zeros((24, 24, 24), np.float32)
    data[::2] = 100.0  # Planes of one voxel would be all there, or not at all.
    coarse = resampled(Volume(data, np.eye(4)), 2.0)
    inner = coarse.data[3:-3, 3:-3, 3:-3]
    np.testing.assert_allclose(inner, 50.0, atol=12.0)
