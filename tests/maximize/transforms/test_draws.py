"""The random numbers of the transforms follow their definitions: 10,000 seeded draws of each."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial.transform
import scipy.stats

from featvis_jax.maximize import transforms as t
from featvis_jax.maximize.transforms.resizing import draw_crop

DRAWS = 10_000
KEYS = jax.random.split(jax.random.key(2022), DRAWS)
# The seed is fixed, so a correct law fails one of these once and for all or never.
SIGNIFICANCE = 1e-3


def assert_follows(samples, distribution):
    assert scipy.stats.kstest(np.asarray(samples, float), distribution).pvalue > SIGNIFICANCE


def assert_equally_likely(samples, values):
    observed = [int((np.asarray(samples) == value).sum()) for value in values]
    assert sum(observed) == np.size(samples)
    assert scipy.stats.chisquare(observed).pvalue > SIGNIFICANCE


def drawn_maps(transform, shape):
    return jax.jit(jax.vmap(lambda key: transform.geometry.draw(key, shape)))(KEYS)


def uniform(low, high):
    return scipy.stats.uniform(low, high - low).cdf


@pytest.mark.parametrize(
    ("mode", "strength", "low", "high"),
    [
        ("factor", 1.0, 0, 2),
        ("factor", 0.4, 0.6, 1.4),
        ("factor", 3.0, 0, 4),
        ("literal", 1.0, 0, 1),
        ("literal", 3.0, 0, 3),
        ("shift", 0.3, -0.3, 0.3),
    ],
)
def test_jitter(mode, strength, low, high):
    # Dark enough that no factor, and bright enough that no shift, is clipped.
    value = 0.5 if mode == "shift" else 0.1
    transform = jax.vmap(t.jitter(strength=strength, mode=mode), in_axes=(0, None, None))
    results = np.asarray(transform(KEYS, jnp.full((1, 1, 1), value), 0), float).ravel()
    assert_follows(results - 0.5 if mode == "shift" else results / value, uniform(low, high))


@pytest.mark.parametrize("max_degrees", [5.0, 30.0, 180.0])
def test_rotation_in_two_dimensions(max_degrees):
    matrices = np.asarray(drawn_maps(t.rotate(max_degrees=max_degrees), (8, 8)).matrix)
    angles = np.rad2deg(np.arctan2(matrices[:, 0, 1], matrices[:, 0, 0]))
    assert_follows(angles, uniform(-max_degrees, max_degrees))


@pytest.mark.parametrize("max_degrees", [5.0, 30.0, 90.0, 180.0])
def test_rotation_in_three_dimensions(max_degrees):
    matrices = np.asarray(drawn_maps(t.rotate(max_degrees=max_degrees), (8, 8, 8)).matrix, float)
    identity = matrices @ matrices.transpose(0, 2, 1)
    np.testing.assert_allclose(identity, np.broadcast_to(np.eye(3), identity.shape), atol=1e-5)
    np.testing.assert_allclose(np.linalg.det(matrices), 1, atol=1e-5)
    rotations = scipy.spatial.transform.Rotation.from_matrix(matrices)
    vectors = rotations.as_rotvec()
    angles = np.linalg.norm(vectors, axis=1)
    largest = math.radians(max_degrees)
    assert angles.max() <= largest + 1e-4

    def restricted_haar(angle):
        return (angle - np.sin(angle)) / (largest - np.sin(largest))

    assert_follows(angles, restricted_haar)
    # Archimedes: each coordinate of a uniform point on the sphere is uniform. Half turns have
    # two axes, which does not show in this law.
    for coordinate in (vectors / angles[:, None]).T:
        assert_follows(coordinate, uniform(-1, 1))
    if max_degrees == 30.0:
        assert np.rad2deg(angles).mean() == pytest.approx(22.4, abs=0.2)


def test_all_rotations_in_three_dimensions_are_equally_likely():
    # With no limit the law is Haar's, whose rotations move a point uniformly over the sphere.
    matrices = np.asarray(drawn_maps(t.rotate(max_degrees=180.0), (8, 8, 8)).matrix, float)
    for entry in matrices.reshape(DRAWS, 9).T:
        assert_follows(entry, uniform(-1, 1))


def test_given_angles_are_drawn_as_often_as_they_are_listed():
    matrices = np.asarray(drawn_maps(t.rotate(degrees=[-10, 0, 0, 10]), (8, 8)).matrix)
    angles = np.rad2deg(np.arctan2(matrices[:, 0, 1], matrices[:, 0, 0])).round(2)
    observed = [(angles == angle).sum() for angle in (-10, 0, 10)]
    expected = np.array([1, 2, 1]) * DRAWS / 4
    assert scipy.stats.chisquare(observed, expected).pvalue > SIGNIFICANCE


def test_scale():
    matrices = drawn_maps(t.scale(low=0.5, high=2.0), (8, 8, 8)).matrix
    assert_follows(1 / np.asarray(matrices, float)[:, 1, 1], uniform(0.5, 2.0))


def test_translation():
    voxels = np.asarray(drawn_maps(t.translate(max_voxels=3), (20, 30)).offset)
    assert_equally_likely(voxels[:, 0], range(-3, 4))
    assert_equally_likely(voxels[:, 1], range(-3, 4))
    # A uniform shift of +-0.1 * 30 voxels, rounded: the outermost get half a voxel's share.
    fractions = np.asarray(drawn_maps(t.translate(max_fraction=0.1), (20, 30)).offset)[:, 1]
    observed = [(fractions == shift).sum() for shift in range(-3, 4)]
    expected = np.array([0.5, 1, 1, 1, 1, 1, 0.5]) * DRAWS / 6
    assert scipy.stats.chisquare(observed, expected).pvalue > SIGNIFICANCE


def test_flip_noise_and_roll():
    signs = np.asarray(drawn_maps(t.flip(axes=(0, 1), probability=0.5), (4, 4)).matrix)
    pairs = (signs[:, 0, 0] > 0) * 2 + (signs[:, 1, 1] > 0)
    assert_equally_likely(pairs, range(4))
    noise = t.noise(standard_deviation=0.3)(KEYS[0], jnp.zeros((100, 100, 1)), 0)
    assert_follows(noise.ravel(), scipy.stats.norm(0, 0.3).cdf)
    line = jnp.arange(7.0).reshape(7, 1)
    rolled = jax.jit(jax.vmap(t.roll(max_voxels=2), in_axes=(0, None, None)))(KEYS, line, 0)
    assert_equally_likely(np.asarray(rolled)[:, 3, 0], [1, 2, 3, 4, 5])
    cropped = jax.jit(jax.vmap(t.pad_and_crop(padding=2), in_axes=(0, None, None)))(KEYS, line, 0)
    assert_equally_likely(np.asarray(cropped)[:, 3, 0], [1, 2, 3, 4, 5])


def crops(shape, area, ratio):
    start, sides = jax.jit(jax.vmap(lambda key: draw_crop(key, shape, area, ratio)))(KEYS)
    return np.asarray(start, int), np.asarray(sides, int)


def defined_crops(rng, shape, area, ratio):
    """Boxes drawn as the definition says: the first that fits of ten attempts."""
    lengths, attempts = np.array(shape), (DRAWS, 10)
    content = np.prod(lengths) * rng.uniform(*area, attempts)
    if len(shape) == 2:
        aspect = np.exp(rng.uniform(*np.log(ratio), attempts))
        sides = np.stack([np.sqrt(content / aspect), np.sqrt(content * aspect)], -1).round()
    else:
        e = rng.uniform(*np.log(ratio), (*attempts, 3)) / 2
        sides = content[..., None] ** (1 / 3) * np.exp(e - e.mean(-1, keepdims=True))
        sides = sides.round()
    fits = ((sides >= 1) & (sides <= lengths)).all(-1)
    assert fits.any(axis=1).all(), "no box fitted: choose a case where the fallback is rare"
    sides = sides[np.arange(DRAWS), fits.argmax(axis=1)].astype(int)
    return np.hstack([rng.integers(0, lengths - sides + 1), sides])


@pytest.mark.parametrize("shape", [(140, 192), (60, 72, 64)], ids=["2-D", "3-D"])
def test_random_resized_crop(rng, shape):
    area, ratio = (0.08, 0.8), (3 / 4, 4 / 3)
    start, sides = crops(shape, area, ratio)
    assert (start >= 0).all()
    assert (start + sides <= np.array(shape)).all()
    expected = defined_crops(rng, shape, area, ratio)
    for ours, theirs in zip(np.hstack([start, sides]).T, expected.T, strict=True):
        assert scipy.stats.ks_2samp(ours, theirs).pvalue > SIGNIFICANCE
    rank = len(shape)
    volumes = [np.prod(sides, axis=1), np.prod(expected[:, rank:], axis=1)]
    assert scipy.stats.ks_2samp(*volumes).pvalue > SIGNIFICANCE
    aspects = [sides[:, 1] / sides[:, 0], expected[:, rank + 1] / expected[:, rank]]
    assert scipy.stats.ks_2samp(*aspects).pvalue > SIGNIFICANCE


def test_a_crop_that_always_fits_has_a_uniform_area_ratio_and_place():
    _, sides = crops((2000, 2000), (0.1, 0.5), (3 / 4, 4 / 3))
    assert_follows(np.prod(sides, axis=1) / 2000**2, uniform(0.1, 0.5))
    logarithms = np.log(sides[:, 1] / sides[:, 0])
    assert_follows(logarithms, uniform(np.log(3 / 4), np.log(4 / 3)))
    start, sides = crops((10, 10), (0.36, 0.36), (1.0, 1.0))
    assert (sides == 6).all()
    assert_equally_likely(start[:, 0], range(5))
    assert_equally_likely(start[:, 1], range(5))


@pytest.mark.parametrize(
    ("shape", "ratio", "sides"),
    [
        ((10, 40), (1.0, 1.0), (10, 10)),
        ((40, 10), (0.5, 2.0), (20, 10)),
        ((10, 40), (0.5, 2.0), (10, 20)),
        ((10, 40, 12), (0.5, 2.0), (10, 20, 12)),
    ],
)
def test_where_no_box_fits_the_central_one_is_taken(shape, ratio, sides):
    start, drawn = crops(shape, (1.0, 1.0), ratio)
    # With the whole area asked for, nothing but the image itself would fit.
    assert (drawn == sides).all()
    assert (np.abs(2 * start + drawn - np.array(shape)) <= 1).all()
