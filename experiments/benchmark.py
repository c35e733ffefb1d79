r"""Measure how fast this machine does the library's work, beside what it could do.

    python -m experiments.benchmark --out=benchmark.tsv
    python -m experiments.benchmark --job=conv5_2d --job=train_2d
    python -m experiments.benchmark --job=foreign --job=foreign/sfcn --job=plain_flax

Every job is measured in turns with the same work in PyTorch (where torch is installed) and with a
large matrix product, so that the ratios hold on a machine that is busy with other things too.
Operations are those that the job needs, counted from the shapes of the network. docs/performance.md
says how a processor with AVX-512 is measured as one without.
"""

import dataclasses
import functools
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

from experiments.benchmarks import arithmetic, ascents, foreign, plain_flax, trainings
from experiments.benchmarks.ascents import ascent_job, random_network
from experiments.benchmarks.measuring import Row, chosen, in_turns, measure
from experiments.benchmarks.torch_process import TorchProcess
from featvis_jax.commands import startup
from featvis_jax.commands.launch import Command, start
from featvis_jax.commands.startup import StartupOptions
from featvis_jax.maximize import objectives, transforms
from featvis_jax.nn.cnn import CNN
from featvis_jax.options import option
from featvis_jax.results import encoding
from featvis_jax.results.files import atomic_write_bytes
from featvis_jax.runs.precision import PrecisionOptions

_SLICE, _HALF, _WHOLE = (140, 192, 1), (96, 112, 96, 1), (182, 218, 182, 1)


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
    rounds: int,
    layer_l1: bool = False,
) -> Row:
    module = CNN(rank=len(image_shape) - 1)
    options = {"layer": layer, "layer_l1": layer_l1, "learning_rate": 0.05}
    torch = _torch("ascent", module, image_shape, batches, **options)
    network = random_network(module, image_shape)
    return measure(
        job,
        {b: ascent_job(network, layer, batch=b, layer_l1=layer_l1) for b in batches},
        torch,
        flop=arithmetic.ascent_flop(module, image_shape, layer, one_channel=not layer_l1),
        steps=steps,
        rounds=rounds,
    )


def _neuron_2d(rounds: int) -> Row:
    """Channels of conv5 in the middle of its grid, which see a small part of the image."""
    module, batch, steps = CNN(rank=2), 64, 8
    neuron, network = objectives.neuron("conv5"), random_network(module, _SLICE)
    extent = network.layer("conv5").receptive_field
    assert extent is not None
    options = {"layer": "conv5", "neuron": True, "learning_rate": 0.05}
    torch = _torch("ascent", module, _SLICE, [batch], **options)
    # Without a known place nothing can be cut out for it.
    uncut = dataclasses.replace(neuron, place=None)
    whole = ascent_job(network, "conv5", batch=batch, objective=uncut)
    cut = ascent_job(network, "conv5", batch=batch, objective=neuron)
    of_whole = min(whole.run(steps) for _ in range(2)) / steps / batch
    field = (*[extent] * module.rank, 1)
    row = measure(
        "neuron_2d",
        {batch: cut},
        torch,
        flop=arithmetic.ascent_flop(module, field, "conv5", one_channel=True),
        steps=steps,
        rounds=rounds,
    )
    note = f"{row.note}; {1e3 * of_whole:.3g} ms where the network sees the whole image"
    return dataclasses.replace(row, note=note)


def _training(
    job: str, image_shape: tuple[int, ...], *, batch: int, steps: int, rounds: int
) -> Row:
    module = CNN(rank=len(image_shape) - 1)
    torch = _torch("training", module, image_shape, [batch])
    return measure(
        job,
        {batch: trainings.training_job(module, image_shape, batch=batch)},
        torch,
        flop=arithmetic.training_flop(module, image_shape),
        steps=steps,
        rounds=rounds,
    )


