"""``featvis anatomy``: what do the deformed scans of a run have in common?"""

import dataclasses
from pathlib import Path

from featvis_jax.commands import startup
from featvis_jax.commands.launch import Command
from featvis_jax.commands.startup import StartupOptions
from featvis_jax.options import option, say
from featvis_jax.results.gallery import build_pages
from featvis_jax.results.store import read_run
from featvis_jax.runs import anatomy
from featvis_jax.runs.anatomy import AnatomyOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags(AnatomyOptions, StartupOptions):
    """Other."""

    gallery: bool = option(
        True, "Build the pages of the run again, with what was found.", belongs_to_run=False
    )


def main(flags: Flags) -> None:
    """Look, and say what was found and where it is."""
    startup.prepare(flags)
    anatomy.run(flags)
    directory = Path(str(flags.run))
    say(f"Results: {directory / 'anatomy.tsv'}")
    if flags.gallery:
        say(build_pages([read_run(directory)]).resolve().as_uri())


COMMAND = Command(
    name="anatomy",
    summary="tell what deformed scans have in common, by place and region",
    examples=(
        "--run=runs/anatomy",
        "--run=runs/anatomy --regions=LABELS.nii.gz",
    ),
    options=Flags,
    main=main,
    required=("run",),
    first=("run", "regions", "gallery"),
)
