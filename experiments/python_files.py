"""Functions from the user's own Python files, named by flags."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from experiments.flag_values import errors_of
from featvis_jax.importers import python_files

_FUNCTION = re.compile(r"(?P<file>.+\.py):(?P<function>\w+)")


class FunctionName(NamedTuple):
    """A function of a file."""

    path: Path
    name: str


def function_name(text: str) -> FunctionName | None:
    """What ``FILE.py:FUNCTION`` names; None for any other text."""
    match = _FUNCTION.fullmatch(text)
    return None if match is None else FunctionName(Path(match["file"]), match["function"])


def load_function(path: Path, name: str, *, flag: str) -> Callable[..., Any]:
    """Execute a Python file and take a function from it.

    Args:
      path: The file. It may import its neighbours.
      name: The function's.
      flag: That named the file, for the errors.

    Raises:
      FileNotFoundError: There is no such file.
      ValueError: It is no Python file, does not run, or has no such function.
    """
    with errors_of(f"{flag}="):
        return python_files.load_function(path, name)
