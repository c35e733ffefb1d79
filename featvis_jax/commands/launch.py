"""What every command does around its work: flags, help, errors in plain words, signals."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

from absl import logging

from featvis_jax import stopping
from featvis_jax.commands import allocator, flags, help
from featvis_jax.options import Options, as_flags, spell


class Command(NamedTuple):
    """Something that ``featvis`` does.

    Attributes:
      name: What follows ``featvis``.
      summary: What it does, in a line.
      examples: Command lines that work, without the program.
      options: The group of its options.
      main: What does it.
      required: Names of options that must be given.
      first: Names of options that a new user needs.
      program: How it is started, where that is not ``featvis NAME``.
    """

    name: str
    summary: str
    examples: tuple[str, ...]
    options: type[Options]
    main: Callable[[Any], None]
    required: tuple[str, ...] = ()
    first: tuple[str, ...] = ()
    program: str | None = None

    @property
    def started_by(self) -> str:
        """What its user types before the flags."""
        return self.program or f"featvis {self.name}"


def start(command: Command) -> None:
    """Run a command with the flags of this process; the last line of a launcher."""
    allocator.keep_freed_memory()
    run(command, sys.argv, last=True)


def run(command: Command, argv: Sequence[str], *, last: bool = False) -> None:
    """Run a command; what its user can mend ends in one message and exit status 2.

    One that is asked to stop ends with exit status 75: the same command goes on from there.

    Args:
      command: The command.
      argv: The command line, the program first.
      last: Whether the process ends with it.
    """
    if set(argv[1:]) & {"--help", "-h", "--helpfull", "-help", "-?"}:
        print(help.text(command, all_flags="--helpfull" in argv))
        sys.exit(0)
    names = flags.names(command.options)
    spell(lambda text: as_flags(text, names))
    logging.set_verbosity(logging.WARNING)  # Orbax tells every file otherwise.
    try:
        options = flags.parse(command.options, argv, required=command.required)
        with stopping.listening(last=last):
            command.main(options)
    except stopping.Stopped as stopped:
        print(stopping.told(str(stopped)), end="", file=sys.stderr)
        sys.exit(stopping.START_AGAIN)
    except (ValueError, OSError, FloatingPointError, MemoryError) as error:
        _stop(as_flags(str(error), names))


def _stop(message: str) -> NoReturn:
    print(f"Error: {message}", file=sys.stderr)
    sys.exit(2)


def line(command: str) -> str:
    """The command line of this process, as it can be given again.

    Args:
      command: Name of the command.
    """
    own = sys.argv[0].rsplit("/", 1)[-1]
    program = (
        ["featvis", command] if own == "featvis" else ["python", "-m", f"experiments.{command}"]
    )
    return shlex.join([*program, *sys.argv[1:]])
