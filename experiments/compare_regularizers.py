r"""Compare regularization strategies on the same channels, as the paper's figures 3 and 4 do.

    python -m experiments.compare_regularizers --model=square-lesion --layer=conv5 \
        --channels=0,1,2 --out=runs/comparison

Rows are channels, columns strategies, under one shared window. Writes comparison.png and .pdf,
every image as NIfTI, comparison.tsv with numbers for every cell, and summary.tsv with a row for
each strategy: with --reference=SCANS, how strongly its pictures drive their units and no others.
"""

from collections.abc import Sequence

from absl import flags

from experiments import ascent_flags, reference, side_by_side, startup
from experiments.launch import start
from featvis_jax.visualize import presets

FLAGS = flags.FLAGS
flags.DEFINE_list(
    "strategies",
    None,
    "Strategies to compare; + joins several into one, rotation_30+blur_0.5. All of them by default:"
    "\n" + "\n".join(f"{name}: {text}" for name, text in presets.STRATEGIES.items()),
)


def main(_: Sequence[str]) -> None:
    """Run every strategy, then draw."""
    startup.prepare()
    model = ascent_flags.load_network()
    layer = side_by_side.chosen_layer(model)
    model, inputs = reference.read(model)
    names = [name.replace("+", ",") for name in FLAGS.strategies or presets.STRATEGIES]
    recipes = {name: ascent_flags.recipe(model, layer.name, name) for name in names}
    side_by_side.compare(model, layer, recipes, inputs, column="strategy")


if __name__ == "__main__":
    start(main)
