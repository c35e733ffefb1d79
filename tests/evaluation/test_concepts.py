"""The shapes that pictures are asked for: their areas, axes and outlines."""

import numpy as np
import pytest
from scipy import ndimage

from featvis_jax.evaluation.concepts import (
    TEMPLATES,
    along_every_axis,
    local_deviation,
    outlines,
    rivals,
)


def test_all_templates_have_one_area():
    axis = np.arange(-40, 40) + 0.5
    offsets = np.stack(np.meshgrid(axis, axis, indexing="ij"))
    for name in ("square", "disc", "line"):
        assert TEMPLATES[name](offsets, 24.0).sum() == pytest.approx(24.0**2, rel=0.03)


@pytest.mark.parametrize("rank", [2, 3])
def test_a_soft_disc_has_the_outline_of_a_disc_and_a_square_has_not(rank):
    assert rivals("gaussian", rank=rank) == ["square", "line"]
    found = outlines(["square", "gaussian", "disc", "line"], rank=rank)
    assert found == {"square": ("square",), "gaussian": ("gaussian", "disc"), "line": ("line",)}


@pytest.mark.parametrize("rank", [2, 3])
def test_a_bar_is_one_along_any_axis(rank):
    turned = along_every_axis(TEMPLATES["line"], rank)
    offsets = np.stack(np.meshgrid(*[np.arange(-12, 12) + 0.5] * rank, indexing="ij"))
    extents = [
        [int(np.ptp(np.argwhere(d(offsets, 8.0))[:, a])) for a in range(rank)] for d in turned
    ]
    assert [int(np.argmax(extent)) for extent in extents] == list(range(rank))
    assert len(along_every_axis(TEMPLATES["square"], rank)) == 1


def test_the_deviation_of_every_window_is_that_of_its_voxels(rng):
    plane = rng.standard_normal((12, 14))
    found = local_deviation(plane - plane.mean(), 5)
    windows = np.lib.stride_tricks.sliding_window_view(plane, (5, 5))
    np.testing.assert_allclose(found, 5 * windows.std(axis=(2, 3)), rtol=1e-6)
    faint = ndimage.gaussian_filter(1.0 * (np.indices((40, 40)).sum(axis=0) == 10), 1)
    assert local_deviation(faint - faint.mean(), 5).min() > 0
