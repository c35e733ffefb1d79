"""Runs random cases in a process of their own, and counts what must not happen.

Counted are: crashes (any exception but the package's own, a warning, or the end of the process),
hangs (over `--seconds` for one case), errors without the name of a file, results that differ from
a second reading; and the peak memory.
"""

import argparse
import json
import multiprocessing
import resource
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path

BAD = ("crash", "hang", "unnamed error", "silent difference", "refused without a reason")
_SHOWN = 10

Case = Callable[[int, int], tuple[str, str]]
"""Runs the case of a seed and a number: its kind, and "read", "refused" or what is wrong."""


def work(connection: Connection, case: Case, seed: int, first: int, stop: int) -> None:
    """Run cases and report each; a process of its own, since a hang can only be killed."""
    warnings.simplefilter("error")
    for number in range(first, stop):
        connection.send((number, *case(seed, number), peak_mebibytes()))
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


def fuzz(case: Case, seed: int, first: int, stop: int, seconds: float) -> dict[str, object]:
    """Run all cases; a hang or a dead process costs its case and no more."""
    context = multiprocessing.get_context("spawn")
    counts: Counter[str] = Counter()
    found: list[str] = []
    peak = slowest = 0.0
    number = first
    while number < stop:
        receiver, sender = context.Pipe(duplex=False)
        worker = context.Process(target=work, args=(sender, case, seed, number, stop), daemon=True)
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
            if name in BAD:
                found.append(f"case {number}, {kind}: {result}")
                sys.stderr.write(f"{found[-1]}\n")
            number += 1
            if number % 5000 == 0:
                sys.stderr.write(f"{number - first} cases, {len(found)} bad\n")
            if memory == 0.0:
                break
        worker.kill()
        worker.join()
    totals = {bad: sum(line.split(": ")[1].startswith(bad) for line in found) for bad in BAD}
    return {
        "seed": seed,
        "cases": stop - first,
        **totals,
        "peak_mebibytes": round(peak),
        "slowest_seconds": round(slowest, 2),
        "outcomes": dict(sorted(counts.items())),
        "examples": found[:_SHOWN],
    }


def main(case: Case, description: str) -> int:
    """Read the options, run, write a report as JSON; 0 if nothing bad happened."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--count", "--cases", dest="cases", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=20.0, help="limit for one case")
    options = parser.parse_args()
    report = fuzz(case, options.seed, options.first, options.first + options.cases, options.seconds)
    sys.stdout.write(json.dumps(report, indent=1) + "\n")
    return int(any(report[bad] for bad in BAD))
