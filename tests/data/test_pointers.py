"""Pointers of git-annex and git-LFS are told from files, and so are files that are not there."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from featvis_jax.data.pointers import existing_file, pointer, refuse_pointers

KEY = ".git/annex/objects/mK/5X/MD5E-s9--d41d8cd9.nii.gz/MD5E-s9--d41d8cd9.nii.gz"
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n"

POINTERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "locked": (lambda path: path.symlink_to(f"../../{KEY}"), "datalad get"),
    "unlocked": (lambda path: path.write_text(f"/{KEY[5:]}\n"), "datalad get"),
    "no links": (lambda path: path.write_text(f"../../{KEY}"), "datalad get"),
    "windows": (lambda path: path.write_text(f"..\\..\\{KEY}".replace("/", "\\")), "datalad get"),
    "LFS": (lambda path: path.write_text(LFS), "lfs pull --include=scan.nii.gz"),
}


@pytest.mark.parametrize("kind", POINTERS)
def test_a_pointer_is_told_with_what_fetches_its_content(tmp_path, kind):
    make, told = POINTERS[kind]
    path = tmp_path / "with space" / "scan.nii.gz"
    path.parent.mkdir()
    make(path)
    found = pointer(path)
    assert found is not None
    assert told in found
    assert "'" in found  # The name is quoted for a shell.
    for check in (
        lambda: existing_file(path, expected="a scan"),
        lambda: refuse_pointers(path),
        lambda: refuse_pointers(tmp_path),
    ):
        with pytest.raises(FileNotFoundError, match="pointer without its content") as caught:
            check()
        assert str(caught.value).startswith(f"{path}: ")


def test_files_with_content_are_none(tmp_path):
    (tmp_path / "small.txt").write_text("see .git/annex/objects/ or version https://git-lfs")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "large").write_bytes(LFS.encode() + bytes(40_000))
    (tmp_path / "link").symlink_to("small.txt")
    for path in tmp_path.iterdir():
        assert pointer(path) is None
        assert existing_file(path, expected="a file") == path
    refuse_pointers(tmp_path)


def test_what_is_no_file_is_refused_by_its_name(tmp_path):
    (tmp_path / "link").symlink_to("gone")
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    for name, kind, told in (
        ("gone.nii", FileNotFoundError, "there is no such file"),
        ("file/below.nii", FileNotFoundError, "there is no such file"),
        ("link", FileNotFoundError, "a link to gone, which is not there"),
        ("", IsADirectoryError, "a directory"),
        ("pipe", ValueError, "not a regular file"),
        ("a\0b", ValueError, "cannot name a file"),
    ):
        with pytest.raises(kind, match=told) as caught:
            existing_file(tmp_path / name, expected="a NIfTI file")
        assert "expected a NIfTI file" in str(caught.value)
        assert pointer(tmp_path / name) is None
    refuse_pointers(tmp_path)
