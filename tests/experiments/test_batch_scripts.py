"""The Slurm scripts of docs/cluster.md, without a Slurm: signals and exit statuses."""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests import batch_scripts

SCRIPTS = batch_scripts.scripts()
# Stands for Python: notes its arguments, and ends when it is asked to or as a file says.
PYTHON = """#!/bin/bash
echo "$@" > arguments
trap 'echo TERM >> signals; stop=yes' TERM
touch ready
for ((i = 0; i < 200; i++)); do
    if [[ $stop ]]; then sleep 0.3; exit "$(cat stopped 2>/dev/null || echo 75)"; fi
    if [[ -e status ]]; then exit "$(cat status)"; fi
    sleep 0.05
done
exit 1
"""
SCONTROL = '#!/bin/bash\necho "$@" >> requeued\n'


@pytest.fixture
def submit(tmp_path):
    """Starts a script as Slurm does, in a group of processes of its own."""
    programs = {".venv/bin/python": PYTHON, "bin/scontrol": SCONTROL}
    for name, text in programs.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
        path.chmod(0o755)
    started = []

    def start(name: str, *flags: str) -> subprocess.Popen[str]:
        (tmp_path / name).write_text(SCRIPTS[name])
        job = subprocess.Popen(
            ["bash", name, *flags],
            cwd=tmp_path,
            env={
                "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
                **{"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "17", "SCRATCH": "scratch"},
                **{"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "32"},
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(job)
        deadline = time.monotonic() + 20
        while not (tmp_path / "ready").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return job

    yield start
    for job in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
        job.communicate()


def noted(directory: Path, name: str) -> list[str]:
    """Lines that a stand-in left."""
    path = directory / name
    return path.read_text().splitlines() if path.exists() else []


def to_the_shell(job, number):
    """As proctrack/cgroup does."""
    os.kill(job.pid, number)


def to_all(job, number):
    """As proctrack/linuxproc does."""
    os.killpg(job.pid, number)


def test_the_document_names_every_script():
    assert list(SCRIPTS) == ["train.sbatch", "visualize.sbatch", "collect.sbatch", "tasks.sbatch"]
    for name, text in SCRIPTS.items():
        checked = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
        assert checked.returncode == 0, f"{name}: {checked.stderr}"
    assert "\nmpirun --bind-to none" in batch_scripts.with_mpirun(SCRIPTS["tasks.sbatch"])


@pytest.mark.parametrize("name", ["train.sbatch", "visualize.sbatch", "collect.sbatch"])
@pytest.mark.parametrize("send", [to_the_shell, to_all])
@pytest.mark.parametrize("times", [1, 2])
def test_sigterm_reaches_python_and_its_status_is_that_of_the_job(
    submit, tmp_path, name, send, times
):
    job = submit(name, "--steps=5")
    for _ in range(times):  # Slurm sends it twice to what it preempts.
        send(job, signal.SIGTERM)
        time.sleep(0.1)
    job.communicate(timeout=20)
    assert job.returncode == 75
    assert "TERM" in noted(tmp_path, "signals")
    # Slurm starts again what it queued again itself, and scancel means what it says.
    assert noted(tmp_path, "requeued") == []
    (arguments,) = noted(tmp_path, "arguments")
    assert arguments.startswith("-m experiments.") and arguments.endswith(" --steps=5")
    assert ("--shard=3/32" in arguments) == (name == "visualize.sbatch")


# 143: it was starting, and did not listen yet. 0: it was done when the signal came.
@pytest.mark.parametrize(("status", "again"), [(75, True), (143, True), (0, False)])
def test_a_training_near_its_time_limit_is_stopped_and_queued_again(
    submit, tmp_path, status, again
):
    assert "#SBATCH --signal=B:USR1@" in SCRIPTS["train.sbatch"]
    (tmp_path / "stopped").write_text(str(status))
    job = submit("train.sbatch")
    to_the_shell(job, signal.SIGUSR1)
    job.communicate(timeout=20)
    assert job.returncode == status
    assert noted(tmp_path, "signals") == ["TERM"]
    assert noted(tmp_path, "requeued") == ["requeue 17"] * again


@pytest.mark.parametrize("status", [0, 2, 75, 137])
def test_without_a_signal_the_status_is_handed_on_and_nothing_queued(submit, tmp_path, status):
    job = submit("train.sbatch")
    (tmp_path / "status").write_text(str(status))
    job.communicate(timeout=20)
    assert job.returncode == status
    assert noted(tmp_path, "requeued") == []
