"""Parameterizations: where an ascent starts, what it moves, and the bounds it stays in."""

import functools
import inspect
import math
import typing
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from featvis_jax.maximize import parameterizations
from featvis_jax.maximize.parameterizations import (
    FIXED_CONTRASTS,
    FixedContrast,
    Parameterization,
    mean_magnitude_spectrum,
    pixels,
)
from featvis_jax.maximize.parameterizations.base import Shaped, bounds

# Compiling takes nearly all of the time here, and what is compiled runs once.
QUICK_JIT = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
SHAPES = pytest.mark.parametrize("shape", [(60, 50, 1), (20, 15, 10, 1)], ids=["2-D", "3-D"])


def start(parameterization, seed, shape):
    init = QUICK_JIT(parameterization.init, static_argnums=1)
    return init(jax.random.key(seed), shape)


@pytest.mark.parametrize(
    ("shape", "intensity_range"), [((60, 50, 1), (0.0, 1.0)), ((20, 15, 10, 1), (-2.0, 6.0))]
)
def test_the_start_is_noise_about_the_middle_of_the_range(shape, intensity_range):
    low, high = intensity_range
    parameterization = pixels(intensity_range=intensity_range, noise=0.1)
    image = start(parameterization, 3, shape)
    assert image.shape == shape
    assert image.dtype == jnp.float32
    # 3000 draws: the mean is known to 2 % of a standard deviation, that to 1.3 %.
    deviation = 0.1 * (high - low)
    assert float(image.mean()) == pytest.approx((low + high) / 2, abs=0.08 * deviation)
    assert float(image.std()) == pytest.approx(deviation, rel=0.06)
    assert abs(float(np.corrcoef(image.ravel()[:-1], image.ravel()[1:])[0, 1])) < 0.08


