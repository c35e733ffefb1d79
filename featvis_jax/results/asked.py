"""What a run asked of its units, in the words of its pages and sheets.

The objective that run.json records says it: an image that suppresses a unit is not to be read as
one that drives it, and what was asked of a layer as a whole is about none of its channels.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

# At the head of a description stand factors and how places are weighed: "strongest((-1.0) *
# channel('conv5'))" is about the places where the channel is lowest.
_HEAD = re.compile(r"\(*(?:strongest\(|up_to\(|(?:\((?P<negative>-[^()]+)\)|[0-9][0-9.e+-]*) \* )")
_WORDS = {
    "channel": "channel",
    "neuron": "channel",
    "attention": "channel",
    "logit": "logit",
    "logit_difference": "logit",
    "layer": "whole layer",
    "direction": "direction",
    "cosine_direction": "direction",
}


class Question(NamedTuple):
    """What was asked of the units of a layer.

    Example:
      >>> Question("channel('conv5')", suppresses=False, unit="channel").sought
      'what drives each channel most'
    """

    objective: str
    """what was maximized, as run.json has it; empty if it does not say"""
    suppresses: bool
    """whether that falls when the unit responds more"""
    unit: str
    """what a number of a channel stands for: channel, logit, direction, whole layer"""
    names: tuple[str, ...] = ()
    """what the units are called, by number, where the layer's channels are not the units"""

    @property
    def verb(self) -> str:
        """What the image does to the unit."""
        return "suppresses" if self.suppresses else "drives"

    @property
    def is_of_channels(self) -> bool:
        """Whether every channel of the layer is a unit of its own."""
        return self.unit not in ("whole layer", "direction")

    @property
    def has_several(self) -> bool:
        """Whether the layer has several units: its channels, or directions with names."""
        return self.is_of_channels or bool(self.names)

    def total(self, channels: int) -> int:
        """Count the units of a layer.

        Args:
          channels: That the layer has.
        """
        return len(self.names) or channels

    def label(self, number: int) -> str:
        """Return what a unit goes by where there is little room: its name, or its number.

        Example:
          >>> Question("", suppresses=False, unit="direction", names=("age", "sex")).label(1)
          'sex'
        """
        return self.names[number] if number < len(self.names) else str(number)

    def called(self, number: int) -> str:
        """Name a unit among those of its layer.

        Example:
          >>> Question("", suppresses=False, unit="channel").called(3)
          'channel 3'
        """
        return f"{self.unit} {self.label(number)}" if self.has_several else self.unit

    @property
    def sought(self) -> str:
        """What the images of the layer show."""
        each = f"each {self.unit}" if self.has_several else f"the {self.unit}"
        return f"what {self.verb} {each} most"

    def name(self, layer: str, channel: int) -> str:
        """Name a unit in a sentence.

        Example:
          >>> Question("logit('logits')", suppresses=True, unit="logit").name("logits", 1)
          'logit 1 of logits'
        """
        if self.has_several:
            return f"{self.called(channel)} {'in' if self.names else 'of'} {layer}"
        return f"{layer} as a whole" if self.unit == "whole layer" else f"a {self.unit} in {layer}"

    def counted(self, finished: int, total: int, *, variants: int = 1) -> str:
        """Say how many units there are.

        Args:
          finished: Those that have their images.
          total: The channels that the layer has.
          variants: Images of each.

        Example:
          >>> Question("", suppresses=False, unit="channel").counted(2, 64, variants=3)
          '2 of 64 channels, 3 variants each'
        """
        total = self.total(total)
        if self.has_several:
            of = f" of {total}" if total > finished else ""
            text = f"{finished}{of} {self.unit}{'' if max(finished, total) == 1 else 's'}"
        else:
            text = f"the {self.unit}"
        each = " each" if self.has_several and finished > 1 else ""
        return text if variants == 1 else f"{text}, {variants} variants{each}"


def compared_with(configuration: Mapping[str, Any]) -> str | None:
    """Say what the strengths of a run are shares of.

    Args:
      configuration: Of the run; its entry "reference" tells of the real inputs.

    Returns:
      The real inputs in words, None for a run without any.

    Example:
      >>> found = {"images": 240, "of": "slices", "lesions": "with and without"}
      >>> found["percentile"] = 100.0
      >>> compared_with({"reference": found})
      'the strongest of 240 real slices, with and without lesions'
      >>> compared_with({"reference": {**found, "lesions": None, "percentile": 95.0}})
      'percentile 95 of 240 real slices'
    """
    found = configuration.get("reference")
    if not isinstance(found, Mapping):
        return None
    share = found["percentile"]
    most = "the strongest" if share == 100 else f"percentile {share:g}"
    lesions = f", {found['lesions']} lesions" if found["lesions"] else ""
    return f"{most} of {found['images']} real {found['of']}{lesions}"


def intensity_unit(configuration: Mapping[str, Any]) -> str | None:
    """Say what the numbers in the images of a run are, None where nobody knows.

    Args:
      configuration: Of the run; its entry "intensities" tells how scans were scaled.

    Example:
      >>> intensity_unit({"intensities": {"scaling": "zscore", "unit": "z-score of each scan"}})
      'z-score of each scan'
    """
    found = configuration.get("intensities")
    return found["unit"] if isinstance(found, Mapping) else None


def question(configuration: Mapping[str, Any], layer: str) -> Question:
    """Return what a run asked of the units of a layer.

    Args:
      configuration: Of the run; its entry "objective" is a description, or one for each layer,
        and "unit_names" has, by layer, the names of units that are no channels.
      layer: Its name.

    Returns:
      What was asked; of a run that does not say, what drives its channels.

    Example:
      >>> question({"objective": {"conv5": "(-1.0) * channel('conv5')"}}, "conv5").sought
      'what suppresses each channel most'
      >>> question({"objective": "strongest((-1.0) * direction('conv5'))"}, "conv5").sought
      'what suppresses the direction most'
    """
    found = configuration.get("objective")
    if isinstance(found, Mapping):
        found = found.get(layer)
    text = found if isinstance(found, str) else ""
    names = configuration.get("unit_names")
    names = names.get(layer, ()) if isinstance(names, Mapping) else ()
    rest, negative = text, False
    while head := _HEAD.match(rest):
        negative ^= head["negative"] is not None
        rest = rest[head.end() :]
    call = re.match(r"\(*(\w+)", rest)
    unit = _WORDS.get(call[1], "unit") if call else "channel"
    return Question(text, negative, unit, tuple(names))
