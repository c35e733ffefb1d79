r"""A stage of `experiments.reproduce_paper`: numbers for how the images of some runs look.

    python -m experiments.reproduction.measure --run=square=DIR --run=sex=DIR --out=DIR

Writes images.tsv, a row per image. Volumes are measured by their middle axial slice, as they are
shown.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments import stopping
from experiments.launch import start
from experiments.reproduction.looks import measured
from featvis_jax.results.files import atomic_write_bytes, locked, make_directory
from featvis_jax.results.store import read_run
from featvis_jax.results.tables import encode_rows

FLAGS = flags.FLAGS
flags.DEFINE_multi_string("run", None, "NAME=DIR of a run; repeat for several.", required=True)
flags.DEFINE_string("out", None, "Directory for the table.", required=True)


def main(_: Sequence[str]) -> None:
    """Measure every image of every run."""
    rows: list[dict[str, Any]] = []
    for each in FLAGS.run:
        name, separator, directory = each.partition("=")
        if not separator:
            raise ValueError(f"--run={each}: expected NAME=DIR.")
        run = read_run(directory)
        for record in run.records():
            stopping.check()
            image = run.image(record.layer, record.channel)[0]
            rows.append({"model": name, **measured(image, record)})
    out = Path(FLAGS.out)
    make_directory(out)
    with locked(out):
        atomic_write_bytes(out / "images.tsv", encode_rows(rows, digits=6))
    print(f"{len(rows)} images: {out / 'images.tsv'}")


if __name__ == "__main__":
    start(main)
