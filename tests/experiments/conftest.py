"""Launchers are run as their users run them: as programs, on a small synthetic cohort."""

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
# Functions of the library that are compiled as a whole, by their names. Whatever else is compiled
# before a launcher has checked its input is single small operations.
LARGE_PROGRAMS = {"init", "update", "_apply", "run", "one_variant"}

Outcomes = list[dict[str, Any]]


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where cohorts, models and runs of all launcher tests are, for all processes of pytest."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # Each process has its own below it.
    (root / "launchers").mkdir(exist_ok=True)
    return root / "launchers"


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of every launcher."""
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "2",  # Whatever the machine has.
        "NPROC": "8",  # As a training has it, whichever launcher starts JAX in a process.
        "PYTHONPATH": str(REPOSITORY),
        # What one launcher compiled, the next one finds.
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("programs")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


@pytest.fixture(scope="session")
def launch(environment: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a launcher as a program of its own."""

    def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", f"experiments.{name}", *arguments],
            cwd=REPOSITORY,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def drive(environment: dict[str, str]) -> Callable[[str, Sequence[Sequence[str]]], Outcomes]:
    """Runs a launcher with many lists of flags, one after the other in one process."""

    def run(name: str, commands: Sequence[Sequence[str]]) -> Outcomes:
        driven = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("drive.py")), name],
            cwd=REPOSITORY,
            env=environment,
            input=json.dumps([list(command) for command in commands]),
            capture_output=True,
            text=True,
            check=False,
        )
        assert driven.returncode == 0, driven.stderr
        return json.loads(driven.stdout)

    return run


def assert_refused(outcome: dict[str, Any], told: Sequence[str]) -> None:
    """Checks that a launcher stopped in time, with one message that says these things."""
    errors = outcome["errors"]
    assert outcome["status"] == 2, errors
    assert errors.startswith("Error: ")
    assert errors.count("Error: ") == 1
    assert "Traceback" not in errors
    for text in told:
        assert text in errors
    assert not LARGE_PROGRAMS & set(outcome["compiled"])


@pytest.fixture(scope="session")
def refused() -> Callable[[dict[str, Any], Sequence[str]], None]:
    """The check of what a launcher says to bad input."""
    return assert_refused


@pytest.fixture(scope="session")
def cohort_flags(place: Path) -> list[str]:
    """Flags of a synthetic cohort of six subjects with voxels of 4 mm."""
    return [
        "--synthetic_subjects=6",
        "--synthetic_voxel_size_mm=4",
        f"--cache={place / 'cache'}",
    ]


@pytest.fixture(scope="session")
def cohort(place: Path, trained: Callable[[int], tuple[Path, str]]) -> Path:
    """The directory of that cohort."""
    trained(2)
    return place / "cache" / "synthetic-6-subjects-4mm-difference-0"


@pytest.fixture(scope="session")
def training_flags(cohort_flags: list[str]) -> dict[int, list[str]]:
    """Flags of a short training by the number of dimensions."""
    short = ["--steps=4", "--evaluate_every=2", "--validation_images=6", "--lesion_size_mm=16,28"]
    return {
        2: [*cohort_flags, *short, "--batch=4", "--crop=40,44"],
        3: [
            *[*cohort_flags, *short, "--batch=2", "--crop=36,38,34"],
            *["--task=gaussian_lesion", "--dims=3"],
        ],
    }


@pytest.fixture(scope="session")
def trained(
    place: Path,
    launch: Callable[..., subprocess.CompletedProcess[str]],
    training_flags: dict[int, list[str]],
) -> Callable[[int], tuple[Path, str]]:
    """Trains a network for slices or volumes once; gives its directory and what was printed."""

    def train(rank: int) -> tuple[Path, str]:
        out, printed = place / f"trained-{rank}d", place / f"trained-{rank}d.txt"
        with printed.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # One process trains, the others wait for it.
            if not printed.exists():
                ran = launch("train", *training_flags[rank], f"--out={out}")
                assert ran.returncode == 0, ran.stderr
                assert "Traceback" not in ran.stderr
                printed.write_text(ran.stdout)
        return out, printed.read_text()

    return train
