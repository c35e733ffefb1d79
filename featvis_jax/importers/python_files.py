"""Functions from Python files that a user names. No other code of a user's is ever run."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from featvis_jax.data.pointers import existing_file

_LONGEST = 400
_FUNCTION = re.compile(r"(?P<file>.+\.py):(?P<function>\w+)")


class FunctionName(NamedTuple):
    """A function of a file."""

    path: Path
    name: str


def function_name(text: str) -> FunctionName | None:
    """What ``FILE.py:FUNCTION`` names; None for any other text.

    Args:
      text: Anything.

    Example:
      >>> function_name("networks.py:age").name, function_name("square-lesion")
      ('age', None)
    """
    match = _FUNCTION.fullmatch(text)
    return None if match is None else FunctionName(Path(match["file"]), match["function"])


def load_function(path: Path, name: str) -> Callable[..., Any]:
    """Execute a Python file and take a function from it.

    Args:
      path: The file. It may import its neighbours.
      name: The function's.

    Raises:
      FileNotFoundError: There is no such file.
      ValueError: It is no Python file, does not run, or has no such function.
    """
    existing_file(path, expected="a Python file")
    module_name = f"_featvis_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path.resolve())
    if spec is None or spec.loader is None:
        raise ValueError(f"{path}: expected a Python file, NAME.py.")
    module = importlib.util.module_from_spec(spec)
    # Under its name from the start: dataclasses and pickling by reference look themselves up.
    sys.modules[module_name] = module
    try:
        with _neighbours(path):
            spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"{path} does not run: {said(error)}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"{path}: expected it to define a function {name!r}; it has none.")
    return function


def call_function(path: Path, name: str) -> Any:
    """What a function of a Python file returns.

    Args:
      path: The file.
      name: Of a function without arguments.

    Raises:
      FileNotFoundError: There is no such file.
      ValueError: It has no such function, or that fails.
    """
    function = load_function(path, name)
    try:
        with _neighbours(path):
            return function()
    except Exception as error:
        raise ValueError(
            f"{path}:{name}: {name}() failed with {said(error)}{_line(error, path)}"
        ) from error


@contextlib.contextmanager
def _neighbours(path: Path) -> Iterator[None]:
    """Let a file import what lies beside it."""
    directory = str(path.parent.resolve())
    sys.path.insert(0, directory)
    try:
        yield
    finally:
        sys.path.remove(directory)


def said(error: BaseException) -> str:
    """An error in one line, with its type.

    Example:
      >>> said(KeyError("weights"))
      "KeyError: 'weights'"
    """
    return textwrap.shorten(f"{type(error).__name__}: {error}", _LONGEST, placeholder=" ...")


def _line(error: BaseException, path: Path) -> str:
    """Where in the user's file it happened."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == path.resolve()]
    return f" ({path.name}:{lines[-1]})" if lines else ""
