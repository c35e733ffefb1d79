"""Visualizing units into a directory: a run begins or goes on there, and ends with its pages."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from featvis_jax import stopping
from featvis_jax.data.sources import Source
from featvis_jax.maximize.layer import FinishedBatch, LayerProgram
from featvis_jax.maximize.planning import Batch
from featvis_jax.models import Model
from featvis_jax.nn.network import Layer, Network
from featvis_jax.options import as_lines, say, shown
from featvis_jax.results import panels, shards, tables
from featvis_jax.results.channels import InputChannels
from featvis_jax.results.files import make_directory
from featvis_jax.results.gallery import build_gallery
from featvis_jax.results.store import Run, open_run, read_run, refuse_foreign
from featvis_jax.results.tables import Key, LayerRecord, UnitResult
from featvis_jax.runs import channels, real_examples, reference, sizing, tensorboard
from featvis_jax.runs.batches import ascend
from featvis_jax.runs.cohort_images import source_of
from featvis_jax.runs.visualize_job import Job, Shard, VisualizeOptions


def begun_batch_size(out: Path) -> int | None:
    """Units per batch of the run that goes on in a directory; None where none does.

    Args:
      out: The directory.
    """
    begun = shards.shards(out)
    with contextlib.suppress(FileNotFoundError):  # There may be no run to resume.
        begun.insert(0, read_run(out))
    return begun[0].configuration.get("batch") if begun else None


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
    if batch_size is None:
        batch_size, programs = _largest_size(job, out)
    # What was resolved belongs to the configuration.
    configuration = {**job.configuration, "batch": batch_size}
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
        _begin(run, job, options, programs)
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


def _largest_size(job: Job, out: Path) -> tuple[int, dict[str, LayerProgram]]:
    """Units per batch for a directory, and the programs that it took to know."""
    # Compiling for a directory that cannot be used would be in vain.
    refuse_foreign(out)
    make_directory(out)
    with jax.default_matmul_precision(job.options.precision):
        return sizing.largest_size(job.work)


def _begin(
    run: Run, job: Job, options: VisualizeOptions, programs: Mapping[str, LayerProgram]
) -> None:
    """Write what a run begins with."""
    for name, program in programs.items():
        run.record_timing("compile", program.compile_seconds, layer=name)
    run.write_flags(as_lines(options) + "\n")
    network = job.work.network
    run.write_layers([layer_record(layer, network) for layer in network.layers])


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
    if options.has_one_unit or options.unit_names:
        raise ValueError(
            f"`real_examples={options.real_examples}` shows the scans that drive each channel, and "
            "the units here are no channels: leave it out, or ask for `objective=channel`."
        )
    return source_of(
        "real_examples",
        options.real_examples,
        model.grid,
        channels=channels.input_channels(model, hold=options.hold or ()),
        scaling=model.scaling,
        voxel_size_mm=model.resampled_mm,
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
    named = run.configuration.get("unit_names", {})
    noun = "direction" if named and {row.layer for row in units} <= named.keys() else "channel"
    number = f"{len(units)} {noun}{'' if len(units) == 1 else 's'}{several}"
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
    field, stride = layer.receptive_field, layer.stride
    return LayerRecord(
        layer=layer.name,
        output_shape=layer.shape[:-1],
        channels=layer.channels,
        receptive_field=whole if field is None else (field,) * rank,
        stride=whole if stride is None else (stride,) * rank,
    )
