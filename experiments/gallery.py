r"""Build pages to look at runs, and print where they are.

    python -m experiments.gallery --run=runs/conv3
    python -m experiments.gallery --run=runs/none --run=runs/blur --run=runs/rotation

One run gets a gallery of its own: an index, a page per layer, a page per channel. Several runs are
compared: rows are channels, columns are runs. The pages are static and open from the disk; they are
built from the run directories alone, finished or half done, and building them again replaces them.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from experiments.launch import start
from featvis_jax.results.gallery import build_comparison, build_gallery
from featvis_jax.results.store import read_run

FLAGS = flags.FLAGS
flags.DEFINE_multi_string(
    "run", None, "Directory of a run; repeat it to compare several.", required=True
)
flags.DEFINE_string(
    "out", None, "Directory of the pages; by default gallery or comparison inside the first run."
)
flags.DEFINE_bool(
    "volumes", True, "Whether pages of 3-D images offer a 3-D viewer; about 1.3 bytes per voxel."
)


def main(_: Sequence[str]) -> None:
    """Build the pages and print the address of their index."""
    runs = [read_run(directory) for directory in FLAGS.run]
    out = Path(FLAGS.out) if FLAGS.out else None
    if len(runs) > 1:
        index = build_comparison(runs, out=out)
    else:
        index = build_gallery(runs[0], out=out, volumes=FLAGS.volumes)
    print(index.resolve().as_uri())


if __name__ == "__main__":
    start(main)
