"""Checks of options, made where a transform is built, with messages that name the allowed range."""

import math
import numbers
from collections.abc import Collection, Sequence
from typing import Any

__all__ = ["check_choice", "check_integer", "check_number", "check_numbers", "check_one_of"]


def check_number(
    factory: str,
    name: str,
    value: Any,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    open_low: bool = False,
) -> float:
    """Return a finite number of the allowed range as a float, or raise ValueError."""
    allowed = f"a finite number in {'(' if open_low else '['}{low:g}, {high:g}]"
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise ValueError(f"{factory}: {name}={value!r}; expected {allowed}")
    number = float(value)
    inside = low < number if open_low else low <= number
    if not math.isfinite(number) or not inside or number > high:
        raise ValueError(f"{factory}: {name}={value!r} is out of range; expected {allowed}")
    return number


def check_integer(factory: str, name: str, value: Any, *, low: int) -> int:
    """Return an integer of at least `low`, or raise ValueError."""
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_integer or value < low:
        raise ValueError(f"{factory}: {name}={value!r}; expected an integer of at least {low}")
    return int(value)


def check_choice(factory: str, name: str, value: Any, allowed: Collection[str]) -> str:
    """Return a value that is one of the allowed words, or raise ValueError."""
    if value not in allowed:
        raise ValueError(f"{factory}: {name}={value!r}; expected one of {', '.join(allowed)}")
    return value


def check_numbers(
    factory: str,
    name: str,
    values: Sequence[Any],
    *,
    low: float = -math.inf,
    high: float = math.inf,
    open_low: bool = False,
) -> tuple[float, ...]:
    """Return a sequence of at least one number of the allowed range, or raise ValueError."""
    if isinstance(values, str) or not isinstance(values, Sequence) or not values:
        raise ValueError(f"{factory}: {name}={values!r}; expected a sequence of numbers, not empty")
    return tuple(
        check_number(factory, name, value, low=low, high=high, open_low=open_low)
        for value in values
    )


def check_one_of(factory: str, **alternatives: Any) -> None:
    """Raise ValueError unless exactly one of several options is given."""
    given = [name for name, value in alternatives.items() if value is not None]
    if len(given) != 1:
        raise ValueError(
            f"{factory}: {' and '.join(given) or 'none'} given; expected exactly one of "
            f"{', '.join(alternatives)}"
        )
