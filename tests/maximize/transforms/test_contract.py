"""What every transform promises, tested on all that the package exports."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from featvis_jax.maximize import transforms
from featvis_jax.maximize.transforms import (
    DescribedTransform,
    chain,
    describe,
    is_differentiable,
    noise,
)

FACTORIES = {
    name: value
    for name, value in vars(transforms).items()
    if inspect.isfunction(value)
    and inspect.signature(value).return_annotation is DescribedTransform
}
COMBINATORS = {"chain", "every", "from_step", "sometimes"}


def dim():
    return transforms.clip(high=0.5)


def fading(step):
    return 1 / jnp.asarray(step + 1, jnp.float32)


# One call or more for every factory, strong enough to change a random image.
CASES = {
    "bilateral": [{}],
    "chain": [(transforms.rotate(max_degrees=20), dim(), transforms.translate(max_voxels=2))],
    "clip": [{"low": 0.2, "high": 0.6}],
    "every": [(2, dim())],
    "flip": [{"axes": (0, 1), "probability": 0.7}],
    "from_step": [(1, dim())],
    "gaussian_blur": [{"sigma": 1.0}, {"sigma": fading, "radius": 4}],
    "identity": [{}],
    "jitter": [{"strength": 0.5}, {"mode": "literal"}, {"strength": 0.2, "mode": "shift"}],
    "median": [{"size": 3}],
    "noise": [{"standard_deviation": 0.1}],
    "normalize": [{"mean": 0.4, "standard_deviation": 0.2}],
    "pad_and_crop": [{"padding": 2}, {"padding": 2, "mode": "reflect"}],
    "random_resized_crop": [{"interpolation": "cubic"}, {}],
    "resize": [{"factor": 0.6}, {"size": 9, "interpolation": "cubic", "onto_grid": "crop"}],
    "roll": [{"max_voxels": 3}],
    "rotate": [
        {"max_degrees": 30.0},
        {"degrees": [-10, 0, 10], "interpolation": "nearest"},
        {"max_degrees": 30.0, "interpolation": "cubic", "fill": 0.3},
    ],
    "scale": [{"low": 0.8, "high": 1.2}, {"factors": [0.9, 1.1], "interpolation": "cubic"}],
    "sometimes": [(0.5, dim())],
    "switching_bilateral": [{}],
    "total_variation": [{"iterations": 5}, {"iterations": 5, "method": "fgp"}],
    "translate": [{"max_fraction": 0.2, "fill": 0.5}, {"max_voxels": 3}],
}
# Options at which a transform does nothing.
IDENTITIES = {
    "bilateral": {"sigma_space": 0.05},
    "chain": (),
    "clip": {"low": -10.0, "high": 10.0},
    "every": (1000, dim()),
    "flip": {"probability": 0.0},
    "from_step": (1000, dim()),
    "gaussian_blur": {"sigma": 0.0},
    "identity": {},
    "jitter": {"strength": 0.0},
    "median": {"size": 1},
    "noise": {"standard_deviation": 0.0},
    "normalize": {},
    "pad_and_crop": {"padding": 0},
    "random_resized_crop": {"area": (1.0, 1.0), "ratio": (1.0, 1.0)},
    "resize": {"factor": 1.0},
    "roll": {"max_voxels": 0},
    "rotate": {"max_degrees": 0.0},
    "scale": {"low": 1.0, "high": 1.0},
    "sometimes": (0.0, dim()),
    "switching_bilateral": {"noise_threshold": 10.0, "impulse_threshold": 10.0},
    "total_variation": {"weight": 0.0},
    "translate": {"max_fraction": 0.0},
}
SHAPES = {"2-D": (10, 13, 2), "3-D": (7, 9, 8, 1)}


def make(name, options):
    factory = FACTORIES[name]
    return factory(**options) if isinstance(options, dict) else factory(*options)


def cases(rank, first_only=False):
    return [
        pytest.param(name, options, SHAPES[rank], id=f"{name}{number or ''}-{rank}")
        for name, all_options in CASES.items()
        for number, options in enumerate(all_options[: 1 if first_only else None])
    ]


def each_case(test):
    return pytest.mark.parametrize(("name", "options", "shape"), cases("2-D"))(test)


def each_case_and_rank(test):
    # What differs between the options of one factory does not depend on the rank.
    chosen = cases("2-D") + cases("3-D", first_only=True)
    return pytest.mark.parametrize(("name", "options", "shape"), chosen)(test)


def random_image(shape):
    return jax.random.uniform(jax.random.key(7), shape)


def test_every_exported_transform_is_tested_here():
    assert FACTORIES.keys() == CASES.keys() == IDENTITIES.keys()
    assert set(transforms.__all__) == FACTORIES.keys() | {
        "AffineMap",
        "DescribedTransform",
        "Geometry",
        "describe",
        "in_part",  # Applies one; tested in test_partial.py.
        "is_differentiable",
        "is_identity",
    }


@pytest.mark.parametrize("name", FACTORIES)
def test_options_are_keyword_only_and_documented(name):
    factory = FACTORIES[name]
    parameters = inspect.signature(factory).parameters.values()
    if name not in COMBINATORS:
        assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters)
    for section in ("Args:", "Returns:", "Raises:", "Example:"):
        if parameters or section in ("Returns:", "Example:"):
            assert section in factory.__doc__, section
    for parameter in parameters:
        assert f"{parameter.name}:" in factory.__doc__


@each_case
def test_signature_and_description(name, options, shape):
    transform = make(name, options)
    assert list(inspect.signature(transform).parameters) == ["key", "image", "step"]
    assert transform.name == name
    assert describe(transform).startswith(f"{name}(")
    assert "object at" not in describe(transform)
    # Equal options make equal transforms, which compile once.
    assert transform == make(name, options)
    assert hash(transform) == hash(make(name, options))


@each_case
def test_jit_is_eager(name, options, shape):
    transform, image, key = make(name, options), random_image(shape), jax.random.key(3)
    eager = transform(key, image, jnp.int32(1))
    compiled = jax.jit(transform)(key, image, jnp.int32(1))
    np.testing.assert_allclose(compiled, eager, atol=2e-6)
    # The step may be a plain integer, and the same key gives the same image.
    np.testing.assert_array_equal(transform(key, image, 1), eager)


@each_case_and_rank
def test_shape_and_dtype_are_kept_and_a_vmapped_scan_is_a_loop(name, options, shape):
    transform = make(name, options)
    images = jnp.stack([random_image(shape), 1 - random_image(shape)])
    keys = jax.random.split(jax.random.key(5), 2)

    @jax.jit
    def together(images):
        def body(images, step):
            return jax.vmap(transform, in_axes=(0, 0, None))(keys, images, step), None

        return jax.lax.scan(body, images, jnp.arange(2))[0]

    alone = jax.jit(transform)
    for key, image, expected in zip(keys, images, together(images), strict=True):
        for step in range(2):
            image = alone(key, image, jnp.int32(step))
            assert image.shape == shape
            assert image.dtype == jnp.float32
            assert not image.weak_type
        assert bool(jnp.isfinite(image).all())
        np.testing.assert_allclose(image, expected, atol=2e-5)


@each_case_and_rank
def test_gradient_is_finite_or_refused(name, options, shape):
    transform, key = make(name, options), jax.random.key(11)
    weights = jax.random.normal(jax.random.key(1), shape)

    def loss(image):
        return (weights * transform(key, image, jnp.int32(1))).sum()

    if not is_differentiable(transform):
        with pytest.raises(ValueError, match=r"no useful gradient.*projection"):
            jax.grad(loss)(random_image(shape))
        return
    # Half of a brain image is exactly 0, where square roots and powers have no slope.
    gradient_of = jax.jit(jax.grad(loss))
    for image in (0.5 * random_image(shape), jnp.zeros(shape)):
        gradient = gradient_of(image)
        assert gradient.shape == shape
        assert bool(jnp.isfinite(gradient).all())
    assert bool((gradient_of(0.5 * random_image(shape)) != 0).any())


@pytest.mark.parametrize("name", IDENTITIES)
def test_identity_at_zero_strength(name):
    transform, image = make(name, IDENTITIES[name]), random_image((8, 8, 8, 1))
    result = jax.jit(transform)(jax.random.key(0), image, 0)
    np.testing.assert_allclose(result, image, atol=1e-6)


@each_case
def test_appending_leaves_the_draws_alone(name, options, shape):
    transform, image, key = make(name, options), random_image(shape), jax.random.key(4)
    seen = []

    def spy(key, image, step):
        del key, step
        seen.append(image)
        return image

    alone = chain(transform)(key, image, 1)
    chain(transform, spy, noise(standard_deviation=1.0), transform)(key, image, 1)
    np.testing.assert_allclose(seen[0], alone, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["flip", "jitter", "noise", "pad_and_crop", "random_resized_crop", "roll", "rotate"]
)
def test_another_key_gives_another_image(name):
    transform, image = make(name, CASES[name][0]), random_image(SHAPES["2-D"])
    draw = jax.jit(jax.vmap(transform, in_axes=(0, None, None)))
    results = draw(jax.random.split(jax.random.key(0), 8), image, 0)
    assert bool((results != results[:1]).any())
