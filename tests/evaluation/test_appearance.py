"""Numbers for how an image looks, on images whose numbers are known."""

import numpy as np
import pytest

from featvis_jax.evaluation.appearance import appearance

SHAPES = {2: (96, 112), 3: (40, 44, 48)}


def coloured_noise(shape: tuple[int, ...], exponent: float, seed: int) -> np.ndarray:
    """Gaussian noise with a power spectrum that goes with frequency**exponent, made by hand."""
    rng = np.random.default_rng(seed)
    frequency = np.sqrt(sum(f**2 for f in np.meshgrid(*map(np.fft.fftfreq, shape), indexing="ij")))
    frequency.flat[0] = 1.0
    spectrum = np.fft.fftn(rng.normal(size=shape)) * frequency ** (exponent / 2)
    spectrum.flat[0] = 0.0
    return np.real(np.fft.ifftn(spectrum))[..., None]


@pytest.mark.parametrize("rank", SHAPES)
@pytest.mark.parametrize("exponent", [0.0, -1.0, -2.0])
def test_the_slope_of_the_spectrum_is_that_of_the_noise(rank, exponent):
    slopes = [
        appearance(coloured_noise(SHAPES[rank], exponent, seed)).spectrum_slope for seed in range(6)
    ]
    assert np.mean(slopes) == pytest.approx(exponent, abs=0.12)


@pytest.mark.parametrize("rank", SHAPES)
def test_a_ramp_has_the_gradient_it_was_made_with(rank):
    side = SHAPES[rank][0]
    ramp = np.zeros((*SHAPES[rank], 1)) + 0.01 * np.arange(side).reshape(-1, *[1] * rank)
    found = appearance(ramp)
    # The last face has no forward difference.
    assert found.total_variation == pytest.approx(0.01 * (side - 1) / side)
    assert found.brightness == pytest.approx(0.01 * (side - 1) / 2)
    assert found.density == 0.0
    assert appearance(10 * ramp).density == pytest.approx((side - 1) / side)


@pytest.mark.parametrize("rank", SHAPES)
def test_an_artefact_at_the_border_is_told_from_texture(rank):
    rng = np.random.default_rng(0)
    texture = rng.uniform(0.48, 0.52, (*SHAPES[rank], 1))
    assert appearance(texture).edge_artefact == pytest.approx(1.0, abs=0.1)
    assert appearance(texture).edge_brightness == pytest.approx(0.0, abs=0.01)
    framed = texture.copy()
    framed[:4] += 0.3
    found = appearance(framed)
    in_band = np.ones(SHAPES[rank], bool)
    in_band[(slice(8, -8),) * rank] = False
    share = np.prod(SHAPES[rank][1:]) * 4 / in_band.sum()
    assert found.edge_brightness == pytest.approx(0.3 * share, abs=0.01)
    assert found.edge_artefact > appearance(texture).edge_artefact + 0.1


@pytest.mark.parametrize("rank", SHAPES)
def test_energy_is_high_above_half_the_nyquist_frequency(rank, rng):
    shape = SHAPES[rank]
    place = np.indices(shape)
    slow, fast = (
        np.cos(2 * np.pi * cycles * place[0] / shape[0])[..., None]
        for cycles in (shape[0] // 4 - 1, shape[0] // 4 + 1)
    )
    assert appearance(0.5 + slow).high_frequency == pytest.approx(0.0, abs=1e-9)
    assert appearance(0.5 + fast).high_frequency == pytest.approx(1.0)
    assert appearance(3.0 + fast + 2 * slow).high_frequency == pytest.approx(0.2)
    # Along a diagonal each axis may stay below a quarter of a cycle.
    turned = np.cos(2 * np.pi * 0.2 * (place[0] + place[1]))[..., None]
    assert appearance(turned).high_frequency > 0.95
    # By the definition, with a loop over all frequencies.
    image = rng.random(shape[:2] if rank == 2 else (18, 19, 20))
    power = np.abs(np.fft.fftn(image - image.mean())) ** 2
    high = sum(
        value
        for index, value in np.ndenumerate(power)
        if sum(np.fft.fftfreq(n)[i] ** 2 for i, n in zip(index, image.shape, strict=True)) > 0.0625
    )
    found = appearance(image[..., None]).high_frequency
    assert found == pytest.approx(high / power.sum())
    assert found == pytest.approx({2: 0.8, 3: 0.93}[rank], abs=0.02)


def test_a_flat_image_has_no_edges_to_compare():
    found = appearance(np.full((40, 40, 1), 0.5))
    assert (found.contrast, found.total_variation, found.density) == (0, 0, 0)
    assert np.isnan(found.edge_artefact)
    assert np.isnan(found.spectrum_slope)
    assert np.isnan(found.high_frequency)
    assert np.isnan(appearance(np.full((40, 44, 1), 0.3)).high_frequency)


@pytest.mark.parametrize("border", [0, 20])
def test_a_border_without_interior_is_refused(border):
    with pytest.raises(ValueError, match="expected 1 to 19"):
        appearance(np.zeros((40, 41, 1)), border=border)
