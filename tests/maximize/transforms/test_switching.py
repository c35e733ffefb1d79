"""The switching bilateral filter against reference values and a slow version of its text."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from featvis_jax.maximize import transforms as t

KEY = jax.random.key(0)
FILTER = jax.jit(t.switching_bilateral())


def filtered(image):
    return np.array(FILTER(KEY, jnp.asarray(image, jnp.float32)[..., None], 0))[..., 0]


def slow_filter(image, half_width=2):
    """Lin, Tsai and Chiu's filter voxel by voxel in float64, with branches and lists."""
    rho, impulse, noise, sigma_range = 33 / 255, 25 / 255, 5 / 255, 40 / 255
    rank, n = image.ndim, half_width
    padded = np.pad(image, n, mode="edge")
    result = image.copy()
    for voxel in np.ndindex(image.shape):
        window = padded[tuple(slice(i, i + 2 * n + 1) for i in voxel)]
        x = image[voxel]
        # Each orthant reaches from one side of the window to its centre and shares that plane.
        orthants = {
            signs: np.median(
                window[tuple(slice(None, n + 1) if s < 0 else slice(n, None) for s in signs)]
            )
            for signs in itertools.product((-1, 1), repeat=rank)
        }
        ordered = sorted(orthants.values())
        low, high = ordered[2 ** (rank - 1) - 1], ordered[2 ** (rank - 1)]
        strong = ordered[-1] - ordered[0] >= rho and high - low > rho
        if not strong:
            reference = (low + high) / 2
        else:
            lows = {signs for signs, value in orthants.items() if value < (low + high) / 2}
            along = None
            for axis, side in itertools.product(range(rank), (-1, 1)):
                if lows == {signs for signs in orthants if signs[axis] == side}:
                    centre_line = list(np.take(window, n, axis=axis).ravel())
                    del centre_line[len(centre_line) // 2]
                    along = np.mean(centre_line)
            if along is None:
                corners = itertools.product((n - 1, n + 1), repeat=rank)
                along = np.mean([window[corner] for corner in corners])
            reference = low if abs(low - along) <= abs(high - along) else high
        if abs(x - reference) >= impulse:
            intensity = reference
        elif abs(x - reference) >= noise:
            intensity = x
        else:
            continue
        sigma = 3 if strong else 1
        distance = ((np.indices(window.shape) - n) ** 2).sum(axis=0)
        weights = np.exp(-distance / (2 * sigma**2))
        weights *= np.exp(-((intensity - window) ** 2) / (2 * sigma_range**2))
        result[voxel] = (weights * window).sum() / weights.sum()
    return result


def scene(shape, rng):
    """Edges along every axis and a diagonal one, noise, and impulses of both polarities."""
    grid = np.indices(shape)
    image = 0.2 + 0.5 * (grid[0] > shape[0] // 2) + 0.2 * (grid[1] > shape[1] // 3)
    image = np.where(grid.sum(axis=0) > sum(shape) * 0.6, 0.35, image)
    image = image + 0.03 * rng.standard_normal(shape)
    impulses = rng.random(shape)
    return np.where(impulses < 0.05, 0.0, np.where(impulses > 0.95, 1.0, image))


@pytest.mark.parametrize("kind", ["scene", "noise"])
@pytest.mark.parametrize("shape", [(24, 21), (11, 9, 10)], ids=["2-D", "3-D"])
def test_agrees_with_the_slow_version(shape, kind, rng):
    image = scene(shape, rng) if kind == "scene" else rng.random(shape)
    image = image.astype(np.float32).astype(float)
    expected = slow_filter(image)
    assert (expected != image).mean() > 0.1
    np.testing.assert_allclose(filtered(image), expected, atol=1e-5)


def test_slabs_leave_no_seams(rng):
    # More than one slab, and a last one that overlaps.
    image = scene((41, 12), rng)
    np.testing.assert_allclose(filtered(image), slow_filter(image), atol=1e-5)


@pytest.mark.parametrize(("rank", "value"), [(2, 0.4000772139), (3, 0.4000278695)])
def test_an_impulse_is_removed(rank, value):
    image = np.full((9,) * rank, 0.4)
    image[(4,) * rank] = 1.0
    result = filtered(image)
    assert result[(4,) * rank] == pytest.approx(value, abs=1e-6)
    result[(4,) * rank] = 0.4
    np.testing.assert_allclose(result, 0.4, atol=1e-6)


def test_reference_pattern():
    rows, columns = np.indices((7, 7))
    image = ((3 * rows + 5 * columns) % 17) / 16
    result = filtered(image)
    assert result.sum(dtype=float) == pytest.approx(24.8741553729, abs=1e-5)
    assert result[3, 2] == pytest.approx(0.4841975256, abs=1e-6)
    assert (np.abs(result - image) > 1e-7).sum() == 41


@pytest.mark.parametrize("rank", [2, 3])
def test_constants_and_edges_along_an_axis_are_kept(rank):
    flat = np.full((10,) * rank, 0.3, np.float32)
    np.testing.assert_array_equal(filtered(flat), flat)
    for axis in range(rank):
        edge = np.where(np.indices(flat.shape)[axis] > 4, np.float32(0.8), flat)
        np.testing.assert_array_equal(filtered(edge), edge)


def test_small_squares_vanish_and_larger_ones_stay():
    for side, contrast in [(1, 0.0), (2, 0.0), (3, 0.0), (4, 0.75)]:
        image = np.full((20, 20), 0.3)
        square = (slice(8, 8 + side),) * 2
        image[square] = 0.9
        kept = (filtered(image)[square].mean() - 0.3) / 0.6
        assert kept == pytest.approx(contrast, abs=0.05)


def test_two_passes_remove_salt_and_pepper(rng):
    clean = np.full((64, 64), 0.3)
    clean[16:48, 16:48] = 0.6
    drawn = rng.random(clean.shape)
    noisy = np.where(drawn < 0.1, 0.0, np.where(drawn > 0.9, 1.0, clean))

    def quality(image):
        return -10 * np.log10(((image - clean) ** 2).mean())

    once = filtered(noisy)
    assert quality(noisy) + 8 < quality(once) < quality(filtered(once))


def test_constants_for_another_range_change_nothing(rng):
    # Thresholds meant for [0, 255] call every voxel of an image on [0, 1] clean.
    unscaled = t.switching_bilateral(
        edge_threshold=33.0, impulse_threshold=25.0, noise_threshold=5.0, sigma_intensity=40.0
    )
    image = jnp.asarray(rng.random((12, 12, 1)), jnp.float32)
    np.testing.assert_array_equal(unscaled(KEY, image, 0), image)


def test_a_wider_window_removes_larger_squares():
    image = np.full((24, 24, 1), 0.3, np.float32)
    image[10:14, 10:14] = 0.9
    wide = t.switching_bilateral(half_width=4)(KEY, jnp.asarray(image), 0)
    assert float(wide.max()) < 0.4


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: t.switching_bilateral(half_width=3), "half_width=3 is odd; expected an even"),
        (lambda: t.switching_bilateral(half_width=0), "half_width=0; expected an integer"),
        (lambda: t.switching_bilateral(edge_threshold=0.0), r"edge_threshold=0.0 .* \(0, inf\]"),
        (lambda: t.switching_bilateral(noise_threshold=0.5), r"impulse_threshold=.* \[0.5, inf\]"),
        (lambda: t.switching_bilateral(sigma_intensity=0.0), r"sigma_intensity=0.0 .* \(0, inf\]"),
    ],
)
def test_bad_options_raise_where_they_are_given(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_images_of_other_ranks_are_refused():
    with pytest.raises(ValueError, match="1 spatial axes came; expected 2 or 3"):
        t.switching_bilateral()(KEY, jnp.ones((8, 1)), 0)


@pytest.mark.parametrize("shape", [(182, 218, 182, 1), (64, 140, 192, 1)], ids=["3-D", "batch"])
def test_memory_is_at_most_eight_images(shape):
    transform = t.switching_bilateral()
    if shape[0] == 64:
        transform = jax.vmap(transform, in_axes=(None, 0, None))
    key = jax.eval_shape(lambda: jax.random.key(0))
    program = jax.jit(transform).lower(key, jax.ShapeDtypeStruct(shape, jnp.float32), 0).compile()
    memory = program.memory_analysis()
    peak = memory.temp_size_in_bytes + memory.output_size_in_bytes + memory.argument_size_in_bytes
    assert peak <= 8 * 4 * np.prod(shape)
