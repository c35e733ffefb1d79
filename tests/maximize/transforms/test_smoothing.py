"""Gaussian blur, bilateral and median filter against SciPy, dm-pix and definitions."""

import itertools

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.ndimage

from featvis_jax.maximize import transforms as t
from featvis_jax.maximize.transforms.windows import box_median

KEY = jax.random.key(0)
SHAPES = {"2-D": (19, 24), "3-D": (9, 12, 11)}


def image_of(shape, channels=1):
    return jax.random.uniform(jax.random.key(6), (*shape, channels))


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_gaussian_blur_agrees_with_scipy(shape, sigma):
    image = image_of(shape, channels=2)
    result = jax.jit(t.gaussian_blur(sigma=sigma))(KEY, image, 0)
    expected = scipy.ndimage.gaussian_filter(
        np.asarray(image, float), [sigma] * len(shape) + [0], mode="nearest"
    )
    np.testing.assert_allclose(result, expected, atol=1e-6)


def test_gaussian_blur_agrees_with_dm_pix_away_from_the_edge():
    image = image_of((30, 31), channels=3)
    ours = t.gaussian_blur(sigma=1.3, radius=5)(KEY, image, 0)
    theirs = dm_pix.gaussian_blur(image, 1.3, kernel_size=11)
    inside = (slice(5, -5), slice(5, -5))
    np.testing.assert_allclose(ours[inside], theirs[inside], atol=1e-6)
    # The same code in 3-D, along an axis where nothing varies.
    volume = jnp.repeat(image[:, :, None], 4, axis=2)
    blurred = t.gaussian_blur(sigma=1.3, radius=5)(KEY, volume, 0)
    for position in range(4):
        np.testing.assert_allclose(blurred[:, :, position][inside], theirs[inside], atol=1e-6)


def test_gaussian_blur_follows_a_schedule_of_the_step():
    image = image_of((16, 16))
    schedule = optax.linear_schedule(1.5, 0.3, 100)
    with jax.numpy_dtype_promotion("standard"):
        scheduled = jax.jit(t.gaussian_blur(sigma=schedule, radius=6))
        results = [scheduled(KEY, image, jnp.int32(step)) for step in (0, 50, 100, 200)]
    for result, sigma in zip(results, (1.5, 0.9, 0.3, 0.3), strict=True):
        expected = t.gaussian_blur(sigma=sigma, radius=6)(KEY, image, 0)
        np.testing.assert_allclose(result, expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(7, 9), (5, 4, 6)], ids=["2-D", "3-D"])
def test_the_gradient_of_a_blur_is_its_transpose(shape):
    # The kernel reaches further than the image is wide.
    transform = t.gaussian_blur(sigma=2.0)
    matrices = _blur_matrices(shape, 2.0)
    y = jax.random.normal(KEY, (*shape, 1))

    @jax.jit
    def blurred_and_pulled_back(image, y):
        result, transpose = jax.vjp(lambda image: transform(KEY, image, 0), image)
        return result, transpose(y)[0]

    result, pulled_back = blurred_and_pulled_back(image_of(shape), y)
    transposed = _along_every_axis([matrix.T for matrix in matrices], y)
    np.testing.assert_allclose(pulled_back, transposed, atol=1e-5)
    expected = _along_every_axis(matrices, image_of(shape))
    np.testing.assert_allclose(result, expected, atol=1e-5)


def _blur_matrices(shape, sigma):
    """The blur as a matrix for each axis."""
    reach = int(4 * sigma + 0.5)
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    matrices = []
    for side in shape:
        matrix = np.zeros((side, side))
        for row, (offset, tap) in itertools.product(
            range(side), zip(range(-reach, reach + 1), taps / taps.sum(), strict=True)
        ):
            matrix[row, min(max(row + offset, 0), side - 1)] += tap
        matrices.append(matrix)
    return matrices


def _along_every_axis(matrices, image):
    image = np.asarray(image, np.float64)
    for axis, matrix in enumerate(matrices):
        image = np.moveaxis(np.tensordot(matrix, image, (1, axis)), 0, axis)
    return image


def slow_bilateral(image, sigma_space, sigma_intensity, half_width):
    padded = np.pad(image, half_width, mode="edge")
    result = np.empty_like(image)
    for voxel in np.ndindex(image.shape):
        window = padded[tuple(slice(i, i + 2 * half_width + 1) for i in voxel)]
        grid = np.indices(window.shape) - half_width
        weights = np.exp(-(grid**2).sum(axis=0) / (2 * sigma_space**2))
        weights *= np.exp(-((window - image[voxel]) ** 2) / (2 * sigma_intensity**2))
        result[voxel] = (weights * window).sum() / weights.sum()
    return result


@pytest.mark.parametrize("shape", [(13, 14), (6, 7, 8)], ids=["2-D", "3-D"])
def test_bilateral_agrees_with_its_definition(shape):
    image = image_of(shape)
    transform = t.bilateral(sigma_space=1.5, sigma_intensity=0.2, half_width=2)
    expected = slow_bilateral(np.asarray(image[..., 0], float), 1.5, 0.2, 2)
    np.testing.assert_allclose(jax.jit(transform)(KEY, image, 0)[..., 0], expected, atol=1e-6)


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("shape", [(13, 14), (6, 7, 8)], ids=["2-D", "3-D"])
def test_median_agrees_with_scipy(shape, size):
    # Negative numbers, zeros of both signs and ties, for the order of their bit patterns.
    image = np.round(np.asarray(jax.random.normal(KEY, shape)), 1)
    image[0, 0] = -0.0
    result = jax.jit(t.median(size=size))(KEY, jnp.asarray(image)[..., None], 0)
    expected = scipy.ndimage.median_filter(image, size=size, mode="nearest")
    np.testing.assert_array_equal(result[..., 0], expected)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.float32])
def test_box_median_of_extreme_numbers(dtype):
    limits = jnp.finfo(dtype)
    values = [limits.max, limits.tiny, 0.0, -limits.tiny, -limits.max, 1.0, -1.0, 2.0, 3.0]
    box = jnp.array(values, dtype).reshape(3, 3, 1)
    np.testing.assert_array_equal(
        box_median(box, 3), jnp.array(limits.tiny, dtype).reshape(1, 1, 1)
    )


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: t.gaussian_blur(sigma=-1.0), r"sigma=-1.0 .* \[0, inf\]"),
        (lambda: t.gaussian_blur(sigma=1.0, radius=-1), "radius=-1; expected an integer"),
        (lambda: t.gaussian_blur(sigma=lambda step: 1.0), "radius=None with a schedule"),
        (lambda: t.bilateral(sigma_space=0.0), r"sigma_space=0.0 .* \(0, inf\]"),
        (lambda: t.bilateral(sigma_intensity=0.0), r"sigma_intensity=0.0 .* \(0, inf\]"),
        (lambda: t.bilateral(half_width=0), "half_width=0; expected an integer of at least 1"),
        (lambda: t.median(size=4), "size=4 is even; expected an odd integer, such as 5"),
        (lambda: t.median(size=0), "size=0; expected an integer of at least 1"),
    ],
)
def test_bad_options_raise_where_they_are_given(build, message):
    with pytest.raises(ValueError, match=message):
        build()
