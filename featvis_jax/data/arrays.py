"""Arrays of numbers from `.npy` files that users name."""

from pathlib import Path

import numpy as np
from jaxtyping import Float32

from featvis_jax.data.pointers import existing_file


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
    with np.errstate(over="ignore"):
        values = np.array(mapped, np.float32)
    if not np.isfinite(values).all():
        raise ValueError(f"{path}: holds NaN, infinite numbers or some too large for float32")
    return values
