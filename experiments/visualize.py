r"""Visualize the channels of a trained network's layers.

    python -m experiments.visualize --model=square-lesion --layer=conv3 --out=runs/conv3
    python -m experiments.visualize --model=DIR --layer=conv4 --layer=conv5 --channels=0:8 \
        --regularization=rotation_30,blur_0.5 --out=DIR

Finds, for every channel, the image that drives it most, and writes it as NIfTI and PNG with a
contact sheet per layer, and pages to look at. Started again with the same --out, a run goes on
where it stopped; --dry_run tells beforehand what it would take.
"""

import contextlib
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from jaxtyping import Float

from experiments import (
    ascent_flags,
    channel_flags,
    cluster,
    image_flags,
    intensity_flags,
    networks,
    plan,
    real_examples,
    reference,
    startup,
    stopping,
    tensorboard,
)
from experiments.launch import start
from experiments.networks import Model
from experiments.plan import Work
from experiments.progress import Progress
from experiments.unit_results import unit_result
from featvis_jax.nn.network import Layer, Network
from featvis_jax.results import panels, shards, tables
from featvis_jax.results.channels import InputChannels
from featvis_jax.results.files import make_directory
from featvis_jax.results.gallery import build_gallery
from featvis_jax.results.store import Run, open_run, read_run, refuse_foreign
from featvis_jax.results.tables import Key, LayerRecord, UnitResult
from featvis_jax.visualize import ascent, presets
from featvis_jax.visualize.layer import FinishedBatch, LayerProgram
from featvis_jax.visualize.planning import Batch
from featvis_jax.visualize.transforms import describe

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "regularization",
    presets.DRIVEN,
    "A strategy, or several joined with commas:\n"
    + "\n".join(f"{name}: {text}" for name, text in presets.STRATEGIES.items()),
)
flags.DEFINE_string("batch", "auto", "Units per batch, or auto for the largest that fits.")
flags.DEFINE_bool("gallery", True, "Whether to build the pages at the end.")
flags.DEFINE_bool(
    "transparency",
    False,
    "Keep a second image of every unit, where the network was looking: the size of the gradient, "
    "added up over all steps.",
)
flags.DEFINE_bool(
    "rematerialize",
    False,
    "Keep for the gradient no more than convolutions and products give, and compute the rest "
    "again: less memory for deep networks.",
)
flags.DEFINE_bool("list_layers", False, "Tell the layers of --model, and do nothing.")
flags.DEFINE_bool("dry_run", False, "Tell layers, batches, memory, time and disk; write nothing.")
flags.DEFINE_string(
    "shard",
    None,
    "I/N: take every Nth batch from the Ith on, beside N-1 other processes, or cluster: the part "
    "that srun or mpirun gave to this process; afterwards the same "
    "command without --shard puts everything together and computes what is missing.",
)


def main(_: Sequence[str]) -> None:
    """Visualize and say where the results are."""
    startup.prepare()
    model = ascent_flags.load_network()
    network = model.network
    if FLAGS.list_layers:
        print(networks.layers_text(network))
        return
    out, shard = ascent_flags.out_directory(), _shard()
    channels = channel_flags.input_channels(model)
    layers = ascent_flags.chosen_layers(network)
    chosen = {layer.name: ascent_flags.chosen_channels(layer) for layer in layers}
    model, inputs = reference.read(model)
    work = Work(
        network,
        recipes={layer.name: _recipe(model, layer.name) for layer in layers},
        channels=chosen,
    )
    configuration = _configuration(model, work, inputs)
    if (told := channels.setting()) is not None:
        configuration["input_channels"] = told
    batch_size = _batch_size()
    if batch_size is not None:
        configuration["batch"] = batch_size
    tensorboard.library()  # Missing, it is missed before anything is compiled.
    channel_flags.tell_unnamed(model)
    if FLAGS.dry_run:
        refuse_foreign(out)
        done = shards.done_elsewhere(out, configuration) if batch_size else frozenset()
        finished = tables.complete(done, variants=FLAGS.variants)
        print(plan.text(work, batch_size, finished, steps=FLAGS.steps, out=out))
        return
    scans = real_examples.source(model) if shard is None else None
    programs: dict[str, LayerProgram] = {}
    if batch_size is None:
        # Compiling for a directory that cannot be used would be in vain.
        refuse_foreign(out)
        make_directory(out)
        # The resolved batch belongs to the configuration, and it takes a compiled program to know.
        batch_size, programs = plan.largest_size(work)
        configuration["batch"] = batch_size

    place, elsewhere = out, frozenset[Key]()
    if shard is not None:
        elsewhere = shards.done_elsewhere(out, configuration)
        place = shards.shard_directory(out, *shard)
        left = _images(_batches(work, layers, batch_size, shard)) - elsewhere
        if not place.exists() and not left:
            print(f"Shard {shard[0]} of {shard[1]}: nothing was left to do in {out}.")
            return
    with open_run(place, configuration, environment=ascent_flags.environment()) as results:
        strongest = reference.of_run(results, work, model, inputs, out)
        if shard is None:
            for held in shards.collect(results, affine=model.affine, window=model.intensity_range):
                print(f"{held}, which is not waited for: what it lacks is computed here.")
        for name, program in programs.items():
            results.record_timing("compile", program.compile_seconds, layer=name)
        results.write_flags(_flags_text())
        results.write_layers([_layer_record(layer, network) for layer in network.layers])
        _visualize(results, work, layers, model, batch_size, programs, shard, elsewhere, strongest)
        if shard is None:
            for layer in layers:
                with stopping.held():
                    results.write_sheet(layer.name, window=model.intensity_range)
            if scans is not None:
                real_examples.write(results, model, scans, work.channels)
    _tell(results, layers, shard)


