"""What a file or directory of PyTorch holds, by its table of contents. Nothing is loaded."""

from __future__ import annotations

import enum
import zipfile
from pathlib import Path

# What torch.save wrote before 2020, and any pickle of a protocol from 2 on.
_PICKLES = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))

_CONFIGS = tuple(
    f"configs/{name}.{suffix}"
    for name in ("inference", "train")
    for suffix in ("json", "yaml", "yml")
)


class Content(enum.Enum):
    """What PyTorch has written, by the function that did."""

    PROGRAM = "torch.export.save"
    SCRIPT = "torch.jit.save"
    CHECKPOINT = "torch.save"


def content(path: Path) -> Content | None:
    """Which function of PyTorch has written a file; None for none of them.

    Args:
      path: A file.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as directory:
      ...     path = Path(directory, "net.pt")
      ...     with zipfile.ZipFile(path, "w") as archive:
      ...         archive.writestr("net/data.pkl", b"")
      ...         archive.writestr("net/constants.pkl", b"")
      ...     content(path)
      <Content.SCRIPT: 'torch.jit.save'>
    """
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            return Content.CHECKPOINT if file.read(2) in _PICKLES else None
    try:
        with zipfile.ZipFile(path) as archive:
            # Everything lies below a folder with the file's first name.
            names = {name.partition("/")[2] or name for name in archive.namelist()}
    except zipfile.BadZipFile:
        return None
    if "archive_format" in names or "serialized_exported_program.json" in names:
        return Content.PROGRAM
    if "constants.pkl" in names:
        return Content.SCRIPT
    return Content.CHECKPOINT if "data.pkl" in names else None


def bundle_config(directory: Path) -> Path | None:
    """The configuration of a MONAI bundle that describes its network; None for what is no bundle.

    Args:
      directory: Anything.
    """
    paths = (directory / name for name in _CONFIGS)
    return next((path for path in paths if path.is_file()), None)