@SHAPES
def test_the_same_key_starts_the_same_and_another_elsewhere(shape):
    first, again, other = (start(pixels(), seed, shape) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert float(jnp.abs(first - other).mean()) > 0.05


def test_no_noise_starts_grey_and_much_is_clipped():
    grey = start(pixels(intensity_range=(0.0, 3.0), noise=0), 0, (4, 5, 1))
    np.testing.assert_array_equal(grey, np.full((4, 5, 1), 1.5, np.float32))
    loud = start(pixels(noise=1), 0, (60, 50, 1))
    assert float(loud.min()) == 0
    assert float(loud.max()) == 1
    # Half a standard deviation to either side of the middle holds 38 % of the draws.
    inside = float(((loud > 0) & (loud < 1)).mean())
    assert inside == pytest.approx(0.383, abs=0.04)


@SHAPES
def test_steps_beyond_the_range_are_clipped_and_others_kept(rng, shape):
    parameterization = pixels(intensity_range=(-1.0, 2.0))
    image = (4 * rng.standard_normal(shape)).astype(np.float32)
    constrained = parameterization.constrain(jnp.asarray(image))
    np.testing.assert_array_equal(constrained, np.clip(image, -1, 2))
    assert constrained.dtype == jnp.float32
    np.testing.assert_array_equal(parameterization.decode(jnp.asarray(image)), image)
    assert parameterization.is_image


def test_a_voxel_that_is_no_number_stays_one():
    image = jnp.array([[[jnp.nan], [jnp.inf]]])
    assert np.isnan(pixels().constrain(image)[0, 0, 0])
    assert pixels().constrain(image)[0, 1, 0] == 1


def test_the_description_is_the_call():
    parameterization = pixels(intensity_range=(0.0, 1.5), noise=0.2)
    assert parameterization.description == "pixels(intensity_range=(0.0, 1.5), noise=0.2)"
    remade = eval(parameterization.description, {"pixels": pixels})
    shape = (60, 50, 1)
    np.testing.assert_array_equal(start(remade, 0, shape), start(parameterization, 0, shape))


@pytest.mark.parametrize(
    "intensity_range",
    [(1.0, 1.0), (1.0, 0.0), (0.0, float("nan")), (0.0, float("inf")), (-float("inf"), 1.0)],
)
def test_an_empty_or_endless_range_is_refused(intensity_range):
    with pytest.raises(
        ValueError, match=r"intensity_range is .*expected two finite numbers, low <"
    ):
        pixels(intensity_range=intensity_range)


@pytest.mark.parametrize("noise", [-0.1, 1.1, float("nan")])
def test_noise_that_is_no_share_of_the_range_is_refused(noise):
    with pytest.raises(ValueError, match=r"noise is .*share of the range in \[0, 1\]"):
        pixels(noise=noise)


# ------------------------------------------------------------------------ all of them, both ranks

SHAPE = {2: (20, 23, 1), 3: (10, 12, 9, 1)}
RANK = pytest.mark.parametrize("rank", [2, 3], ids=["2-D", "3-D"])


def picture(rank):
    """A smooth image on [0.2, 0.8]."""
    grids = np.meshgrid(*(np.linspace(0, 3, side) for side in SHAPE[rank][:-1]), indexing="ij")
    return (0.5 + 0.3 * np.sin(sum(grids)))[..., None].astype(np.float32)


EXAMPLES: dict[str, Callable[..., Parameterization]] = {
    "pixels": lambda rank, **into: parameterizations.pixels(**into),
    "fourier": lambda rank, **into: parameterizations.fourier(**into),
    "laplacian": lambda rank, **into: parameterizations.laplacian(levels=3, **into),
    "cppn": lambda rank, **into: parameterizations.cppn(width=6, depth=3, **into),
    "phase": lambda rank, **into: parameterizations.phase(
        mean_magnitude_spectrum([picture(rank)]), **into
    ),
    "from_image": lambda rank, **into: parameterizations.from_image(
        picture(rank), parameterizations.fourier(**into), noise=0.01
    ),
    "inside": lambda rank, **into: parameterizations.inside(
        picture(rank)[..., 0] > 0.4, parameterizations.pixels(**into), outside=picture(rank)
    ),
}
EVERY = pytest.mark.parametrize("name", EXAMPLES)


def test_every_parameterization_has_an_example():
    public = {
        name
        for name, function in vars(parameterizations).items()
        if inspect.isfunction(function)
        and typing.get_type_hints(function).get("return") is Parameterization
    }
    # What holds channels needs several: test_several_channels.py. Deformed scans and bodies have
    # intensities of their own: test_deformation.py, test_level_set.py.
    assert public == {*EXAMPLES, "holding", "deformation", "deformations", "level_set"}


@pytest.mark.parametrize(
    "intensity", [*parameterizations.INTENSITIES, *FIXED_CONTRASTS.values()], ids=str
)
@EVERY
def test_images_keep_to_the_range_whichever_way(name, intensity):
    # One rank is enough for what the others share; every other test has both.
    rank = 3 if intensity == "sigmoid" else 2
    shape, keys = SHAPE[rank], jax.random.split(jax.random.key(3), 2)
    if name == "from_image" and isinstance(intensity, FixedContrast):
        pytest.skip("no image has a fixed contrast")
    made = EXAMPLES[name](rank, intensity=intensity, intensity_range=(0.1, 0.9))

    def mean_square(louder, key):
        parameters = jax.tree.map(lambda leaf: louder * leaf, made.init(key, shape))
        image = made.decode(made.constrain(parameters))
        return jnp.square(image).mean(), image

    draw = QUICK_JIT(jax.vmap(jax.grad(mean_square, has_aux=True), in_axes=(None, 0)))
    found = {louder: draw(jnp.float32(louder), keys) for louder in (1, 100)}
    for gradient, images in found.values():
        assert np.isfinite(gradient).all()
        assert images.shape == (2, *shape)
        assert images.dtype == jnp.float32
        assert float(images.min()) >= 0.1 - 1e-6
        assert float(images.max()) <= 0.9 + 1e-6
    images = found[1][1]
    np.testing.assert_array_equal(draw(jnp.float32(1), keys)[1], images)
    assert float(jnp.abs(images[0] - images[1]).max()) > 1e-3
    if intensity == "affine" and name != "inside":
        np.testing.assert_allclose(images.min(axis=range(1, images.ndim)), 0.1, atol=1e-6)
        np.testing.assert_allclose(images.max(axis=range(1, images.ndim)), 0.9, atol=1e-6)
    # A fixed contrast is recorded as runs on disk have it.
    recorded = repr(intensity).replace("FixedContrast", "Ground")
    assert intensity == "clip" or f"intensity={recorded}" in made.description
    assert made.is_image == (intensity == "clip" and name in ("pixels", "inside"))


@EVERY
@RANK
def test_what_can_be_made_of_an_image_gives_it_back(name, rank):
    if name == "from_image":
        pytest.skip("is what it starts from")
    for intensity in ("clip", "sigmoid"):
        made = EXAMPLES[name](rank, intensity=intensity)
        if made.encode is None:
            assert name in ("cppn", "phase")
            continue
        encode, decode = made.encode, made.decode
        there_and_back = QUICK_JIT(lambda image, e=encode, d=decode: d(e(image)))
        image = jnp.asarray(picture(rank))
        np.testing.assert_allclose(there_and_back(image), image, atol=1e-5)


@pytest.mark.parametrize("make", ["pixels", "fourier", "laplacian", "cppn"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"intensity": "tanh"}, "intensity is 'tanh'; expected one of clip, sigmoid, affine, or a"),
        ({"intensity": FixedContrast("grey")}, "the polarity is 'grey'; expected one of dark, b"),  # pyright: ignore
        (
            {"intensity": FixedContrast(level=1.2)},
            "the background has level 1.2 and the contrast is 0.12; expected",
        ),
        (
            {"intensity": FixedContrast(contrast=0)},
            "the background has level 0.6 and the contrast is 0; expected",
        ),
        (
            {"intensity": FixedContrast("dark", level=0)},
            "nothing in the range is darker than a background of",
        ),
        ({"intensity_range": (1.0, 0.0)}, r"intensity_range is \(1.0, 0.0\); expected two finite"),
        ({"noise": 1.5}, r"noise is 1.5; expected a share of the range in \[0, 1\]"),
    ],
)
def test_options_out_of_bounds_are_refused(make, options, message):
    factory = inspect.unwrap(getattr(parameterizations, make))
    with pytest.raises(ValueError, match=f"^{make}: {message}"):
        factory(**options)


