"""``featvis compare``: ways to make a picture, beside each other on the same channels."""

import dataclasses

from featvis_jax.commands import startup
from featvis_jax.commands.launch import Command
from featvis_jax.commands.startup import StartupOptions
from featvis_jax.models import loaded
from featvis_jax.runs import compare
from featvis_jax.runs.compare import CompareOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags(CompareOptions, StartupOptions):
    """The comparison."""


def main(flags: Flags) -> None:
    """Make every picture, then draw."""
    startup.prepare(flags)
    model = loaded(flags)
    compare.run(model, flags)


COMMAND = Command(
    name="compare",
    summary="compare regularization strategies, or parameterizations",
    examples=(
        "--model=square-lesion --layer=conv5 --channels=0:3 --out=runs/comparison",
        "--model=square-lesion --layer=conv3 --parameterizations=all --out=runs/written",
    ),
    options=Flags,
    main=main,
    required=("model",),
    first=("model", "layer", "channels", "out", "strategies", "parameterizations", "reference"),
)
