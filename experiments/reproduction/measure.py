r"""A stage of `experiments.reproduce_paper`: numbers for how the images of some runs look.

    python -m experiments.reproduction.measure --run=square=DIR --run=sex=DIR --out=DIR

Writes images.tsv, a row per image. Volumes are measured by their middle axial slice, as they are
shown.
"""

import dataclasses
from pathlib import Path
from typing import Any

from experiments.reproduction.looks import measured
from featvis_jax import stopping
from featvis_jax.commands.launch import Command, start
from featvis_jax.options import Options, option
from featvis_jax.results.encoding import encode_rows
from featvis_jax.results.files import atomic_write_bytes, locked, make_directory
from featvis_jax.results.store import read_run


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasureOptions(Options):
    """What is measured."""

    run: tuple[str, ...] | None = option(
        None, "NAME=DIR of a run; repeat for several.", repeats=True
    )
    out: str | None = option(None, "Directory for the table.")


def main(options: MeasureOptions) -> None:
    """Measure every image of every run."""
    rows: list[dict[str, Any]] = []
    for each in options.run or ():
        name, separator, directory = each.partition("=")
        if not separator:
            raise ValueError(f"`run={each}`: expected NAME=DIR.")
        run = read_run(directory)
        for record in run.records():
            stopping.check()
            image = run.image(record.layer, record.channel)[0]
            rows.append({"model": name, **measured(image, record)})
    out = Path(str(options.out))
    make_directory(out)
    with locked(out):
        atomic_write_bytes(out / "images.tsv", encode_rows(rows, digits=6))
    print(f"{len(rows)} images: {out / 'images.tsv'}")


COMMAND = Command(
    name="measure",
    summary="numbers for how the images of some runs look",
    examples=("--run=square=DIR --run=sex=DIR --out=DIR",),
    options=MeasureOptions,
    main=main,
    required=("run", "out"),
    first=("run", "out"),
    program="python -m experiments.reproduction.measure",
)


if __name__ == "__main__":
    start(COMMAND)
