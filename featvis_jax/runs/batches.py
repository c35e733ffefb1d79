"""The batches of a visualization, one after the other: compiled, run, and handed over."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import jax

from featvis_jax import stopping
from featvis_jax.maximize import ascent
from featvis_jax.maximize.layer import FinishedBatch, LayerProgram
from featvis_jax.maximize.planning import Batch
from featvis_jax.nn.network import Layer
from featvis_jax.progress import Progress
from featvis_jax.results import tables
from featvis_jax.results.starts import of_run
from featvis_jax.results.tables import Key, UnitResult
from featvis_jax.runs import reference, sizing
from featvis_jax.runs.units import unit_result
from featvis_jax.runs.visualize_job import Job


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
    names = job.configuration.get("unit_names", {}).get(layer.name)
    starts = dict(enumerate(of_run(job.configuration)))
    return [
        unit_result(
            unit,
            layer,
            job.model,
            seconds=seconds,
            strongest=strongest.get((layer.name, unit.channel)),
            seed=job.options.seed,
            name=names[unit.channel] if names else None,
            begun=starts.get(unit.variant),
            most=job.work.recipes[layer.name].objective.most,
        )
        for unit in finished.units
    ]
