"""Arrays of numbers from `.npy` and `.npz` files that users name."""

import io
import math
import zipfile
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from featvis_jax.data.pointers import existing_file

_MOST_BYTES = 2**30


def load_array(path: Path | str) -> Float32[np.ndarray, "..."]:
    """Read a `.npy` file of real, finite numbers.

    No more memory is taken than the file is large, whatever its header claims.

    Args:
      path: The file.

    Returns:
      float32, of the shape in the file.

    Raises:
      FileNotFoundError: There is no such file, or a pointer in its place.
      ValueError: It holds something else; the message names it.
    """
    path = existing_file(path, expected="a .npy file of numbers")
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError, SyntaxError, OverflowError) as error:
        raise ValueError(f"{path}: expected a .npy file of numbers ({error})") from error
    if not isinstance(mapped, np.ndarray) or mapped.dtype.kind not in "biuf":
        kind = mapped.dtype if isinstance(mapped, np.ndarray) else "a .npz archive"
        raise ValueError(f"{path}: expected a .npy file of real numbers, it holds {kind}")
    try:
        return _finite(mapped)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def load_arrays(path: Path | str) -> Float32[np.ndarray, "..."] | dict[str, np.ndarray]:
    """Read a `.npy` file as `load_array` does, or a `.npz` file of such arrays by name.

    Args:
      path: The file.

    Returns:
      float32, of the shapes in the file; of a `.npz` file by name, in its order.

    Raises:
      FileNotFoundError: There is no such file, or a pointer in its place.
      ValueError: It holds something else; the message names it.
    """
    path = existing_file(path, expected="a .npy or .npz file of numbers")
    if not zipfile.is_zipfile(path):
        return load_array(path)
    found: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > _MOST_BYTES:
            raise ValueError(f"{path}: holds more than {_MOST_BYTES >> 30} GiB of numbers")
        for member in members:
            name = member.filename.removesuffix(".npy")
            told = f"{path}: {name!r}"
            if name in found or name == member.filename:
                fault = "comes twice" if name in found else "is no .npy file"
                raise ValueError(f"{told} {fault}; expected arrays, each with a name of its own")
            try:
                found[name] = _finite(_decoded(archive.read(member)))
            except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
                raise ValueError(f"{told} cannot be read ({error})") from error
            except (ValueError, EOFError, SyntaxError, OverflowError) as error:
                raise ValueError(f"{told} {error}") from error
    return found


def _decoded(data: bytes) -> np.ndarray:
    """The array in the bytes of a `.npy` file, which may claim no more than it holds."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, columns_first, dtype = np.lib.format.read_array_header_1_0(stream)
    else:
        shape, columns_first, dtype = np.lib.format.read_array_header_2_0(stream)
    if dtype.kind not in "biuf":
        raise ValueError(f"holds {dtype}; expected real numbers")
    body = data[stream.tell() :]
    if math.prod(shape) * dtype.itemsize != len(body):
        raise ValueError(f"has {len(body)} bytes of {dtype}, which is not the shape {shape}")
    return np.frombuffer(body, dtype).reshape(shape, order="F" if columns_first else "C")


def _finite(values: np.ndarray) -> Float32[np.ndarray, "..."]:
    with np.errstate(over="ignore"):
        values = np.array(values, np.float32)
    if not np.isfinite(values).all():
        raise ValueError("holds NaN, infinite numbers or some too large for float32")
    return values
