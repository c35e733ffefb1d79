"""Runs the scripts of docs/cluster.md through what a cluster does to jobs; nothing may be lost.

    python -m tests.stress.slurm
    python -m tests.stress.slurm --only=preemption --proctrack=linuxproc

Sets up a Slurm of its own, as root (`tests.stress.slurm_cluster`). The scripts run as they stand in
the document; SCRATCH, and flags behind the name of the script, make the work small. Ends with
status 1 if a step of a training or a finished batch is lost, or a byte differs from an undisturbed
run.
"""

import argparse
import contextlib
import hashlib
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests import batch_scripts
from tests.results import crash_points
from tests.stress import slurm_cluster
from tests.stress.slurm_jobs import EVALUATE_EVERY, VISUALIZATION, Lost, Stage, wait

ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "JAX_NUM_CPU_DEVICES": "2",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
}
STOPPED = "Stopped by SIGTERM. What was finished is saved"


# Training


def evaluations(log: str) -> list[int]:
    """The steps after which a training was evaluated, as its log has them."""
    return [int(step) for step in re.findall(r"^step (\d+): validation", log, re.MULTILINE)]


def begin_training(stage: Stage, name: str, *options: str) -> str:
    """Submit train.sbatch and wait until it trains."""
    stage.trained()
    job = stage.submit(stage.scratch(name), *options, "train.sbatch", *stage.training)
    wait(lambda: len(evaluations(stage.log(job))) > 2 or not stage.busy(job), "an evaluation")
    return job


def saved_step(stage: Stage, name: str, job: str, stops: int) -> int:
    """Wait for a stop, and read from the checkpoint what it has kept."""
    wait(lambda: stage.log(job).count(STOPPED) >= stops or not stage.busy(job), f"stop {stops}")
    log = stage.log(job)
    if log.count(STOPPED) < stops:
        raise Lost(f"job {job} was not stopped (try more --steps):\n{log[-2000:]}")
    directory = stage.scratch(name) / "runs" / "square" / "checkpoints"
    step = max(int(path.name) for path in directory.iterdir() if path.name.isdigit())
    if not step > max(evaluations(log), default=0):
        raise Lost(f"job {job} has kept step {step}, which is no later than its last evaluation")
    return step


def same_weights(stage: Stage, name: str, job: str) -> str:
    """Compare a training that was disturbed with the one that was not."""
    stage.finish(job, name)
    log = stage.log(job)
    expected = list(range(EVALUATE_EVERY, stage.steps + 1, EVALUATE_EVERY))
    if evaluations(log) != expected:
        raise Lost(f"evaluated after {evaluations(log)}; once each would be {expected}")
    if foreign := [line for line in log.splitlines() if "Traceback" in line or "WARNING" in line]:
        raise Lost(f"the log of job {job} has {foreign}")
    out = stage.scratch(name) / "runs" / "square"
    for file in ("metrics.tsv", "report.json"):
        if (out / file).read_bytes() != (stage.model / file).read_bytes():
            raise Lost(f"{file} differs from that of an undisturbed training")
    found, whole = (
        json.loads((place / "model" / "card.json").read_bytes())["weights_sha256"]
        for place in (out, stage.model)
    )
    if found != whole:
        raise Lost(f"weights {found[:8]}; undisturbed they are {whole[:8]}")
    return f"same weights ({found[:8]})"


def requeue(stage: Stage) -> str:
    """A job that its user queues again."""
    job = begin_training(stage, "requeue")
    stage.cluster.call("scontrol", "requeue", job)
    step = saved_step(stage, "requeue", job, 1)
    return (
        f"stopped and saved at step {step} of {stage.steps}, {same_weights(stage, 'requeue', job)}"
    )


def time_limit(stage: Stage) -> str:
    """A job that needs several times its limit."""
    stage.trained()
    # In the place of two lines of the script. Slurm looks every 30 s: this is after 15 to 45 s.
    options = ("--time=2", "--signal=B:USR1@75")
    scratch = stage.scratch("time_limit")
    job = stage.submit(scratch, *options, "train.sbatch", *stage.training)
    step = saved_step(stage, "time_limit", job, 1)
    same = same_weights(stage, "time_limit", job)
    stops = stage.log(job).count(STOPPED)
    _, restarts = stage.cluster.state(job)
    return f"stops: {stops}, first at step {step}; starts again: {restarts}; {same}"


