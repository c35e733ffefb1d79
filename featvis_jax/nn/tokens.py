"""Where the tokens of a transformer lie: most of them on the image's grid, some nowhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Tokens(NamedTuple):
    """Which tokens of a sequence are places of the image.

    Attributes:
      before: How many in front have no place, such as a class token and registers.
      grid: How the others lie, with an axis for each of the image's, the last one fastest.
      behind: How many at the end have no place.

    Example:
      >>> tokens = Tokens(1, (4, 3), 0)
      >>> tokens.first, tokens.stop, tokens.number((2, 1)), tokens.place(8), tokens.place(0)
      (1, 13, 8, (2, 1), None)
    """

    before: int
    grid: tuple[int, ...]
    behind: int

    @property
    def first(self) -> int:
        """The first token with a place."""
        return self.before

    @property
    def stop(self) -> int:
        """The one after the last token with a place."""
        return self.before + math.prod(self.grid)

    @property
    def total(self) -> int:
        """How many there are in all."""
        return self.stop + self.behind

    @property
    def has_others(self) -> bool:
        """Whether some have no place."""
        return self.before + self.behind > 0

    def place(self, number: int) -> tuple[int, ...] | None:
        """Where a token lies on the grid; None for one that has no place.

        Args:
          number: Of the token, from 0.
        """
        if not self.first <= number < self.stop:
            return None
        return tuple(int(i) for i in np.unravel_index(number - self.first, self.grid))

    def number(self, place: Sequence[int]) -> int:
        """Which token lies at a place.

        Args:
          place: An index along each axis of the grid.
        """
        return self.first + int(np.ravel_multi_index(tuple(place), self.grid))

    def __str__(self) -> str:
        """How many have no place, and the grid of the others."""
        parts = [self.before, " x ".join(map(str, self.grid)), self.behind]
        return " + ".join(str(part) for part in parts if part != 0)