def _visualize(
    results: Run,
    work: Work,
    layers: Sequence[Layer],
    model: Model,
    batch_size: int,
    programs: dict[str, LayerProgram],
    shard: tuple[int, int] | None,
    elsewhere: frozenset[Key],
    strongest: Mapping[tuple[str, int], float],
) -> None:
    """Run what is not finished yet, and store it batch by batch."""
    batches = _batches(work, layers, batch_size, shard)
    done = elsewhere | {row.key for row in results.records()}
    total = sum(batch.count for _, batch in batches) * FLAGS.steps
    with tensorboard.events(results.directory) as log, Progress(total) as progress:
        for layer, batch in batches:
            progress.describe(layer.name)
            missing = _images([(layer, batch)]) - done
            if not missing:
                progress.skip(batch.count * FLAGS.steps)
                continue
            program = programs.get(layer.name)
            if program is None or program.batch_size != len(batch.channels):
                with progress.paused():
                    program = work.program(layer.name, batch_size)
                # A layer is behind us when the next begins: one program in memory is enough.
                programs.clear()
                programs[layer.name] = program
                results.record_timing("compile", program.compile_seconds, layer=layer.name)
            # From here a signal waits: for the end of a step, or for the whole batch on the disk.
            with stopping.held():
                targets = reference.targets(strongest, layer.name, batch.channels)
                finished = _run(program, layer.name, batch, targets, progress)
                seconds = finished.seconds / batch.count
                seconds /= FLAGS.variants
                made = [
                    unit_result(
                        unit, layer, model, seconds, strongest.get((layer.name, unit.channel))
                    )
                    for unit in finished.units
                ]
                stored = [result for result in made if result.record.key in missing]
                results.write_units(stored, affine=model.affine, window=model.intensity_range)
                results.record_timing(
                    "batch", finished.seconds, layer=layer.name, units=batch.count
                )
            for record in tables.leading(result.record for result in stored):
                progress.count(record.status)
            for result in stored:
                _log(log, result, results.input_channels, model.intensity_range)
            log.flush()


def _batches(
    work: Work, layers: Sequence[Layer], batch_size: int, shard: tuple[int, int] | None
) -> list[tuple[Layer, Batch]]:
    """What falls to this process."""
    batches = [(layer, batch) for layer in layers for batch in work.batches(layer.name, batch_size)]
    return batches if shard is None else batches[shard[0] - 1 :: shard[1]]


def _images(batches: Sequence[tuple[Layer, Batch]]) -> frozenset[Key]:
    """The images that batches make, without those of the units that fill up the last."""
    return frozenset(
        (layer.name, channel, variant)
        for layer, batch in batches
        for channel in batch.channels[: batch.count]
        for variant in range(1, FLAGS.variants + 1)
    )


def _run(
    program: LayerProgram,
    layer: str,
    batch: Batch,
    targets: Float[np.ndarray, " channels"] | None,
    progress: Progress,
) -> FinishedBatch:
    """Take a batch all the way, or up to the chunk in which somebody asks to stop."""
    taken = 0

    def on_steps(steps: int) -> None:
        nonlocal taken
        taken += steps
        progress.advance(steps * batch.count)
        if taken < FLAGS.steps:  # What has all its steps is worth keeping.
            stopping.check()

    keys = ascent.unit_keys(FLAGS.seed, layer, batch.channels)
    try:
        return program.run(batch, keys, targets=targets, on_steps=on_steps)
    except jax.errors.JaxRuntimeError as error:
        raise plan.explained(error, layer, program.batch_size) from error


def _log(
    log: tensorboard.Events,
    result: UnitResult,
    channels: InputChannels,
    window: tuple[float, float],
) -> None:
    """Tell TensorBoard of a finished image."""
    name = tensorboard.image_name(result.record, variants=FLAGS.variants)
    for step, (objective, penalty) in enumerate(zip(result.objective, result.penalty, strict=True)):
        log.scalar(f"{name}/objective", float(objective), step=step)
        log.scalar(f"{name}/penalty", float(penalty), step=step)
    log.image(
        name, panels.picture(result.image, channels=channels, window=window), step=FLAGS.steps
    )


