"""``featvis trust``: what speaks for and against the pictures of a run?"""

import dataclasses
from pathlib import Path

from featvis_jax.commands import startup
from featvis_jax.commands.launch import Command
from featvis_jax.commands.startup import StartupOptions
from featvis_jax.options import option, say
from featvis_jax.results.gallery import build_pages
from featvis_jax.results.store import read_run
from featvis_jax.runs import trust
from featvis_jax.runs.trust import TrustOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags(TrustOptions, StartupOptions):
    """Other."""

    gallery: bool = option(
        True, "Build the pages of the run again, with what was found.", belongs_to_run=False
    )


def main(flags: Flags) -> None:
    """Measure, and say what was found and where it is."""
    startup.prepare(flags)
    trust.run(flags)
    directory = Path(str(flags.run))
    say(f"Results: {directory / 'trust.tsv'}")
    if flags.gallery:
        say(build_pages([read_run(directory)]).resolve().as_uri())


COMMAND = Command(
    name="trust",
    summary="measure what speaks for and against the pictures of a run",
    examples=(
        "--run=runs/conv5 --reference=DIR",
        "--run=runs/conv5 --reference=DIR --label=sex",
    ),
    options=Flags,
    main=main,
    required=("run", "reference"),
    first=("run", "reference", "label", "reference_images", "gallery"),
)
