"""Resizing and random resized crops against SciPy and Keys' definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from featvis_jax.maximize import transforms as t
from featvis_jax.maximize.transforms.resizing import draw_crop

KEY = jax.random.key(8)
SHAPES = {"2-D": (18, 23), "3-D": (9, 12, 10)}


def image_of(shape):
    return jax.random.uniform(jax.random.key(9), (*shape, 1))


def zoom(image, sides, order):
    """SciPy's resampling on grids whose outer faces coincide."""
    factors = np.array(sides) / image.shape
    return scipy.ndimage.zoom(image, factors, order=order, mode="nearest", grid_mode=True)


def keys_weights(old, new, beyond):
    """Keys' cubic along one axis; what it asks for beyond the edge is dropped or repeated."""
    matrix = np.zeros((new, old))
    for row in range(new):
        place = (row + 0.5) * old / new - 0.5
        for tap in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
            s = abs(place - tap)
            far = -0.5 * s**3 + 2.5 * s**2 - 4 * s + 2
            weight = 1.5 * s**3 - 2.5 * s**2 + 1 if s < 1 else far
            if beyond == "repeat":
                matrix[row, min(max(tap, 0), old - 1)] += weight
            elif 0 <= tap < old:
                matrix[row, tap] += weight
    return matrix / matrix.sum(axis=1, keepdims=True)


def cubic(image, sides, beyond):
    for axis, side in enumerate(sides):
        weights = keys_weights(image.shape[axis], side, beyond)
        image = np.moveaxis(np.tensordot(weights, image, (1, axis)), 0, axis)
    return image


def resized(image, sides, interpolation, beyond):
    if interpolation == "cubic":
        return cubic(image, sides, beyond)
    return zoom(image, sides, {"nearest": 0, "linear": 1}[interpolation])


@pytest.mark.parametrize("interpolation", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("factor", [0.55, 1.45])
def test_resize_there_and_back_agrees_with_the_reference(factor, shape, interpolation):
    image = image_of(shape)
    sides = tuple(round(factor * side) for side in shape)
    expected = resized(np.asarray(image[..., 0], float), sides, interpolation, "drop")
    expected = resized(expected, shape, interpolation, "drop")
    by_factor = t.resize(factor=factor, interpolation=interpolation)(KEY, image, 0)
    np.testing.assert_allclose(by_factor[..., 0], expected, atol=1e-4)
    by_size = t.resize(size=sides, interpolation=interpolation)(KEY, image, 0)
    np.testing.assert_array_equal(by_size, by_factor)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_resize_onto_the_grid_pads_or_crops_about_the_centre(shape):
    image = image_of(shape)
    plain = np.asarray(image[..., 0], float)
    half = tuple(side // 2 for side in shape)
    shrunk = t.resize(size=half, onto_grid="crop", fill=0.3)(KEY, image, 0)[..., 0]
    expected = np.full(shape, 0.3)
    window = tuple(
        slice((side - small) // 2, (side - small) // 2 + small)
        for side, small in zip(shape, half, strict=True)
    )
    expected[window] = zoom(plain, half, 1)
    np.testing.assert_allclose(shrunk, expected, atol=1e-4)
    twice = tuple(2 * side for side in shape)
    enlarged = t.resize(factor=2.0, onto_grid="crop")(KEY, image, 0)[..., 0]
    # An odd surplus leaves its larger part behind the image, as the padding does.
    window = tuple(slice(-((-side) // 2), -((-side) // 2) + side) for side in shape)
    np.testing.assert_allclose(enlarged, zoom(plain, twice, 1)[window], atol=1e-4)


def test_antialiasing_averages_where_voxels_would_be_skipped():
    stripes = jnp.tile(jnp.array([0.0, 1.0, 0.0]), 8)[:, None, None] * jnp.ones((1, 24, 1))
    third = stripes.shape[0] // 3
    skipped = t.resize(size=third)(KEY, stripes, 0)
    averaged = t.resize(size=third, antialias=True)(KEY, stripes, 0)
    np.testing.assert_allclose(skipped, 1.0, atol=1e-6)
    np.testing.assert_allclose(averaged[6:-6], 1 / 3, atol=1e-6)


@pytest.mark.parametrize("interpolation", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_random_resized_crop_is_its_box_resized(shape, interpolation):
    image = image_of(shape)
    transform = jax.jit(t.random_resized_crop(interpolation=interpolation))
    for key in jax.random.split(KEY, 5):
        start, sides = draw_crop(key, shape, (0.08, 1.0), (3 / 4, 4 / 3))
        box = tuple(
            slice(int(first), int(first) + int(side))
            for first, side in zip(start, sides, strict=True)
        )
        crop = np.asarray(image[..., 0], float)[box]
        assert crop.shape == tuple(int(side) for side in sides)
        result = transform(key, image, 0)[..., 0]
        if interpolation == "nearest":
            # Where a place falls midway between voxels, either is right.
            places = [
                (np.arange(n) + 0.5) * m / n - 0.5 for n, m in zip(shape, crop.shape, strict=True)
            ]
            lower = crop[np.ix_(*[np.floor(c + 0.5 - 1e-4).astype(int) for c in places])]
            upper = crop[np.ix_(*[np.floor(c + 0.5 + 1e-4).astype(int) for c in places])]
            clear = lower == upper
            assert clear.mean() > 0.5
            np.testing.assert_array_equal(
                np.asarray(result)[clear], lower.astype(np.float32)[clear]
            )
        else:
            expected = resized(crop, shape, interpolation, "repeat")
            np.testing.assert_allclose(result, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: t.resize(), "resize: none given; expected exactly one of size, factor"),
        (lambda: t.resize(size=4, factor=0.5), "resize: size and factor given"),
        (lambda: t.resize(factor=0.0), r"factor=0.0 .* \(0, inf\]"),
        (lambda: t.resize(size=(4, 0)), "size=0; expected an integer of at least 1"),
        (lambda: t.resize(size=4, onto_grid="pad"), "onto_grid='pad'; expected one of resample"),
        (lambda: t.random_resized_crop(area=(0.5, 1.5)), r"area=1.5 .* \(0, 1\]"),
        (lambda: t.random_resized_crop(area=(0.9, 0.5)), "expected the smallest and the largest"),
        (lambda: t.random_resized_crop(ratio=(0.0, 1.0)), r"ratio=0.0 .* \(0, inf\]"),
    ],
)
def test_bad_options_raise_where_they_are_given(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_size_for_another_rank_is_refused():
    with pytest.raises(ValueError, match=r"size=\(4, 5, 6\) for an image with 2 spatial axes"):
        t.resize(size=(4, 5, 6))(KEY, image_of((8, 8)), 0)
