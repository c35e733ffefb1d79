r"""Visualize the channels of a trained network's layers.

    python -m experiments.visualize --model=square-lesion --layer=conv3 --out=runs/conv3
    python -m experiments.visualize --model=DIR --layer=conv4 --layer=conv5 --channels=0:8 \
        --regularization=rotation_30,blur --out=DIR

Finds, for every channel, the image that drives it most, and writes it as NIfTI and PNG with a
contact sheet per layer. Started again with the same --out, a run goes on where it stopped.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from tqdm import tqdm

from experiments import ascent_flags
from experiments.launch import start
from featvis_jax.checkpoints import TrainedModel
from featvis_jax.evaluation import health
from featvis_jax.nn.taps import Layer, Network
from featvis_jax.results import manifest
from featvis_jax.results.files import make_directory
from featvis_jax.results.store import Run, open_run, read_run
from featvis_jax.results.tables import LayerRecord, UnitRecord, UnitResult
from featvis_jax.visualize import ascent, planning, presets
from featvis_jax.visualize.layer import FinishedUnit, LayerProgram
from featvis_jax.visualize.transforms import describe

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "regularization",
    "recommended",
    "A strategy, or several joined with commas:\n"
    + "\n".join(f"{name}: {text}" for name, text in presets.STRATEGIES.items()),
)
flags.DEFINE_string("batch", "auto", "Units per batch, or auto for the largest that fits.")


def main(_: Sequence[str]) -> None:
    """Visualize and say where the results are."""
    model, network = ascent_flags.load_network()
    layers = ascent_flags.chosen_layers(network)
    channels = {layer.name: ascent_flags.chosen_channels(layer) for layer in layers}
    recipes = {
        layer.name: ascent_flags.recipe(model, layer.name, FLAGS.regularization) for layer in layers
    }
    configuration = _configuration(model, recipes, channels)
    batch_size = _batch_size(configuration)
    programs: dict[str, LayerProgram] = {}
    if batch_size is None:
        # Compiling for a directory that cannot be used would be in vain.
        manifest.refuse_foreign(Path(FLAGS.out))
        make_directory(FLAGS.out)
        # The resolved batch belongs to the configuration, and it takes a compiled program to know.
        name = max(channels, key=lambda name: len(channels[name]))
        programs[name] = LayerProgram(network, recipes[name], num_units=len(channels[name]))
        batch_size = programs[name].batch_size
    configuration["batch"] = batch_size

    with open_run(FLAGS.out, configuration, environment=ascent_flags.environment()) as results:
        for name, program in programs.items():
            results.record_timing("compile", program.compile_seconds, layer=name)
        results.write_flags(_flags_text())
        results.write_layers([_layer_record(layer, network) for layer in network.layers])
        total = sum(map(len, channels.values())) * FLAGS.steps
        with tqdm(total=total, unit="step", unit_scale=True, mininterval=1) as bar:
            for layer in layers:
                bar.set_description(layer.name)
                _visualize_layer(
                    results,
                    network,
                    model,
                    layer,
                    recipes[layer.name],
                    channels[layer.name],
                    batch_size,
                    programs.get(layer.name),
                    bar,
                )
                results.write_sheet(layer.name, window=model.intensity_range)
        records = results.records()
    counts = {
        s: sum(r.status == s for r in records) for s in dict.fromkeys(r.status for r in records)
    }
    summary = ", ".join(f"{count} {status}" for status, count in counts.items())
    print(f"{len(records)} channels: {summary}.")
    for layer in layers:
        print(f"Contact sheet: {results.sheet_path(layer.name)}")
    print(f"Results: {FLAGS.out}")


def _visualize_layer(
    results: Run,
    network: Network,
    model: TrainedModel,
    layer: Layer,
    recipe: ascent.Recipe,
    channels: Sequence[int],
    batch_size: int,
    program: LayerProgram | None,
    bar: tqdm,
) -> None:
    """Run what is not finished yet of a layer, and store it batch by batch."""
    finished = results.finished(layer.name)
    batch_size = planning.even_size(len(channels), batch_size)
    for batch in planning.batches(channels, batch_size=batch_size):
        wanted = [channel for channel in batch.channels[: batch.count] if channel not in finished]
        if not wanted:
            bar.update(batch.count * FLAGS.steps)
            continue
        if program is None:
            program = LayerProgram(network, recipe, num_units=len(channels), batch_size=batch_size)
            results.record_timing("compile", program.compile_seconds, layer=layer.name)
        keys = ascent.unit_keys(FLAGS.seed, layer.name, batch.channels)
        count = batch.count

        def on_steps(steps: int, count: int = count) -> None:
            bar.update(steps * count)

        done = program.run(batch, keys, on_steps=on_steps)
        seconds = done.seconds / count
        results.write_units(
            [_result(u, layer, model, seconds) for u in done.units if u.channel in wanted],
            affine=model.affine,
            window=model.intensity_range,
        )
        results.record_timing("batch", done.seconds, layer=layer.name, units=count)


def _result(unit: FinishedUnit, layer: Layer, model: TrainedModel, seconds: float) -> UnitResult:
    record = UnitRecord(
        layer=layer.name,
        channel=unit.channel,
        status=health.status(
            unit.image,
            objective_trace=unit.objective_trace,
            finite=unit.finite,
            intensity_range=model.intensity_range,
            border=layer.receptive_field or 0,
        ),
        initial_objective=unit.initial_objective,
        final_objective=unit.final_objective,
        penalty=unit.penalty,
        intensity_min=float(unit.image.min()),
        intensity_max=float(unit.image.max()),
        steps=FLAGS.steps,
        seconds=round(seconds, 3),
        seed=FLAGS.seed,
    )
    return UnitResult(record, unit.image, unit.objective_trace, unit.penalty_trace)


def _batch_size(configuration: dict[str, Any]) -> int | None:
    """The size that --batch names; for auto that of the run to resume, or None to find one."""
    if FLAGS.batch != "auto":
        if not FLAGS.batch.isdigit() or int(FLAGS.batch) < 1:
            raise ValueError(f"--batch={FLAGS.batch}: expected auto or a number from 1.")
        return int(FLAGS.batch)
    try:
        earlier = read_run(FLAGS.out).configuration
    except FileNotFoundError:
        return None  # No run to resume.
    return earlier.get("batch")


def _configuration(
    model: TrainedModel, recipes: dict[str, ascent.Recipe], channels: dict[str, list[int]]
) -> dict[str, Any]:
    """All that decides the images."""
    recipe = next(iter(recipes.values()))
    return {
        "model": model.card["name"],
        "weights_sha256": model.card["weights_sha256"],
        "layers": channels,
        "objective": {name: recipe.objective.description for name, recipe in recipes.items()},
        "penalty": {
            name: None if recipe.penalty is None else recipe.penalty.description
            for name, recipe in recipes.items()
        },
        "penalty_weight": recipe.penalty_weight,
        "parameterization": recipe.parameterization.description,
        "optimizer": f"adam(learning_rate={FLAGS.learning_rate})",
        "regularization": FLAGS.regularization,
        "robustness": describe(recipe.robustness),
        "projection": describe(recipe.projection),
        "config_sha256": ascent_flags.config_sha256(),
        "steps": FLAGS.steps,
        "seed": FLAGS.seed,
    }


def _flags_text() -> str:
    """The flags of this launcher, one a line, for --flagfile."""
    modules = {FLAGS.find_module_defining_flag(name) for name in ("model", "batch")}
    own = [flag for name in modules for flag in FLAGS.flags_by_module_dict()[name or ""]]
    lines = [flag.serialize() for flag in own if flag.value is not None]
    return "".join(f"{line}\n" for line in sorted(lines))


def _layer_record(layer: Layer, network: Network) -> LayerRecord:
    rank = len(network.image_shape) - 1
    whole = network.image_shape[:-1]
    reach, stride = layer.receptive_field, layer.stride
    return LayerRecord(
        layer=layer.name,
        output_shape=layer.shape[:-1],
        channels=layer.channels,
        receptive_field=whole if reach is None else (reach,) * rank,
        stride=whole if stride is None else (stride,) * rank,
    )


if __name__ == "__main__":
    start(main)