def _paper_2d() -> Row:
    """64 channels of conv5, 256 steps, every slot of the paper in use; whole wall time, once."""
    module, batch, steps = CNN(rank=2), 16, 256
    started = time.perf_counter()
    options = {"batch": batch, "regularization": "rotation_30,tv_0.1,blur_0.5"}
    compiled = ascent_job(random_network(module, _SLICE), "conv5", **options)
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
    job: str,
    transform: transforms.DescribedTransform,
    image_shape: tuple[int, ...],
    *,
    batch: int,
    rounds: int,
) -> Row:
    compiled = ascents.transform_job(transform, image_shape, batch=batch)
    own, _, matmul = in_turns([(batch, compiled.run)], [], steps=1, rounds=rounds)
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


def _every_50(rounds: int) -> Row:
    """What a costly smoother at every 50th of 256 steps adds in 3-D."""
    network, steps = random_network(CNN(rank=3), (64, 64, 64, 1)), 256
    smoother = transforms.every(50, transforms.switching_bilateral())
    jobs = [
        ascent_job(network, "conv5", batch=1, projection=projection)
        for projection in (transforms.identity(), smoother)
    ]
    for compiled in jobs:
        compiled.run(1)
    turns = [[compiled.run(steps) for compiled in jobs] for _ in range(rounds)]
    without, with_filter = (statistics.median(column) for column in zip(*turns, strict=True))
    return Row(
        job="every_50_sbf_3d",
        ms_per_image_step=1e3 * with_filter / steps,
        peak_mb_per_unit=jobs[1].peak_bytes / 1e6,
        compile_s=jobs[1].compile_seconds,
        note=f"{100 * (with_filter / without - 1):+.1f} % against none, {steps} steps at 64^3",
    )


def _driven(job: str, image_shape: tuple[int, ...], *, batch: int, steps: int, rounds: int) -> Row:
    """What a step of the default recipe takes beside one of the strategies of fixed strength."""
    network = random_network(CNN(rank=len(image_shape) - 1), image_shape)
    beside = ("recommended", "lucid", "none")
    jobs = [
        ascent_job(network, "conv5", batch=batch, regularization=name)
        for name in ("driven", *beside)
    ]
    for compiled in jobs:
        compiled.run(1)
    turns = [[compiled.run(steps) for compiled in jobs] for _ in range(rounds)]
    own, *others = (statistics.median(column) for column in zip(*turns, strict=True))
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


def _first_step(rounds: int) -> Row:
    """From the start of a process to the end of its first step, programs already on disk."""
    seconds = []
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(rounds + 1):
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


JOBS: dict[str, Callable[[int], Row]] = {
    "conv3_2d": lambda rounds: _ascent(
        "conv3_2d", _SLICE, "conv3", batches=(8, 16, 64), steps=8, rounds=rounds
    ),
    "conv5_2d": lambda rounds: _ascent(
        "conv5_2d", _SLICE, "conv5", batches=(8, 16, 64), steps=8, rounds=rounds
    ),
    "conv5_2d_layer_l1": lambda rounds: _ascent(
        "conv5_2d_layer_l1",
        _SLICE,
        "conv5",
        batches=(8, 16, 64),
        steps=8,
        rounds=rounds,
        layer_l1=True,
    ),
    "neuron_2d": _neuron_2d,
    "conv5_3d": lambda rounds: _ascent(
        "conv5_3d", _HALF, "conv5", batches=(1, 2), steps=6, rounds=rounds
    ),
    "full_3d": lambda rounds: _ascent(
        "full_3d", _WHOLE, "conv5", batches=(1,), steps=1, rounds=rounds
    ),
    "paper_2d": lambda rounds: _paper_2d(),
    "train_2d": lambda rounds: _training("train_2d", _SLICE, batch=32, steps=8, rounds=rounds),
    "train_3d": lambda rounds: _training("train_3d", _HALF, batch=2, steps=4, rounds=rounds),
    "sbf_2d": lambda rounds: _transform(
        "sbf_2d", transforms.switching_bilateral(), _SLICE, batch=64, rounds=rounds
    ),
    "sbf_3d": lambda rounds: _transform(
        "sbf_3d", transforms.switching_bilateral(), _WHOLE, batch=1, rounds=rounds
    ),
    "tv_2d": lambda rounds: _transform(
        "tv_2d", transforms.total_variation(), _SLICE, batch=64, rounds=rounds
    ),
    "tv_3d": lambda rounds: _transform(
        "tv_3d", transforms.total_variation(), _WHOLE, batch=1, rounds=rounds
    ),
    "tv_fgp_3d": lambda rounds: _transform(
        "tv_fgp_3d", transforms.total_variation(method="fgp"), _WHOLE, batch=1, rounds=rounds
    ),
    "every_50_sbf_3d": _every_50,
    "driven_2d": lambda rounds: _driven("driven_2d", _SLICE, batch=8, steps=16, rounds=rounds),
    "driven_3d": lambda rounds: _driven("driven_3d", _HALF, batch=1, steps=8, rounds=rounds),
    "first_step_2d": _first_step,
    **{name: functools.partial(plain_flax.row, name) for name in plain_flax.JOBS},
    **{
        f"{foreign.PREFIX}{name}": functools.partial(foreign.row, name) for name in foreign.NETWORKS
    },
}
"""Every job by its name; it is told how many rounds count."""

