"""Arrays that users name: one in a .npy file, several in a .npz file, and what is neither."""

import io
import zipfile

import numpy as np
import pytest

from featvis_jax.data.arrays import load_arrays


def encoded(array, **options) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def archive(path, members):
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members:
            file.writestr(name, data)


def test_one_array_and_several_by_name_in_the_order_of_the_file(tmp_path):
    np.save(tmp_path / "one.npy", np.arange(3))
    assert load_arrays(tmp_path / "one.npy").tolist() == [0, 1, 2]
    several = {"sex": np.eye(2, 3, order="F"), "age": np.arange(3), "pca/0": np.ones(2, ">f8")}
    for name, save in {"plain": np.savez, "small.bin": np.savez_compressed}.items():
        with (tmp_path / name).open("wb") as stream:
            save(stream, **several)
        found = load_arrays(tmp_path / name)
        assert list(found) == list(several)
        for key, values in several.items():
            assert found[key].dtype == np.float32
            np.testing.assert_array_equal(found[key], values)


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ([("age.npy", encoded(np.array([{}]), allow_pickle=True))], "'age' holds object"),
        ([("age.npy", encoded(np.array(["old"])))], "'age' holds <U3; expected real numbers"),
        ([("age.npy", encoded(np.array([np.nan])))], "'age' holds NaN"),
        ([("age.npy", encoded(np.ones(4))[:-8])], "'age' has 24 bytes of float64, which is not th"),
        ([("age.npy", b"old")], "'age' "),
        ([("age.txt", b"old")], "'age.txt' is no .npy file"),
        ([("age.npy", encoded(np.ones(2)))] * 2, "'age' comes twice"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_what_is_no_array_of_numbers_is_refused_by_its_name(tmp_path, members, told):
    archive(tmp_path / "d.npz", members)
    with pytest.raises(ValueError) as raised:
        load_arrays(tmp_path / "d.npz")
    assert str(raised.value).startswith(f"{tmp_path / 'd.npz'}: {told}")
    assert "\n" not in str(raised.value)


def test_what_is_damaged_or_too_large_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "d.npz"
    archive(path, [("age.npy", encoded(np.ones(9)))])
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"'age' cannot be read \(Bad CRC"):
        load_arrays(path)
    monkeypatch.setattr("featvis_jax.data.arrays._MOST_BYTES", 100)
    with pytest.raises(ValueError, match=r"d\.npz: holds more than 0 GiB"):
        load_arrays(path)