def _tell(results: Run, layers: Sequence[Layer], shard: tuple[int, int] | None) -> None:
    """Say what was done and where it is, and build the pages."""
    records = results.records()
    units = tables.leading(records)
    counts = Counter(record.status for record in units)
    summary = ", ".join(f"{count} {status}" for status, count in counts.items())
    several = f", {len(records)} images" if FLAGS.variants > 1 else ""
    strengths = [record.strength for record in units if record.strength is not None]
    if strengths:
        summary += f"; median strength {np.median(strengths):.2g}"
    channels = f"{len(units)} channel{'' if len(units) == 1 else 's'}{several}"
    print(f"{channels}: {summary or 'none was left to do'}.")
    if shard is not None:
        print(f"Shard {shard[0]} of {shard[1]}: {results.directory}")
        print("When all are done, the same command without --shard puts them together.")
        return
    for layer in layers:
        print(f"Contact sheet: {results.sheet_path(layer.name)}")
    print(f"Results: {FLAGS.out}")
    if FLAGS.gallery:
        try:
            print(f"Gallery: {build_gallery(results).resolve().as_uri()}")
        except Exception as error:
            raise ValueError(
                f"The gallery could not be built ({type(error).__name__}: {error}). The results "
                f"are complete; python -m experiments.gallery --run={FLAGS.out} tries again."
            ) from error


def _shard() -> tuple[int, int] | None:
    """The numbers of --shard."""
    if FLAGS.shard is None:
        return None
    if FLAGS.shard == "cluster":
        part = cluster.shard(os.environ)
    else:
        numbers = re.fullmatch(r"([1-9]\d{0,3})/([1-9]\d{0,3})", FLAGS.shard)
        if numbers is None or int(numbers[1]) > int(numbers[2]):
            raise ValueError(
                f"--shard={FLAGS.shard}: expected I/N with I from 1 to N, such as 2/4, or cluster."
            )
        part = int(numbers[1]), int(numbers[2])
    if FLAGS.batch == "auto":
        raise ValueError(
            f"--shard={FLAGS.shard} needs --batch=N: all processes have to use the same batch. "
            "--dry_run tells which one fits."
        )
    if tensorboard.TENSORBOARD.value:
        raise ValueError(
            f"--shard={FLAGS.shard}: --tensorboard follows a whole run; leave one of them out."
        )
    return part


def _batch_size() -> int | None:
    """The size that --batch names; for auto that of the run to resume, or None to find one."""
    if FLAGS.batch != "auto":
        if not FLAGS.batch.isdigit() or int(FLAGS.batch) < 1:
            raise ValueError(f"--batch={FLAGS.batch}: expected auto or a number from 1.")
        return int(FLAGS.batch)
    begun = shards.shards(Path(FLAGS.out))
    with contextlib.suppress(FileNotFoundError):  # There may be no run to resume.
        begun.insert(0, read_run(FLAGS.out))
    return begun[0].configuration.get("batch") if begun else None


def _recipe(model: Model, layer: str) -> ascent.Recipe:
    """The recipe of the flags, with what one of them or the file asks for."""
    recipe = ascent_flags.recipe(model, layer, FLAGS.regularization)
    return recipe._replace(
        transparency=recipe.transparency or FLAGS.transparency,
        rematerialize=recipe.rematerialize or FLAGS.rematerialize,
    )


def _configuration(model: Model, work: Work, inputs: reference.Inputs | None) -> dict[str, Any]:
    """All that decides the images."""
    recipes = work.recipes
    recipe = next(iter(recipes.values()))
    return {
        "model": model.card["name"],
        "weights_sha256": model.card["weights_sha256"],
        "affine": None if model.affine is None else model.affine.tolist(),
        "layers": dict(work.channels),
        "objective": {name: recipe.objective.description for name, recipe in recipes.items()},
        "penalty": {
            name: None if recipe.penalty is None else recipe.penalty.description
            for name, recipe in recipes.items()
        },
        "penalty_weight": recipe.penalty_weight,
        "parameterization": recipe.parameterization.description,
        "optimizer": image_flags.optimizer(recipe.parameterization, recipe.drive)[1],
        "variants": recipe.variants,
        "transparency": recipe.transparency,
        "regularization": FLAGS.regularization,
        "robustness": describe(recipe.robustness),
        "projection": describe(recipe.projection),
        "drive": None if recipe.drive is None else recipe.drive.description,
        "config_sha256": ascent_flags.config_sha256(),
        "reference": None if inputs is None else inputs.configuration(),
        "intensities": intensity_flags.setting(model),
        "precision": FLAGS.precision,
        "steps": FLAGS.steps,
        "seed": FLAGS.seed,
    }


def _flags_text() -> str:
    """The flags of this launcher, one a line, for --flagfile."""
    names = ("model", "grid", "batch", "tensorboard", "objective", "parameterization", "precision")
    names = (*names, "reference", "channel_names", "scaling")
    modules = {FLAGS.find_module_defining_flag(name) for name in names}
    own = [flag for name in modules for flag in FLAGS.flags_by_module_dict()[name or ""]]
    # None belongs to the run: two write nothing, a shard is one process of several, and where
    # programs are kept is the machine's business.
    apart = ("dry_run", "list_layers", "shard", "compilation_cache")
    own = [flag for flag in own if flag.name not in apart]
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
