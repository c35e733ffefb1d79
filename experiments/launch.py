"""What every launcher does around its work: errors in plain words, and what it ran on."""

import importlib.metadata
import platform
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import app, flags, logging

from experiments import allocator, stopping

_PACKAGES = ("featvis_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def start(main: Callable[[Sequence[str]], None]) -> None:
    """Read the flags and run a launcher; the last line of its module."""
    allocator.keep_freed_memory()
    app.run(lambda argv: run(main, argv, last=True), flags_parser=parse)


def parse(argv: Sequence[str]) -> list[str]:
    """Read the flags; a wrong one ends in one message and exit status 2."""
    try:
        rest = flags.FLAGS(argv)
    except flags.Error as error:
        _stop(f"{error}. --help lists the flags and what they take.")
    if len(rest) > 1:
        _stop(f"{rest[1]!r} is not a flag; options look like --name=value.")
    return rest


def run(main: Callable[[Sequence[str]], None], argv: Sequence[str], *, last: bool = False) -> None:
    """Run a launcher; what its user can mend ends in one message and exit status 2.

    One that is asked to stop ends with exit status 75: the same command goes on from there.
    """
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # Orbax tells every file otherwise.
    try:
        with stopping.listening(last=last):
            main(argv)
    except stopping.Stopped as stopped:
        print(stopping.told(str(stopped)), end="", file=sys.stderr)
        sys.exit(stopping.START_AGAIN)
    except (ValueError, OSError, FloatingPointError, MemoryError) as error:
        _stop(str(error))


def _stop(message: str) -> NoReturn:
    print(f"Error: {message}", file=sys.stderr)
    sys.exit(2)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
