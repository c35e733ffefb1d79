r"""Measure what speaks for and against the pictures of a run, beside real scans.

    python -m experiments.trust --run=runs/conv5 --reference=DIR

Into the run go trust.tsv, with a row for each picture, and a figure for each layer; its pages are
built again and show what was found. docs/trust.md says what the measures are worth.
"""

from featvis_jax.commands.launch import start
from featvis_jax.commands.trust import COMMAND

if __name__ == "__main__":
    start(COMMAND)
