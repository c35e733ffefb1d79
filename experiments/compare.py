r"""Compare ways to make a picture on the same channels, as the paper's figures 3 and 4 do.

    python -m experiments.compare --model=square-lesion --layer=conv5 \
        --channels=0,1,2 --out=runs/comparison
    python -m experiments.compare --model=square-lesion --layer=conv3 \
        --channels=3,5 --parameterizations=all --out=runs/parameterizations

Rows are channels, columns strategies or parameterizations, under one shared window. Writes
comparison.png and .pdf, every image as NIfTI, comparison.tsv with numbers for every cell, and
summary.tsv with a row for each column: with --reference=SCANS, how strongly its pictures drive
their units and no others.
"""

from featvis_jax.commands.compare import COMMAND
from featvis_jax.commands.launch import start

if __name__ == "__main__":
    start(COMMAND)
