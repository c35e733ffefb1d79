"""The channels of a network's input: contrasts, seen one by one, or red, green and blue."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from featvis_jax.ranges import Range, Ranges, to_shares, window_in

RGB = ("R", "G", "B")


class InputChannels(NamedTuple):
    """What the channels of an image are. A name is letters and digits, as a suffix of BIDS is.

    Attributes:
      names: Of the channels, in order; "" for the only one of an input that nobody has named.
      is_colour: Whether they are red, green and blue of a picture, (rows, columns, 3).
      held: SHA-256 of what is held, by the name of its channel; the ascent leaves it alone.
      ranges: Of their intensities, where these differ. Windows are then shares of them, and each
        contrast is shown in its own.

    Example:
      >>> InputChannels(("T1w", "FLAIR")).suffixes, InputChannels(("T1w",)).suffixes
      (('_T1w', '_FLAIR'), ('',))
    """

    names: tuple[str, ...] = ("",)
    is_colour: bool = False
    held: Mapping[str, str] = {}
    ranges: Ranges | None = None

    @property
    def suffixes(self) -> tuple[str, ...]:
        """What the names of their files end in; nothing where there is one channel."""
        return ("",) if len(self.names) == 1 else tuple(f"_{name}" for name in self.names)

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the parts of `seen`; nothing where there is one part."""
        return ("",) if self.is_colour or len(self.names) == 1 else self.names

    @property
    def captions(self) -> tuple[str, ...]:
        """What is written beside the parts of `seen`.

        Example:
          >>> InputChannels(("T1w", "FLAIR"), held={"T1w": "1b4f"}).captions
          ('T1w, held', 'FLAIR')
        """
        return tuple(f"{name}, held" if name in self.held else name for name in self.labels)

    @property
    def apart(self) -> "InputChannels":
        """The same, to be seen one by one: what is no intensity has no colour."""
        return self._replace(is_colour=False)

    @property
    def unheld(self) -> "InputChannels":
        """The same, whatever is held of them."""
        return self._replace(held={})

    @property
    def of_one_range(self) -> "InputChannels":
        """The same, for what is in their place and has no intensities, or those of other ranges."""
        return self._replace(ranges=None)

    @property
    def told(self) -> str:
        """What they are, in words.

        Example:
          >>> InputChannels(("T1w", "FLAIR")).told, InputChannels().told
          ('T1w, FLAIR', 'one channel')
        """
        names = ", ".join(self.names) or "one channel"
        return f"{names}, in colour" if self.is_colour else names

    @property
    def part_ranges(self) -> tuple[Range | None, ...]:
        """Of each of `labels` the range that it has shares of; None where it has intensities.

        Colour mixes channels, whose shares are all there is to tell.
        """
        own = None if self.is_colour else self.ranges
        return own or (None,) * len(self.labels)

    def windows(self, window: Range) -> tuple[Range, ...]:
        """A window in the intensities of each channel.

        Args:
          window: Lowest and highest intensity, or share of the ranges.

        Example:
          >>> InputChannels(("T1w", "CT"), ranges=((0.0, 1.0), (-1000.0, 3000.0))).windows((0, 0.5))
          ((0.0, 0.5), (-1000.0, 1000.0))
        """
        return tuple(window_in(each, window) for each in self.ranges or (None,) * len(self.names))

    def told_windows(self, window: Range) -> list[tuple[str, Range]]:
        """What a window is for people: one for all, or one for each contrast, with its name.

        Args:
          window: Lowest and highest intensity, or share of the ranges.

        Example:
          >>> InputChannels(("T1w", "FLAIR")).told_windows((0.0, 1.0))
          [('', (0.0, 1.0))]
        """
        if self.ranges is None or self.is_colour:
            return [("", window)]
        return list(zip(self.names, self.windows(window), strict=True))

    def told_unit(self, unit: str | None) -> str | None:
        """What the numbers of `told_windows` are.

        Args:
          unit: What the intensities are; None where nobody knows.
        """
        return _SHARES if self.ranges is not None and self.is_colour else unit

    def seen(
        self, image: Float[np.ndarray, "*spatial channels"]
    ) -> list[Float[np.ndarray, "*spatial _"]]:
        """Return the parts of an image that are seen by themselves.

        Args:
          image: Shape (x, y, channels) or (x, y, z, channels).

        Returns:
          For each of `labels` an image of one channel, or of three in colour; of channels with
          ranges of their own as shares of these.

        Raises:
          ValueError: If the image has another number of channels.

        Example:
          >>> [part.shape for part in InputChannels(("T1w", "FLAIR")).seen(np.zeros((4, 5, 2)))]
          [(4, 5, 1), (4, 5, 1)]
          >>> [part.shape for part in InputChannels(RGB, is_colour=True).seen(np.zeros((4, 5, 3)))]
          [(4, 5, 3)]
        """
        self.refuse_other(image)
        shares = to_shares(image, self.ranges)
        return [shares] if self.is_colour else np.split(shares, len(self.names), axis=-1)

    def refuse_other(self, image: Float[np.ndarray, "*spatial channels"]) -> None:
        """Raise if an image has another number of channels.

        Args:
          image: With its channels last.

        Raises:
          ValueError: If it has.

        Example:
          >>> InputChannels().refuse_other(np.zeros((4, 5, 1)))
        """
        if image.shape[-1:] != (len(self.names),):
            raise ValueError(
                f"image has shape {image.shape}; expected {len(self.names)} channels, last"
                + (f": {', '.join(self.names)}." if len(self.names) > 1 else ".")
            )

    def setting(self) -> dict[str, Any] | None:
        """Return what a run's configuration says of them; None of one without a name.

        Example:
          >>> InputChannels(("T1w", "FLAIR")).setting()
          {'names': ['T1w', 'FLAIR'], 'colour': False, 'held': {}}
        """
        if self == ONE:
            return None
        told = {"names": list(self.names), "colour": self.is_colour, "held": dict(self.held)}
        return told if self.ranges is None else {**told, "ranges": list(map(list, self.ranges))}


