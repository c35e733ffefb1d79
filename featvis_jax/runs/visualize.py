"""Visualizing units from options to results: what is checked, the loop over batches, and files."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from featvis_jax import stopping
from featvis_jax.data.sources import Source
from featvis_jax.maximize import ascent
from featvis_jax.maximize.layer import FinishedBatch, LayerProgram
from featvis_jax.maximize.planning import Batch
from featvis_jax.maximize.transforms import describe
from featvis_jax.model_options import ModelOptions
from featvis_jax.models import Model
from featvis_jax.nn.network import Layer, Network
from featvis_jax.options import as_lines, option, say, shown
from featvis_jax.progress import Progress
from featvis_jax.results import panels, shards, tables
from featvis_jax.results.channels import InputChannels
from featvis_jax.results.files import make_directory
from featvis_jax.results.gallery import build_gallery
from featvis_jax.results.store import Run, open_run, read_run, refuse_foreign
from featvis_jax.results.tables import Key, LayerRecord, UnitResult
from featvis_jax.runs import (
    channels,
    images,
    real_examples,
    recipes,
    reference,
    reference_scans,
    sizing,
    tensorboard,
)
from featvis_jax.runs.cohorts import source_of
from featvis_jax.runs.precision import PrecisionOptions
from featvis_jax.runs.real_examples import RealExamplesOptions
from featvis_jax.runs.recipes import RecipeOptions, UnitOptions
from featvis_jax.runs.reference_scans import Inputs, ReferenceOptions
from featvis_jax.runs.sizing import Work
from featvis_jax.runs.tensorboard import TensorboardOptions
from featvis_jax.runs.units import unit_result

Shard = tuple[int, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AscentOptions(UnitOptions, RecipeOptions, ReferenceOptions, PrecisionOptions):
    """Which units are visualized, and how."""

    batch: str | int = option("auto", "Units per batch, or auto for the largest that fits.")

    @property
    def batch_size(self) -> int | None:
        """Units per batch; None where the machine decides.

        Raises:
          ValueError: It is neither a number nor auto.
        """
        if self.batch == "auto":
            return None
        if not str(self.batch).isdigit() or int(self.batch) < 1:
            raise ValueError(f"`batch={self.batch}`: expected auto or a number from 1.")
        return int(self.batch)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisualizeOptions(ModelOptions, AscentOptions, RealExamplesOptions, TensorboardOptions):
    """All that a visualization can be told."""

    out: str | None = option(None, "Directory for the results.")
    gallery: bool = option(True, "Whether to build the pages at the end.")


class Job(NamedTuple):
    """A visualization that was checked and can begin.

    Attributes:
      model: The network, with what its reference tells of its images.
      options: What was asked for.
      work: The network, recipes and channels, by layer.
      layers: The layers.
      inputs: Real inputs to tell pictures beside, if there are any.
      configuration: All that decides the images, as JSON values.
    """

    model: Model
    options: AscentOptions
    work: Work
    layers: tuple[Layer, ...]
    inputs: Inputs | None
    configuration: dict[str, Any]

    def batches(self, size: int, shard: Shard | None = None) -> list[tuple[Layer, Batch]]:
        """What falls to a process.

        Args:
          size: Units per batch.
          shard: Number of this process, from 1, and how many there are; None for one alone.
        """
        every = [(layer, each) for layer in self.layers for each in self._of(layer, size)]
        return every if shard is None else every[shard[0] - 1 :: shard[1]]

    def _of(self, layer: Layer, size: int) -> list[Batch]:
        return self.work.batches(layer.name, size)

    def images(self, batches: Sequence[tuple[Layer, Batch]]) -> frozenset[Key]:
        """The images that batches make, without those of the units that fill up the last.

        Args:
          batches: Some of `batches`.
        """
        return frozenset(
            (layer.name, channel, variant)
            for layer, batch in batches
            for channel in batch.channels[: batch.count]
            for variant in range(1, self.options.variants + 1)
        )


def job(model: Model, options: AscentOptions) -> Job:
    """Check a visualization, before anything is compiled.

    Args:
      model: The network.
      options: What to do.

    Raises:
      FileNotFoundError: A file that an option names is not there.
      ValueError: The options contradict each other, or do not fit the network.
    """
    network = model.network
    seen_as = channels.input_channels(model, hold=options.hold or ())
    layers = recipes.chosen_layers(network, options)
    chosen = {
        layer.name: recipes.chosen_channels(layer, options.channels, options) for layer in layers
    }
    model, inputs = reference_scans.read(
        model,
        options,
        seed=options.seed,
        needs_spectrum=options.parameterization == "phase" or options.config is not None,
    )
    work = Work(
        network,
        recipes={
            layer.name: recipes.recipe(model, layer.name, options, channels=options.channels)
            for layer in layers
        },
        channels=chosen,
    )
    configuration = _configuration(model, work, inputs, options)
    if (told := seen_as.setting()) is not None:
        configuration["input_channels"] = told
    if options.batch_size is not None:
        configuration["batch"] = options.batch_size
    return Job(model, options, work, tuple(layers), inputs, configuration)


def _configuration(
    model: Model, work: Work, inputs: Inputs | None, options: AscentOptions
) -> dict[str, Any]:
    """All that decides the images."""
    recipe = next(iter(work.recipes.values()))
    optimizer = images.optimizer(
        recipe.parameterization, recipe.drive, options, steps=options.steps
    )[1]
    return {
        "model": model.name,
        "weights_sha256": model.card["weights_sha256"],
        "affine": None if model.affine is None else model.affine.tolist(),
        "layers": dict(work.channels),
        "objective": {name: each.objective.description for name, each in work.recipes.items()},
        "penalty": {
            name: None if each.penalty is None else each.penalty.description
            for name, each in work.recipes.items()
        },
        "penalty_weight": recipe.penalty_weight,
        "parameterization": recipe.parameterization.description,
        "optimizer": optimizer,
        "variants": recipe.variants,
        "transparency": recipe.transparency,
        "regularization": options.regularization,
        "robustness": describe(recipe.robustness),
        "projection": describe(recipe.projection),
        "drive": None if recipe.drive is None else recipe.drive.description,
        "config_sha256": recipes.config_sha256(options),
        "reference": None if inputs is None else inputs.configuration(),
        "intensities": _intensities(model),
        "precision": options.precision,
        "steps": options.steps,
        "seed": options.seed,
    }


def _intensities(model: Model) -> dict[str, Any] | None:
    """What is known of the intensities of a network's images."""
    if model.scaling is None:
        return None
    between = list(model.intensity_range)
    return {"scaling": model.scaling, "unit": model.unit, "range": between}


