"""Transfer and insertion with a detector that is known: the energy of a matched square."""

import numpy as np
import pytest
from scipy import ndimage, stats

from featvis_jax.evaluation.energy import phase_scrambled
from featvis_jax.evaluation.transfer import (
    Yardstick,
    detector,
    insertion_sites,
    insertion_test,
    insertions,
    lead,
    yardstick,
)


def brains(count: int, rank: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Ellipsoids of noise on black."""
    shape = (40, 44, 42)[:rank]
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    inside = sum(axis**2 for axis in axes) < 0.9
    made = [rng.uniform(0.3, 0.7, shape) * inside for _ in range(count)]
    return [image[..., None].astype(np.float32) for image in made]


@pytest.mark.parametrize("rank", [2, 3])
def test_a_square_inserts_and_noise_does_not(rank, rng):
    side = 12
    shape = (40, 44, 42)[:rank]
    picture = np.full((*shape, 1), 0.5, np.float32)
    picture[tuple(slice(10, 17) for _ in shape)] = 1.0
    sites = insertion_sites(brains(10, rank, rng), side, rng)

    def brightest(images: np.ndarray) -> np.ndarray:
        return np.array(
            [ndimage.uniform_filter(image[..., 0], 7).max() for image in images], np.float64
        )

    pasted = insertions(picture, sites, side, rng)
    assert pasted.patched.shape == (10, *shape, 1)
    effect, p = insertion_test(brightest(pasted.patched), brightest(pasted.scrambled))
    assert effect > 0.1 and p < 0.01
    noise = phase_scrambled(picture, rng)
    pasted = insertions(noise, sites, side, rng)
    assert insertion_test(brightest(pasted.patched), brightest(pasted.scrambled))[1] > 0.01
    # Nothing changes but where the patch lies.
    for site, image in zip(sites, pasted.patched, strict=True):
        changed = np.argwhere((image != site.image)[..., 0])
        assert (changed.max(axis=0) - changed.min(axis=0) < side).all()
        assert abs(changed.mean(axis=0) - site.center).max() < 1.5


def test_noise_is_significant_as_often_as_it_should_be(rng):
    # Each place gets a patch of its own: what one of them does by accident is not counted often.
    weights = rng.standard_normal((40, 44))
    sites = insertion_sites(brains(12, 2, rng), 8, rng)
    found = []
    for _ in range(100):
        pasted = insertions(rng.standard_normal((40, 44, 1)), sites, 8, rng)
        values = [(stack[..., 0] * weights).sum(axis=(1, 2)) for stack in pasted]
        found.append(insertion_test(*values)[1] < 0.05)
    assert sum(found) <= stats.binom.ppf(0.999, 100, 0.05)


def test_wilcoxon_by_counting_signs():
    # With five pairs of one sign one of 2^5 sign patterns is as extreme.
    assert insertion_test(np.arange(5.0) + 2, np.ones(5))[1] == pytest.approx(1 / 32)
    assert insertion_test(np.ones(4), np.ones(4)) == (0.0, 1.0)


def test_the_standing_is_0_for_clean_images_and_1_for_lesions(rng):
    batches = [
        {"image": rng.uniform(size=(6, 8, 9, 1)).astype(np.float32), "label": np.arange(6) % 2}
        for _ in range(3)
    ]
    for batch in batches:
        batch["label"] = batch["label"].astype(np.int32)
        batch["image"][1::2] += 0.5

    def logits(images: np.ndarray) -> np.ndarray:
        mean = np.asarray(images, np.float64).mean(axis=(1, 2, 3))
        return np.stack([-mean, mean], axis=1)

    found = yardstick(logits, batches, 1)
    for offset, expected in ((0, 0.0), (1, 1.0)):
        standing = [found.standing(logits(batch["image"][offset::2])) for batch in batches]
        assert np.mean(standing) == pytest.approx(expected)
    with pytest.raises(ValueError, match="does not know the task"):
        yardstick(lambda images: -logits(images), batches, 1)


def test_the_lead_is_over_the_best_of_the_others():
    logits = np.array([[1.0, 4.0, 2.0], [0.0, -1.0, 5.0]])
    np.testing.assert_allclose(lead(logits, 1), [2.0, -6.0])


def test_a_detector_gives_the_networks_logits(rng):
    import jax

    from featvis_jax.nn.cnn import CNN
    from featvis_jax.nn.tracing import linen_network

    module = CNN(rank=2, features=(2, 3, 3, 3, 3))
    variables = jax.jit(module.init)(jax.random.key(0), jax.numpy.zeros((40, 44, 1)))
    variables["params"]["logits"]["kernel"] += 0.1
    network = linen_network(module, variables, (40, 44, 1))
    images = rng.uniform(size=(5, 40, 44, 1)).astype(np.float32)
    found = detector(network, "logits", batch_size=2)(images)
    expected = module.apply(variables, jax.numpy.asarray(images))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_images_without_a_brain_have_no_room():
    with pytest.raises(ValueError, match="has room for a patch of 12"):
        insertion_sites([np.zeros((20, 20, 1), np.float32)], 12, np.random.default_rng(0))


def test_a_yardstick_is_a_ruler():
    ruler = Yardstick(1, clean=-1.0, lesion=3.0)
    np.testing.assert_allclose(ruler.standing(np.array([[0.0, 1.0], [0.0, 5.0]])), [0.5, 1.5])