def preemption(stage: Stage) -> str:
    """A job that has to make room for one that is more urgent."""
    job = begin_training(stage, "preemption")
    stage.submit(
        stage.scratch("preemption"),
        *["--partition=urgent", "--nodes=3", "--exclusive", "--output=/dev/null", "--wrap=sleep 3"],
    )
    step = saved_step(stage, "preemption", job, 1)
    same = same_weights(stage, "preemption", job)
    if "DUE TO PREEMPTION" not in stage.log(job):
        raise Lost(f"job {job} was not preempted")
    return f"stopped and saved at step {step} of {stage.steps}, {same}"


def cancellation(stage: Stage) -> str:
    """A job that its user ends has to stay ended, and the next one to go on."""
    job = begin_training(stage, "cancellation")
    stage.cluster.call("scancel", job)
    step = saved_step(stage, "cancellation", job, 1)
    wait(lambda: not stage.busy(job), "the end of a job that was cancelled")
    if (state := stage.cluster.state(job)) != ("CANCELLED", 0):
        raise Lost(f"job {job} was cancelled, and is {state}")
    directory = stage.scratch("cancellation")
    second = stage.submit(directory, "train.sbatch", *stage.training)
    wait(lambda: not stage.busy(second), f"the end of job {second}")
    log = stage.log(second)
    if not evaluations(log) or min(evaluations(log)) <= step - EVALUATE_EVERY:
        raise Lost(f"job {second} went on after {evaluations(log)[:1]}, not after step {step}")
    third = stage.submit(directory, "train.sbatch", *stage.training)
    stage.finish(third, "a finished training")
    if "is finished" not in stage.log(third):
        raise Lost(f"job {third} did not see that all is done:\n{stage.log(third)}")
    return f"stopped and saved at step {step}, stayed ended; a third job saw that all is done"


# Visualization


def files(out: Path) -> dict[str, str]:
    """Digests of what a visualization found, with its table but for the times."""
    found = {
        name: digest
        for name, digest in crash_points.digests(out).items()
        if name.startswith(("images/", "traces/", "sheets/"))
    }
    header, *rows = (line.split("\t") for line in (out / "units.tsv").read_text().splitlines())
    at = header.index("seconds")
    table = repr([row[:at] + row[at + 1 :] for row in rows])
    return {**found, "units.tsv": hashlib.sha256(table.encode()).hexdigest()}


def same_images(stage: Stage, name: str) -> str:
    """Compare a visualization that was disturbed with the one that was not."""
    out, whole = stage.scratch(name) / "runs" / "pictures", stage.visualized()
    if files(out) != files(whole):
        raise Lost(f"other files than those of an undisturbed run: {out}")
    if (out / "shards").exists():
        raise Lost(f"{out / 'shards'} is still there")
    timings = json.loads((out / "run.json").read_bytes())["timings"]
    parts = len({timing["shard"] for timing in timings if "shard" in timing})
    return f"same {len(files(out))} files, the times of {parts} parts kept"


def prepare(stage: Stage, name: str) -> Path:
    """A place with the trained model; gives where the pictures go."""
    stage.visualized()
    scratch = stage.scratch(name)
    (scratch / "runs" / "square").symlink_to(stage.model)
    return scratch / "runs" / "pictures"


def kill(stage: Stage, out: Path, part: str, job: str) -> str:
    """Kill the process of a part when it has finished a batch; gives what its lock said of it."""
    place = out / "shards" / part
    table = place / "units.tsv"
    wait(
        lambda: (table.exists() and table.read_text().count("\n") > 1) or not stage.busy(job),
        f"a first channel of {part}",
    )
    holder = (place / ".lock").read_text().strip()
    number = re.match(r"process (\d+) on .* \(Slurm job (\S+)\)", holder)
    if number is None:
        raise Lost(f"{place}: its lock says {holder!r}; it ended too soon, or has no job's number")
    os.kill(int(number[1]), signal.SIGKILL)
    return number[2]


