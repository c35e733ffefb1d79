"""The elements of a picture, where they were drawn and as large as they were drawn."""

import numpy as np
import pytest

from featvis_jax.evaluation.concepts import TEMPLATES
from featvis_jax.evaluation.elements import elements, window_of

SHAPES = {2: (70, 80), 3: (40, 42, 44)}


def drawn(rank: int, figures: list[tuple[list[float], float, float]]) -> np.ndarray:
    """Squares at places, of sizes, with contrasts."""
    grid = np.indices(SHAPES[rank], dtype=float)
    image = np.full(SHAPES[rank], 0.5)
    for center, size, contrast in figures:
        column = np.reshape(center, (-1, *[1] * rank))
        image += contrast * TEMPLATES["square"](grid - column, size)
    return image[..., None]


@pytest.mark.parametrize("contrast", [0.3, -0.3])
@pytest.mark.parametrize("rank", SHAPES)
def test_a_shape_is_found_where_it_is_and_as_large_as_it_is(rank, contrast):
    center = [19.5, 20.5, 21.5][:rank]
    image = drawn(rank, [(center, 8.0, contrast)])
    first, *others = elements(image, TEMPLATES["square"], size=9.0)
    np.testing.assert_allclose(first.center, center, atol=0.5)
    assert first.size == pytest.approx(8.0, rel=0.1) and not others
    # What it takes off is all that there is: the sum of squared deviations in its window.
    inside = window_of(image[..., 0], first, 1.0)
    assert first.energy == pytest.approx(((inside - inside.mean()) ** 2).sum(), rel=0.15)
    assert first.fit == pytest.approx(1, abs=0.15)


def test_neighbours_are_not_taken_for_one_of_twice_the_size():
    image = drawn(2, [([30.5, 25.5], 10.0, 0.3), ([30.5, 37.5], 10.0, 0.3)])
    found = elements(image, TEMPLATES["square"], size=10.0)[:2]
    assert sorted(round(float(each.center[1])) for each in found) in ([25, 37], [26, 38])
    assert all(each.size == pytest.approx(10.0, rel=0.1) for each in found)


def test_what_shows_most_comes_first_and_faint_specks_not_at_all():
    image = drawn(
        2, [([20.5, 20.5], 10.0, 0.2), ([45.5, 50.5], 10.0, -0.4), ([20.5, 60.5], 10.0, 0.02)]
    )
    found = elements(image, TEMPLATES["square"], size=10.0)
    assert len(found) == 2 and found[0].energy > found[1].energy
    for element, center in zip(found, ([45.5, 50.5], [20.5, 20.5]), strict=True):
        np.testing.assert_allclose(element.center, center, atol=0.5)


def test_an_even_picture_has_none():
    assert elements(np.full((40, 40, 1), 0.5), TEMPLATES["square"], size=8.0) == []


def test_a_square_explains_a_third_of_a_checkerboard():
    i, j = np.indices((60, 66))
    found = elements((((i // 8 + j // 8) % 2) * 0.4)[..., None], TEMPLATES["square"], size=8.0)
    assert [each.fit for each in found] == pytest.approx([1 / 3] * len(found), abs=0.01)
