r"""Train the paper's CNN to find artificial lesions, or to tell people apart.

    python -m experiments.train --task=square_lesion --cohort=DIR --out=DIR
    python -m experiments.train --task=gaussian_lesion --dims=3 --synthetic_voxel_size_mm=4 \
        --lesion_size_mm=16,28 --out=DIR
    python -m experiments.train --task=label:age --cohort=DIR --out=DIR

Started again with the same --out, training goes on where it stopped and ends with the same weights.
The model, its card and the report on held-out subjects end up in --out.
"""

from featvis_jax.commands.launch import start
from featvis_jax.commands.train import COMMAND

if __name__ == "__main__":
    start(COMMAND)