@pytest.mark.parametrize("intensity", FIXED_CONTRASTS.values(), ids=str)
@RANK
def test_a_fixed_contrast_is_that_of_the_image_and_has_its_polarity(intensity, rank):
    raw = np.random.default_rng(rank).normal(size=SHAPE[rank])
    low, high = -2.0, 6.0
    found = {
        louder: np.asarray(
            bounds("pixels", intensity, (low, high)).bring(jnp.asarray(louder * raw, jnp.float32))
        )
        for louder in (1, 300)
    }
    figure = {"dark": np.minimum(raw, 0), "bright": np.maximum(raw, 0), "both": raw}[
        intensity.polarity
    ]
    loudness = np.sqrt(np.square(figure).mean())
    expected = low + 8 * (intensity.level + intensity.contrast * figure / loudness)
    np.testing.assert_allclose(found[1], expected.clip(low, high), atol=1e-5)
    # However loud the raw image is: contrast is a budget.
    np.testing.assert_allclose(found[300], found[1], atol=1e-5)


def test_a_background_without_figures_is_even():
    bring = bounds("pixels", FixedContrast("dark"), (0.0, 1.0)).bring
    image, gradient = jax.value_and_grad(lambda raw: bring(raw).sum())(jnp.ones((4, 5, 1)))
    assert float(image) == pytest.approx(20 * 0.6)
    assert np.isfinite(gradient).all()