def begun_batch_size(out: Path) -> int | None:
    """Units per batch of the run that goes on in a directory; None where none does.

    Args:
      out: The directory.
    """
    begun = shards.shards(out)
    with contextlib.suppress(FileNotFoundError):  # There may be no run to resume.
        begun.insert(0, read_run(out))
    return begun[0].configuration.get("batch") if begun else None


def ascend(
    job: Job,
    batches: Sequence[tuple[Layer, Batch]],
    batch_size: int,
    *,
    store: Callable[[Layer, Batch, FinishedBatch, Sequence[UnitResult]], None],
    programs: Mapping[str, LayerProgram] | None = None,
    done: frozenset[Key] = frozenset(),
    strongest: Mapping[tuple[str, int], float] | None = None,
    on_compiled: Callable[[str, float], None] = lambda layer, seconds: None,
) -> None:
    """Run batches one after the other, and hand each to `store` when it is finished.

    A signal to stop waits for the end of a step, or until a finished batch is stored
    (`featvis_jax.stopping`).

    Args:
      job: What to do.
      batches: The batches.
      batch_size: Units per batch.
      store: Called with a layer, its batch, what came of it, and the results that were missing.
      programs: Those that are compiled already, by layer.
      done: Images that are there already.
      strongest: Response to the strongest real input, by layer and channel.
      on_compiled: Called with a layer and the seconds that its compilation took.

    Raises:
      MemoryError: A batch does not fit into memory.
    """
    ready, strongest = dict(programs or {}), strongest or {}
    steps = job.options.steps
    with (
        jax.default_matmul_precision(job.options.precision),
        Progress(sum(batch.count for _, batch in batches) * steps) as progress,
    ):
        for layer, batch in batches:
            progress.describe(layer.name)
            missing = job.images([(layer, batch)]) - done
            if not missing:
                progress.skip(batch.count * steps)
                continue
            program = ready.get(layer.name)
            if program is None or program.batch_size != len(batch.channels):
                with progress.paused():
                    program = job.work.program(layer.name, batch_size)
                # A layer is behind us when the next begins: one program in memory is enough.
                ready = {layer.name: program}
                on_compiled(layer.name, program.compile_seconds)
            with stopping.held():
                finished = _run(job, program, layer.name, batch, strongest, progress)
                results = _results(job, layer, batch, finished, strongest)
                stored = [result for result in results if result.record.key in missing]
                store(layer, batch, finished, stored)
            for record in tables.leading(result.record for result in stored):
                progress.count(record.status)


