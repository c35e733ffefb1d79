"""Stopping: signals end a launcher with status 75, and nothing that comes after can tell."""

import gc
import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import weakref
from pathlib import Path

import pytest

from featvis_jax import stopping
from featvis_jax.checkpoints import load_model
from featvis_jax.commands import launch
from featvis_jax.options import Options

REPOSITORY = Path(__file__).resolve().parents[2]
TOLD = "What was finished is saved; the same command goes on from there (exit status 75)."


def digests(directory: Path) -> dict[str, str]:
    """Digest of every file of a run by its path, without the times."""
    found = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file() and path.name != "flags.txt":  # It names the directory.
            data = path.read_bytes()
            if path.name == "run.json":
                run = {**json.loads(data), "timings": [], "environments": []}
                data = json.dumps(run).encode()
            if path.name == "units.tsv":
                header, *rows = (line.split("\t") for line in data.decode().splitlines())
                at = header.index("seconds")
                data = repr([row[:at] + row[at + 1 :] for row in rows]).encode()
            found[path.relative_to(directory).as_posix()] = hashlib.sha256(data).hexdigest()
    return found


@pytest.fixture(scope="module")
def interrupted(environment):
    """Runs a launcher with signals, then to its end in a new process; gives what was printed."""

    def run(name: str, moments: str, *arguments: str) -> tuple[subprocess.CompletedProcess, ...]:
        script = Path(__file__).with_name("interrupt.py")
        return tuple(
            subprocess.run(
                [sys.executable, str(script), name, each, *arguments],
                cwd=REPOSITORY,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            for each in (moments, "end")
        )

    return run


def test_a_visualization_that_was_stopped_and_killed_ends_with_the_same_bytes(
    interrupted, trained, launch, place
):
    model = trained(2)[0] / "model"
    arguments = [
        *[f"--model={model}", "--layer=conv1", "--layer=conv3/relu", "--channels=0:5"],
        *["--steps=8", "--regularization=blur_0.5", "--batch=2", "--gallery=false"],
    ]
    whole = launch("visualize", *arguments, f"--out={place / 'undisturbed'}")
    assert whole.returncode == 0, whole.stderr
    out = place / "disturbed"
    # Eight steps are four calls to the device: in the first batch, at the end of the second, and
    # in the third, when the process dies without a word.
    moments = "SIGTERM:2,SIGINT:8,SIGKILL:3"
    stopped, last = interrupted("visualize", moments, *arguments, f"--out={out}")
    assert stopped.returncode == -signal.SIGKILL, stopped.stderr
    # A batch that has all its steps when the signal comes is kept.
    assert stopped.stdout.splitlines() == ["status 75, 0 units", "status 75, 4 units"]
    assert stopped.stderr.count(TOLD) == 2
    assert "Traceback" not in stopped.stderr
    assert last.returncode == 0, last.stderr
    assert last.stdout.endswith("status 0, 10 units\n")
    assert digests(out) == digests(place / "undisturbed")


def test_a_training_that_was_stopped_and_killed_ends_with_the_same_weights(
    interrupted, trained, training_flags, place
):
    out, (whole, _) = place / "trained-in-parts", trained(2)
    # Between evaluations, before one, and without a word.
    arguments = [*training_flags[2], f"--out={out}", "--tensorboard"]
    stopped, last = interrupted("train", "SIGINT:1,SIGTERM:1,SIGKILL:1", *arguments)
    assert stopped.returncode == -signal.SIGKILL, stopped.stderr
    assert stopped.stdout.count("status 75") == 2, stopped.stderr
    assert stopped.stderr.count(TOLD) == 2
    assert "Traceback" not in stopped.stderr
    assert last.returncode == 0, last.stderr
    cards = [load_model(directory / "model").card for directory in (out, whole)]
    assert cards[0]["weights_sha256"] == cards[1]["weights_sha256"]
    for name in ("metrics.tsv", "report.json", "split.json", "training.png"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    assert list((out / "tensorboard").glob("events.*"))


def python(text: str) -> subprocess.CompletedProcess[str]:
    """Run a program, imports of this module's kind above it."""
    above = (
        "import hashlib, os, signal, sys, time\nfrom featvis_jax import stopping\n"
        "from featvis_jax.commands import launch\nfrom featvis_jax.options import Options\n"
    )
    return subprocess.run(
        [sys.executable, "-c", above + textwrap.dedent(text)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_second_ctrl_c_ends_the_process_at_once():
    ran = python(
        """
        with stopping.listening(), stopping.held():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.2)
            print("still here", flush=True)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(30)
        """
    )
    assert ran.stdout == "still here\n"
    assert ran.returncode == 128 + signal.SIGINT


def test_sigterm_may_come_twice_as_slurm_sends_it_to_what_it_preempts():
    ran = python(
        """
        def main(_):
            with stopping.held():
                for _ in range(2):
                    os.kill(os.getpid(), signal.SIGTERM)
                    time.sleep(0.2)
                print("saved", flush=True)

        launch.run(launch.Command("save", "", (), Options, main), ["launcher"])
        """
    )
    assert (ran.returncode, ran.stdout) == (stopping.START_AGAIN, "saved\n"), ran.stderr
    assert ran.stderr.count(TOLD) == 1


def test_a_signal_after_the_end_is_too_late_to_stop_anything():
    ran = python(
        """
        with stopping.listening(last=True):
            print("done", flush=True)
        os.kill(os.getpid(), signal.SIGTERM)
        """
    )
    assert (ran.returncode, ran.stdout) == (0, "done\n")


def test_a_long_compilation_does_not_keep_a_signal_waiting():
    # Like XLA, this computes outside of Python for minutes and looks at no signal.
    ran = python(
        """
        stopping._PATIENCE_S = 0.2
        with stopping.listening():
            if os.fork() == 0:
                time.sleep(0.5)
                os.kill(os.getppid(), signal.SIGTERM)
                os._exit(0)
            hashlib.pbkdf2_hmac("sha512", b"", b"", 2**31 - 1)
        """
    )
    assert ran.returncode == stopping.START_AGAIN
    assert TOLD in ran.stderr


def test_a_signal_waits_for_what_is_held_and_for_nothing_else():
    events = []
    with pytest.raises(stopping.Stopped), stopping.listening():
        with stopping.held():
            with stopping.held():
                os.kill(os.getpid(), signal.SIGTERM)
                events.append(stopping.requested())
            events.append("written")
        events.append("never")
    assert events == [True, "written"]
    with pytest.raises(stopping.Stopped, match="SIGINT"), stopping.listening():
        assert not stopping.requested()
        os.kill(os.getpid(), signal.SIGINT)
        events.append("never")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert "never" not in events


class Finalized:
    """What Python takes down while a signal comes."""

    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)


def in_a_finalizer():
    Finalized()


def in_a_weak_reference():
    class Key:
        pass

    key = Key()
    reference = weakref.ref(key, lambda _: os.kill(os.getpid(), signal.SIGTERM))
    del key
    assert reference() is None


def in_the_collector():
    def collected(phase, info):
        gc.callbacks.remove(collected)
        os.kill(os.getpid(), signal.SIGTERM)

    gc.callbacks.append(collected)
    gc.collect()


@pytest.mark.parametrize("dies", [in_a_finalizer, in_a_weak_reference, in_the_collector])
def test_a_signal_in_a_callback_of_memory_management_is_not_swallowed(dies, capsys):
    events = []
    with pytest.raises(stopping.Stopped), stopping.listening():
        dies()
        events.append("gone on")
        time.sleep(10)
        events.append("never")
    assert events == ["gone on"]
    assert capsys.readouterr().err == ""


def test_other_errors_in_a_finalizer_are_told_as_ever(monkeypatch):
    class Wrong:
        def __del__(self):
            raise RuntimeError("wrong")

    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: told.append(unraisable.exc_type))
    with stopping.listening():
        Wrong()
    assert told == [RuntimeError]


def test_what_ignores_a_signal_goes_on_ignoring_it():
    earlier = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with stopping.listening():
            os.kill(os.getpid(), signal.SIGTERM)
            assert not stopping.requested()
    finally:
        signal.signal(signal.SIGTERM, earlier)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), MemoryError("full")])
def test_what_cannot_be_written_ends_with_one_message_and_status_2(error, capsys):
    def main(_):
        raise error

    with pytest.raises(SystemExit) as stop:
        launch.run(launch.Command("fail", "", (), Options, main), ["launcher"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"Error: {error}\n"