GROUPS = ("plain_flax", "foreign")
"""What stands for all jobs ``GROUP/...``."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkOptions(StartupOptions, PrecisionOptions):
    """What is measured."""

    job: tuple[str, ...] = option(
        (),
        "Job; repeat for several, all by default. 'foreign' is every 'foreign/...', and so on.",
        choices=(*JOBS, *GROUPS),
        repeats=True,
    )
    rounds: int = option(5, "Rounds that count, in which each side has its turn.", least=1)
    out: str | None = option(None, "Write the table to this TSV file, too.")
    compilation_cache: str | None = option(
        "", "Directory that keeps compiled programs; none by default, since compiling is measured."
    )


def main(options: BenchmarkOptions) -> None:
    """Run the jobs and print a table, row by row."""
    startup.prepare(options)
    with jax.default_matmul_precision(options.precision):
        _run(options)


def _run(options: BenchmarkOptions) -> None:
    rows: list[Row] = []
    if not _torch_is_installed():
        print("PyTorch is not installed: its columns stay empty.")
    names = chosen(options.job or list(JOBS), JOBS)
    for name in list(names):
        if name.startswith(foreign.PREFIX) and (left_out := foreign.left_out(name)):
            print(left_out)
            names.remove(name)
    columns = [field.name for field in dataclasses.fields(Row)]
    widths = {column: len(column) for column in columns}
    widths["job"] = max(map(len, names), default=0)
    print("  ".join(f"{column:>{widths[column]}}" for column in columns))
    failed = []
    for name in names:
        try:
            rows.append(JOBS[name](options.rounds))
        except (ValueError, RuntimeError) as error:
            failed.append(name)  # The others are worth their time all the same.
            print(f"{name} failed: {error}", file=sys.stderr)
            continue
        row = dataclasses.asdict(rows[-1])
        cells = {name: encoding.encode_cell(value, digits=4) for name, value in row.items()}
        print(
            "  ".join(f"{cells[column]:>{widths[column]}}" for column in columns),
            flush=True,
        )
        if options.out is not None:
            table = encoding.encode_rows([dataclasses.asdict(row) for row in rows], digits=4)
            atomic_write_bytes(Path(options.out), table)
    print(foreign.summary(rows), end="")
    if failed:
        raise ValueError(f"Failed: {', '.join(failed)}; the reasons are above.")


COMMAND = Command(
    name="benchmark",
    summary="measure how fast this machine does the library's work",
    examples=(
        "--out=benchmark.tsv",
        "--job=conv5_2d --job=train_2d",
    ),
    options=BenchmarkOptions,
    main=main,
    first=("job", "rounds", "out"),
    program="python -m experiments.benchmark",
)


if __name__ == "__main__":
    start(COMMAND)
