"""What writes: whole files or none, one writer per directory, and safe names.

Every change that a program makes to a directory of results goes through this module, so that one
place has to survive a crash, a full disk, and a layer called "../..".
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import socket
from collections.abc import Collection, Iterator
from pathlib import Path

LOCK = ".lock"
SHARDS = "shards"
PARTIAL = ".partial"
_LONGEST_NAME = 100
# Names that Windows keeps for devices, so that a run can be copied there.
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?\Z")


class RunInUse(ValueError):
    """Another process is writing to the run."""


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Replace a file as a whole: after a crash it holds the old bytes or the new ones.

    Args:
      path: The file, in a directory that exists.
      data: Its new content.

    Raises:
      OSError: If the file cannot be written; the old one is then untouched.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as directory:
      ...     atomic_write_bytes(Path(directory) / "name", b"content")
      ...     (Path(directory) / "name").read_bytes()
      b'content'
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}{PARTIAL}")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(partial, path)
        _sync_directory(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        if isinstance(error, OSError):
            raise _explained(error, f"cannot write {path}") from error
        raise


def make_directory(path: str | os.PathLike[str]) -> None:
    """Make a directory and the ones above it, so that they survive a crash.

    Args:
      path: The directory; it may exist.

    Raises:
      OSError: If a directory cannot be made.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as directory:
      ...     make_directory(Path(directory) / "images" / "conv1")
      ...     (Path(directory) / "images" / "conv1").is_dir()
      True
    """
    path = Path(path)
    missing = [each for each in (path, *path.parents) if not each.is_dir()]
    for each in reversed(missing):
        try:
            os.mkdir(each)
            _sync_directory(each.parent)
        except FileExistsError:
            if not each.is_dir():
                raise FileExistsError(
                    errno.EEXIST, "is a file, expected a directory; choose another one", str(each)
                ) from None
        except OSError as error:
            raise _explained(error, f"cannot make the directory {each}") from error


def refuse_foreign(
    directory: str | os.PathLike[str], marker: str, *, what: str, before: Collection[str] = ()
) -> None:
    """Raise if a directory holds something, but not what a program is about to write there.

    Args:
      directory: It need not exist.
      marker: The file whose presence says that the directory is the program's own.
      what: What the program keeps there, in a word, for the message.
      before: Names that it may have written before the marker, when it was killed.

    Raises:
      FileExistsError: If it is a file.
      ValueError: If other files would be mixed with the program's.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as directory:
      ...     refuse_foreign(directory, "settings.json", what="training")
      ...     _ = (Path(directory) / "thesis.tex").write_text("...")
      ...     refuse_foreign(directory, "settings.json", what="training")
      Traceback (most recent call last):
      ValueError: ... holds no training (there is 'thesis.tex', and no settings.json). ...
    """
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        raise FileExistsError(
            f"{directory} is a file, expected a directory; choose a new or empty one with --out."
        )
    names = {path.name for path in directory.iterdir()} if directory.is_dir() else set()
    foreign = sorted(names - {LOCK, f".{marker}{PARTIAL}", *before})
    if foreign and marker not in names:
        raise ValueError(
            f"{directory} is not empty and holds no {what} (there is {foreign[0]!r}, and no "
            f"{marker}). Choose a new or empty directory with --out."
        )


def remove_partial_files(directory: str | os.PathLike[str]) -> None:
    """Remove what interrupted writes and removals left in a directory and below.

    Shards below it are left alone: other processes may be writing there.

    Args:
      directory: Where to look; nobody else may be writing to the rest of it.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as directory:
      ...     _ = (Path(directory) / ".units.tsv.partial").write_bytes(b"half a ta")
      ...     remove_partial_files(directory)
      ...     list(Path(directory).iterdir())
      []
    """
    for path in sorted(Path(directory).rglob(f".*{PARTIAL}")):
        if SHARDS in path.relative_to(directory).parent.parts or not path.exists():
            continue
        try:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                os.unlink(path)
        except OSError as error:
            raise _explained(error, f"cannot remove {path}") from error


def remove_directory(path: str | os.PathLike[str]) -> None:
    """Remove a directory as a whole: after a crash it is there, or hidden as a partial file is.

    Args:
      path: The directory.

    Raises:
      OSError: If it cannot be removed.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as directory:
      ...     make_directory(Path(directory) / "shard" / "images")
      ...     remove_directory(Path(directory) / "shard")
      ...     list(Path(directory).iterdir())
      []
    """
    path = Path(path)
    hidden = path.with_name(f".{path.name}{PARTIAL}")
    try:
        os.replace(path, hidden)
        _sync_directory(path.parent)
        shutil.rmtree(hidden)
    except OSError as error:
        raise _explained(error, f"cannot remove {path}") from error


def _sync_directory(path: Path) -> None:
    """Force the names in a directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems refuse this for a directory and keep its order themselves.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _explained(error: OSError, what: str) -> OSError:
    """Return an error of the same kind that says what was lost, and what to do."""
    cause = error.strerror or str(error)
    return OSError(
        error.errno or errno.EIO,
        f"{what}: {cause}. Files written before are intact. Make room, or make the directory "
        "writable, and give the same command again; or choose another directory with --out.",
    )


