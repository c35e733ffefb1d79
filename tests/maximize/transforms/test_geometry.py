"""Rotation, scaling, flips and shifts against SciPy, scikit-image, dm-pix and Keys' definition."""

import itertools

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import skimage.transform

from featvis_jax.maximize import transforms as t
from featvis_jax.maximize.transforms.base import AffineMap
from featvis_jax.maximize.transforms.gathering import gather_affine

SHAPES = {"2-D": (21, 26), "3-D": (8, 10, 9)}
KEY = jax.random.key(42)


def image_of(shape, channels=1):
    return jax.random.uniform(jax.random.key(9), (*shape, channels))


def keys_kernel(distance):
    """The cubic of Keys 1981 with a = -1/2, on its two intervals."""
    s = np.abs(distance)
    near = 1.5 * s**3 - 2.5 * s**2 + 1
    far = -0.5 * s**3 + 2.5 * s**2 - 4 * s + 2
    return np.select([s < 1, s < 2], [near, far])


def slow_cubic(image, matrix, offset, fill):
    """Keys' interpolation tap by tap, in float64, with a constant beyond the grid."""
    voxels = np.indices(image.shape).reshape(image.ndim, -1)
    places = matrix @ voxels + offset[:, None]
    total = np.zeros(places.shape[1])
    for tap in itertools.product(range(-1, 3), repeat=image.ndim):
        index = np.floor(places).astype(int) + np.array(tap)[:, None]
        weight = np.prod(keys_kernel(places - index), axis=0)
        inside = ((index >= 0) & (index < np.array(image.shape)[:, None])).all(axis=0)
        index = np.where(inside, index, 0)
        total += weight * np.where(inside, image[tuple(index)], fill)
    return total.reshape(image.shape)


def reference(image, affine, interpolation, fill):
    """Resampling through an affine map about the centre, by SciPy or by definition."""
    matrix = np.asarray(affine.matrix, float)
    centre = (np.array(image.shape) - 1) / 2
    offset = centre - matrix @ centre + np.asarray(affine.offset, float)
    if interpolation == "cubic":
        return slow_cubic(image, matrix, offset, fill)
    order = {"nearest": 0, "linear": 1}[interpolation]
    return scipy.ndimage.affine_transform(
        image, matrix, offset, order=order, mode="grid-constant", cval=fill
    )


@pytest.mark.parametrize("interpolation", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("kind", ["rotate", "scale", "chain"])
def test_maps_agree_with_the_reference(kind, shape, interpolation):
    fill = 0.7
    options = {"interpolation": interpolation, "fill": fill}
    rotation = t.rotate(max_degrees=80.0, **options)
    scaling = t.scale(low=0.6, high=1.5, **options)
    chained = t.chain(rotation, scaling, t.translate(max_voxels=3, fill=fill), t.flip())
    transform = {"rotate": rotation, "scale": scaling, "chain": chained}[kind]
    image = image_of(shape, channels=2)
    result = jax.jit(transform)(KEY, image, 0)
    affine = transform.geometry.draw(KEY, shape)
    assert not np.allclose(affine.matrix, np.eye(len(shape)), atol=0.01)
    for channel in range(2):
        expected = reference(np.asarray(image[..., channel], float), affine, interpolation, fill)
        np.testing.assert_allclose(result[..., channel], expected, atol=1e-4)


@pytest.mark.parametrize(("interpolation", "order"), [("nearest", 0), ("linear", 1), ("cubic", 3)])
def test_rotation_by_a_given_angle_agrees_with_the_libraries(interpolation, order):
    image = np.asarray(image_of((24, 31))[..., 0], float)
    rotation = t.rotate(degrees=[23.0], interpolation=interpolation, fill=0.2)
    result = rotation(KEY, jnp.asarray(image, jnp.float32)[..., None], 0)[..., 0]
    if order < 3:
        # SciPy's order 3 is a spline with a prefilter, another interpolation than Keys'.
        expected = scipy.ndimage.rotate(
            image, 23.0, reshape=False, order=order, mode="grid-constant", cval=0.2
        )
        np.testing.assert_allclose(result, expected, atol=1e-4)
    if order > 0:
        # Its own kernels for images; at order 0 it rounds ties and edges in its own way.
        expected = skimage.transform.rotate(
            image, 23.0, order=order, mode="constant", cval=0.2, clip=False
        )
        inside = (slice(2, -2), slice(2, -2))
        rotated_grid = skimage.transform.rotate(np.ones_like(image), 23.0, order=1)[inside] > 0.999
        difference = np.abs(np.asarray(result) - expected)[inside][rotated_grid]
        assert difference.size > 300
        assert difference.max() <= 1e-4


def test_dm_pix_agrees_in_two_dimensions_and_slice_by_slice_in_three():
    image = image_of((20, 20))
    ours = t.rotate(degrees=[31.0])(KEY, image, 0)

    def turned_by_dm_pix(image):
        # It mixes integers and floats.
        with jax.numpy_dtype_promotion("standard"):
            return dm_pix.rotate(image, float(np.deg2rad(31.0)), mode="constant")

    def assert_alike(ours, theirs):
        # Between the last voxel and the outside dm-pix gives 0 at once, where ours fades out.
        inside = np.asarray(theirs) != 0
        assert inside.mean() > 0.7
        np.testing.assert_allclose(np.asarray(ours)[inside], np.asarray(theirs)[inside], atol=1e-5)

    assert_alike(ours, turned_by_dm_pix(image))
    # The gather of volumes, about the third axis, turns every slice like dm-pix does.
    volume = jnp.stack([image, image[::-1], image.swapaxes(0, 1)], axis=2)
    plane = t.rotate(degrees=[31.0]).geometry.draw(KEY, (20, 20)).matrix
    affine = AffineMap(jnp.eye(3).at[:2, :2].set(plane), jnp.zeros(3))
    turned = gather_affine(volume, affine, "linear", 1.0)
    for position in range(3):
        assert_alike(turned[:, :, position], turned_by_dm_pix(volume[:, :, position]))


def test_flips_agree_with_dm_pix():
    image = image_of((6, 7), channels=3)
    for axis, flipped in [(0, dm_pix.flip_up_down), (1, dm_pix.flip_left_right)]:
        mirrored = t.flip(axes=(axis,), probability=1.0)(KEY, image, 0)
        np.testing.assert_array_equal(mirrored, flipped(image))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(
    "transform",
    [t.translate(max_fraction=0.3, fill=0.4), t.translate(max_voxels=5), t.flip(axes=(0, 1))],
    ids=["fraction", "voxels", "flip"],
)
def test_copying_voxels_equals_the_affine_map(transform, shape):
    image = image_of(shape)
    for key in jax.random.split(KEY, 4):
        affine = transform.geometry.draw(key, shape)
        fill = transform.geometry.fill or 0.0
        expected = reference(np.asarray(image[..., 0], float), affine, "linear", fill)
        np.testing.assert_allclose(transform(key, image, 0)[..., 0], expected, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_roll_is_a_circular_shift(shape):
    image = image_of(shape)
    rolled = np.asarray(t.roll(max_voxels=4)(KEY, image, 0))
    shifts = itertools.product(range(-4, 5), repeat=len(shape))
    axes = tuple(range(len(shape)))
    assert any(np.array_equal(rolled, np.roll(image, shift, axes)) for shift in shifts)


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "symmetric", "wrap"])
def test_pad_and_crop_is_a_window_of_the_padded_image(mode):
    image = image_of((9, 11))
    cut = np.asarray(t.pad_and_crop(padding=3, mode=mode)(KEY, image, 0))
    padded = np.pad(np.asarray(image), [(3, 3), (3, 3), (0, 0)], mode)
    windows = (padded[i : i + 9, j : j + 11] for i in range(7) for j in range(7))
    assert any(np.array_equal(cut, window) for window in windows)


