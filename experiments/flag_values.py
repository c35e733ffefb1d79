"""Values of flags that absl has no kind for."""

from typing import Any

from absl import flags


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
