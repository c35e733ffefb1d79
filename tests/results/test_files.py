"""Files: whole or not at all, and a safe name of its own for every layer."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featvis_jax.results import files

# Writes


def test_short_writes_are_continued(tmp_path, monkeypatch):
    sound = os.write
    monkeypatch.setattr(files.os, "write", lambda file, data: sound(file, data[:7]))
    files.atomic_write_bytes(tmp_path / "file", bytes(range(100)))
    assert (tmp_path / "file").read_bytes() == bytes(range(100))


def recorded(monkeypatch, *names):
    """The file operations from here on, in their order."""
    events = []
    for name in names:
        sound = getattr(os, name)
        monkeypatch.setattr(
            files.os,
            name,
            lambda *a, name=name, sound=sound, **o: (events.append(name), sound(*a, **o))[1],
        )
    return events


def test_content_reaches_the_disk_before_its_name(tmp_path, monkeypatch):
    events = recorded(monkeypatch, "write", "fsync", "replace")
    files.atomic_write_bytes(tmp_path / "file", b"content")
    assert events == ["write", "fsync", "replace", "fsync"]


def test_a_directory_reaches_the_disk_before_what_is_put_into_it(tmp_path, monkeypatch):
    events = recorded(monkeypatch, "mkdir", "fsync")
    files.make_directory(tmp_path / "images" / "conv1")
    assert events == ["mkdir", "fsync"] * 2


def test_a_directory_is_hidden_on_the_disk_before_it_is_removed(tmp_path, monkeypatch):
    files.make_directory(tmp_path / "shard" / "images")
    events = recorded(monkeypatch, "replace", "fsync", "rmdir")
    files.remove_directory(tmp_path / "shard")
    assert events == ["replace", "fsync", "rmdir", "rmdir"]
    assert not list(tmp_path.iterdir())


def test_an_interrupt_leaves_the_old_file(tmp_path, monkeypatch):
    files.atomic_write_bytes(tmp_path / "file", b"old")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.atomic_write_bytes(tmp_path / "file", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


# Names


@pytest.mark.parametrize("name", ["con", "nul.x", "COM1", "lpt9.a.b", "Aux"])
def test_a_name_that_windows_keeps_for_a_device_is_escaped(name):
    assert files.file_name(name).startswith(f"={ord(name[0]):02x}{name[1:]}")


LAYERS = st.text(min_size=1).filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text))
NEAR = st.text(alphabet="aAbB/.+=~-_:0f", min_size=1, max_size=6)


def decode(name: str) -> str:
    """The layer that a short file name stands for."""
    name, _, capitals = name.lower().partition("~")
    out, at = b"", 0
    while at < len(name):
        if name[at] == "=":
            out, at = out + bytes.fromhex(name[at + 1 : at + 3]), at + 3
        else:
            out, at = out + (b"/" if name[at] == "+" else name[at].encode()), at + 1
    mask = int(capitals or "0", 16)
    letters = enumerate(out.decode())
    return "".join(letter.upper() if mask >> i & 1 else letter for i, letter in letters)


@given(st.one_of(LAYERS, NEAR))
def test_a_file_name_tells_its_layer_even_without_capitals(layer):
    name = files.file_name(layer)
    if "~~" not in name:
        assert decode(name) == layer


@given(st.one_of(LAYERS, NEAR, st.text(alphabet="aA", min_size=90, max_size=300)))
def test_a_file_name_is_safe_everywhere(layer):
    name = files.file_name(layer)
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.+=~-")
    assert len(name) <= 100
    assert not name.startswith((".", "-", "~"))
    assert not name.endswith(".")
    assert not Path(name).is_absolute()
    stem = name.split(".")[0].lower()
    assert stem not in {"con", "prn", "aux", "nul", "com1", "lpt9"}


@pytest.mark.parametrize("layer", [".conv", "-conv", "conv.", "..", ".", "-"])
def test_a_name_neither_hides_nor_looks_like_an_option_nor_ends_in_a_dot(layer):
    name = files.file_name(layer)
    assert decode(name) == layer
    assert name.strip(".-") == name


@given(st.sets(st.one_of(NEAR, st.text(alphabet="aA", min_size=95, max_size=105)), max_size=20))
def test_different_layers_have_different_files_where_capitals_do_not_count(layers):
    names = {files.file_name(layer).casefold() for layer in layers}
    assert len(names) == len(layers)


@pytest.mark.parametrize("name", ["conv3", "logits", "block_2.conv-1", "encoder.0.weight"])
def test_plain_names_stay_as_they_are(name):
    assert files.file_name(name) == name


@pytest.mark.parametrize("layer", ["", "\udc80"])
def test_a_name_that_cannot_be_stored_is_refused(layer):
    with pytest.raises(ValueError, match=r"empty name|surrogates not allowed"):
        files.file_name(layer)
