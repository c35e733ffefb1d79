r"""Measure how fast this machine does the library's work, beside what it could do.

    python -m experiments.benchmark --out=benchmark.tsv
    python -m experiments.benchmark --job=conv5_2d --job=train_2d

Every job is measured in turns with the same work in PyTorch (where torch is installed) and with a
large matrix product, so that the ratios hold on a machine that is busy with other things too.
Operations are those that the job needs, counted from the shapes of the network.
"""

import dataclasses
import importlib.util
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags

from experiments import startup
from experiments.benchmarks import arithmetic, ascents, trainings
from experiments.benchmarks.torch_process import TorchProcess
from experiments.launch import start
from featvis_jax.nn.cnn import CNN
from featvis_jax.results import tables
from featvis_jax.results.files import atomic_write_bytes
from featvis_jax.visualize import objectives, transforms

FLAGS = flags.FLAGS
flags.DEFINE_string("out", None, "Write the table to this TSV file, too.")
# Compilation is measured, too.
flags.FLAGS.set_default("compilation_cache", "")
flags.DEFINE_integer(
    "rounds", 5, "Rounds that count, in which each side has its turn.", lower_bound=1
)

# Rounds that do not count: until a process has taken all the memory that it will ask for, the
# system hands it out page by page, which takes as long as the work.
_WARM_UP_ROUNDS = 3

_SLICE, _HALF, _WHOLE = (140, 192, 1), (96, 112, 96, 1), (182, 218, 182, 1)


@dataclasses.dataclass(frozen=True)
class Row:
    """What was measured of a job; NaN where a column has no meaning for it.

    Attributes:
      job: Its name.
      ms_per_image_step: Milliseconds for one step of one image.
      needed_gflop: Operations that takes, in billions.
      gflops: Rate of needed operations, in billions per second.
      matmul_gflops: Rate of a large matrix product in the same minutes.
      fraction_of_matmul: One over the other.
      peak_mb_per_unit: Memory of the compiled program, per image.
      compile_s: Seconds that compilation took.
      torch_ms_per_image_step: The same in PyTorch.
      torch_ratio: PyTorch's time over ours: above 1, ours is faster.
      note: What else there is to say.
    """

    job: str
    ms_per_image_step: float
    needed_gflop: float = math.nan
    gflops: float = math.nan
    matmul_gflops: float = math.nan
    fraction_of_matmul: float = math.nan
    peak_mb_per_unit: float = math.nan
    compile_s: float = math.nan
    torch_ms_per_image_step: float = math.nan
    torch_ratio: float = math.nan
    note: str = ""


Side = tuple[int, Callable[[int], float]]
"""A batch size, and what runs a number of steps and returns the seconds."""


def _measure(
    job: str,
    compiled: dict[int, ascents.Compiled],
    torch: Sequence[tuple[int, TorchProcess]],
    *,
    flop: int,
    steps: int,
    note: str = "",
) -> Row:
    """Time each side at each of its batch sizes, in turns, and compare the best of each."""
    own_sides: list[Side] = [(batch, job.run) for batch, job in compiled.items()]
    own, theirs, matmul = _in_turns(own_sides, torch, steps=steps)
    for _, process in torch:
        process.close()
    batch = min(own, key=own.__getitem__)
    rate = flop / own[batch] / 1e9
    row = Row(
        job=job,
        ms_per_image_step=1e3 * own[batch],
        needed_gflop=flop / 1e9,
        gflops=rate,
        matmul_gflops=matmul,
        fraction_of_matmul=rate / matmul,
        peak_mb_per_unit=compiled[batch].peak_bytes / batch / 1e6,
        compile_s=compiled[batch].compile_seconds,
        note="; ".join(filter(None, [_batches(own), note])),
    )
    if not theirs:
        return row
    best = min(theirs.values())
    return dataclasses.replace(
        row, torch_ms_per_image_step=1e3 * best, torch_ratio=best / own[batch]
    )