def _run(
    job: Job,
    program: LayerProgram,
    layer: str,
    batch: Batch,
    strongest: Mapping[tuple[str, int], float],
    progress: Progress,
) -> FinishedBatch:
    """Take a batch all the way, or up to the chunk in which somebody asks to stop."""
    taken = 0

    def on_steps(steps: int) -> None:
        nonlocal taken
        taken += steps
        progress.advance(steps * batch.count)
        if taken < job.options.steps:  # What has all its steps is worth keeping.
            stopping.check()

    keys = ascent.unit_keys(job.options.seed, layer, batch.channels)
    targets = reference.targets(strongest, layer, batch.channels)
    try:
        return program.run(batch, keys, targets=targets, on_steps=on_steps)
    except jax.errors.JaxRuntimeError as error:
        raise sizing.explained(error, layer, program.batch_size) from error


def _results(
    job: Job,
    layer: Layer,
    batch: Batch,
    finished: FinishedBatch,
    strongest: Mapping[tuple[str, int], float],
) -> list[UnitResult]:
    seconds = finished.seconds / batch.count / job.options.variants
    return [
        unit_result(
            unit,
            layer,
            job.model,
            seconds=seconds,
            strongest=strongest.get((layer.name, unit.channel)),
            seed=job.options.seed,
        )
        for unit in finished.units
    ]


def write(
    job: Job,
    options: VisualizeOptions,
    *,
    out: Path,
    batch_size: int | None,
    shard: Shard | None = None,
    environment: Mapping[str, Any],
) -> Run | None:
    """Run a job into a directory, or go on with it there.

    Args:
      job: What to do.
      options: All that was asked for, which the directory keeps.
      out: The directory of the run.
      batch_size: Units per batch; None for the largest that fits.
      shard: Number of this process, from 1, and how many share the run; None for one alone.
      environment: Versions and device (`featvis_jax.runs.environment`).

    Returns:
      The run, closed, or the part of it that fell to this process; None where nothing was left.

    Raises:
      OSError: Something cannot be written.
      ValueError: The directory holds another run.
      MemoryError: Not even one unit fits.
    """
    scans = _examples(job.model, options) if shard is None else None
    programs: dict[str, LayerProgram] = {}
    configuration = job.configuration
    if batch_size is None:
        # Compiling for a directory that cannot be used would be in vain.
        refuse_foreign(out)
        make_directory(out)
        # The resolved batch belongs to the configuration, and it takes a compiled program to know.
        with jax.default_matmul_precision(job.options.precision):
            batch_size, programs = sizing.largest_size(job.work)
    configuration = {**configuration, "batch": batch_size}
    batches = job.batches(batch_size, shard)
    place, elsewhere = out, frozenset[Key]()
    if shard is not None:
        elsewhere = shards.done_elsewhere(out, configuration)
        place = shards.shard_directory(out, *shard)
        if not place.exists() and not job.images(batches) - elsewhere:
            return None
    window = job.model.intensity_range
    with open_run(place, configuration, environment=environment) as run:
        strongest = reference.of_run(run, job.work, job.model, job.inputs, out)
        if shard is None:
            for held in shards.collect(run, affine=job.model.affine, window=window):
                say(f"{held}, which is not waited for: what it lacks is computed here.")
        for name, program in programs.items():
            run.record_timing("compile", program.compile_seconds, layer=name)
        run.write_flags(as_lines(options) + "\n")
        network = job.work.network
        run.write_layers([layer_record(layer, network) for layer in network.layers])
        with tensorboard.events(run.directory, asked=options.tensorboard) as log:

            def store(
                layer: Layer, batch: Batch, finished: FinishedBatch, results: Sequence[UnitResult]
            ) -> None:
                run.write_units(results, affine=job.model.affine, window=window)
                run.record_timing("batch", finished.seconds, layer=layer.name, units=batch.count)
                for result in results:
                    _log(log, result, run.input_channels, window, variants=options.variants)
                log.flush()

            ascend(
                job,
                batches,
                batch_size,
                store=store,
                programs=programs,
                done=elsewhere | {row.key for row in run.records()},
                strongest=strongest,
                on_compiled=lambda layer, seconds: run.record_timing(
                    "compile", seconds, layer=layer
                ),
            )
        if shard is None:
            finish(run, job, scans)
    return run