def test_no_image_is_made_with_a_fixed_contrast():
    with pytest.raises(ValueError, match="cannot be made of an image: use pixels, fourier or lap"):
        parameterizations.from_image(
            picture(2), parameterizations.fourier(intensity=FixedContrast("dark"))
        )


# ------------------------------------------------------------------- statistics, against float64

# Wide enough that nothing is cut off: what comes out is the raw image.
WIDE = {"intensity": "clip", "intensity_range": (-50.0, 50.0)}
NOISE = 0.01  # A standard deviation of 1 in that range.


def draw_many(made, shape, count=100):
    """Parameters and images of many draws."""

    def one(key):
        parameters = made.init(key, shape)
        return parameters, made.decode(parameters)

    return QUICK_JIT(jax.vmap(one))(jax.random.split(jax.random.key(5), count))


def frequencies(spatial):
    axes = [np.fft.fftfreq(side) for side in spatial[:-1]] + [np.fft.rfftfreq(spatial[-1])]
    return np.sqrt(sum(np.square(grid) for grid in np.meshgrid(*axes, indexing="ij")))


def fourier_reference(z, spatial, decay):
    """Lucid's definition in float64, for z ``(draws, *frequencies, 1, 2)``."""
    scale = np.sqrt(np.prod(spatial))
    scale = scale / np.maximum(frequencies(spatial), 1 / max(spatial)) ** decay
    z = np.asarray(z, np.float64)
    axes = tuple(range(1, 1 + len(spatial)))
    return np.fft.irfftn((z[..., 0, 0] + 1j * z[..., 0, 1]) * scale, s=spatial, axes=axes)


