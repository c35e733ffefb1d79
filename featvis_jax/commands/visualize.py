"""``featvis visualize``: every channel of a trained network's layers, as images and pages."""

import dataclasses
import os
import re
from pathlib import Path

from featvis_jax.commands import cluster, startup
from featvis_jax.commands.launch import Command, line
from featvis_jax.commands.startup import StartupOptions
from featvis_jax.layers_table import layers_text
from featvis_jax.models import loaded
from featvis_jax.options import option
from featvis_jax.runs import channels, tensorboard, visualize, visualize_job
from featvis_jax.runs.environment import environment
from featvis_jax.runs.visualize_job import Shard, VisualizeOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags(VisualizeOptions, StartupOptions):
    """Other."""

    list_layers: bool = option(
        False, "List the layers of the model, and stop.", belongs_to_run=False
    )
    dry_run: bool = option(
        False,
        "Estimate batches, memory, time and disk space; write nothing.",
        belongs_to_run=False,
    )
    shard: str | None = option(
        None,
        "I/N: compute every Nth batch, starting with the Ith, beside N-1 other processes; or "
        "cluster: the part that srun or mpirun gave to this process. Afterwards the same command "
        "without `shard` puts everything together and computes what is missing.",
        belongs_to_run=False,
    )


def main(flags: Flags) -> None:
    """Visualize and say where the results are."""
    startup.prepare(flags)
    model = loaded(flags)
    if flags.list_layers:
        print(layers_text(model.network))
        return
    if flags.out is None:
        raise ValueError("`out` is missing: name a directory for the results.")
    out, shard = Path(flags.out), _shard(flags)
    job = visualize_job.job(model, flags)
    batch_size = flags.batch_size or visualize.begun_batch_size(out)
    tensorboard.library(flags.tensorboard)  # Missing, it is missed before anything is compiled.
    channels.tell_unnamed(model)
    if flags.dry_run:
        print(visualize.plan(job, batch_size=batch_size, out=out))
        return
    run = visualize.write(
        job,
        flags,
        out=out,
        batch_size=batch_size,
        shard=shard,
        environment=environment(line("visualize")),
    )
    if run is None:
        assert shard is not None
        print(f"Shard {shard[0]} of {shard[1]}: nothing was left to do in {out}.")
        return
    print(visualize.summary(run, variants=flags.variants))
    if shard is not None:
        print(f"Shard {shard[0]} of {shard[1]}: {run.directory}")
        print("When all are done, the same command without --shard puts them together.")
        return
    for layer in job.layers:
        print(f"Contact sheet: {run.sheet_path(layer.name)}")
    print(f"Results: {out}")
    if flags.gallery:
        print(f"Gallery: {visualize.pages(run).resolve().as_uri()}")


def _shard(flags: Flags) -> Shard | None:
    """This process's number and how many there are."""
    if flags.shard is None:
        return None
    if flags.shard == "cluster":
        part = cluster.shard(os.environ)
    else:
        numbers = re.fullmatch(r"([1-9]\d{0,3})/([1-9]\d{0,3})", flags.shard)
        if numbers is None or int(numbers[1]) > int(numbers[2]):
            raise ValueError(
                f"`shard={flags.shard}`: expected I/N with I from 1 to N, such as 2/4, or cluster."
            )
        part = int(numbers[1]), int(numbers[2])
    if flags.batch == "auto":
        raise ValueError(
            f"`shard={flags.shard}` needs `batch=N`: all processes have to use the same batch. "
            "`dry_run` shows which one fits."
        )
    if flags.tensorboard:
        raise ValueError(
            f"`shard={flags.shard}`: `tensorboard` needs the whole run; leave one of them out."
        )
    return part


COMMAND = Command(
    name="visualize",
    summary="find the image that drives each channel of a layer most",
    examples=(
        "--model=square-lesion --layer=conv3 --out=runs/conv3",
        "--model=DIR --layer=conv4 --layer=conv5 --channels=0:8 --out=runs/deep",
    ),
    options=Flags,
    main=main,
    required=("model",),
    first=("model", "layer", "channels", "out", "reference", "list_layers", "dry_run"),
)
