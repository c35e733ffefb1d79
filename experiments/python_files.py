"""Functions from the user's own Python files, named by flags."""

import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from experiments.flag_values import errors_of
from featvis_jax.data.pointers import existing_file

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
        existing_file(path, expected="a Python file")
    module_name = f"_featvis_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{flag}={path}: expected a Python file, NAME.py.")
    module = importlib.util.module_from_spec(spec)
    # Under its name from the start: dataclasses and pickling by reference look themselves up.
    sys.modules[module_name] = module
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"{flag}={path} does not run: {type(error).__name__}: {error}") from error
    finally:
        sys.path.pop(0)
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"{flag}={path}: expected it to define a function {name!r}; it has none.")
    return function