def finish(run: Run, job: Job, scans: Source | None) -> None:
    """Write what a run ends with but for its pages: contact sheets, and real images beside them.

    Args:
      run: The run, open.
      job: What it did.
      scans: The images that drive its units, if they are to be shown.
    """
    for layer in job.layers:
        with stopping.held():
            run.write_sheet(layer.name, window=job.model.intensity_range)
    if scans is not None:
        real_examples.write(run, job.model, scans, job.work.channels)


def _examples(model: Model, options: VisualizeOptions) -> Source | None:
    if options.real_examples is None:
        return None
    return source_of(
        "real_examples",
        options.real_examples,
        model.grid,
        channels=channels.input_channels(model, hold=options.hold or ()),
        scaling=model.scaling,
        cache=options.cache,
    )


def pages(run: Run) -> Path:
    """Build the pages of a finished run.

    Args:
      run: The run.

    Raises:
      ValueError: They could not be built; the results are complete.
    """
    try:
        return build_gallery(run)
    except Exception as error:
        raise ValueError(
            f"The gallery could not be built ({type(error).__name__}: {error}). The results "
            f"are complete; python -m experiments.gallery --run={run.directory} tries again."
        ) from error


def summary(run: Run, *, variants: int) -> str:
    """Say in a line how the units of a run ended.

    Args:
      run: The run.
      variants: Images of each unit.
    """
    records = run.records()
    units = tables.leading(records)
    counts = Counter(record.status for record in units)
    told = ", ".join(f"{count} {status}" for status, count in counts.items())
    several = f", {len(records)} images" if variants > 1 else ""
    strengths = [record.strength for record in units if record.strength is not None]
    if strengths:
        told += f"; median strength {np.median(strengths):.2g}"
    number = f"{len(units)} channel{'' if len(units) == 1 else 's'}{several}"
    return f"{number}: {told or 'none was left to do'}."


def plan(job: Job, *, batch_size: int | None, out: Path) -> str:
    """Say what a job would take, from a short trial; nothing is written.

    Args:
      job: What to do.
      batch_size: Units per batch; None for the largest that fits.
      out: Directory of the run.

    Raises:
      ValueError: The directory holds something else.
      MemoryError: Not even one unit fits.
    """
    refuse_foreign(out)
    done = shards.done_elsewhere(out, job.configuration) if batch_size else frozenset()
    finished = tables.complete(done, variants=job.options.variants)
    with jax.default_matmul_precision(job.options.precision):
        found = sizing.text(job.work, batch_size, finished, steps=job.options.steps, out=out)
    return shown(found)


def _log(
    log: tensorboard.Events,
    result: UnitResult,
    channels: InputChannels,
    window: tuple[float, float],
    *,
    variants: int,
) -> None:
    """Tell TensorBoard of a finished image."""
    name = tensorboard.image_name(result.record, variants=variants)
    for step, (objective, penalty) in enumerate(zip(result.objective, result.penalty, strict=True)):
        log.scalar(f"{name}/objective", float(objective), step=step)
        log.scalar(f"{name}/penalty", float(penalty), step=step)
    picture = panels.picture(result.image, channels=channels, window=window)
    log.image(name, picture, step=len(result.objective))


def layer_record(layer: Layer, network: Network) -> LayerRecord:
    """A layer's row in layers.tsv.

    Args:
      layer: The layer.
      network: Its network.
    """
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
