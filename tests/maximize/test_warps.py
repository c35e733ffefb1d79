"""Splines and warps against SciPy, fields that can be written down, and float64 differences."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.test_util import check_grads
from scipy import ndimage
from scipy.interpolate import BSpline

from featvis_jax.maximize import splines, warps
from featvis_jax.maximize.splines import control_grid

GRIDS = {
    "2-D": control_grid((19, 23), spacing_mm=6.0),
    "3-D": control_grid((9, 12, 8), spacing_mm=9.0, voxel_size_mm=(1.5, 2.0, 3.0)),
}
RANKS = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)


def coefficients(grid, rng, *, scale=1.0, components=None):
    shape = (len(grid.shape) if components is None else components, *grid.shape)
    return scale * rng.standard_normal(shape)


def scipy_field(values, grid, derivatives):
    """One component by SciPy's tensor product of B-splines, in float64."""
    for axis, order in enumerate(derivatives):
        points, spacing = grid.shape[axis], grid.spacing[axis]
        knots = (np.arange(points + 4) - (points - 1) / 2 - 2) * spacing
        spline = BSpline(knots, np.moveaxis(values, axis, 0), 3)
        places = np.arange(grid.spatial[axis]) - (grid.spatial[axis] - 1) / 2
        values = np.moveaxis(spline(places, nu=order), 0, axis)
    return values


@RANKS
def test_a_field_and_its_derivatives_are_scipys(grid, rng):
    values = coefficients(grid, rng, components=1)[0]
    rank = len(grid.shape)
    for orders in itertools.product((0, 1, 2), repeat=rank):
        if sum(orders) > 2:
            continue
        found = splines.evaluate(jnp.asarray(values, jnp.float32), grid, derivatives=orders)
        np.testing.assert_allclose(found, scipy_field(values, grid, orders), atol=1e-5)


@RANKS
def test_energies_are_means_over_the_voxels(grid, rng):
    values = coefficients(grid, rng)
    rank, sizes = len(grid.shape), np.array(grid.voxel_size_mm)
    membrane = bending = 0.0
    squares = np.zeros(grid.spatial)
    for component in range(rank):
        for a in range(rank):
            slope = scipy_field(values[component], grid, [int(i == a) for i in range(rank)])
            squares += np.square(slope / sizes[a])
            membrane += np.square(slope / sizes[a]).mean()
            for b in range(rank):
                orders = [int(i == a) + int(i == b) for i in range(rank)]
                curved = scipy_field(values[component], grid, orders)
                bending += np.square(curved / sizes[a] / sizes[b]).mean()
    spacing_mm = grid.spacing[0] * sizes[0]
    given_values = jnp.asarray(values, jnp.float32)
    assert float(splines.membrane_energy(given_values, grid)) == pytest.approx(membrane, rel=1e-5)
    assert float(splines.bending_energy(given_values, grid)) == pytest.approx(
        spacing_mm**2 * bending, rel=1e-5
    )
    # Smoothed, it lacks at most a smooth slope at every voxel.
    plain, found = np.sqrt(squares).mean(), float(splines.total_variation(given_values, grid))
    assert plain - splines.SMOOTH_SLOPE <= found < plain
    steep = float(splines.total_variation(1000 * given_values, grid))
    assert steep == pytest.approx(1000 * plain, rel=1e-3)


def quadratic(grid):
    """Coefficients in mm of u_a = A x + b x_a^2 in mm about the centre, and the field's numbers.

    A B-spline of values k at the points is x, and one of k^2 - 1/3 is x^2 (in spacings).
    """
    rank = len(grid.shape)
    spacing_mm = grid.spacing[0] * grid.voxel_size_mm[0]
    at = np.stack(
        np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in grid.shape), indexing="ij"), axis=-1
    )
    linear = 0.05 * np.arange(1, rank * rank + 1).reshape(rank, rank) / rank
    linear[0, -1] = -0.1
    curve = 0.004 * np.arange(1, rank + 1)
    values = spacing_mm * at @ linear.T + spacing_mm**2 * (at**2 - 1 / 3) * curve
    places = np.stack(
        np.meshgrid(
            *(
                (np.arange(n) - (n - 1) / 2) * size
                for n, size in zip(grid.spatial, grid.voxel_size_mm, strict=True)
            ),
            indexing="ij",
        ),
        axis=-1,
    )
    return np.moveaxis(values, -1, 0), linear, curve, places


