"""Options: what a whole run can be told, declared once for Python and for the command line.

A group of options is a frozen dataclass that derives from `Options`, with fields made by `option`.
Python calls it with keywords; `featvis_jax.commands.flags` makes a flag of each field.

Errors and notices name options between backticks, `` `name` `` or `` `name=value` ``. Launchers
spell them as flags (`as_flags`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

_Some = TypeVar("_Some", bound="Options")
_NAMED = re.compile(r"`(\w+)(=[^`]*)?`")


def option(
    default: Any,
    help: str,
    *,
    choices: Sequence[str] = (),
    least: float | None = None,
    most: float | None = None,
    repeats: bool = False,
    belongs_to_run: bool = True,
) -> Any:
    """A field of a group of options.

    Its annotation tells the kind: ``bool``, ``int``, ``float``, ``str``, or a ``tuple`` of them,
    with ``| None`` where it may be left open. Of several kinds the first is the flag's.

    Args:
      default: The value where nobody says; None leaves it open.
      help: What it is, for people.
      choices: The values that a string may have; any by default.
      least: The smallest number.
      most: The largest number.
      repeats: Whether the flag of a tuple is repeated; otherwise commas separate its values.
      belongs_to_run: Whether a run keeps it, to be run again with (`as_lines`).
    """
    told = _Told(help, tuple(choices), least, most, repeats, belongs_to_run)
    return dataclasses.field(default=default, metadata={"told": told})


class _Told(NamedTuple):
    """The arguments of `option`."""

    help: str
    choices: tuple[str, ...]
    least: float | None
    most: float | None
    repeats: bool
    belongs_to_run: bool


class Option(NamedTuple):
    """One option of a group.

    Attributes:
      name: Of the field.
      default: Its default.
      kind: ``bool``, ``int``, ``float`` or ``str``, of each value.
      is_tuple: Whether it has several values.
      length: How many there have to be; None for any number.
      told: How `option` describes it.
    """

    name: str
    default: Any
    kind: type
    is_tuple: bool
    length: int | None
    told: _Told


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """A group of options.

    Raises:
      ValueError: A value is none that its option takes.

    Example:
      >>> @dataclasses.dataclass(frozen=True, kw_only=True)
      ... class Walk(Options):
      ...     steps: int = option(3, "How far.", least=1)
      ...     past: tuple[str, ...] = option((), "What to pass by.")
      >>> Walk(past=["mill", "inn"])
      Walk(steps=3, past=('mill', 'inn'))
      >>> Walk(steps=0)
      Traceback (most recent call last):
      ValueError: `steps=0`: expected a number from 1.
      >>> print(as_lines(Walk(steps=5)))
      --past=
      --steps=5
    """

    def __post_init__(self) -> None:
        """Bring values to their kind, and refuse those that do not fit."""
        for each in fields(type(self)):
            value = getattr(self, each.name)
            if value is None:
                continue
            if each.is_tuple:
                several = isinstance(value, Iterable) and not isinstance(value, str | os.PathLike)
                parts: Iterable[Any] = value if several else [value]
                value = tuple(_plain(part, each) for part in parts)
            else:
                value = _plain(value, each)
            object.__setattr__(self, each.name, value)
            _check(each, value)


def _plain(value: Any, each: Option) -> Any:
    """A path as a string, an integer of numpy as one of Python; anything else as it is."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if each.kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value.item() if isinstance(value, np.generic) else value


def _check(each: Option, value: Any) -> None:
    told, shown = each.told, shown_value(value)
    if each.length is not None and len(value) != each.length:
        raise ValueError(f"`{each.name}={shown}`: expected {each.length} values.")
    for part in value if each.is_tuple else [value]:
        if told.choices and isinstance(part, str) and part not in told.choices:
            raise ValueError(
                f"`{each.name}={shown}`: expected {'some' if each.is_tuple else 'one'} of "
                f"{', '.join(told.choices)}."
            )
        if each.kind in (int, float) and isinstance(part, int | float):
            low = -math.inf if told.least is None else told.least
            high = math.inf if told.most is None else told.most
            if not low <= part <= high:
                upto = "" if told.most is None else f" to {told.most:g}"
                raise ValueError(f"`{each.name}={shown}`: expected a number from {low:g}{upto}.")


@functools.cache
def fields(group: type[Options]) -> tuple[Option, ...]:
    """The options of a group, in their order.

    Args:
      group: The dataclass.
    """
    hints = typing.get_type_hints(group)
    found = []
    for field in dataclasses.fields(group):
        kind, is_tuple, length = _kind(hints[field.name])
        told = field.metadata["told"]
        found.append(Option(field.name, field.default, kind, is_tuple, length, told))
    return tuple(found)


def _kind(hint: Any) -> tuple[type, bool, int | None]:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return _kind(typing.get_args(hint)[0])
    if typing.get_origin(hint) is tuple:
        parts = typing.get_args(hint)
        return parts[0], True, None if Ellipsis in parts else len(parts)
    return hint, False, None


def some(group: type[_Some], options: Options) -> _Some:
    """The part of some options that a smaller group has.

    Args:
      group: The smaller group.
      options: Those of a group that has all of its options.
    """
    return group(**{each.name: getattr(options, each.name) for each in fields(group)})


def shown_value(value: Any) -> str:
    """A value as a flag has it.

    Example:
      >>> shown_value((140, 192)), shown_value(0.5)
      ('140,192', '0.5')
    """
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(str(part).removesuffix(".0") for part in value)
    return str(value)


