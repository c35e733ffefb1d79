"""A row of the benchmark: both sides timed in turns, beside a large matrix product."""

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterable, Sequence

from experiments.benchmarks import ascents
from experiments.benchmarks.torch_process import TorchProcess

_WARM_UP_ROUNDS = 3
"""Rounds that do not count: until a process has taken all the memory that it will ask for, the
system hands it out page by page, which takes as long as the work."""


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
      torch_peak_mb_per_unit: Most resident memory of PyTorch's process at once over what it had
        before its first step, per image; of a foreign network with its weights and the image, which
        are there before and which the compiled program's memory holds, too.
      listed_over_program: What --list_layers says that a unit takes, over `peak_mb_per_unit`.
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
    torch_peak_mb_per_unit: float = math.nan
    listed_over_program: float = math.nan
    note: str = ""


Side = tuple[int, Callable[[int], float]]
"""A batch size, and what runs a number of steps and returns the seconds."""


def measure(
    job: str,
    compiled: dict[int, ascents.Compiled],
    torch: Sequence[tuple[int, TorchProcess]],
    *,
    flop: int,
    steps: int,
    rounds: int,
    note: str = "",
    warm_up_rounds: int = _WARM_UP_ROUNDS,
) -> Row:
    """Time each side at each of its batch sizes, in turns, and compare the best of each.

    Args:
      job: Its name.
      compiled: Our side, by batch.
      torch: PyTorch's side, a batch and a process each, which are closed; may be empty.
      flop: Operations that a step of one image needs.
      steps: Of each turn.
      rounds: That count, in which each side has its turn.
      note: What else there is to say.
      warm_up_rounds: Rounds that do not count.
    """
    own_sides: list[Side] = [(batch, job.run) for batch, job in compiled.items()]
    own, theirs, matmul = in_turns(
        own_sides, torch, steps=steps, rounds=rounds, warm_up_rounds=warm_up_rounds
    )
    torch_peaks = {batch: process.peak_bytes() for batch, process in torch}
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
    theirs_best = min(theirs, key=theirs.__getitem__)
    seconds = theirs[theirs_best]
    return dataclasses.replace(
        row,
        torch_ms_per_image_step=1e3 * seconds,
        torch_ratio=seconds / own[batch],
        torch_peak_mb_per_unit=torch_peaks[theirs_best] / theirs_best / 1e6,
    )


def in_turns(
    own: Sequence[Side],
    torch: Sequence[Side],
    *,
    steps: int,
    rounds: int,
    warm_up_rounds: int = _WARM_UP_ROUNDS,
) -> tuple[dict[int, float], dict[int, float], float]:
    """Median seconds per image and step for every batch size, and the rate of a matrix product.

    Args:
      own: Our side.
      torch: PyTorch's side.
      steps: Of each turn.
      rounds: That count.
      warm_up_rounds: Rounds that do not count.
    """
    times: list[dict[int, list[float]]] = [{}, {}]
    matmul = []
    for _ in range(warm_up_rounds + rounds):
        matmul.append(ascents.matmul_gflops())
        for side, found in zip((own, torch), times, strict=True):
            for batch, run in side:
                found.setdefault(batch, []).append(run(steps) / steps / batch)
    medians = [
        {batch: statistics.median(values[warm_up_rounds:]) for batch, values in found.items()}
        for found in times
    ]
    return medians[0], medians[1], statistics.median(matmul[warm_up_rounds:])


def _batches(seconds: dict[int, float]) -> str:
    return ", ".join(f"batch {batch}: {1e3 * value:.3g} ms" for batch, value in seconds.items())


def chosen(asked: Sequence[str], jobs: Iterable[str]) -> list[str]:
    """Names of the jobs that are asked for by name or by group, each once.

    Args:
      asked: Names of jobs, or ``GROUP`` for all jobs ``GROUP/...``.
      jobs: Names of all.

    Example:
      >>> chosen(["trees/oak", "trees", "moss"], ["moss", "trees/ash", "trees/oak"])
      ['trees/oak', 'trees/ash', 'moss']
    """
    names: list[str] = []
    jobs = list(jobs)
    for name in asked:
        names += [job for job in jobs if job == name or job.startswith(f"{name}/")]
    return list(dict.fromkeys(names))