@RANKS
def test_displacement_and_determinant_of_a_field_that_can_be_written_down(grid):
    values, linear, curve, places = quadratic(grid)
    field_mm = places @ linear.T + places**2 * curve
    slope = np.eye(len(grid.shape)) + linear + 2 * places[..., None] * np.diag(curve)
    expected = np.linalg.det(slope)
    assert expected.min() > 0.2
    assert np.ptp(expected) > 0.2
    given_values = jnp.asarray(values, jnp.float32)
    found = warps.displacement(given_values, grid)
    np.testing.assert_allclose(
        np.stack(found, axis=-1), field_mm / np.array(grid.voxel_size_mm), atol=1e-5
    )
    np.testing.assert_allclose(warps.determinant(given_values, grid), expected, atol=1e-5)
    np.testing.assert_allclose(warps.log_growth(given_values, grid), -np.log(expected), atol=1e-5)


@RANKS
def test_the_determinant_is_that_of_finite_differences_of_the_map(grid, rng):
    values = coefficients(grid, rng, scale=0.5)
    step, rank = 1e-4, len(grid.shape)
    with jax.enable_x64(True):
        places = [np.linspace(0, side - 1, 6) for side in grid.spatial]
        columns = []
        for axis in range(rank):
            moved = []
            for sign in (1, -1):
                at = [each + sign * step * (i == axis) for i, each in enumerate(places)]
                field = warps.displacement(jnp.asarray(values), grid, places=at)
                moved.append(np.stack(field, axis=-1))
            columns.append((moved[0] - moved[1]) / (2 * step))
        slope = np.eye(rank) + np.stack(columns, axis=-1)
        found = warps.determinant(jnp.asarray(values), grid, places=places)
        np.testing.assert_allclose(found, np.linalg.det(slope), atol=1e-6)


@RANKS
def test_a_warped_image_is_scipys(grid, rng):
    image = rng.uniform(size=(*grid.spatial, 2)).astype(np.float32)
    shift = rng.normal(scale=2.0, size=(len(grid.shape), *grid.spatial)).astype(np.float32)
    found = jax.jit(warps.warp)(jnp.asarray(image), list(jnp.asarray(shift)))
    places = np.indices(grid.spatial) + np.float64(shift)
    for channel in range(2):
        expected = ndimage.map_coordinates(
            np.float64(image[..., channel]), places, order=1, mode="nearest"
        )
        np.testing.assert_allclose(found[..., channel], expected, atol=1e-5)


def test_no_displacement_is_the_image_and_one_voxel_wide_axes_stay(rng):
    image = jnp.asarray(rng.uniform(size=(7, 1, 5, 1)), jnp.float32)
    np.testing.assert_array_equal(warps.warp(image, [jnp.zeros((7, 1, 5))] * 3), image)


@RANKS
def test_gradients_are_those_of_float64_differences(grid, rng):
    image = rng.uniform(size=(*grid.spatial, 1))
    values, cotangent = coefficients(grid, rng, scale=0.3), rng.standard_normal(image.shape)
    with jax.enable_x64(True):

        @jax.jit
        def seen(moved):
            warped = warps.warp(jnp.asarray(image), warps.displacement(moved, grid))
            growth = warps.log_growth(moved, grid)
            return jnp.sum(warped * cotangent), jnp.sum(growth * cotangent[..., 0])

        check_grads(
            seen, (jnp.asarray(values),), order=1, modes=("fwd", "rev"), atol=1e-5, eps=1e-7
        )


