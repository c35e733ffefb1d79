"""Contrasts whose ranges differ: an ascent is the one on a network of their shares, mapped back."""

import nibabel
import numpy as np
import pytest
from jax import lax, nn
from jax.ad_checkpoint import checkpoint_name
from nibabel.nifti1 import Nifti1Image

from featvis_jax.models import from_function, with_ranges
from featvis_jax.runs.in_memory import visualize

pytestmark = pytest.mark.optax
# As of a T1w that is scaled to 0..1 and a CT beside it.
RANGES = ((0.0, 1.0), (-1024.0, 3071.0))
LOW, HIGH = (np.array(ends, np.float32) for ends in zip(*RANGES, strict=True))
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
SHAPES = {2: (16, 18, 2), 3: (10, 12, 9, 2)}


def networks(rank):
    """A network of shares, and the same of the intensities that they are shares of."""
    axes, shape = "XYZ"[:rank], SHAPES[rank]
    names = (f"N{axes}C", f"{axes}IO", f"N{axes}C")

    def of_shares(weights, x):
        found = lax.conv_general_dilated(x, weights, (1,) * rank, "SAME", dimension_numbers=names)
        return checkpoint_name(nn.softplus(found), "stem")

    def of_intensities(weights, x):
        low, high = (np.reshape(ends, (1,) * (rank + 1) + (2,)) for ends in (LOW, HIGH))
        return of_shares(weights, (x - low) / (high - low))

    weights = np.random.default_rng(0).normal(size=(3,) * rank + (2, 2)).astype(np.float32)
    plain, own = (
        from_function(function, weights, shape)._replace(affine=AFFINE)
        for function in (of_shares, of_intensities)
    )
    return plain, with_ranges(own, RANGES)


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """A scan of both contrasts, by rank: its shares, and files of these and of intensities."""
    place, found = tmp_path_factory.mktemp("scans"), {}
    for rank, shape in SHAPES.items():
        shares = np.random.default_rng(rank).uniform(0.1, 0.9, shape).astype(np.float32)
        for name, values in (("shares", shares), ("own", LOW + (HIGH - LOW) * shares)):
            for channel in range(2):
                data = np.asarray(values[..., channel], np.float32)
                data = data if rank == 3 else data[..., None]
                path = place / f"{name}-{rank}-{channel}.nii.gz"
                nibabel.save(Nifti1Image(data, AFFINE), path)
                found[name, rank, channel] = str(path)
    return found


OPTIONS = {
    "driven": {},
    "projected": {"regularization": "blur_0.5", "every": 2, "penalty": "total_variation"},
    "lucid": {"regularization": "lucid", "parameterization": "laplacian", "variants": 2},
    "dark": {"regularization": "none", "parameterization": "fourier", "intensity": "dark"},
    "from a scan": {"regularization": "lucid", "start_image": "{0},{1}"},
    "deformed": {
        "regularization": "none",
        "parameterization": "deformation",
        "start_image": "{0},{1}",
        "changes": "both",
        "spacing_mm": 6.0,
    },
    "held": {"regularization": "lucid", "hold": ("channel1:{1}",)},
}


def filled(options, scans, name, rank):
    files = [scans[name, rank, channel] for channel in range(2)]

    def fill(value):
        if isinstance(value, tuple):
            return tuple(map(fill, value))
        return value.format(*files) if isinstance(value, str) else value

    return {option: fill(value) for option, value in options.items()}


@pytest.mark.parametrize(
    ("name", "rank"), [*((name, 2) for name in OPTIONS), ("driven", 3), ("deformed", 3)]
)
def test_pictures_are_those_of_the_network_of_shares_in_each_contrasts_own_intensities(
    name, rank, scans
):
    plain, own = networks(rank)
    made = [
        visualize(model, "stem", steps=4, batch=2, **filled(OPTIONS[name], scans, files, rank))
        for model, files in ((plain, "shares"), (own, "own"))
    ]
    for expected, found in zip(*made, strict=True):
        assert found.image.dtype == np.float32
        np.testing.assert_allclose(
            (found.image - LOW) / (HIGH - LOW), expected.image, rtol=0, atol=2e-3
        )
        assert found.status == expected.status
        np.testing.assert_allclose(found.trace, expected.trace, rtol=2e-3)
        assert (found.image >= LOW).all()
        assert (found.image <= HIGH).all()
        assert found.record.intensity_min == found.image.min()
        assert found.record.intensity_max == found.image.max() > 50
        if name == "held":
            values = Nifti1Image.from_filename(scans["own", rank, 1]).get_fdata(dtype=np.float32)
            held = found.image[..., 1].reshape(values.shape)
            np.testing.assert_allclose(held, values, atol=1e-3)
        if name == "deformed":
            np.testing.assert_allclose(
                (found.maps["scan"] - LOW) / (HIGH - LOW), expected.maps["scan"], atol=1e-5
            )


def test_one_range_of_all_channels_leaves_the_network_as_it_is():
    model, _ = networks(2)
    for ranges in (((-2.0, 4.0),), ((-2.0, 4.0), (-2.0, 4.0))):
        found = with_ranges(model, ranges)
        assert (found.intensity_range, found.channel_ranges) == ((-2.0, 4.0), None)
        assert found.network_of_shares is model.network


def test_ranges_of_other_channels_are_refused():
    with pytest.raises(ValueError, match=r"`intensity_range=0,1,.*: 3 pairs; .* or 2 pairs"):
        with_ranges(networks(2)[0], (*RANGES, (0.0, 1.0)))
