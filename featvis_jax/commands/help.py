"""Help on a screen: what is needed first, with an example, and where the rest is."""

from __future__ import annotations

import inspect
import textwrap
from typing import TYPE_CHECKING

from featvis_jax.options import Option, as_flags, fields

if TYPE_CHECKING:
    from featvis_jax.commands.launch import Command

_WIDTH, _HEIGHT = 80, 24


def text(command: Command, *, all_flags: bool = False) -> str:
    """What --help says, on one screen; with all flags, by their groups.

    Args:
      command: The command.
      all_flags: Whether to describe every flag.
    """
    lines = [f"{command.started_by}: {command.summary}", ""]
    for example in command.examples:
        lines += _example(f"{command.started_by} {example}")
    named = {each.name: each for each in fields(command.options)}
    if all_flags:
        for title, options in groups(command).items():
            lines += ["", title]
            for each in options:
                lines += _described(each, named)
        return "\n".join(lines)
    lines.append("")
    for name in command.first:
        lines.append(_short(named[name], named))
    rest: list[str] = []
    for title, options in groups(command).items():
        others = [f"--{each.name}" for each in options if each.name not in command.first]
        if others:
            rest.append(f"{title.rstrip('.')}: {' '.join(others)}")
    room = _HEIGHT - len(lines) - 2
    shown: list[str] = []
    for each in rest:
        shown += textwrap.wrap(each, _WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    if len(shown) > room:
        shown = [textwrap.shorten(each, _WIDTH, placeholder=" ...") for each in rest][:room]
    return "\n".join([*lines, "", *shown, f"{command.started_by} --helpfull explains every flag."])


def groups(command: Command) -> dict[str, list[Option]]:
    """The options of a command by the titles of their groups, the first lines of docstrings.

    Args:
      command: The command.
    """
    found: dict[str, list[Option]] = {}
    for each in fields(command.options):
        owner = next(
            group for group in reversed(command.options.__mro__) if each.name in _own(group)
        )
        title = (owner.__doc__ or owner.__name__).splitlines()[0]
        found.setdefault(title, []).append(each)
    return found


def _own(group: type) -> dict[str, object]:
    return inspect.get_annotations(group)


def _short(each: Option, named: dict[str, Option]) -> str:
    told = as_flags(each.told.help.splitlines()[0], named)
    head = f"  --{each.name:<14} "
    return head + textwrap.shorten(told, _WIDTH - len(head), placeholder=" ...")


def _example(line: str) -> list[str]:
    """A command line as a shell takes it, over several lines where it is long."""
    wrapped = textwrap.wrap(
        line, _WIDTH - 8, break_on_hyphens=False, break_long_words=False, subsequent_indent="    "
    )
    return [f"  {part}{' ' + chr(92) if part is not wrapped[-1] else ''}" for part in wrapped]


def _described(each: Option, named: dict[str, Option]) -> list[str]:
    default = "" if each.default in (None, False, ()) else f" [{each.default}]"
    if each.told.choices:
        default = f" {{{'|'.join(each.told.choices)}}}{default}"
    told = as_flags(each.told.help, named)
    lines = [f"  --{each.name}{default}"]
    for part in told.splitlines():
        lines += textwrap.wrap(
            part, _WIDTH - 6, initial_indent="      ", subsequent_indent="      "
        )
    return lines