def _in_turns(
    own: Sequence[Side], torch: Sequence[Side], *, steps: int
) -> tuple[dict[int, float], dict[int, float], float]:
    """Median seconds per image and step for every batch size, and the rate of a matrix product."""
    times: list[dict[int, list[float]]] = [{}, {}]
    matmul = []
    for _ in range(_WARM_UP_ROUNDS + FLAGS.rounds):
        matmul.append(ascents.matmul_gflops())
        for side, found in zip((own, torch), times, strict=True):
            for batch, run in side:
                found.setdefault(batch, []).append(run(steps) / steps / batch)
    medians = [
        {batch: statistics.median(values[_WARM_UP_ROUNDS:]) for batch, values in found.items()}
        for found in times
    ]
    return medians[0], medians[1], statistics.median(matmul[_WARM_UP_ROUNDS:])


def _batches(seconds: dict[int, float]) -> str:
    return ", ".join(f"batch {batch}: {1e3 * value:.3g} ms" for batch, value in seconds.items())


def _torch_is_installed() -> bool:
    return importlib.util.find_spec("torch") is not None


def _torch(
    job: str,
    module: CNN,
    image_shape: tuple[int, ...],
    batches: Sequence[int],
    **options: Any,
) -> list[tuple[int, TorchProcess]]:
    """PyTorch's side of a job, where it is installed."""
    if not _torch_is_installed():
        return []
    options |= {"rank": module.rank, "image_shape": image_shape}
    return [(batch, TorchProcess(job, batch=batch, **options)) for batch in batches]


def _ascent(
    job: str,
    image_shape: tuple[int, ...],
    layer: str,
    *,
    batches: Sequence[int],
    steps: int,
    layer_l1: bool = False,
) -> Row:
    module = CNN(rank=len(image_shape) - 1)
    options = {"layer": layer, "layer_l1": layer_l1, "learning_rate": 0.05}
    torch = _torch("ascent", module, image_shape, batches, **options)
    return _measure(
        job,
        {
            b: ascents.ascent_job(module, image_shape, layer, batch=b, layer_l1=layer_l1)
            for b in batches
        },
        torch,
        flop=arithmetic.ascent_flop(module, image_shape, layer, one_channel=not layer_l1),
        steps=steps,
    )


def _neuron_2d() -> Row:
    """Channels of conv5 in the middle of its grid, which see a small part of the image."""
    module, batch, steps = CNN(rank=2), 64, 8
    neuron = objectives.neuron("conv5")
    reach = ascents.random_network(module, _SLICE).layer("conv5").receptive_field
    assert reach is not None
    options = {"layer": "conv5", "neuron": True, "learning_rate": 0.05}
    torch = _torch("ascent", module, _SLICE, [batch], **options)
    # Without a known place nothing can be cut out for it.
    uncut = dataclasses.replace(neuron, place=None)
    whole = ascents.ascent_job(module, _SLICE, "conv5", batch=batch, objective=uncut)
    cut = ascents.ascent_job(module, _SLICE, "conv5", batch=batch, objective=neuron)
    of_whole = min(whole.run(steps) for _ in range(2)) / steps / batch
    field = (*[reach] * module.rank, 1)
    row = _measure(
        "neuron_2d",
        {batch: cut},
        torch,
        flop=arithmetic.ascent_flop(module, field, "conv5", one_channel=True),
        steps=steps,
    )
    note = f"{row.note}; {1e3 * of_whole:.3g} ms where the network sees the whole image"
    return dataclasses.replace(row, note=note)


def _training(job: str, image_shape: tuple[int, ...], *, batch: int, steps: int) -> Row:
    module = CNN(rank=len(image_shape) - 1)
    torch = _torch("training", module, image_shape, [batch])
    return _measure(
        job,
        {batch: trainings.training_job(module, image_shape, batch=batch)},
        torch,
        flop=arithmetic.training_flop(module, image_shape),
        steps=steps,
    )


