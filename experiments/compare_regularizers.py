r"""Compare regularization strategies on the same channels, as the paper's figures 3 and 4 do.

    python -m experiments.compare_regularizers --model=square-lesion --layer=conv5 \
        --channels=0,1,2 --out=runs/comparison

Rows are channels, columns strategies, under one shared window. Writes comparison.png and .pdf,
every image as NIfTI, and comparison.tsv with numbers for every cell.
"""

import csv
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from tqdm import tqdm

from experiments import ascent_flags, startup
from experiments.launch import start
from featvis_jax.evaluation.appearance import appearance
from featvis_jax.nn.taps import Network
from featvis_jax.results.comparison import comparison
from featvis_jax.results.nifti import encode_nifti
from featvis_jax.results.store import atomic_write_bytes, file_name, make_directory
from featvis_jax.visualize import ascent, presets
from featvis_jax.visualize.layer import FinishedUnit, visualize
from featvis_jax.visualize.objectives import Unit
from featvis_jax.visualize.stability import moved_objective

FLAGS = flags.FLAGS
flags.DEFINE_list(
    "strategies",
    None,
    "Strategies to compare; + joins several into one, rotation_30+blur_0.5. All of them by default:"
    "\n" + "\n".join(f"{name}: {text}" for name, text in presets.STRATEGIES.items()),
)
flags.DEFINE_integer("batch", 16, "Most channels that run together.", lower_bound=1)


def main(_: Sequence[str]) -> None:
    """Run every strategy, then draw."""
    startup.prepare()
    model, network = ascent_flags.load_network()
    layers = ascent_flags.chosen_layers(network)
    if len(layers) != 1:
        raise ValueError("--layer: a comparison shows channels of one layer; name one.")
    layer = layers[0].name
    channels = ascent_flags.chosen_channels(layers[0])
    names = [name.replace("+", ",") for name in FLAGS.strategies or presets.STRATEGIES]
    recipes = {name: ascent_flags.recipe(model, layer, name) for name in names}
    out = Path(FLAGS.out)
    make_directory(out)

    moved = jax.jit(moved_objective(network, recipes[names[0]].objective))
    columns: dict[str, list[FinishedUnit]] = {}
    rows: list[dict[str, Any]] = []
    for name, recipe in tqdm(recipes.items(), unit="strategy"):
        columns[name] = _column(network, recipe, layer, channels)
        directory = out / "images" / file_name(name)
        make_directory(directory)
        for unit in columns[name]:
            encoded = encode_nifti(unit.image, model.affine, window=model.intensity_range)
            atomic_write_bytes(directory / f"{unit.channel:04d}.nii.gz", encoded)
            key, number = jax.random.key(unit.channel), Unit(jnp.int32(unit.channel))
            kept = moved(network.variables, key, unit.image, number)
            rows.append(_row(name, layer, unit, float(kept)))
        atomic_write_bytes(out / "comparison.tsv", _table(rows))
    figure = comparison(
        [[columns[name][i].image for name in names] for i in range(len(channels))],
        rows=[str(channel) for channel in channels],
        columns=[name.replace(",", " + ") for name in names],
        window=model.intensity_range,
        title=f"{model.card['name']}, {layer}, {FLAGS.steps} steps",
    )
    for kind, data in figure.items():
        atomic_write_bytes(out / f"comparison.{kind}", data)
    print(f"{len(names)} strategies for {len(channels)} channels of {layer}.")
    print(f"Results: {out / 'comparison.png'}, comparison.pdf and comparison.tsv beside it")


def _column(
    network: Network, recipe: ascent.Recipe, layer: str, channels: Sequence[int]
) -> list[FinishedUnit]:
    size = min(FLAGS.batch, len(channels))
    return list(visualize(network, recipe, layer, channels, seed=FLAGS.seed, batch_size=size))


def _row(strategy: str, layer: str, unit: FinishedUnit, moved: float) -> dict[str, Any]:
    look = dataclasses.asdict(appearance(np.asarray(unit.image, np.float64)))
    return {
        "strategy": strategy,
        "layer": layer,
        "channel": unit.channel,
        "objective": unit.final_objective,
        "moved_objective": moved,
        "penalty": unit.penalty,
        "finite": unit.finite,
        **look,
    }


def _table(rows: Sequence[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter="\t", lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows
    )
    return text.getvalue().encode()


if __name__ == "__main__":
    start(main)
