r"""Build pages to look at runs, and print where they are.

    python -m experiments.gallery --run=runs/conv3
    python -m experiments.gallery --run=runs/none --run=runs/blur --run=runs/rotation

One run gets a gallery of its own: an index, a page per layer, a page per channel. Several runs are
compared: rows are channels, columns are runs. The pages are static and open from the disk; they are
built from the run directories alone, finished or half done, and building them again replaces them.
"""

from featvis_jax.commands.gallery import COMMAND
from featvis_jax.commands.launch import start

if __name__ == "__main__":
    start(COMMAND)