def _paper_2d() -> Row:
    """64 channels of conv5, 256 steps, every slot of the paper in use; whole wall time."""
    module, batch, steps = CNN(rank=2), 16, 256
    started = time.perf_counter()
    options = {"batch": batch, "regularization": "rotation_30,tv_0.1,blur_0.5"}
    compiled = ascents.ascent_job(module, _SLICE, "conv5", **options)
    matmul = ascents.matmul_gflops()
    seconds = sum(compiled.run(steps) for _ in range(64 // batch))
    whole = time.perf_counter() - started
    flop = arithmetic.ascent_flop(module, _SLICE, "conv5", one_channel=True)
    rate = flop * 64 * steps / seconds / 1e9
    return Row(
        job="paper_2d",
        ms_per_image_step=1e3 * seconds / 64 / steps,
        needed_gflop=flop / 1e9,
        gflops=rate,
        matmul_gflops=matmul,
        fraction_of_matmul=rate / matmul,
        peak_mb_per_unit=compiled.peak_bytes / batch / 1e6,
        compile_s=compiled.compile_seconds,
        note=f"64 channels, {steps} steps: {whole:.1f} s with compilation",
    )


def _transform(
    job: str, transform: transforms.DescribedTransform, image_shape: tuple[int, ...], *, batch: int
) -> Row:
    compiled = ascents.transform_job(transform, image_shape, batch=batch)
    own, _, matmul = _in_turns([(batch, compiled.run)], [], steps=1)
    image_bytes = 4 * math.prod(image_shape)
    return Row(
        job=job,
        ms_per_image_step=1e3 * own[batch],
        matmul_gflops=matmul,
        peak_mb_per_unit=compiled.peak_bytes / batch / 1e6,
        compile_s=compiled.compile_seconds,
        note=f"peak is {compiled.peak_bytes / batch / image_bytes:.1f} times the image; "
        f"batch {batch}",
    )


def _every_50() -> Row:
    """What a costly smoother at every 50th of 256 steps adds in 3-D."""
    module, shape, steps = CNN(rank=3), (64, 64, 64, 1), 256
    smoother = transforms.every(50, transforms.switching_bilateral())
    jobs = [
        ascents.ascent_job(module, shape, "conv5", batch=1, projection=projection)
        for projection in (transforms.identity(), smoother)
    ]
    for compiled in jobs:
        compiled.run(1)
    rounds = [[compiled.run(steps) for compiled in jobs] for _ in range(FLAGS.rounds)]
    without, with_filter = (statistics.median(column) for column in zip(*rounds, strict=True))
    return Row(
        job="every_50_sbf_3d",
        ms_per_image_step=1e3 * with_filter / steps,
        peak_mb_per_unit=jobs[1].peak_bytes / 1e6,
        compile_s=jobs[1].compile_seconds,
        note=f"{100 * (with_filter / without - 1):+.1f} % against none, {steps} steps at 64^3",
    )


def _driven(job: str, image_shape: tuple[int, ...], *, batch: int, steps: int) -> Row:
    """What a step of the default recipe takes beside one of the strategies of fixed strength."""
    module, beside = CNN(rank=len(image_shape) - 1), ("recommended", "lucid", "none")
    jobs = [
        ascents.ascent_job(module, image_shape, "conv5", batch=batch, regularization=name)
        for name in ("driven", *beside)
    ]
    for compiled in jobs:
        compiled.run(1)
    rounds = [[compiled.run(steps) for compiled in jobs] for _ in range(FLAGS.rounds)]
    own, *others = (statistics.median(column) for column in zip(*rounds, strict=True))
    ratios = ", ".join(
        f"{own / other:.2f} times {name}" for name, other in zip(beside, others, strict=True)
    )
    return Row(
        job=job,
        ms_per_image_step=1e3 * own / steps / batch,
        peak_mb_per_unit=jobs[0].peak_bytes / batch / 1e6,
        compile_s=jobs[0].compile_seconds,
        note=f"{ratios}; {steps} steps, batch {batch}",
    )


def _first_step() -> Row:
    """From the start of a process to the end of its first step, programs already on disk."""
    seconds = []
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(FLAGS.rounds + 1):
            started = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "experiments.benchmarks.first_step"],
                check=True,
                env={
                    **os.environ,
                    "JAX_COMPILATION_CACHE_DIR": cache,
                    "JAX_NUM_CPU_DEVICES": str(jax.local_device_count("cpu")),
                    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                },
            )
            seconds.append(time.perf_counter() - started)
    return Row(
        job="first_step_2d",
        ms_per_image_step=1e3 * statistics.median(seconds[1:]),
        note=f"one step of 8 units, imports included; {seconds[0]:.1f} s with a cold cache",
    )