def as_lines(*groups: Options) -> str:
    """All options that belong to a run and are not left open, as lines of a flag file.

    Args:
      groups: Of options; of an option that several have, the first counts.
    """
    lines: dict[str, list[str]] = {}
    for options in groups:
        for each in fields(type(options)):
            value = getattr(options, each.name)
            if value is None or not each.told.belongs_to_run or each.name in lines:
                continue
            if not _is_plain(value):
                lines[each.name] = [f"# {each.name} was given in Python"]
            elif isinstance(value, bool):
                lines[each.name] = [f"--{'' if value else 'no'}{each.name}"]
            elif each.told.repeats:
                lines[each.name] = [f"--{each.name}={part}" for part in value]
            else:
                lines[each.name] = [f"--{each.name}={shown_value(value)}"]
    return "\n".join(sorted("\n".join(parts) for parts in lines.values() if parts))


def from_lines(group: type[Options], text: str) -> dict[str, Any]:
    r"""The options of a group that `as_lines` wrote down; others are passed over.

    Args:
      group: The dataclass.
      text: Lines of a flag file.

    Returns:
      Values by name, of those that have a line.

    Raises:
      ValueError: A value is none of its option's kind.

    Example:
      >>> @dataclasses.dataclass(frozen=True, kw_only=True)
      ... class Walk(Options):
      ...     steps: int = option(3, "How far.", least=1)
      ...     dogs: bool = option(True, "Whether they come along.")
      >>> from_lines(Walk, "--steps=5\n--nodogs\n--weather=fine")
      {'steps': 5, 'dogs': False}
    """
    options, found = {each.name: each for each in fields(group)}, {}
    for line in text.splitlines():
        name, equals, value = line.removeprefix("--").partition("=")
        if not equals and (bare := name.removeprefix("no")) in options:
            name, value = bare, str(name == bare)
        each = options.get(name)
        if each is None or not line.startswith("--"):
            continue
        with errors_of(name, value):
            if each.is_tuple and each.told.repeats:
                found[name] = (*found.get(name, ()), _from_text(each.kind, value))
            elif each.is_tuple:
                parts = value.split(",") if value else []
                found[name] = tuple(_from_text(each.kind, part) for part in parts)
            else:
                found[name] = _from_text(each.kind, value)
    return found


def given_in_python(text: str) -> list[str]:
    r"""The options that `as_lines` could not write down.

    Args:
      text: Lines of a flag file.

    Example:
      >>> given_in_python("# objective was given in Python\n--steps=3")
      ['objective']
    """
    return re.findall(r"^# (\w+) was given in Python", text, re.MULTILINE)


def _from_text(kind: type, text: str) -> Any:
    return text == "True" if kind is bool else kind(text)


def _is_plain(value: Any) -> bool:
    """Whether a flag can say it."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return all(map(_is_plain, value))
    return isinstance(value, str | int | float)


@contextlib.contextmanager
def errors_of(name: str, value: Any) -> Iterator[None]:
    """Begin what goes wrong in a `with` block with the option that it is about.

    Args:
      name: Of the option.
      value: Its value; an error that begins with it is not told it twice.

    Raises:
      OSError: Of the same type as within.
      ValueError: For every error of a value.

    Example:
      >>> with errors_of("mask", "left.nii"):
      ...     raise FileNotFoundError("left.nii: there is no such file")
      Traceback (most recent call last):
      FileNotFoundError: `mask=left.nii`: there is no such file
    """
    try:
        yield
    except OSError as error:
        raise type(error)(_about(name, value, error)) from error
    except ValueError as error:
        raise ValueError(_about(name, value, error)) from error


def _about(name: str, value: Any, error: Exception) -> str:
    shown, text = shown_value(value), str(error)
    told, rest = f"`{name}={shown}`", text.removeprefix(shown)
    begins_with_it = shown and rest != text and rest.startswith((":", " "))
    return f"{told}{rest}" if begins_with_it else f"{told}: {text}"


def as_flags(text: str, names: Collection[str]) -> str:
    """A text about options, with their names as flags.

    Args:
      text: With options between backticks.
      names: Those that are flags; anything else between backticks stays.

    Example:
      >>> as_flags("`steps=0`: expected a number from 1; leave `every` out.", {"steps", "every"})
      '--steps=0: expected a number from 1; leave --every out.'
    """

    def spelled(match: re.Match[str]) -> str:
        return f"--{match[1]}{match[2] or ''}" if match[1] in names else match[0]

    return _NAMED.sub(spelled, text)


class _Spelling:
    """How this process tells people of options; a launcher spells them as flags."""

    spelled: Callable[[str], str] = staticmethod(lambda text: text)


def spell(spelled: Callable[[str], str]) -> None:
    """Have notices written in another way.

    Args:
      spelled: From a text with options between backticks to what is shown.
    """
    _Spelling.spelled = staticmethod(spelled)


def tell(text: str) -> None:
    """Say something on standard error that a user should know, and go on.

    Args:
      text: With options between backticks.
    """
    print(_Spelling.spelled(text), file=sys.stderr)  # noqa: T201


def say(text: str) -> None:
    """Say on standard output what came of something.

    Args:
      text: With options between backticks.
    """
    print(_Spelling.spelled(text))  # noqa: T201


def shown(text: str) -> str:
    """A text about options as this process tells it.

    Args:
      text: With options between backticks.
    """
    return _Spelling.spelled(text)
