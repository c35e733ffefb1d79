"""Pointers in place of files: what DataLad, git-annex and git-LFS leave until content is fetched.

A clone of a data set has every name and little content. Whatever reads a file asks here first, so
that a pointer is called one instead of a damaged file.
"""

import os
import shlex
import stat
from pathlib import Path

# Pointers are smaller by far; git-annex itself reads no more of a file to tell.
_LONGEST = 32 * 1024
_LFS = b"version https://git-lfs.github.com/spec/"
_ANNEX = b"/annex/objects/"


def pointer(path: Path | str) -> str | None:
    """What stands in place of a file's content, and what fetches it.

    Known are links of git-annex to content that is not there, its pointer files, such links as a
    file system without links keeps them (a file with the target's name), and git-LFS pointers.

    Args:
      path: Anything.

    Returns:
      A line without the file's name; None for a file with its content, for a directory, and for
      what is not there.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = Path(folder, "scan.nii.gz")
      ...     _ = path.write_text("/annex/objects/MD5E-s9--d41d8cd9.nii.gz")
      ...     print(pointer(path).replace(folder, "DIR"))
      a DataLad (git-annex) pointer without its content; run: datalad get DIR/scan.nii.gz
    """
    path = Path(path)
    name = shlex.quote(str(path))
    annex = f"a DataLad (git-annex) pointer without its content; run: datalad get {name}"
    try:
        if path.is_symlink() and not path.exists():
            target = os.fsencode(os.readlink(path)).replace(b"\\", b"/")
            return annex if _ANNEX in target else None
        status = path.stat()
        # Of a pipe one may not read.
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LONGEST:
            return None
        with path.open("rb") as file:
            start = file.read(_LONGEST)
    except (OSError, ValueError):
        return None
    if start.startswith(_LFS):
        folder = shlex.quote(str(path.parent))
        return (
            "a git-LFS pointer without its content; run: "
            f"git -C {folder} lfs pull --include={shlex.quote(path.name)}"
        )
    first = start.split(b"\n", 1)[0].strip().replace(b"\\", b"/")
    is_link = first.startswith((_ANNEX, b".git" + _ANNEX, b"../")) and b"\0" not in first
    return annex if is_link and _ANNEX in first else None


def refuse_pointers(path: Path | str) -> None:
    """Refuse a file that is a pointer, and a directory that holds one.

    Args:
      path: A file or a directory. What is not there is not refused.

    Raises:
      FileNotFoundError: There is a pointer; the message names it and what fetches its content.
    """
    path = Path(path)
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    for file in files:
        if (found := pointer(file)) is not None:
            raise FileNotFoundError(f"{file}: {found}")


def existing_file(path: Path | str, *, expected: str) -> Path:
    """A file with its content.

    Args:
      path: What a user names.
      expected: What the file should be, for errors: "a NIfTI file (.nii or .nii.gz)".

    Raises:
      FileNotFoundError: There is no such file, or a pointer or a link to nothing in its place.
      IsADirectoryError: It is a directory.
      OSError: It cannot be reached, for want of permission or by links that go in circles.
      ValueError: It is a pipe or a device, or its name cannot be one.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if (found := pointer(path)) is not None:
            raise FileNotFoundError(f"{path}: {found}") from None
        fix = f"a link to {os.readlink(path)}, which is not there" if path.is_symlink() else None
        raise FileNotFoundError(
            f"{path}: {fix or 'there is no such file'}; expected {expected}"
        ) from None
    except NotADirectoryError:
        raise FileNotFoundError(f"{path}: there is no such file; expected {expected}") from None
    except ValueError:  # A NUL in the name.
        raise ValueError(f"{str(path)!r} cannot name a file; expected {expected}") from None
    except OSError as error:
        raise OSError(
            f"{path}: cannot be opened ({error.strerror}); expected {expected}"
        ) from error
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{path}: a directory; expected {expected}")
    if not stat.S_ISREG(mode):
        raise ValueError(f"{path}: not a regular file; expected {expected}")
    if (found := pointer(path)) is not None:
        raise FileNotFoundError(f"{path}: {found}")
    return path
