"""``featvis gallery``: pages to look at runs."""

import dataclasses
from pathlib import Path

from featvis_jax.commands.launch import Command
from featvis_jax.options import Options, option, say
from featvis_jax.results.gallery import build_pages
from featvis_jax.results.store import read_run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags(Options):
    """Runs, and where their pages go."""

    run: tuple[str, ...] | None = option(
        None, "Directory of a run; repeat to compare several.", repeats=True
    )
    out: str | None = option(
        None, "Directory for the pages; by default gallery or comparison inside the first run."
    )
    volumes: bool = option(
        True,
        "Add a 3-D viewer to the pages of 3-D images; about 1.3 bytes per voxel.",
    )


def main(flags: Flags) -> None:
    """Build the pages and say the address of their index."""
    runs = [read_run(directory) for directory in flags.run or ()]
    out = Path(flags.out) if flags.out else None
    index = build_pages(runs, out=out, volumes=flags.volumes)
    say(index.resolve().as_uri())


COMMAND = Command(
    name="gallery",
    summary="build pages for a run, or to compare several",
    examples=(
        "--run=runs/conv3",
        "--run=runs/none --run=runs/blur --run=runs/rotation",
    ),
    options=Flags,
    main=main,
    required=("run",),
    first=("run", "out", "volumes"),
)
