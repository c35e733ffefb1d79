"""Pictures: every voxel is where it belongs, whole, and in the right grey."""

import inspect
import io

import numpy as np
import pytest
from PIL import Image as Pillow

from featvis_jax.results import pixels


@pytest.mark.parametrize("scale", [1, 3])
def test_a_slice_is_shown_with_its_second_axis_up(rng, scale):
    image = rng.random((5, 7, 1)).astype(np.float32)
    drawn = pixels.picture(image, window=(0.0, 1.0), scale=scale)
    assert drawn.shape == (7 * scale, 5 * scale)
    for x in range(5):
        for y in range(7):
            block = drawn[(6 - y) * scale : (7 - y) * scale, x * scale : (x + 1) * scale]
            assert np.unique(block).tolist() == [round(float(image[x, y, 0]) * 255)]


def test_a_volume_is_shown_as_axial_coronal_and_sagittal_middle_plane():
    volume = np.zeros((5, 7, 9, 1), np.float32)
    volume[4, 6, 4] = 1.0  # right and anterior, in the axial middle plane
    volume[4, 3, 8] = 0.8  # right and superior, in the coronal one
    volume[2, 6, 8] = 0.6  # anterior and superior, in the sagittal one
    drawn = pixels.picture(volume, window=(0.0, 1.0)).astype(int)
    axial, coronal, sagittal = drawn[2:, :5], drawn[:, 11:16], drawn[:, 22:29]
    assert axial.shape == (7, 5)
    assert axial[0, 4] == 255
    assert coronal[0, 4] == 204
    assert sagittal[0, 6] == 153
    for plane in (axial, coronal, sagittal):
        assert (plane > 0).sum() == 1
    # Between and above the planes there is paper.
    assert (drawn[:, 5:11] == 250).all()
    assert (drawn[:2, :5] == 250).all()


def test_the_window_maps_to_black_and_white_and_clips():
    image = np.array([-1, 0.2, 0.4, 0.6, 5]).reshape(5, 1, 1)
    assert pixels.picture(image, window=(0.2, 0.6)).tolist() == [[0, 0, 128, 255, 255]]


def test_pixels_that_are_not_a_number_are_a_checkerboard_in_every_window(rng):
    image = rng.random((40, 40, 1))
    sound = pixels.picture(image, window=(0.0, 1.0))
    image[8:24, 8:24] = np.nan
    image[30, 30] = -np.inf
    drawn = pixels.picture(image, window=(0.0, 1.0))
    broken = np.rot90(~np.isfinite(image[..., 0]))
    np.testing.assert_array_equal(drawn[~broken], sound[~broken])
    assert sorted(np.unique(drawn[broken])) == [150, 225]
    everywhere = pixels.picture(np.full((40, 40, 1), np.nan), window=(5.0, 6.0))
    assert (everywhere == 150).sum() == pytest.approx(800, rel=0.1)


@pytest.mark.parametrize("window", [(1.0, 0.0), (0.5, 0.5), (0.0, float("nan"))])
def test_a_window_that_is_none_is_refused(window):
    with pytest.raises(ValueError, match="rising order"):
        pixels.picture(np.zeros((3, 3, 1)), window=window)


@pytest.mark.parametrize("shape", [(3, 3), (3, 3, 2), (3, 3, 3, 2)])
def test_a_shape_that_is_no_image_is_refused(shape):
    with pytest.raises(ValueError, match=r"expected \(x, y, 1\)"):
        inspect.unwrap(pixels.picture)(np.zeros(shape), window=(0.0, 1.0))


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 3)])
def test_a_png_holds_the_pixels(rng, shape):
    drawn = rng.integers(0, 256, shape).astype(np.uint8)
    png = pixels.encode_png(drawn)
    np.testing.assert_array_equal(np.asarray(Pillow.open(io.BytesIO(png))), drawn)
    assert pixels.encode_png(np.asfortranarray(drawn)) == png


@pytest.mark.parametrize("drawn", [np.zeros((4, 6)), np.zeros((4, 6, 4), np.uint8)])
def test_a_png_of_something_else_is_refused(drawn):
    with pytest.raises(ValueError, match="expected uint8"):
        inspect.unwrap(pixels.encode_png)(drawn)
