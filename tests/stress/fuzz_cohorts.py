"""Reads damaged scans and cohorts by the hundred thousand, and counts what must not happen.

    python -m tests.stress.fuzz_cohorts --cases=100000

A case is a scan, a cohort or a bomb, drawn from the seed and its own number (`--first=N --cases=1`
repeats one). It has to be read, or refused by an error that names the file. Counted are: crashes
(any other exception, a warning, or the end of the process), hangs (over `--seconds` for one case),
errors without the name of a file; and the peak memory. The exit status is 0 if there is none.
"""

import argparse
import json
import multiprocessing
import re
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from random import Random

from featvis_jax.data.cache import cache_volumes
from featvis_jax.data.cohorts import read_cohort
from featvis_jax.data.errors import CohortError, VolumeError
from featvis_jax.data.splits import split_subjects
from featvis_jax.data.volumes import load_volume
from tests.data import mutations

RunCase = Callable[[int, int], tuple[str, str]]
BAD = ("crash", "hang", "unnamed error")
# Every line about a row or a file says where it is.
_PLACE = re.compile(r"\.(tsv|nii|nii\.gz)\b|line \d+")
_SHOWN = 10


def scan_case(random: Random, folder: Path) -> str:
    """One damaged file."""
    path = folder / random.choice(("scan.nii", "scan.nii.gz"))
    path.write_bytes(mutations.bomb(random) if random.random() < 0.002 else mutations.scan(random))
    try:
        load_volume(path)
    except VolumeError as error:
        return "refused" if str(path) in str(error) else f"unnamed error: {error}"
    return "read"


def cohort_case(random: Random, folder: Path) -> str:
    """Three scans and a table, some of them damaged, on their way to a split."""
    path = mutations.cohort(random, folder / "cohort")
    try:
        cohort = read_cohort(path)
        cache_volumes(cohort.subjects, folder / "cache")
    except CohortError as error:
        heading = str(error).split("\n")[0]
        named = str(path) in heading or all(_PLACE.search(line) for line in error.problems)
        return "refused" if named and error.problems else f"unnamed error: {error}"
    try:
        label = "sex" if "sex" in cohort.subjects[0].labels else None
        split_subjects(cohort, label=label, test_fraction=0.34, validation_fraction=0.5)
    except CohortError as error:
        return "refused" if str(cohort.table) in str(error) else f"unnamed error: {error}"
    return "read"


def run_case(seed: int, number: int) -> tuple[str, str]:
    """Kind and outcome of one case."""
    random = Random(f"{seed} {number}")
    kind, case = ("cohort", cohort_case) if random.random() < 0.2 else ("scan", scan_case)
    with tempfile.TemporaryDirectory(prefix="fuzz") as folder:
        try:
            return kind, case(random, Path(folder))
        except Exception as error:
            return kind, f"crash: {type(error).__name__}: {error}"


def work(connection: Connection, run_case: RunCase, seed: int, first: int, stop: int) -> None:
    """Run cases and report each; a process of its own, since a hang can only be killed."""
    warnings.simplefilter("error")
    for number in range(first, stop):
        connection.send((number, *run_case(seed, number), peak_mebibytes()))
    connection.close()


def peak_mebibytes() -> float:
    """The most memory that this process has ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def wait(receiver: Connection, worker: SpawnProcess, seconds: float) -> bool:
    """Whether a case ended in time; seconds in which somebody has paused its process are free."""
    waited = 0.0
    while waited < seconds:
        if receiver.poll(1.0):
            return True
        state = Path(f"/proc/{worker.pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        waited += state not in "Tt"
    return False


def fuzz(
    seed: int,
    first: int,
    stop: int,
    seconds: float,
    *,
    run_case: RunCase = run_case,
    bad: Sequence[str] = BAD,
) -> dict[str, object]:
    """Run all cases; a hang or a dead process costs its case and no more."""
    context = multiprocessing.get_context("spawn")
    counts: Counter[str] = Counter()
    found: list[str] = []
    peak = slowest = 0.0
    number = first
    while number < stop:
        receiver, sender = context.Pipe(duplex=False)
        worker = context.Process(
            target=work, args=(sender, run_case, seed, number, stop), daemon=True
        )
        worker.start()
        sender.close()
        # The first case of a process waits for its imports.
        limit = seconds + 60
        while number < stop:
            started = time.monotonic()
            try:
                arrived = wait(receiver, worker, limit)
                outcome = receiver.recv() if arrived else (number, "?", "hang", 0.0)
            except EOFError:
                outcome = (number, "?", f"crash: process ended with {worker.exitcode}", 0.0)
            _, kind, result, memory = outcome
            slowest = max(slowest, time.monotonic() - started) if limit == seconds else slowest
            limit, peak = seconds, max(peak, memory)
            name = result.split(":")[0]
            counts[f"{kind} {name}"] += 1
            if name in bad:
                found.append(f"case {number}, {kind}: {result}")
                sys.stderr.write(f"{found[-1]}\n")
            number += 1
            if number % 5000 == 0:
                sys.stderr.write(f"{number - first} cases, {len(found)} bad\n")
            if memory == 0.0:
                break
        worker.kill()
        worker.join()
    totals = {kind: sum(line.split(": ")[1].startswith(kind) for line in found) for kind in bad}
    return {
        "seed": seed,
        "cases": stop - first,
        **totals,
        "peak_mebibytes": round(peak),
        "slowest_seconds": round(slowest, 2),
        "outcomes": dict(sorted(counts.items())),
        "examples": found[:_SHOWN],
    }


def main() -> int:
    """Read the options, run, write a report as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=20.0, help="limit for one case")
    options = parser.parse_args()
    report = fuzz(options.seed, options.first, options.first + options.cases, options.seconds)
    sys.stdout.write(json.dumps(report, indent=1) + "\n")
    return int(any(report[bad] for bad in BAD))


if __name__ == "__main__":
    sys.exit(main())
