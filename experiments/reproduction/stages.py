"""Running other launchers one after the other: what is finished is not run again.

cohort.json         checksums of the scans that it was begun with
logs/NAME.log       what a stage printed
stages/NAME.json    its command, how long it took, and whether it is finished
"""

import datetime
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from featvis_jax import stopping
from featvis_jax.data.cache import checksums
from featvis_jax.data.cohorts import Cohort
from featvis_jax.progress import duration
from featvis_jax.results.files import atomic_write_bytes, make_directory
from featvis_jax.results.manifest import encode_json, refuse_mismatch
from featvis_jax.runs.cohorts import cached_volumes

_LAST_LINES = 8
# A signal lets a launcher finish what it holds: a step, or files that are being written.
_STOP_S = 120.0


class Stage(NamedTuple):
    """One command of a launcher.

    Attributes:
      name: Of its log and its marker.
      module: The launcher's, such as ``"experiments.train"``.
      arguments: Its flags.
      after: Names of the stages whose results it reads.
    """

    name: str
    module: str
    arguments: tuple[str, ...]
    after: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """The command as a user types it.

        Example:
          >>> Stage("pictures", "experiments.visualize", ("--out=my runs",)).command
          "python -m experiments.visualize '--out=my runs'"
        """
        return shlex.join(["python", "-m", self.module, *self.arguments])


def marker(out: Path, name: str) -> dict[str, Any]:
    """What is known of a stage; empty before it first ran, or where the file is damaged.

    Args:
      out: Directory of the reproduction.
      name: The stage's.
    """
    try:
        found = json.loads((out / "stages" / f"{name}.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def is_finished(out: Path, stage: Stage) -> bool:
    """Whether a stage ended well with this very command, on what the stages before it left.

    Args:
      out: Directory of the reproduction.
      stage: The stage.
    """
    found = marker(out, stage.name)
    return (
        bool(found.get("finished"))
        and found.get("command") == stage.command
        and found.get("inputs") == _inputs(out, stage)
    )


def refuse_other_cohort(out: Path, cohort: Cohort, cache: Path) -> None:
    """Refuse to mix results of scans or labels that were replaced between two starts.

    Args:
      out: Directory of the reproduction; the first start notes there what it found.
      cohort: The subjects.
      cache: Directory for their cached volumes.

    Raises:
      ValueError: Files of the cohort are not those of the first start; it names them.
      CohortError: Scans cannot be read.
    """
    cached = cached_volumes(cohort, cache)
    files, path = checksums(cohort, cached), out / "cohort.json"
    if path.exists():
        refuse_mismatch(out, json.loads(path.read_bytes()), files)
    atomic_write_bytes(path, encode_json(files))


def run_stages(
    out: Path, stages: Sequence[Stage], *, tell: Callable[[str], None] = lambda text: None
) -> None:
    """Run what is not finished, in order.

    Args:
      out: Directory of the reproduction.
      stages: All stages.
      tell: Is handed the line about each stage in two parts, before and after it.

    Raises:
      ValueError: A stage failed; the error names it, its command and its log.
      stopping.Stopped: Somebody asked to stop, here or in the stage.
    """
    for directory in ("logs", "stages"):
        make_directory(out / directory)
    for number, stage in enumerate(stages, start=1):
        tell(f"[{number}/{len(stages)}] {stage.name}: ")
        if is_finished(out, stage):
            tell("finished before\n")
            continue
        try:
            seconds = _run(out, stage)
        except BaseException:
            tell("not finished\n")
            raise
        tell(f"{duration(seconds)}\n")


def _run(out: Path, stage: Stage) -> float:
    """Run one stage to its end; gives the seconds that it took, with those of earlier attempts."""
    before, inputs = marker(out, stage.name), _inputs(out, stage)
    same = before.get("command") == stage.command and before.get("inputs") == inputs
    spent = float(before.get("seconds", 0.0)) if same and not before.get("finished") else 0.0
    log, started = out / "logs" / f"{stage.name}.log", time.monotonic()
    status = -1
    try:
        status = _wait(stage, log)
    finally:
        seconds = spent + time.monotonic() - started
        record: Mapping[str, Any] = {
            "command": stage.command,
            "inputs": inputs,
            "finished": status == 0,
            "seconds": round(seconds, 3),
            "ended": datetime.datetime.now(datetime.UTC).isoformat(),
        }
        atomic_write_bytes(out / "stages" / f"{stage.name}.json", encode_json(record))
    if status == stopping.START_AGAIN:
        raise stopping.Stopped(f"a signal to the stage {stage.name}")
    if status != 0:
        raise ValueError(_failure(stage, log, status))
    return seconds


def _wait(stage: Stage, log: Path) -> int:
    """Run a command with its output in a file, and pass a wish to stop on to it."""
    with log.open("ab") as stream:
        stream.write(f"$ {stage.command}\n".encode())
        stream.flush()
        # A group of its own: a terminal's Ctrl-C would reach it a second time, and end it at once.
        process = subprocess.Popen(
            [sys.executable, "-m", stage.module, *stage.arguments],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
            raise


def _failure(stage: Stage, log: Path, status: int) -> str:
    lines = log.read_text("utf-8", errors="replace").splitlines()
    last = "\n".join(f"    {line}" for line in lines[-_LAST_LINES:])
    return (
        f"The stage {stage.name} ended with status {status}. Its command was\n  {stage.command}\n"
        f"and the last lines of {log} are\n{last}\nMend that and give the same command again: "
        "finished stages are kept."
    )


def _inputs(out: Path, stage: Stage) -> dict[str, str | None]:
    """When each stage before this one ended."""
    return {name: marker(out, name).get("ended") for name in stage.after}
