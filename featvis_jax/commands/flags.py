"""Flags out of options: a launcher's flags are the fields of its options, by the same names.

Every launcher has flags of its own (`absl.flags.FlagValues`), so that several fit into a process.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

from absl import flags

from featvis_jax.options import Option, Options, fields, shown_value

_Some = TypeVar("_Some", bound=Options)


def values(group: type[Options], *, required: Collection[str] = ()) -> flags.FlagValues:
    """The flags of some options.

    Args:
      group: The options.
      required: Names of those that must be given.
    """
    found = flags.FlagValues()
    for each in fields(group):
        _define(each, found, required=each.name in required)
    return found


def _define(each: Option, into: flags.FlagValues, *, required: bool) -> None:
    told, default = each.told, each.default
    make: Callable[..., Any]
    keywords: dict[str, Any] = {"flag_values": into, "required": required}
    if each.is_tuple:
        default = None if default is None else [str(part) for part in default]
        make = flags.DEFINE_multi_string if told.repeats else flags.DEFINE_list
    elif told.choices:
        make, keywords["enum_values"] = flags.DEFINE_enum, list(told.choices)
    elif each.kind is bool:
        make = flags.DEFINE_bool
    elif each.kind is str:
        make = flags.DEFINE_string
    else:
        make = flags.DEFINE_integer if each.kind is int else flags.DEFINE_float
        keywords |= {"lower_bound": told.least, "upper_bound": told.most}
    make(each.name, default, help=told.help, **keywords)


def parse(group: type[_Some], argv: Sequence[str], *, required: Collection[str] = ()) -> _Some:
    """The options that a command line spells out.

    Args:
      group: The options.
      argv: The command line, the program's name first.
      required: Names of those that must be given.

    Raises:
      ValueError: It holds something else, with what is wrong.
    """
    found = values(group, required=required)
    try:
        rest = found(argv)
    except flags.Error as error:
        raise ValueError(f"{error}. --help lists the flags and what they take.") from error
    if len(rest) > 1:
        raise ValueError(f"{rest[1]!r} is not a flag; options look like --name=value.")
    return group(**{each.name: _value(each, found[each.name].value) for each in fields(group)})


def _value(each: Option, parsed: Any) -> Any:
    """What a flag holds, as its option has it."""
    if parsed is None or not each.is_tuple:
        return parsed
    if each.kind is str:
        return tuple(parsed)
    try:
        numbers = tuple(each.kind(part) for part in parsed)
    except ValueError:
        numbers = ()
    if not numbers or each.length not in (None, len(numbers)):
        raise ValueError(
            f"--{each.name}={shown_value(parsed)}: expected {each.length or 'some'} numbers, "
            "separated by commas."
        )
    return numbers


def names(group: type[Options]) -> set[str]:
    """The names of a group's options.

    Args:
      group: The options.
    """
    return {field.name for field in dataclasses.fields(group)}
