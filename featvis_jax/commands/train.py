"""``featvis train``: the paper's network, trained to find lesions or to predict a label."""

import dataclasses
from pathlib import Path

from featvis_jax import training
from featvis_jax.commands import allocator, startup
from featvis_jax.commands.launch import Command, line
from featvis_jax.commands.startup import StartupOptions
from featvis_jax.options import option, say
from featvis_jax.runs import train, training_plan
from featvis_jax.runs.training_options import TrainOptions

_THREADS = 8
# Bytes of a step whose memory is worth taking anew each time, so that no other lies beside it.
_LARGE = 2**29


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags(TrainOptions, StartupOptions):
    """Other."""

    cpu_threads: int | None = option(
        None,
        f"CPU threads of a training; {_THREADS} by default, however many cores there are, because "
        "their number decides how sums are rounded. Raise it to use more cores.",
        least=1,
    )
    dry_run: bool = option(
        False,
        "Estimate memory, time and disk space, and write nothing to `out`.",
        belongs_to_run=False,
    )


def main(flags: Flags) -> None:
    """Train and report the result, or estimate what a training would take."""
    assert flags.out is not None  # It is required.
    begun = training_plan.begun(Path(flags.out))
    threads = flags.cpu_threads or begun.get("cpu_threads") or _THREADS
    startup.prepare(flags, threads=threads)
    if flags.dry_run:
        say(train.plan(flags, threads=threads, on_compiled=_return_large_blocks))
        return
    train.run(flags, threads=threads, command=line("train"), on_compiled=_return_large_blocks)


def _return_large_blocks(step: training.Step) -> None:
    if step.memory_bytes > _LARGE:
        allocator.return_large_blocks()


COMMAND = Command(
    name="train",
    summary="train the paper's CNN to find lesions, or to predict a label",
    examples=(
        "--task=square_lesion --cohort=DIR --out=runs/squares",
        "--task=label:age --cohort=DIR --out=runs/age",
    ),
    options=Flags,
    main=main,
    required=("out",),
    first=("task", "cohort", "out", "dims", "crop", "steps", "dry_run"),
)
