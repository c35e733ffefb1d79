"""NIfTI bytes: read back by nibabel, and the grid and every value are where they were."""

import gzip
import inspect

import nibabel
import numpy as np
import pytest

from featvis_jax.results import nifti

# A grid as cohorts have them: anisotropic, rotated, mirrored on the first axis, off the origin.
ANGLE = np.deg2rad(25)
ROTATED = np.array(
    [
        [-2 * np.cos(ANGLE), -1.5 * np.sin(ANGLE), 0, 90.5],
        [-2 * np.sin(ANGLE), 1.5 * np.cos(ANGLE), 0, -126],
        [0, 0, 3, -72.25],
        [0, 0, 0, 1],
    ]
)
SHEARED = ROTATED @ np.array([[1, 0.3, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])


def read(data: bytes) -> nibabel.Nifti1Image:
    return nibabel.Nifti1Image.from_bytes(gzip.decompress(data))


@pytest.mark.parametrize("shape", [(7, 5, 1), (7, 5, 4, 1)])
@pytest.mark.parametrize("affine", [np.eye(4), ROTATED, SHEARED], ids=["unit", "turned", "sheared"])
def test_nibabel_reads_the_values_and_the_affine(rng, shape, affine):
    image = rng.standard_normal(shape).astype(np.float32)
    stored = read(nifti.encode_nifti(image, affine))
    np.testing.assert_array_equal(np.asarray(stored.dataobj), image.reshape((*shape, 1)[:3]))
    np.testing.assert_allclose(np.asarray(stored.affine), affine, atol=1e-5)
    np.testing.assert_allclose(
        stored.header.get_zooms(), np.sqrt((affine[:3, :3] ** 2).sum(axis=0)), rtol=1e-5
    )
    assert stored.get_data_dtype() == np.float32
    assert stored.header.get_xyzt_units()[0] == "mm"


@pytest.mark.parametrize("affine", [np.eye(4), ROTATED])
def test_programs_that_read_the_qform_see_the_same_grid(affine):
    header = read(nifti.encode_nifti(np.zeros((182, 218, 182, 1), np.float32), affine)).header
    assert header.get_qform(coded=True)[1] == header.get_sform(coded=True)[1] == 2
    np.testing.assert_allclose(np.asarray(header.get_qform(coded=True)[0]), affine, atol=1e-4)


def test_a_qform_that_cannot_hold_the_affine_is_marked_unknown():
    header = read(nifti.encode_nifti(np.zeros((9, 8, 7, 1), np.float32), SHEARED)).header
    assert header.get_qform(coded=True) == (None, 0)
    assert header.get_sform(coded=True)[1] == 2


@pytest.mark.parametrize("levels", ["float32", "uint8"])
@pytest.mark.parametrize("shape", [(7, 5, 1), (7, 5, 4, 1)])
def test_a_grid_of_no_known_place_claims_none(rng, shape, levels):
    image = rng.standard_normal(shape).astype(np.float32)
    data = nifti.encode_nifti(image, None, levels=levels, window=(0.0, 1.0))
    header = read(data).header
    assert (header["qform_code"], header["sform_code"]) == (0, 0)
    assert header.get_zooms() == (1.0, 1.0, 1.0)
    assert header.get_xyzt_units()[0] == "unknown"
    decoded, affine = nifti.decode_nifti(data)
    assert affine is None
    np.testing.assert_allclose(decoded, image, atol=0 if levels == "float32" else 0.02)


@pytest.mark.parametrize("coded", ["qform", "sform"])
def test_one_of_the_two_forms_is_enough_to_place_a_grid(coded):
    volume = nibabel.Nifti1Image(np.zeros((3, 4, 5), np.float32), None)
    getattr(volume, f"set_{coded}")(np.diag([2.0, 3.0, 4.0, 1.0]), code=1)
    _, affine = nifti.decode_nifti(gzip.compress(volume.to_bytes()))
    np.testing.assert_allclose(affine, np.diag([2.0, 3.0, 4.0, 1.0]))


def test_the_space_can_be_named():
    header = read(nifti.encode_nifti(np.zeros((3, 3, 1)), np.eye(4), space="mni")).header
    assert int(header["sform_code"]) == int(header["qform_code"]) == 4


@pytest.mark.parametrize("shape", [(7, 5, 1), (7, 5, 4, 1)])
def test_decoding_returns_what_was_encoded(rng, shape):
    image = rng.standard_normal(shape).astype(np.float32)
    image[0, 0], image[1, 1], image[2, 2] = np.nan, np.inf, -np.inf
    decoded, affine = nifti.decode_nifti(nifti.encode_nifti(image, ROTATED))
    np.testing.assert_array_equal(decoded, image)
    np.testing.assert_allclose(affine, ROTATED, atol=1e-5)
    assert decoded.dtype == np.float32


def test_bytes_depend_on_the_image_alone(rng, monkeypatch):
    image = rng.standard_normal((6, 5, 4, 1)).astype(np.float32)
    first = nifti.encode_nifti(image, ROTATED)
    monkeypatch.setattr("time.time", lambda: 2e9)
    assert nifti.encode_nifti(np.asfortranarray(image), ROTATED) == first
    assert nifti.encode_nifti(image + np.float32(1), ROTATED) != first


def test_the_window_is_proposed_to_viewers():
    header = read(nifti.encode_nifti(np.zeros((3, 3, 1)), np.eye(4), window=(0.0, 0.6))).header
    assert float(header["cal_min"]) == 0
    assert float(header["cal_max"]) == pytest.approx(0.6)


def test_the_unit_is_told_and_nothing_without_one():
    for unit, told in ((None, ""), ("z-score of each scan", "intensity: z-score of each scan")):
        header = read(nifti.encode_nifti(np.zeros((3, 3, 1)), np.eye(4), unit=unit)).header
        assert header["descrip"].item().decode() == told


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 2), (4, 4, 4, 4, 1), (4, 0, 1)])
def test_a_shape_that_is_no_image_is_refused(shape):
    with pytest.raises(ValueError, match=r"expected \(x, y, 1\)"):
        inspect.unwrap(nifti.encode_nifti)(np.zeros(shape), np.eye(4))


@pytest.mark.parametrize(
    "affine", [np.zeros((4, 4)), np.full((4, 4), np.nan), np.eye(4)[::-1].copy()]
)
def test_an_affine_that_places_nothing_is_refused(affine):
    with pytest.raises(ValueError, match="affine must be"):
        nifti.encode_nifti(np.zeros((4, 4, 1)), affine)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-20],
        lambda data: data[:200] + b"damaged" + data[207:],
        lambda _: b"",
        lambda _: b"GIF89a",
        lambda _: gzip.compress(b"no header"),
        lambda data: gzip.compress(gzip.decompress(data)[:500]),
    ],
    ids=["cut", "changed", "empty", "other", "gzip", "short"],
)
def test_damaged_bytes_are_refused(damage, rng):
    data = nifti.encode_nifti(rng.random((20, 20, 1)), np.eye(4))
    with pytest.raises(ValueError, match="not a complete"):
        nifti.decode_nifti(damage(data))
