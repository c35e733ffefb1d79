r"""Visualize the channels of a trained network's layers.

    python -m experiments.visualize --model=square-lesion --layer=conv3 --out=runs/conv3
    python -m experiments.visualize --model=DIR --layer=conv4 --layer=conv5 --channels=0:8 \
        --regularization=rotation_30,blur_0.5 --out=DIR

Finds, for every channel, the image that drives it most, and writes it as NIfTI and PNG with a
contact sheet per layer, and pages to look at. Started again with the same --out, a run goes on
where it stopped; --dry_run tells beforehand what it would take.
"""

from featvis_jax.commands.launch import start
from featvis_jax.commands.visualize import COMMAND

if __name__ == "__main__":
    start(COMMAND)
