"""How strongly pictures drive their units and others: against plain loops and SciPy."""

import numpy as np
import pytest
from scipy import stats

from featvis_jax.evaluation.strength import likeness_correlation, selectivity, strength


def test_selectivity_is_the_share_of_other_living_units_that_are_driven_less(rng):
    responses, reference = rng.normal(size=(6, 9)), rng.normal(size=9)
    reference[4] = 0.0
    own = [0, 1, 2, 4, 5, 8]
    found = selectivity(responses, reference, own)
    living = [unit for unit in range(9) if reference[unit] > 0]
    assert 2 < len(living) < 9
    for number, unit in enumerate(own):
        if unit not in living:
            assert np.isnan(found[number])
            continue
        shares = [
            strength(responses[number, each], reference[each])
            < strength(responses[number, unit], reference[unit])
            for each in living
            if each != unit
        ]
        assert found[number] == pytest.approx(np.mean(shares))
    assert np.isnan(selectivity(responses[:1], np.array([1.0] + [-1.0] * 8), [0])).all()


def test_the_correlation_of_likenesses_is_scipys_over_all_pairs(rng):
    of_pictures, of_real = rng.normal(size=(5, 12)), rng.normal(size=(20, 5))
    pairs = [(i, j) for i in range(5) for j in range(i)]
    alike = [
        [stats.spearmanr(rows[i], rows[j]).statistic for i, j in pairs]
        for rows in (of_pictures, of_real.T)
    ]
    found = likeness_correlation(of_pictures, of_real)
    assert found == pytest.approx(stats.spearmanr(*alike).statistic)
    # Pictures that drive all units as real inputs do are alike where the units are.
    assert likeness_correlation(of_real.T, of_real) == pytest.approx(1.0)
    assert np.isnan(likeness_correlation(of_pictures[:2], of_real[:, :2]))
    assert np.isnan(likeness_correlation(np.ones((5, 12)), of_real))
