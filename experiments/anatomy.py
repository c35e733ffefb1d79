r"""Tell what the deformed scans of a run have in common, and whether shape is what a unit asks for.

    python -m experiments.visualize --model=NET --layer=logits --parameterization=deformation \
        --start_image=reference --reference=DIR --variants=12 --regularization=none --up_to=8 \
        --out=runs/anatomy
    python -m experiments.anatomy --run=runs/anatomy --regions=LABELS.nii.gz

Into the run go anatomy.tsv, with a row for each unit and region, mean maps and t-maps over people,
and what shape and brightness took in each scan; its pages are built again and show what was found.
"""

from featvis_jax.commands.anatomy import COMMAND
from featvis_jax.commands.launch import start

if __name__ == "__main__":
    start(COMMAND)
