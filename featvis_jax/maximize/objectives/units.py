"""What is visualized, as data, and the directions that are units of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float, Float32, Int

Numbers = np.ndarray | Array | Sequence[Any]
"""Anything that makes an array of more than one number."""


class Unit(NamedTuple):
    """What is visualized, as data: another unit of the same layer compiles nothing.

    Attributes:
      channel: Number of the channel in its layer, or of the unit where an objective has units of
        its own.
      direction: A vector over the layer's channels, of an objective with several `Directions`.
      target: The response that is aimed at (`Objective.response`); NaN where none is known.
    """

    channel: Int[Array, ""]
    direction: Float[Array, " channels"] | None = None
    target: Float[Array, ""] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Directions:
    """Several directions in the space of a layer's channels, each a unit.

    Attributes:
      names: What each is called; its number where nobody named it.
      vectors: A row for each.

    Raises:
      ValueError: They are not rows of finite numbers, each with a name of its own and not all 0.

    Example:
      >>> directions_of({"age": [1.0, 0.0], "pca": [[0.5, 0.5], [0.5, -0.5]]}).names
      ('age', 'pca/0', 'pca/1')
    """

    names: tuple[str, ...]
    vectors: Float32[np.ndarray, "units channels"]

    def __post_init__(self) -> None:
        """Refuse what cannot be units."""
        twice = [name for name in self.names if self.names.count(name) > 1]
        if twice:
            raise ValueError(f"{twice[0]!r} names several directions: name each once.")
        if self.vectors.ndim != 2 or len(self.names) != len(self.vectors) or not self.vectors.size:
            raise ValueError(
                f"{len(self.names)} names and vectors of shape {self.vectors.shape}; expected at "
                "least one direction, and a row of numbers for each."
            )
        for name, vector in zip(self.names, self.vectors, strict=True):
            if not np.isfinite(vector).all():
                raise ValueError(
                    f"direction {name!r} holds NaN, infinite numbers or some too large for float32."
                )
            if not vector.any():
                raise ValueError(f"direction {name!r} is all 0, which leads nowhere: leave it out.")

    def __len__(self) -> int:
        """How many there are."""
        return len(self.names)

    def of(self, numbers: Int[np.ndarray, " some"]) -> Float32[np.ndarray, "some channels"]:
        """The vectors of some.

        Args:
          numbers: Which, from 0.

        Raises:
          ValueError: There is none of such a number.
        """
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < len(self):
            raise ValueError(
                f"directions {numbers.tolist()} are asked for; there are 0 to {len(self) - 1}."
            )
        return self.vectors[numbers]

    def is_same(self, other: Directions) -> bool:
        """Whether another one has the same names and numbers.

        Args:
          other: Some directions.
        """
        return self.names == other.names and np.array_equal(self.vectors, other.vectors)


def directions_of(
    given: Numbers | Mapping[str, Numbers] | Directions,
) -> Float32[np.ndarray, " channels"] | Directions:
    """One direction as a vector, or several as units.

    Args:
      given: A vector with one number for each channel; a matrix with a direction in each row,
        which are called by their numbers; or vectors and matrices by name, where the rows of a
        matrix are called ``name/0``, ``name/1`` and so on.

    Returns:
      The vector, or the directions.

    Raises:
      ValueError: It is none of these, or holds what cannot be a direction.

    Example:
      >>> directions_of([1, -1])
      array([ 1., -1.], dtype=float32)
      >>> len(directions_of([[1, -1], [0, 1], [1, 1]]))
      3
    """
    if isinstance(given, Directions):
        return given
    if isinstance(given, Mapping):
        return _named(given)
    values = _array("vector", given)
    if values.ndim == 2:
        return Directions(tuple(map(str, range(len(values)))), values)
    if values.ndim != 1 or not np.isfinite(values).all() or not values.any():
        raise ValueError(
            f"vector has shape {values.shape}; expected one row of finite numbers, not all 0, one "
            "for each channel, or a matrix of such rows."
        )
    return values


def _named(given: Mapping[str, Numbers]) -> Directions:
    names: list[str] = []
    rows: list[np.ndarray] = []
    for name, numbers in given.items():
        _check_name(name)
        values = _array(repr(name), numbers)
        if values.ndim not in (1, 2) or not values.size:
            raise ValueError(
                f"{name!r} has shape {values.shape}; expected a vector with one number for each "
                "channel, or a matrix with a direction in each row."
            )
        names += [name] if values.ndim == 1 else [f"{name}/{i}" for i in range(len(values))]
        rows += list(np.atleast_2d(values))
        if len(rows[-1]) != len(rows[0]):
            raise ValueError(
                f"{names[0]!r} has {len(rows[0])} numbers and {names[-1]!r} {len(rows[-1])}: give "
                "each one number for each channel of the layer."
            )
    if not rows:
        raise ValueError("there is no direction; expected at least one, under a name.")
    return Directions(tuple(names), np.stack(rows))


def _array(told: str, given: Numbers) -> np.ndarray:
    try:
        values = np.asarray(given)
    except ValueError as error:  # Rows of several lengths.
        raise ValueError(f"{told} is no array of numbers ({error}).") from error
    if values.dtype.kind not in "biuf" and values.dtype.name != "bfloat16":
        raise ValueError(f"{told} holds {values.dtype}; expected real numbers.")
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _check_name(name: object) -> None:
    """Refuse a name that could not be told from a number or a range, or not stand in a table."""
    if (
        not isinstance(name, str)
        or not name.strip()
        or name != name.strip()
        or name == "all"
        or name.lstrip("+-").isdigit()
        or not name.isprintable()
        or set(name) & set(",:")
    ):
        raise ValueError(
            f"{name!r} cannot name a direction: expected a word that is no number and not 'all', "
            "without commas, colons, tabs and line ends."
        )
