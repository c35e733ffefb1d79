"""Matched filters: against scikit-image's correlation, and on shapes that are known."""

import numpy as np
import pytest
from skimage.feature import match_template

from featvis_jax.evaluation.concepts import TEMPLATES, match_shapes

SHAPES = {2: (60, 70), 3: (36, 38, 40)}
SIZES = {2: 12.0, 3: 8.0}


def drawn(name: str, rank: int, *, size: float, contrast: float = 0.4) -> np.ndarray:
    """One shape off the middle of a faintly textured ground."""
    shape = SHAPES[rank]
    center = np.array([side * 0.45 for side in shape]).round().reshape(-1, *[1] * rank)
    offsets = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")) - center + 0.5
    texture = np.random.default_rng(0).normal(0.5, 0.01, shape)
    return (texture + contrast * TEMPLATES[name](offsets, size))[..., None]


@pytest.mark.parametrize("rank", SHAPES)
def test_the_correlation_is_scikit_images(rank):
    image = np.random.default_rng(1).uniform(size=(*SHAPES[rank], 1))
    size = 6
    axis = np.arange(2 * size) - (2 * size - 1) / 2
    offsets = np.stack(np.meshgrid(*[axis] * rank, indexing="ij"))
    found = match_shapes(image, size=size, multiples=(1.0,)).correlation
    for name, template in TEMPLATES.items():
        mask = template(offsets, float(size))
        turned = [np.swapaxes(mask, 0, axis) for axis in range(rank)]
        expected = max(np.abs(match_template(image[..., 0], each)).max() for each in turned)
        assert found[name] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("contrast", [0.4, -0.4])
@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("rank", SHAPES)
def test_a_shape_is_named_and_measured(rank, name, contrast):
    found = match_shapes(drawn(name, rank, size=SIZES[rank], contrast=contrast), size=SIZES[rank])
    assert max(found.correlation, key=found.correlation.get) == name
    assert found.correlation[name] > 0.95
    assert found.margin(name) > 0
    assert all(found.margin(other) < 0 for other in TEMPLATES if other != name)
    assert abs(np.log2(found.size[name] / SIZES[rank])) <= 0.5


def test_the_size_is_that_of_the_image_and_not_of_the_question():
    image = drawn("square", 2, size=8.0)
    assert match_shapes(image, size=16.0).size["square"] == pytest.approx(8.0)
    assert match_shapes(image, size=4.0).size["square"] == pytest.approx(8.0)


def test_all_templates_have_one_area():
    axis = np.arange(-40, 40) + 0.5
    offsets = np.stack(np.meshgrid(axis, axis, indexing="ij"))
    for name in ("square", "disc", "line"):
        assert TEMPLATES[name](offsets, 24.0).sum() == pytest.approx(24.0**2, rel=0.03)


def test_a_flat_image_matches_nothing():
    found = match_shapes(np.full((40, 40, 1), 0.5), size=8.0)
    assert all(value < 1e-3 for value in found.correlation.values())
