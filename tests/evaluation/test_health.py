"""The state of a unit after its ascent: every word is a claim that has to be true."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from scipy import ndimage

from featvis_jax.evaluation.health import UNIFORM_SHARE, flatness, status
from featvis_jax.maximize import ascent, objectives, parameterizations, presets
from featvis_jax.maximize.layer import visualize
from featvis_jax.nn.tracing import linen_network

# Rises, and rests from the third quarter on.
SETTLED = np.tanh(np.linspace(0.0, 8.0, 40)).astype(np.float32)
RANKS = pytest.mark.parametrize("spatial", [(32, 34), (24, 25, 26)], ids=["2-D", "3-D"])


def status_of(
    image, *, start=None, trace=SETTLED, rise=1.0, finite=True, between=(0.0, 1.0), border=0
):
    return status(
        image,
        start=noise(image.shape, seed=7) if start is None else start,
        objective_trace=trace,
        rise=rise,
        finite=finite,
        intensity_range=between,
        border=border,
    )


def noise(shape, *, seed=0, amplitude=0.1):
    return (0.5 + amplitude * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def checkerboard(spatial, amplitude, middle=0.5):
    """An image whose standard deviation is its amplitude."""
    signs = np.where(np.indices(spatial).sum(axis=0) % 2, 1.0, -1.0)
    return (middle + amplitude * signs)[..., None].astype(np.float32)


def blobs(spatial, *, seed=0):
    drawn = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(spatial), 1.5)
    return (0.5 + 0.3 * drawn / np.abs(drawn).max())[..., None].astype(np.float32)


def stripes(spatial):
    waves = np.sin(np.indices(spatial).sum(axis=0))
    return (0.5 + 0.3 * waves)[..., None].astype(np.float32)


def test_a_target_that_is_known_says_what_a_picture_is_worth():
    spatial = (32, 34)
    options = {
        "start": noise((*spatial, 1), seed=7),
        "objective_trace": SETTLED,
        "rise": 1.0,
        "finite": True,
        "intensity_range": (0.0, 1.0),
    }
    # Whether it looks like noise, and whether it came to rest, is not asked then.
    rising = np.linspace(0.0, 1.0, 40)
    for image in (blobs(spatial), noise((*spatial, 1))):
        for response, expected in [(2.0, "driven"), (1.985, "driven"), (1.97, "weak")]:
            found = {**options, "response": response, "target": 2.0}
            assert status(image, **found) == expected
            assert status(image, **{**found, "objective_trace": rising}) == expected
    # A unit that stays below 0 is not driven, whatever it was asked for.
    assert status(blobs(spatial), **options, response=-0.9, target=-1.0) == "weak"
    # One small figure on an even background is no grey level.
    dot = np.full((*spatial, 1), 0.5, np.float32)
    dot[16, 16] = 1.0
    assert status(dot, **options, response=2.0, target=2.0) == "driven"
    found = {**options, "response": 5.0, "target": 2.0}
    flat = np.full((*spatial, 1), 0.5, np.float32)
    assert status(flat, **found) == "uniform"
    # A grey level that does not drive the unit is not what it asks for.
    assert status(flat, **{**found, "response": 1.0}) == "weak"
    assert status(blobs(spatial), **{**found, "objective_trace": np.zeros(40)}) == "dead"
    assert status(blobs(spatial), **{**found, "finite": False}) == "diverged"
    assert status(blobs(spatial), **{**found, "response": np.nan}) == "weak"


@RANKS
def test_a_pattern_that_the_objective_followed_is_alive(spatial):
    for image in (checkerboard(spatial, 0.2), blobs(spatial), stripes(spatial)):
        assert status_of(image) == "alive"
        # Behind as much noise too, and in each of two contrasts.
        assert status_of(image + noise(image.shape, amplitude=0.05) - 0.5) == "alive"
        assert status_of(np.concatenate([image, noise(image.shape)], axis=-1)) == "alive"


@RANKS
@pytest.mark.parametrize("seed", range(5))
def test_noise_alone_is_noise(spatial, seed):
    for image in (
        noise((*spatial, 1), seed=seed),
        np.clip(noise((*spatial, 1), seed=seed, amplitude=5.0), 0, 1),
        np.random.default_rng(seed).random((*spatial, 2), np.float32),
    ):
        assert status_of(image) == "noise"


@RANKS
def test_what_the_ascent_started_from_is_not_its_work(spatial):
    start = blobs(spatial)
    # Another contrast and grey level of the start, and noise on it.
    assert status_of(0.3 * start + 0.6, start=start) == "noise"
    faint = noise(start.shape, amplitude=0.05) - 0.5
    assert status_of(start + faint, start=start) == "noise"
    assert status_of(start + stripes(spatial) - 0.5, start=start) == "alive"


@RANKS
def test_a_start_that_never_moved_is_unmoved(spatial):
    for start in (noise((*spatial, 1)), blobs(spatial), checkerboard(spatial, 0.3)):
        assert status_of(start, start=start) == "unmoved"
        assert status_of(start + 1e-3, start=start) == "unmoved"


@RANKS
def test_an_objective_that_did_not_rise_is_unmoved(spatial):
    image = stripes(spatial)
    assert status_of(image, rise=0.0) == "unmoved"
    assert status_of(image, rise=-1.0) == "unmoved"
    fluctuating = np.random.default_rng(0).standard_normal(200)
    assert status_of(image, trace=fluctuating, rise=1.0) == "unmoved"
    assert status_of(image, trace=SETTLED.repeat(5) + 0.01 * fluctuating, rise=1.0) == "alive"


@RANKS
def test_an_objective_that_still_rises_is_unsettled(spatial):
    image = stripes(spatial)
    for steps in (4, 20, 256):
        assert status_of(image, trace=np.linspace(-1.0, 2.0, steps)) == "unsettled"
        assert status_of(image, trace=np.linspace(0.0, 1.0, steps) ** 3) == "unsettled"
    # A projection now and then throws it back.
    sawtooth = np.tanh(np.arange(200) / 20) - 0.1 * (1 - np.arange(200) % 50 / 50)
    assert status_of(image, trace=sawtooth) == "alive"


@RANKS
def test_a_flat_image_is_uniform_whatever_its_grey_level(spatial):
    for level in (0.0, 0.3, 1.0):
        assert status_of(np.full((*spatial, 1), level, np.float32)) == "uniform"


@RANKS
def test_the_limit_is_two_percent_of_the_intensity_range(spatial):
    assert UNIFORM_SHARE == 0.02
    for low, high in [(0.0, 1.0), (-3.0, 7.0), (0.0, 0.1)]:
        step = 0.02 * (high - low)
        start = low + (high - low) * noise((*spatial, 1), amplitude=0.3)
        for factor, expected in [(0.99, "uniform"), (1.03, "alive")]:
            image = checkerboard(spatial, factor * step, middle=(low + high) / 2)
            assert status_of(image, start=start, between=(low, high)) == expected


@RANKS
def test_a_unit_whose_objective_never_changed_is_dead_whatever_its_image(spatial):
    constant = np.full(40, -0.25, np.float32)
    assert status_of(checkerboard(spatial, 0.2), trace=constant) == "dead"
    assert status_of(np.zeros((*spatial, 1), np.float32), trace=constant) == "dead"
    constant[7] = np.nextafter(constant[7], np.float32(1))
    assert status_of(checkerboard(spatial, 0.2), trace=constant) != "dead"


@RANKS
def test_divergence_comes_before_everything_else(spatial):
    trace = np.full(12, np.nan, np.float32)
    image = np.zeros((*spatial, 1), np.float32)
    assert status_of(image, trace=trace, rise=np.nan, finite=False) == "diverged"
    trace[:5] = 1.0
    assert status_of(checkerboard(spatial, 0.2), trace=trace, finite=False) == "diverged"


@RANKS
def test_the_border_is_left_out_and_nothing_more(spatial):
    image = np.full((*spatial, 1), 0.5, np.float32)
    inner = (slice(2, -2),) * len(spatial)
    framed = checkerboard(spatial, 0.4)
    framed[inner] = image[inner]
    assert status_of(framed) == "alive"
    assert status_of(framed, border=1) == "alive"
    assert status_of(framed, border=2) == "uniform"
    # The other way round: a pattern within a flat frame.
    image[inner] = checkerboard(spatial, 0.4)[inner]
    assert status_of(image, border=2) == "alive"
    # A border that would leave nothing is ignored.
    for border in (min(spatial) // 2, 100):
        assert status_of(framed, border=border) == "alive"


@RANKS
def test_flatness_is_that_of_the_periodogram_in_cells(spatial):
    """An independent reference: the whole spectrum, cell by cell."""
    rng = np.random.default_rng(3)
    image = ndimage.gaussian_filter(rng.standard_normal(spatial), 0.7)
    taper = np.ones(spatial)
    for axis, side in enumerate(spatial):
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1, side + 1) / (side + 1))
        taper *= window.reshape([-1 if a == axis else 1 for a in range(len(spatial))])
    half = np.fft.rfftn((image - image.mean()) * taper)
    cells: dict[tuple[int, ...], list[float]] = {}
    for index in np.ndindex(half.shape):
        found = []
        for axis, (i, side) in enumerate(zip(index, spatial, strict=True)):
            last = axis == len(spatial) - 1
            share = i / side if last else np.fft.fftfreq(side)[i] + 0.5
            found.append(min(int(share * 8), 7))
        cells.setdefault(tuple(found), []).append(abs(half[index]) ** 2)
    means = np.array([np.mean(powers) for powers in cells.values()])
    found = np.exp(np.log(means).mean()) / means.mean()
    # What noise has there, of which a window passes no two neighbouring frequencies alone.
    shapes = [np.random.default_rng(seed).standard_normal(spatial) for seed in range(40)]
    assert np.mean([flatness(drawn) for drawn in shapes]) == pytest.approx(1.0, abs=0.03)
    assert 0.9 * found < flatness(image) < 1.3 * found


class Small(nn.Module):
    """As random weights make it."""

    @nn.compact
    def __call__(self, x):
        for number, features in enumerate((6, 8, 8)):
            x = nn.relu(nn.Conv(features, (3, 3), name=f"conv{number + 1}")(x))
        return x


@pytest.mark.optax
@pytest.mark.parametrize("strategy", ["recommended", "none"])
def test_a_network_that_learned_nothing_is_not_alive_after_a_few_steps(strategy):
    module = Small()
    variables = module.init(jax.random.key(0), jnp.zeros((1, 48, 52, 1)))
    network = linen_network(module, variables, (48, 52, 1))
    chosen = presets.strategy(strategy, every=50, steps=20)
    pixels = parameterizations.pixels()
    recipe = ascent.Recipe(
        objective=objectives.channel("conv3"),
        parameterization=pixels,
        optimizer=optax.adam(pixels.learning_rate),
        steps=20,
        robustness=chosen.robustness,
        projection=chosen.projection,
    )
    found = [
        status(
            unit.image,
            start=unit.start,
            objective_trace=unit.objective_trace,
            rise=unit.final_objective - unit.initial_objective,
            finite=unit.finite,
            intensity_range=(0.0, 1.0),
            border=7,
        )
        for unit in visualize(network, recipe, "conv3", range(8), batch_size=8)
    ]
    assert found.count("alive") <= 1
