"""trust.tsv: what speaks for and against every picture of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from featvis_jax.results.tables import Key, column

REFUTED, NOT_REFUTED = "refuted", "not refuted"
NOT_DRIVING, NOT_MEASURED = "does not drive its unit", "not measured"
VERDICTS = (NOT_REFUTED, REFUTED, NOT_DRIVING, NOT_MEASURED)


@dataclass(frozen=True)
class TrustRecord:
    """One row of trust.tsv. Intervals hold 95 %, over people.

    Example:
      >>> TrustRecord("conv1", 3, 1, NOT_REFUTED).key
      ('conv1', 3, 1)
    """

    layer: str = column("Layer of the network, as the model names it")
    channel: int = column("Channel of the layer, from 0, or number of a direction")
    variant: int = column("Image of the channel, from 1")
    verdict: str = column(
        "What was found",
        Levels={
            NOT_REFUTED: "nothing that was measured speaks against the picture",
            REFUTED: "the picture does not show what drives the unit in real inputs",
            NOT_DRIVING: "the unit responds to the picture with less than half of what it "
            "responds to the strongest real input",
            NOT_MEASURED: "no real input drives the unit, or the unit does not tell inputs apart",
        },
    )
    reason: str | None = column("Why, in words", default=None)
    belongs: float | None = column(
        "Probability that the picture belongs to this unit and is not another unit's, scrambled, "
        "or that of a network that has learned nothing, of as many of each",
        default=None,
    )
    strength: float | None = column(
        "Response to the picture as a share of that to the strongest real input", default=None
    )
    pasted: float | None = column(
        "The same of the picture's patch in images of other people, whose median this is",
        default=None,
    )
    pasted_low: float | None = column("Lower end of its interval", default=None)
    pasted_high: float | None = column("Upper end of its interval", default=None)
    selectivity: float | None = column(
        "Share of the other living units of the layer that the picture drives less, by strength",
        default=None,
    )
    standing: float | None = column(
        "Share of the layer's other pictures that drive the unit less", default=None
    )
    other_ways: float | None = column(
        "Share of the response that comes by ways through the layers below that strong real "
        "inputs do not take",
        default=None,
    )
    below: str | None = column("The layers below in which that was looked at", default=None)
    likeness: float | None = column(
        "Correlation of what the layer below has in the picture with what it has in the strongest "
        "real inputs, less the layer's mean picture",
        default=None,
    )
    picture_predicts: float | None = column(
        "In how many of two patches of other people the one that is more like the picture drives "
        "the unit more; 0.5 is chance",
        default=None,
    )
    picture_predicts_low: float | None = column("Lower end of its interval", default=None)
    picture_predicts_high: float | None = column("Upper end of its interval", default=None)
    examples_predict: float | None = column(
        "The same of the unit's strongest real inputs in place of the picture", default=None
    )
    examples_predict_low: float | None = column("Lower end of its interval", default=None)
    examples_predict_high: float | None = column("Upper end of its interval", default=None)
    both_predict: float | None = column("The same of both together", default=None)
    label: str | None = column(
        "What of the real inputs the response was compared with, such as lesion or sex",
        default=None,
    )
    label_auc: float | None = column(
        "How often, of two real inputs, the unit responds more strongly to the one with the label; "
        "0.5 says nothing",
        default=None,
    )
    label_auc_low: float | None = column("Lower end of its interval", default=None)
    label_auc_high: float | None = column("Upper end of its interval", default=None)
    examples_x: float | None = column(
        "Where in the world the strongest real inputs drive the unit, their median", Units="mm",
        default=None,
    )  # fmt: skip
    examples_y: float | None = column("The same, towards the front", Units="mm", default=None)
    examples_z: float | None = column("The same, upwards", Units="mm", default=None)
    examples_region: str | None = column(
        "Region in which most of them lie, with how many", default=None
    )

    def __post_init__(self) -> None:
        """Refuse a verdict that is none."""
        if self.verdict not in VERDICTS:
            raise ValueError(
                f"layer {self.layer!r}, channel {self.channel}: verdict {self.verdict!r}; expected "
                f"one of {', '.join(VERDICTS)}."
            )

    @property
    def key(self) -> Key:
        """Layer, channel and variant."""
        return self.layer, self.channel, self.variant


RULES: Mapping[str, str] = next(
    each.metadata["Levels"] for each in fields(TrustRecord) if each.name == "verdict"
)
"""What each verdict means."""


def counts(records: Sequence[TrustRecord]) -> dict[str, int]:
    """How many pictures there are of each verdict that occurs.

    Args:
      records: Of some pictures.

    Example:
      >>> counts([TrustRecord("a", 0, 1, REFUTED), TrustRecord("a", 1, 1, REFUTED)])
      {'refuted': 2}
    """
    found = {verdict: sum(row.verdict == verdict for row in records) for verdict in VERDICTS}
    return {verdict: count for verdict, count in found.items() if count}