ONE = InputChannels()
"""A single channel without a name."""

_SHARES = "share of each channel's range"


def of_run(configuration: Mapping[str, Any]) -> InputChannels:
    """Return what a run's configuration says of the channels of its images.

    Args:
      configuration: Of the run; one that does not tell is of one channel.

    Example:
      >>> of_run({"input_channels": InputChannels(("T1w", "FLAIR")).setting()}).names
      ('T1w', 'FLAIR')
      >>> of_run({}).names
      ('',)
    """
    told = configuration.get("input_channels")
    if told is None:
        return ONE
    ranges = told.get("ranges")
    ranges = None if ranges is None else tuple((low, high) for low, high in ranges)
    return InputChannels(tuple(told["names"]), told["colour"], told["held"], ranges)


def named(names: Sequence[str], *, count: int, is_picture: bool = True) -> InputChannels:
    """Return the channels of an input by the names that a user gives them.

    Args:
      names: One for each; "rgb" alone stands for red, green and blue, to be seen as colour.
        Without any, several are channel0, channel1 and so on.
      count: How many there are.
      is_picture: Whether an image may be a picture: of two axes, and at no place in a body.

    Raises:
      ValueError: If there are more or fewer, "rgb" is given for what is no picture, a name cannot
        be part of a file's name, or two are the same to a file system without capitals.

    Example:
      >>> named(["rgb"], count=3).is_colour, named([], count=2).names, named([], count=1).names
      (True, ('channel0', 'channel1'), ('',))
    """
    if [name.lower() for name in names] == ["rgb"]:
        if count != len(RGB):
            raise ValueError(f"rgb stands for 3 channels; the network takes {count}: name each.")
        if not is_picture:
            raise ValueError(
                "rgb stands for a picture, of two axes and at no place in a body; the network's "
                "images are no pictures: give R,G,B to see its channels one by one."
            )
        return InputChannels(RGB, is_colour=True)
    if not names:
        return InputChannels(("",) if count == 1 else tuple(f"channel{i}" for i in range(count)))
    if len(names) != count:
        raise ValueError(f"{len(names)} names; expected {count}, one for each of the channels.")
    odd = [name for name in names if not re.fullmatch(r"[A-Za-z0-9]{1,32}", name)]
    if odd:
        raise ValueError(
            f"{odd[0]!r} cannot end the name of a file in BIDS; expected at most 32 letters and "
            "digits, such as T1w, T1ce or FLAIR."
        )
    if len({name.lower() for name in names}) < len(names):
        raise ValueError("two names are the same but for capitals; expected different ones.")
    return InputChannels(tuple(names))
