"""Images of several channels: each is treated as if it were alone, and moved as the others are."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from featvis_jax.evaluation import health
from featvis_jax.maximize import ascent, objectives, parameterizations, penalties, transforms
from featvis_jax.maximize.drive import Drive
from featvis_jax.maximize.layer import visualize
from featvis_jax.maximize.objectives import Unit
from featvis_jax.maximize.parameterizations import FixedContrast
from featvis_jax.maximize.recipe import Recipe
from featvis_jax.nn.tracing import function_network

SPATIAL = {2: (12, 14), 3: (8, 9, 7)}
CHANNELS = {2: 3, 3: 4}
RANK = pytest.mark.parametrize("rank", [2, 3], ids=["2-D", "3-D"])
KEY = jax.random.key(5)


def images(rank, seed=0):
    """An image of several channels, each with a brightness of its own."""
    noise = jax.random.uniform(jax.random.key(seed), (*SPATIAL[rank], CHANNELS[rank]))
    shift = jnp.linspace(0.1, 0.5, CHANNELS[rank]).reshape([1] * rank + [-1])
    return 0.5 * noise + shift


def split(image):
    return jnp.split(image, image.shape[-1], axis=-1)


TRANSFORMS = {
    "bilateral": transforms.bilateral(),
    "clip": transforms.clip(low=0.2, high=0.6),
    "flip": transforms.flip(axes=(0, 1), probability=0.7),
    "gaussian_blur": transforms.gaussian_blur(sigma=0.7),
    "jitter": transforms.jitter(strength=0.5),
    "jitter_shift": transforms.jitter(strength=0.5, mode="shift"),
    "median": transforms.median(),
    "normalize": transforms.normalize(mean=0.4, standard_deviation=0.2),
    "pad_and_crop": transforms.pad_and_crop(padding=2),
    "random_resized_crop": transforms.random_resized_crop(),
    "resize": transforms.resize(factor=0.6),
    "roll": transforms.roll(max_voxels=3),
    "rotate": transforms.rotate(max_degrees=30),
    "scale": transforms.scale(low=0.8, high=1.2),
    "switching_bilateral": transforms.switching_bilateral(),
    "total_variation": transforms.total_variation(iterations=5),
    "total_variation_fgp": transforms.total_variation(iterations=5, method="fgp"),
    "translate": transforms.translate(max_voxels=3),
}


@RANK
@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_treats_every_channel_as_if_it_were_alone(name, rank):
    image, transform = images(rank), jax.jit(TRANSFORMS[name])
    together = transform(KEY, image, 0)
    alone = jnp.concatenate([transform(KEY, channel, 0) for channel in split(image)], axis=-1)
    np.testing.assert_allclose(together, alone, atol=2e-6)
    assert float(jnp.abs(together - image).max()) > 0.01


@RANK
def test_noise_is_another_in_every_channel(rank):
    added = transforms.noise(standard_deviation=0.1)(KEY, jnp.zeros_like(images(rank)), 0)
    between = np.corrcoef(np.asarray(added).reshape(-1, CHANNELS[rank]).T)
    assert np.abs(between - np.eye(CHANNELS[rank])).max() < 0.3


@RANK
@pytest.mark.parametrize("mode", ["factor", "shift"])
def test_brightness_may_be_drawn_for_each_channel(rank, mode):
    image = jnp.full((*SPATIAL[rank], CHANNELS[rank]), 0.5)
    for per_channel, count in ((False, 1), (True, CHANNELS[rank])):
        jitter = transforms.jitter(strength=0.4, mode=mode, per_channel=per_channel)
        drawn = jitter(KEY, image, 0)
        assert len(np.unique(np.asarray(drawn))) == count
        assert ("per_channel=True" in jitter.description) == per_channel


@RANK
def test_each_channel_has_its_own_normalization(rank):
    image, mean = images(rank), [0.1 * (1 + channel) for channel in range(CHANNELS[rank])]
    scaled = transforms.normalize(mean=mean, standard_deviation=tuple(mean))(KEY, image, 0)
    np.testing.assert_allclose(
        scaled, (np.asarray(image) - np.array(mean)) / np.array(mean), rtol=1e-5, atol=1e-6
    )
    with pytest.raises(ValueError, match=r"mean=\(0.1, 0.2\) .* expected one number, or "):
        transforms.normalize(mean=mean[:2])(KEY, image, 0)


PENALTIES = {
    "image_l1": penalties.image_l1(),
    "image_l2": penalties.image_l2(),
    "contrast": penalties.contrast(),
    "total_variation": penalties.total_variation(),
    "clutter": penalties.clutter(),
}


@RANK
@pytest.mark.parametrize("name", PENALTIES)
def test_a_penalty_is_the_mean_of_what_it_is_of_each_channel(name, rank):
    image, unit = images(rank), Unit(jnp.int32(0))
    value = PENALTIES[name].value({}, image, unit)
    each = [PENALTIES[name].value({}, channel, unit) for channel in split(image)]
    np.testing.assert_allclose(value, np.mean(each), rtol=1e-5)


INTENSITIES = ["clip", "sigmoid", "affine", FixedContrast("dark"), FixedContrast("both", level=0.5)]
MADE = {
    "pixels": parameterizations.pixels,
    "fourier": parameterizations.fourier,
    "laplacian": lambda **into: parameterizations.laplacian(levels=2, **into),
}


def part(parameters, channel):
    """The parameters of one channel, which is the last axis but for frequencies."""
    shaped = parameterizations.base.Shaped
    if isinstance(parameters, shaped):
        shape = (*parameters.image_shape[:-1], 1)
        return shaped(parameters.values[..., channel : channel + 1, :], shape)
    return jax.tree.map(lambda leaf: leaf[..., channel : channel + 1], parameters)


@RANK
@pytest.mark.parametrize("intensity", INTENSITIES, ids=str)
@pytest.mark.parametrize("name", MADE)
def test_every_channel_is_written_down_as_if_it_were_alone(name, intensity, rank):
    made = MADE[name](intensity=intensity)
    shape = (*SPATIAL[rank], CHANNELS[rank])
    parameters = made.init(KEY, shape)
    together = made.decode(parameters)
    assert together.shape == shape
    for channel, image in enumerate(split(together)):
        np.testing.assert_allclose(made.decode(part(parameters, channel)), image, atol=1e-6)


@RANK
def test_channels_of_a_spectrum_have_their_own_magnitudes(rank):
    image = np.asarray(images(rank))
    spectrum = parameterizations.mean_magnitude_spectrum([image])
    made = parameterizations.phase(spectrum, intensity_range=(-9.0, 9.0))
    decoded = made.decode(made.init(KEY, image.shape))
    axes = tuple(range(rank))
    found, wanted = (np.abs(np.fft.rfftn(x, axes=axes)) for x in (decoded, image))
    np.testing.assert_allclose(found[..., 1:-1, :], wanted[..., 1:-1, :], rtol=2e-3, atol=1e-3)


@RANK
def test_a_network_of_coordinates_draws_all_channels(rank):
    shape = (*SPATIAL[rank], CHANNELS[rank])
    made = parameterizations.cppn(width=6, depth=3)
    image = np.asarray(made.decode(made.init(KEY, shape)))
    assert image.shape == shape
    assert np.abs(np.diff(image, axis=-1)).max() > 0.01


@RANK
def test_a_mask_is_the_same_in_every_channel(rank):
    mask = np.zeros(SPATIAL[rank])
    mask[2:6, 3:7] = 1
    made = parameterizations.inside(mask, parameterizations.pixels(), outside=0.25)
    image = np.asarray(made.init(KEY, (*SPATIAL[rank], CHANNELS[rank])))
    assert (image[mask == 0] == 0.25).all()
    assert (np.ptp(image[mask == 1], axis=0) > 0.1).all()


@RANK
def test_noise_on_a_start_is_a_share_of_what_each_channel_spans(rank):
    start = np.zeros((*SPATIAL[rank], CHANNELS[rank]), np.float32) + 0.5
    start[0, ..., 0] = 0.9
    made = parameterizations.from_image(start, parameterizations.pixels(), noise=0.05)
    added = np.asarray(made.init(KEY, start.shape)) - start
    assert added[..., 0].std() == pytest.approx(0.05 * 0.4, rel=0.3)
    assert not added[..., 1:].any()


# ----------------------------------------------------------------------------------- what is held


def convolved(weights, batch):
    rank = weights.ndim - 2
    axes = "XYZ"[:rank]
    names = (f"N{axes}C", f"{axes}IO", f"N{axes}C")
    out = lax.conv_general_dilated(batch, weights, (1,) * rank, "VALID", dimension_numbers=names)
    return checkpoint_name(jax.nn.relu(out), "conv")


@pytest.fixture(scope="module", params=[2, 3], ids=["2-D", "3-D"])
def network(request):
    """Four output channels from a convolution over all channels of the input."""
    rank = request.param
    weights = jax.random.normal(jax.random.key(1), (*[3] * rank, CHANNELS[rank], 4))
    return function_network(convolved, weights, (*SPATIAL[rank], CHANNELS[rank]))


def held_recipe(scan, made, **more):
    held = parameterizations.holding(scan, [0, 2], made)
    return Recipe(objectives.channel("conv"), held, optax.adam(0.05), steps=6, **more)


@pytest.mark.optax
@pytest.mark.parametrize("name", ["pixels", "fourier"])
@pytest.mark.parametrize("driven", [False, True])
def test_held_channels_stay_and_the_others_rise(network, name, driven, rng):
    shape = network.image_shape
    scan = rng.random(shape).astype(np.float32)
    recipe = held_recipe(
        scan,
        MADE[name](),
        robustness=transforms.chain(transforms.translate(max_voxels=1), transforms.noise()),
        projection=transforms.gaussian_blur(sigma=0.3) if name == "pixels" else transforms.chain(),
        drive=Drive() if driven else None,
        transparency=True,
    )
    for unit in visualize(network, recipe, "conv", [0, 3]):
        for image in (unit.start, unit.image):
            np.testing.assert_array_equal(image[..., [0, 2]], scan[..., [0, 2]])
        assert np.abs(unit.image - unit.start)[..., 1].max() > 0.05
        assert unit.transparency is not None
        assert not unit.transparency[..., [0, 2]].any()
        assert unit.transparency[..., 1].any()
        assert unit.final_objective > unit.initial_objective


@pytest.mark.optax
def test_what_is_held_is_a_constant_of_the_others_ascent(network, rng):
    """Beside a held scan the others rise as in a network that has the scan built in."""
    shape = network.image_shape
    scan = rng.random(shape).astype(np.float32)
    free = np.isin(np.arange(shape[-1]), [0, 2], invert=True)

    def built_in(weights, batch):
        parts, drawn = [], 0
        for channel, is_free in enumerate(free):
            given = jnp.broadcast_to(
                jnp.asarray(scan[..., [channel]]), (len(batch), *shape[:-1], 1)
            )
            parts.append(batch[..., drawn : drawn + 1] if is_free else given)
            drawn += int(is_free)
        return convolved(weights, jnp.concatenate(parts, axis=-1))

    smaller = function_network(built_in, network.variables, (*shape[:-1], int(free.sum())))
    start = np.full(shape, 0.5, np.float32)
    recipe = held_recipe(scan, parameterizations.from_image(start, parameterizations.pixels()))
    recipe = recipe._replace(optimizer=optax.adam(0.01))
    alone = recipe._replace(
        parameterization=parameterizations.from_image(start[..., free], parameterizations.pixels())
    )
    found = next(iter(visualize(network, recipe, "conv", [1])))
    expected = next(iter(visualize(smaller, alone, "conv", [1])))
    np.testing.assert_allclose(found.image[..., free], expected.image, atol=1e-4)
    assert found.final_objective == pytest.approx(expected.final_objective, rel=1e-4)


@pytest.mark.parametrize("channels", [[], [3], [-1], [0, 1, 2]])
def test_channels_that_cannot_be_held_are_refused(channels):
    with pytest.raises(ValueError, match="expected some of the numbers of its channels, and not"):
        parameterizations.holding(np.zeros((4, 5, 3)), channels, parameterizations.pixels())


def test_a_scan_that_does_not_fit_is_refused_before_anything_is_compiled(network):
    bad = np.full((4, 5, 3), np.nan)
    with pytest.raises(ValueError, match="what is held is not finite"):
        parameterizations.holding(bad, [0], parameterizations.pixels())
    recipe = held_recipe(np.zeros((4, 5, 3)), parameterizations.pixels())
    with pytest.raises(ValueError, match=r"the image has shape \(4, 5, 3\), but the network takes"):
        ascent.check(recipe, network=network)


# ------------------------------------------------------------------------------------- the status


def status(image, start, **more):
    settled = np.tanh(np.linspace(0.0, 9.0, 40))
    return health.status(
        image, start=start, objective_trace=settled, rise=1.0, finite=True,
        intensity_range=(0.0, 1.0), **more,
    )  # fmt: skip


def test_flat_channels_of_different_levels_are_uniform():
    start = np.full((24, 24, 3), 0.5)
    flat = start + np.array([0.3, -0.2, 0.1])
    assert status(flat, start) == "uniform"
    assert status(flat, start, response=2.0, target=1.0) == "uniform"


def test_a_pattern_in_one_of_many_channels_is_enough():
    start = np.full((24, 24, 8), 0.5)
    image = start.copy()
    # Over all channels it is less than the 2 % that count as a move and as a pattern.
    image[..., 3] += 0.04 * np.tile([-1.0, 1.0], (24, 12))
    assert np.sqrt(np.mean((image - start) ** 2)) < 0.02
    assert status(image, start) == "alive"