def slope(images):
    """Of the logarithm of the mean power over that of the frequency, off the symmetric planes."""
    spatial = images.shape[1:]
    power = np.square(np.abs(np.fft.rfftn(images, axes=range(1, 1 + len(spatial))))).mean(axis=0)
    inner = (..., slice(1, (spatial[-1] + 1) // 2))
    return np.polyfit(np.log(frequencies(spatial)[inner].ravel()), np.log(power[inner].ravel()), 1)[
        0
    ]


@pytest.mark.parametrize("spatial", [(48, 51), (14, 13, 16)], ids=["2-D", "3-D"])
@pytest.mark.parametrize("decay", [0.5, 1.0, 2.0])
def test_fourier_has_the_reference_s_spectrum_and_deviation(spatial, decay):
    made = parameterizations.fourier(decay=decay, noise=NOISE, **WIDE)
    parameters, images = draw_many(made, (*spatial, 1))
    images = np.asarray(images, np.float64)[..., 0]
    z = np.asarray(parameters.values)
    assert z.std() == pytest.approx(NOISE, rel=0.01)
    reference = fourier_reference(z, spatial, decay)
    # What a unit of every number makes, one by one: the variance that the reference has on average.
    if len(spatial) == 2:
        small = (5, 6)
        units = np.eye(5 * 4 * 2).reshape(-1, 5, 4, 1, 2)
        small_made = QUICK_JIT(
            jax.vmap(
                lambda values: parameterizations.fourier(decay=decay, noise=NOISE, **WIDE).decode(
                    Shaped(values, (*small, 1))
                )
            )
        )(jnp.asarray(units / 100, jnp.float32))
        variance = np.square(np.asarray(small_made, np.float64)).sum(axis=0).mean()
        assert variance == pytest.approx(1, rel=1e-3)
        exact = fourier_reference(units, small, decay)
        assert np.corrcoef(exact.ravel(), np.asarray(small_made).ravel())[0, 1] > 1 - 1e-6
    factor = images.std() / reference.std()
    np.testing.assert_allclose(images, factor * reference, atol=1e-4 * np.abs(images).max())
    # On average the power is the square of the scale, a straight line but for the constant.
    assert slope(images) == pytest.approx(-2 * decay, rel=0.01)


@pytest.mark.parametrize("spatial", [(40, 44), (33, 31), (16, 13, 18)], ids=str)
def test_a_laplacian_pyramid_is_the_sum_of_its_enlarged_levels(spatial):
    made = parameterizations.laplacian(noise=NOISE, **WIDE)
    pyramid, images = draw_many(made, (*spatial, 1))
    images = np.asarray(images, np.float64)[..., 0]
    assert [level.shape[1:-1] for level in pyramid] == [
        tuple(math.ceil(side / 2**n) for side in spatial) for n in range(4)
    ]
    reference = np.zeros((3, *spatial))
    for level in pyramid:
        for number in range(3):
            values = np.asarray(level[number, ..., 0], np.float64)
            factors = [side / size for side, size in zip(spatial, values.shape, strict=True)]
            reference[number] += ndimage.zoom(
                values, factors, order=1, mode="nearest", grid_mode=True
            )
    factor = images[:3].std() / reference.std()
    np.testing.assert_allclose(images[:3], factor * reference, atol=1e-4 * np.abs(images).max())
    assert images.std() == pytest.approx(1, rel=0.01)


@RANK
def test_phases_keep_the_prescribed_magnitude(rng, rank):
    shape = SHAPE[rank]
    spectrum = mean_magnitude_spectrum(rng.random((5, *shape)))
    made = parameterizations.phase(spectrum, **WIDE)
    parameters, images = draw_many(made, shape, count=3)
    moved = jax.tree.map(lambda leaf: leaf + 3 * leaf**2, parameters)
    for batch in (images, QUICK_JIT(jax.vmap(made.decode))(moved)):
        found = np.fft.rfftn(np.asarray(batch, np.float64), axes=range(1, 1 + rank))
        last = slice(1, (shape[-2] + 1) // 2)
        np.testing.assert_allclose(
            np.abs(found[..., last, :]),
            np.broadcast_to(spectrum, found.shape)[..., last, :],
            rtol=1e-4,
        )
        # The mean is that of the images, and has no phase.
        constant = found[(slice(None), *(0,) * rank, 0)]
        np.testing.assert_allclose(constant, spectrum[(0,) * (rank + 1)], rtol=1e-4)
    phases = np.asarray(parameters.values)
    assert np.abs(phases).max() <= np.pi
    assert phases.std() == pytest.approx(np.pi / np.sqrt(3), rel=0.05)


def test_the_mean_spectrum_is_read_once_and_in_float64(rng):
    images = [rng.random((9, 10, 1)).astype(np.float16) for _ in range(4)]
    expected = np.mean(
        [np.abs(np.fft.rfft2(np.float64(image[..., 0]))) for image in images], axis=0
    )
    found = mean_magnitude_spectrum(image for image in images)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found[..., 0], expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "there is no image"),
        ([np.zeros((4, 5, 1)), np.zeros((4, 6, 1))], r"image 1 has shape \(4, 6, 1\).*\(4, 5, 1\)"),
        ([np.full((4, 5, 1), np.nan)], "finite"),
    ],
)
def test_images_without_one_spectrum_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        mean_magnitude_spectrum(images)


@RANK
def test_a_cppn_is_its_formula(rank):
    shape = SHAPE[rank]
    made = parameterizations.cppn(width=5, depth=3, noise=NOISE, **WIDE)
    parameters, images = draw_many(made, shape, count=2)
    longest = max(shape) - 1
    for place in [(0,) * rank, (3, 7, 2)[:rank], tuple(side - 1 for side in shape[:-1])]:
        h = [
            np.sqrt(3) * (2 * i - (n - 1)) / longest for i, n in zip(place, shape[:-1], strict=True)
        ]
        *hidden, last = (np.asarray(w[0], np.float64) for w in parameters.values)
        for weights in hidden:
            turned = np.arctan(h @ weights)
            h = np.concatenate([turned / 0.67, turned**2 / 0.6])
        assert float(images[0][place][0]) == pytest.approx(100 * (h @ last)[0], rel=1e-3, abs=1e-4)
    assert 0.2 < float(images.std()) < 3


