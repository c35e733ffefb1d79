"""Brightness, clipping, noise and normalization."""

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from featvis_jax.maximize import transforms as t

KEY = jax.random.key(3)
IMAGE = jax.random.uniform(jax.random.key(1), (16, 17, 2))


@pytest.mark.parametrize("mode", ["factor", "literal"])
def test_jitter_multiplies_and_clips(mode):
    for key in jax.random.split(KEY, 20):
        result = np.asarray(t.jitter(strength=2.0, mode=mode)(key, IMAGE, 0))
        assert result.min() >= 0
        assert result.max() <= 1
        inside = (result > 0) & (result < 1)
        if inside.any():
            factors = result[inside] / np.asarray(IMAGE)[inside]
            np.testing.assert_allclose(factors, factors[0], rtol=1e-4)


def test_jitter_above_one_brightens():
    # The paper: with a number larger than 1, the whole image becomes brighter.
    keys = jax.random.split(KEY, 2_000)
    means = {
        strength: float(
            jax.vmap(t.jitter(strength=strength, mode="literal"), (0, None, None))(
                keys, IMAGE, 0
            ).mean()
        )
        for strength in (1.0, 2.0, 3.0)
    }
    assert means[1.0] < means[2.0] < means[3.0]
    assert means[1.0] == pytest.approx(0.5 * float(IMAGE.mean()), rel=0.05)


def test_shift_is_the_brightness_of_dm_pix():
    ours = t.jitter(strength=0.3, mode="shift")(KEY, IMAGE, 0)
    np.testing.assert_array_equal(ours, jnp.clip(dm_pix.random_brightness(KEY, IMAGE, 0.3), 0, 1))


def test_clip_agrees_with_numpy():
    result = t.clip(low=0.2, high=0.6)(KEY, IMAGE, 0)
    np.testing.assert_array_equal(result, np.clip(np.asarray(IMAGE), 0.2, 0.6, dtype=np.float32))


def test_normalize_agrees_with_numpy():
    result = t.normalize(mean=0.25, standard_deviation=0.5)(KEY, IMAGE, 0)
    np.testing.assert_allclose(result, (np.asarray(IMAGE, float) - 0.25) / 0.5, atol=1e-6)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: t.jitter(strength=-0.1), r"strength=-0.1 .* \[0, inf\]"),
        (lambda: t.jitter(strength=0.0, mode="literal"), r"strength=0.0 .* \(0, inf\]"),
        (lambda: t.jitter(mode="contrast"), "mode='contrast'; expected one of factor, literal"),
        (lambda: t.clip(low=0.5, high=0.5), r"high=0.5 .* \(0.5, inf\]"),
        (lambda: t.noise(standard_deviation=-1.0), r"standard_deviation=-1.0 .* \[0, inf\]"),
        (lambda: t.normalize(standard_deviation=0.0), r"standard_deviation=0.0 .* \(0, inf\]"),
    ],
)
def test_bad_options_raise_where_they_are_given(build, message):
    with pytest.raises(ValueError, match=message):
        build()