def test_maps_of_many_units_are_those_of_each(rng):
    grid = GRIDS["2-D"]
    image = jnp.asarray(rng.uniform(size=(*grid.spatial, 1)), jnp.float32)
    many = jnp.asarray(np.stack([coefficients(grid, rng) for _ in range(3)]), jnp.float32)

    def warped(values):
        return warps.warp(image, warps.displacement(values, grid))

    together = jax.jit(jax.vmap(warped))(many)
    for one, values in zip(together, many, strict=True):
        np.testing.assert_allclose(one, warped(values), atol=1e-6)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_largest_slope_is_the_largest(rank):
    """Searched anywhere within a spacing, with float64 weights of the four points about it."""
    grid = control_grid((9,), spacing_mm=8.0)
    places = np.linspace(0, 8, 81)
    values, slopes = (8**order * splines.weights(grid, 0, derivative=order, places=places)
                      for order in (0, 1))  # fmt: skip
    step = 1 if rank < 3 else 4
    largest = 0.0
    for at in itertools.combinations_with_replacement(range(0, 81, step), rank):
        total = sum(
            functools.reduce(
                np.multiply.outer,
                [(slopes if i == axis else values)[place] for i, place in enumerate(at)],
            )
            for axis in range(rank)
        )
        largest = max(largest, float(np.abs(total).sum()))
    assert largest <= splines.LARGEST_SLOPE[rank]
    assert largest == pytest.approx(splines.LARGEST_SLOPE[rank], rel=3e-3)


@functools.cache
def determinants(name):
    grid = GRIDS[name]
    # Three places in each voxel: between voxels the map must not fold either.
    places = [np.linspace(0, side - 1, 3 * side) for side in grid.spatial]
    return jax.jit(lambda values: warps.determinant(values, grid, places=places))


@pytest.mark.parametrize("name", GRIDS)
@given(seed=st.integers(0, 2**32 - 1), strain=st.floats(0.05, 0.95), kind=st.integers(0, 3))
def test_bounded_coefficients_keep_the_determinant_within_limits(name, seed, strain, kind):
    grid, rng = GRIDS[name], np.random.default_rng(seed)
    noise = coefficients(grid, rng)
    at = np.indices(grid.shape).sum(axis=0, keepdims=True)
    worst = np.where(at < at.mean(), -1.0, 1.0)
    shares = [np.tanh(noise), np.sign(noise), worst + 0 * noise, -worst + 0 * noise][kind]
    bound = warps.bound_mm(grid, strain=strain)
    found = determinants(name)(jnp.asarray(bound * shares, jnp.float32))
    low, high = warps.determinant_limits(len(grid.shape), strain=strain)
    assert low - 1e-5 <= float(found.min()) <= float(found.max()) <= high + 1e-5


def test_the_bound_is_no_looser_than_it_says():
    """The worst coefficients lead to within a tenth of a fold where a strain of 1 is allowed."""
    grid = control_grid((41, 41), spacing_mm=8.0)
    at = np.indices(grid.shape).sum(axis=0, keepdims=True)
    falling = np.where(at < grid.shape[0], 1.0, -1.0) * np.ones((2, 1, 1))
    places = [np.linspace(0, 40, 401)] * 2
    bound = warps.bound_mm(grid, strain=1.0)
    found = warps.determinant(jnp.asarray(bound * falling, jnp.float32), grid, places=places)
    assert 0 <= float(found.min()) < 0.1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"spacing_mm": 3.0, "voxel_size_mm": 2.0}, "spacing_mm is 3, .* 2 mm: .* 4 mm"),
        ({"spacing_mm": float("nan")}, "spacing_mm is nan"),
        ({"spacing_mm": 9.0, "voxel_size_mm": (1.0, 1.0, 1.0)}, "expected 2 numbers"),
        ({"spacing_mm": 9.0, "voxel_size_mm": 0.0}, "voxel_size_mm is 0"),
    ],
)
def test_grids_that_cannot_be_are_refused(options, told):
    with pytest.raises(ValueError, match=told):
        control_grid((20, 20), **options)