# ---------------------------------------------------------------------- given images, and masks


def test_accentuation_starts_from_its_image():
    start = parameterizations.from_image(picture(2), pixels())
    made = start.decode(start.init(jax.random.key(0), SHAPE[2]))
    np.testing.assert_allclose(made, picture(2), atol=1e-6)
    assert start.is_image
    noisy = parameterizations.from_image(picture(2), pixels(), noise=0.1)
    one, two = (noisy.decode(noisy.init(jax.random.key(n), SHAPE[2])) for n in (0, 1))
    assert float((one - two).std()) == pytest.approx(0.1 * np.sqrt(2) * np.ptp(picture(2)), rel=0.1)


def test_outside_of_a_mask_nothing_changes(rng):
    mask = np.zeros((20, 23))
    mask[4:9, 5:15] = 1
    mask[9, 5:15] = 0.25
    outside = picture(2)
    for inner in (pixels(), parameterizations.fourier()):
        made = parameterizations.inside(mask, inner, outside=outside)
        parameters = made.init(jax.random.key(0), SHAPE[2])
        changed = made.constrain(jax.tree.map(lambda leaf: leaf + 0.5, parameters))
        whole = inner.decode(inner.constrain(jax.tree.map(lambda leaf: leaf + 0.5, parameters)))
        expected = mask[..., None] * whole + (1 - mask[..., None]) * outside
        np.testing.assert_allclose(made.decode(changed), expected, atol=1e-6)
    black = parameterizations.inside(mask, pixels())
    image = black.init(jax.random.key(0), SHAPE[2])
    assert not image[mask == 0].any()
    assert image[mask == 1].all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: parameterizations.fourier(decay=-1), "fourier: decay is -1"),
        (lambda: parameterizations.laplacian(levels=0), "levels is 0; expected at least 1"),
        (lambda: parameterizations.cppn(depth=0), "width is 24 and depth 0"),
        (lambda: parameterizations.phase(np.zeros((4, 3, 1))), "not all 0"),
        (lambda: parameterizations.phase(-np.ones((4, 3, 1))), "from 0"),
        (lambda: parameterizations.from_image(np.zeros(4), pixels()), r"shape \(4,\)"),
        (
            lambda: parameterizations.from_image(np.zeros((4, 4, 1)), parameterizations.cppn()),
            r"cppn\(.*\) cannot be made of an image: use pixels",
        ),
        (lambda: parameterizations.inside(np.zeros((4, 4)), pixels()), "not all 0"),
        (lambda: parameterizations.inside(np.full((4, 4), 2.0), pixels()), r"in \[0, 1\]"),
        (
            lambda: parameterizations.inside(np.ones((4, 4)), pixels(), outside=math.nan),
            "outside is not finite",
        ),
    ],
)
def test_what_can_never_work_is_refused_at_once(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            parameterizations.from_image(np.zeros((20, 22, 1)), pixels()),
            r"image has shape \(20, 22, 1\), but the network takes \(20, 23, 1\)",
        ),
        (
            parameterizations.inside(np.ones((20, 22)), pixels()),
            r"mask's grid is \(20, 22\), but the image's is \(20, 23\)",
        ),
        (
            parameterizations.inside(np.ones((20, 23)), pixels(), outside=np.zeros((20, 23))),
            r"outside has shape \(20, 23\), but the image has \(20, 23, 1\)",
        ),
        (
            parameterizations.phase(np.ones((20, 11, 1))),
            r"magnitude has shape \(20, 11, 1\), but .* \(20, 12, 1\): take it over",
        ),
    ],
)
def test_another_grid_than_the_network_s_is_refused_before_anything_is_compiled(made, message):
    def image(key):
        return made.decode(made.init(key, SHAPE[2]))

    with pytest.raises(ValueError, match=message):
        jax.eval_shape(image, jax.random.key(0))