JOBS: dict[str, Callable[[], Row]] = {
    "conv3_2d": lambda: _ascent("conv3_2d", _SLICE, "conv3", batches=(8, 16, 64), steps=8),
    "conv5_2d": lambda: _ascent("conv5_2d", _SLICE, "conv5", batches=(8, 16, 64), steps=8),
    "conv5_2d_layer_l1": lambda: _ascent(
        "conv5_2d_layer_l1", _SLICE, "conv5", batches=(8, 16, 64), steps=8, layer_l1=True
    ),
    "neuron_2d": _neuron_2d,
    "conv5_3d": lambda: _ascent("conv5_3d", _HALF, "conv5", batches=(1, 2), steps=6),
    "full_3d": lambda: _ascent("full_3d", _WHOLE, "conv5", batches=(1,), steps=1),
    "paper_2d": _paper_2d,
    "train_2d": lambda: _training("train_2d", _SLICE, batch=32, steps=8),
    "train_3d": lambda: _training("train_3d", _HALF, batch=2, steps=4),
    "sbf_2d": lambda: _transform("sbf_2d", transforms.switching_bilateral(), _SLICE, batch=64),
    "sbf_3d": lambda: _transform("sbf_3d", transforms.switching_bilateral(), _WHOLE, batch=1),
    "tv_2d": lambda: _transform("tv_2d", transforms.total_variation(), _SLICE, batch=64),
    "tv_3d": lambda: _transform("tv_3d", transforms.total_variation(), _WHOLE, batch=1),
    "tv_fgp_3d": lambda: _transform(
        "tv_fgp_3d", transforms.total_variation(method="fgp"), _WHOLE, batch=1
    ),
    "every_50_sbf_3d": _every_50,
    "driven_2d": lambda: _driven("driven_2d", _SLICE, batch=8, steps=16),
    "driven_3d": lambda: _driven("driven_3d", _HALF, batch=1, steps=8),
    "first_step_2d": _first_step,
}
"""Every job by its name."""

flags.DEFINE_multi_enum("job", None, list(JOBS), "Job; repeat for several, all by default.")


def main(_: Sequence[str]) -> None:
    """Run the jobs and print a table, row by row."""
    startup.prepare()
    names = list(dict.fromkeys(FLAGS.job or JOBS))
    rows: list[Row] = []
    if not _torch_is_installed():
        print("PyTorch is not installed: its columns stay empty.")
    columns = [field.name for field in dataclasses.fields(Row)]
    print("  ".join(f"{column:>{_width(column)}}" for column in columns[:-1]) + "  note")
    for name in names:
        rows.append(JOBS[name]())
        row = dataclasses.asdict(rows[-1])
        cells = {name: tables.encode_cell(value, digits=4) for name, value in row.items()}
        print(
            "  ".join(f"{cells[column]:>{_width(column)}}" for column in columns[:-1]),
            cells["note"],
            sep="  ",
            flush=True,
        )
        if FLAGS.out is not None:
            table = tables.encode_rows([dataclasses.asdict(row) for row in rows], digits=4)
            atomic_write_bytes(Path(FLAGS.out), table)


def _width(column: str) -> int:
    return max(len(column), 17 if column == "job" else 0)


if __name__ == "__main__":
    start(main)