def array(stage: Stage) -> str:
    """An array with one element that is killed and one that is queued again, then collected."""
    out, scratch = prepare(stage, "array"), stage.scratch("array")
    parts = "--array=1-4%3"
    job = stage.submit(scratch, parts, "visualize.sbatch", *VISUALIZATION)
    last = stage.submit(scratch, f"--dependency=afterany:{job}", "collect.sbatch", *VISUALIZATION)
    killed = kill(stage, out, "0002-of-0004", job)
    if killed != f"{job}_2":
        raise Lost(f"the lock of element {job}_2 names {killed}")
    stage.cluster.call("scontrol", "requeue", f"{job}_3")
    wait(lambda: not stage.busy(last), "the end of the collecting run")
    if STOPPED not in stage.log(f"{job}_3"):
        raise Lost(f"element {job}_3 was not stopped:\n{stage.log(f'{job}_3')[-2000:]}")
    stage.finish(last, "collection")
    same = same_images(stage, "array")
    # An element that comes too late.
    late = stage.submit(scratch, "--array=1", "visualize.sbatch", *VISUALIZATION)
    stage.finish(late, "a late element")
    if (out / "shards").exists():
        raise Lost(f"job {late} came too late and left {out / 'shards'}")
    return f"element 2 killed, 3 queued again, then collected, {same}; a late one left nothing"


def tasks(stage: Stage) -> str:
    """Tasks of srun, one of which is killed."""
    out = prepare(stage, "tasks")
    job = stage.submit(
        stage.scratch("tasks"),
        *["--ntasks=3", "--nodes=3", "tasks.sbatch", *VISUALIZATION],
    )
    kill(stage, out, "0002-of-0003", job)
    stage.finish(job, "tasks")
    whole = re.findall(r"^Shard (\d) of 3", stage.log(job), re.MULTILINE)
    if sorted(whole) != ["1", "3"]:
        raise Lost(f"tasks {whole} of job {job} ended well; expected 1 and 3")
    return (
        f"task 2 of 3 killed, the others ended well, then collected, {same_images(stage, 'tasks')}"
    )


def ranks(stage: Stage) -> str:
    """Ranks of mpirun, one of which is killed."""
    out = prepare(stage, "ranks")
    script = stage.clone / "ranks.sbatch"
    script.write_text(batch_scripts.with_mpirun((stage.clone / "tasks.sbatch").read_text()))
    job = stage.submit(
        stage.scratch("ranks"),
        *["--ntasks=3", "--nodes=1", script.name, *VISUALIZATION],
    )
    kill(stage, out, "0002-of-0003", job)
    stage.finish(job, "ranks")
    return f"rank 2 of 3 killed, then collected, {same_images(stage, 'ranks')}"


CASES: dict[str, Callable[[Stage], str]] = {
    case.__name__: case
    for case in (requeue, time_limit, preemption, cancellation, array, tasks, ranks)
}


def main() -> None:
    """Run the cases, each with its line of result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=CASES, help="one case")
    parser.add_argument("--proctrack", choices=("cgroup", "linuxproc"), default="cgroup")
    parser.add_argument(
        "--steps", type=int, default=4000, help="of a training; it has to outlast 30 s"
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    lost = 0
    # Sockets have short names.
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-")))
        for name in ("cluster", "work"):
            (root / name).mkdir()
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("SLURM_")},
            **ENVIRONMENT,
            "JAX_COMPILATION_CACHE_DIR": str(root / "programs"),
        }
        try:
            slurm_cluster.install()
            cluster = stack.enter_context(
                slurm_cluster.started(
                    root / "cluster", proctrack=options.proctrack, environment=environment
                )
            )
        except slurm_cluster.Missing as missing:
            sys.exit(f"Slurm cannot be tried here. {missing}")
        print(f"{cluster.call('sinfo', '--version')}, proctrack/{options.proctrack}", flush=True)
        stage = Stage(root / "work", cluster, options.steps)
        for name in [options.only] if options.only else CASES:
            started = time.monotonic()
            try:
                told = CASES[name](stage)
            except (Lost, RuntimeError) as error:
                lost += 1
                told = f"LOST: {error}"
            print(f"{name}: {told} ({time.monotonic() - started:.0f} s)", flush=True)
    print(f"{lost} of {1 if options.only else len(CASES)} cases lost anything.")
    sys.exit(1 if lost else 0)


if __name__ == "__main__":
    main()