@pytest.mark.parametrize("interpolation", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("shape", [(11, 13), (5, 6, 7)], ids=["2-D", "3-D"])
def test_the_gathered_gradient_is_the_transpose(shape, interpolation):
    # For a linear map A, <A x, y> = <x, A^T y>, and A^T is what the gradient computes.
    parts = [
        t.rotate(max_degrees=180.0, interpolation=interpolation),
        t.scale(low=0.5, high=1.6, interpolation=interpolation),
        t.translate(max_voxels=3),
    ]
    transform = t.chain(*parts)

    @jax.jit
    @jax.vmap
    def both_sides(key):
        x_key, y_key = jax.random.split(key)
        x = jax.random.normal(x_key, (*shape, 2))
        y = jax.random.normal(y_key, (*shape, 2))
        result, transpose = jax.vjp(lambda image: transform(key, image, 0), x)
        return (result * y).sum(), (x * transpose(y)[0]).sum()

    left, right = both_sides(jax.random.split(KEY, 8))
    np.testing.assert_allclose(left, right, atol=5e-4)
    assert bool((jnp.abs(left) > 0.1).any())


def test_images_of_other_ranks_are_refused():
    line = jnp.ones((8, 1))
    for transform in (t.rotate(max_degrees=10), t.random_resized_crop()):
        with pytest.raises(ValueError, match="1 spatial axes came; expected 2 or 3"):
            transform(KEY, line, 0)
    with pytest.raises(ValueError, match=r"flip: axes=\(2,\) .* expected axes in \[0, 1\]"):
        t.flip(axes=(2,))(KEY, image_of((4, 4)), 0)
    with pytest.raises(ValueError, match=r"roll: max_voxels=9 .* at most its shortest side, 4"):
        t.roll(max_voxels=9)(KEY, image_of((4, 20)), 0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: t.rotate(max_degrees=181.0), r"max_degrees=181.0 .* \[0, 180\]"),
        (lambda: t.rotate(max_degrees=float("nan")), r"max_degrees=nan .* \[0, 180\]"),
        (lambda: t.rotate(), "rotate: none given; expected exactly one of max_degrees, degrees"),
        (lambda: t.rotate(max_degrees=1.0, degrees=[2.0]), "max_degrees and degrees given"),
        (lambda: t.rotate(degrees=[]), "degrees=.* expected a sequence of numbers, not empty"),
        (lambda: t.translate(max_fraction=1.5), r"max_fraction=1.5 .* \[0, 1\]"),
        (lambda: t.translate(max_voxels=-1), "max_voxels=-1; expected an integer of at least 0"),
        (lambda: t.scale(low=0.0, high=1.0), r"low=0.0 .* \(0, inf\]"),
        (lambda: t.scale(low=1.2, high=1.0), r"high=1.0 .* \[1.2, inf\]"),
        (lambda: t.scale(low=1.2), "scale: none given; expected exactly one of high, factors"),
        (lambda: t.flip(probability=-0.1), r"probability=-0.1 .* \[0, 1\]"),
        (lambda: t.pad_and_crop(padding=2, mode="mirror"), "mode='mirror'; expected one of"),
        (lambda: t.rotate(max_degrees=1.0, fill=float("inf")), "fill=inf"),
    ],
)
def test_bad_options_raise_where_they_are_given(build, message):
    with pytest.raises(ValueError, match=message):
        build()
