"""Values of flags that absl has no kind for."""

import contextlib
from collections.abc import Iterator
from typing import Any

from absl import flags


@contextlib.contextmanager
def errors_of(flag: str) -> Iterator[None]:
    """Begin what goes wrong in a `with` block with the flag that it is about.

    Args:
      flag: What errors begin with: `"--mask="` before one that begins with the flag's value.

    Raises:
      OSError: Of the same type as within.
      ValueError: For every error of a value.

    Example:
      >>> with errors_of("--mask="):
      ...     raise FileNotFoundError("left.nii: there is no such file")
      Traceback (most recent call last):
      FileNotFoundError: --mask=left.nii: there is no such file
    """
    try:
        yield
    except OSError as error:
        raise type(error)(f"{flag}{error}") from error
    except ValueError as error:
        raise ValueError(f"{flag}{error}") from error


def numbers(flag: str, kind: type[int] | type[float], count: int | None = None) -> list[Any]:
    """The numbers of a flag that is a list.

    Args:
      flag: Its name.
      kind: Of each number.
      count: How many there have to be; any number of them by default.

    Raises:
      ValueError: It holds something else.
    """
    values: list[str] = flags.FLAGS[flag].value or []
    try:
        found = [kind(value) for value in values]
    except ValueError:
        found = []
    if not found or (count is not None and len(found) != count):
        raise ValueError(
            f"--{flag}={','.join(values)}: expected {count or 'some'} numbers, separated by commas."
        )
    return found