def lock(directory: Path) -> int:
    """Take the kernel's lock on a directory; it ends with the process, however that ends.

    Args:
      directory: One that exists.

    Returns:
      The descriptor that holds the lock until `unlock`.

    Raises:
      RunInUse: If another process, or this one, holds it.
      OSError: If the directory cannot be written.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as directory:
      ...     unlock(lock(Path(directory)))
    """
    path = directory / LOCK
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise _explained(error, f"cannot write {path}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{_this_process()}\n".encode(), 0)
    except BlockingIOError:
        holder = os.pread(descriptor, 1000, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise RunInUse(
            f"{directory} is being written by {holder or 'another process'}. Wait for it or stop "
            "it and give the same command again, or choose another directory with --out."
        ) from None
    except OSError as error:
        os.close(descriptor)
        raise _explained(error, f"cannot lock {path} (does its file system have locks?)") from error
    return descriptor


def _this_process() -> str:
    """How to find this process, on its computer and in Slurm's queue."""
    found = f"process {os.getpid()} on {socket.gethostname()}"
    job = os.environ.get("SLURM_JOB_ID")
    if {"SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"} <= os.environ.keys():
        # As squeue and scancel name it.
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return found if job is None else f"{found} (Slurm job {job})"


def unlock(descriptor: int) -> None:
    """Give a lock back.

    Args:
      descriptor: What `lock` returned.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as directory:
      ...     unlock(lock(Path(directory)))
      ...     unlock(lock(Path(directory)))
    """
    with contextlib.suppress(OSError):  # The holder's name helps, and the lock holds without it.
        os.ftruncate(descriptor, 0)
    os.close(descriptor)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock on a directory for the length of a `with` block.

    Args:
      directory: One that exists.

    Raises:
      RunInUse: If another process, or this one, holds it.
      OSError: If the directory cannot be written.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as directory, locked(Path(directory)):
      ...     (Path(directory) / LOCK).read_text().split()[0]
      'process'
    """
    descriptor = lock(directory)
    try:
        yield
    finally:
        unlock(descriptor)


def file_name(layer: str) -> str:
    """Return a file name for a layer: safe everywhere, and another one for every layer.

    Small letters, digits, "_", "-" and inner dots stay, "/" becomes "+", other characters become
    "=" and their UTF-8 bytes in hexadecimal. Capitals stay too, and "~" with a hexadecimal number
    whose bit i says that letter i is a capital tells them apart where file systems do not. A name
    longer than 100 characters ends in "~~" and a SHA-256 hash instead.

    Args:
      layer: Any text but the empty one.

    Returns:
      A name without directory and suffix.

    Raises:
      ValueError: If the text is empty or cannot be encoded in UTF-8.

    Example:
      >>> file_name("conv3"), file_name("conv3/relu"), file_name("Conv_0"), file_name("a:../b")
      ('conv3', 'conv3+relu', 'Conv_0~1', 'a=3a..+b')
    """
    if not layer:
        raise ValueError("a layer has an empty name; expected at least one character.")
    encoded = re.sub(
        r"[^a-zA-Z0-9_.+/-]|\+|\A[.-]|\.\Z",
        lambda match: "".join(f"={byte:02x}" for byte in match[0].encode()),
        layer,
    ).replace("/", "+")
    if _DEVICES.match(encoded.lower()):
        encoded = f"={ord(encoded[0]):02x}{encoded[1:]}"
    capitals = sum(1 << i for i, letter in enumerate(layer) if "A" <= letter <= "Z")
    encoded += f"~{capitals:x}" if capitals else ""
    if len(encoded) > _LONGEST_NAME:
        digest = hashlib.sha256(layer.encode()).hexdigest()[:40]
        encoded = f"{encoded[:40].rstrip('.')}~~{digest}"
    return encoded
