"""What a command sets up: where programs are kept, which devices and threads there are."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from featvis_jax.commands import startup
from featvis_jax.commands.startup import StartupOptions

REPOSITORY = Path(__file__).resolve().parents[2]
OPTIONS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_platforms",
)


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """JAX's configuration as it was."""
    before = {name: getattr(jax.config, name) for name in OPTIONS}
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_programs_are_kept_where_the_flag_says(tmp_path):
    startup.prepare(StartupOptions(compilation_cache=str(tmp_path / "a" / "programs")))
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "a" / "programs")
    assert (tmp_path / "a" / "programs").is_dir()


def test_without_a_directory_nothing_is_kept():
    startup.prepare(StartupOptions(compilation_cache=""))
    assert jax.config.jax_compilation_cache_dir is None


def test_the_cache_of_jaxs_own_variable_is_left_alone(tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    startup.prepare(StartupOptions())
    assert jax.config.jax_compilation_cache_dir == str(tmp_path)


def test_a_directory_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    options = StartupOptions(compilation_cache=str(tmp_path / "file" / "programs"))
    told = "`compilation_cache=.*Give a directory that can be written"
    with pytest.raises(OSError, match=told):
        startup.prepare(options)


# /proc takes no file from anybody, root included.
@pytest.mark.skipif(sys.platform != "linux", reason="Nothing is as surely read-only.")
def test_a_home_that_cannot_be_written_stops_no_run(monkeypatch, capsys):
    monkeypatch.setenv("HOME", "/proc/1")
    startup.prepare(StartupOptions())
    assert jax.config.jax_compilation_cache_dir is None
    told = capsys.readouterr().err
    assert told.startswith("`compilation_cache=~/.cache/featvis_jax/programs`: ")
    assert "not kept for the next start" in told


def test_nor_does_a_user_without_a_home(monkeypatch, capsys):
    def fail(self):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", fail)
    startup.prepare(StartupOptions())
    assert "Could not determine home directory" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="Nothing is as surely read-only.")
def test_volumes_are_then_kept_for_as_long_as_the_process_runs():
    program = (
        "import pathlib; from featvis_jax.runs import cache; "
        "first = cache.cache_directory(None); assert first == cache.cache_directory(None); "
        "(first / 'volumes').mkdir(); print(first)"
    )
    silent = {name: value for name, value in os.environ.items() if name != "XDG_CACHE_HOME"}
    found = subprocess.run(
        [sys.executable, "-c", program],
        env={**silent, "HOME": "/proc/1", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stderr.splitlines()[-1].startswith("`cache=~/.cache/featvis_jax`: no file can")
    assert found.stdout.strip() in found.stderr
    assert not Path(found.stdout.strip()).exists()


@pytest.mark.parametrize(
    ("platform", "error"),
    [("cuda", AssertionError()), ("gpuu", RuntimeError("Unable to\ninitialize backend 'gpuu'"))],
)
def test_a_device_that_is_not_there_is_told_in_one_line(monkeypatch, platform, error):
    def fail():
        raise error

    monkeypatch.setattr(jax, "local_devices", fail)
    jax.config.update("jax_platforms", platform)
    with pytest.raises(ValueError, match=f"JAX_PLATFORMS={platform}: .*BUILD.md.*unset") as told:
        startup.prepare(StartupOptions(compilation_cache=""))
    assert "\n" not in str(told.value)


def devices(told, before="pass"):
    """How many devices a program has that is told this by its environment."""
    program = (
        f"import os; {before}; "
        "import jax; from featvis_jax.commands import startup; "
        "startup.prepare(startup.StartupOptions(compilation_cache='')); "
        "print(jax.local_device_count())"
    )
    others = ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")
    silent = {name: value for name, value in os.environ.items() if name not in others}
    found = subprocess.run(
        [sys.executable, "-c", program],
        env={**silent, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(REPOSITORY), **told},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(found.stdout)


def test_a_device_count_that_is_told_holds():
    assert devices({"JAX_NUM_CPU_DEVICES": "3"}) == 3
    assert devices({"XLA_FLAGS": "--xla_force_host_platform_device_count=5"}) == 5


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="Here all cores may be used.")
def test_every_core_that_the_process_may_use_is_a_device():
    assert devices({}) == len(os.sched_getaffinity(0))
    assert devices({}, "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})") == 1


def test_where_the_system_does_not_say_which_may_be_used_every_core_is_a_device():
    # As on macOS.
    removed = "vars(os).pop('sched_getaffinity', None); os.cpu_count = lambda: 7"
    assert devices({}, removed) == 7


# XLA's threads by the name that they have on Linux.
THREADS = """
import os, pathlib, jax
from featvis_jax.commands import startup
os.sched_getaffinity = lambda process: range({cores})
startup.prepare(startup.StartupOptions(compilation_cache=""), threads=3)
jax.numpy.ones(9).block_until_ready()
names = [path.read_text() for path in pathlib.Path("/proc/self/task").glob("*/comm")]
print(jax.local_device_count(), sum("Eigen" in name for name in names), os.environ.get("NPROC"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Threads have names in /proc.")
@pytest.mark.parametrize(("cores", "devices"), [(1, 1), (2, 2), (16, 3)])
def test_a_number_of_threads_is_kept_on_any_number_of_cores(cores, devices):
    others = ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES", "NPROC")
    silent = {name: value for name, value in os.environ.items() if name not in others}
    found = subprocess.run(
        [sys.executable, "-c", THREADS.format(cores=cores)],
        env={**silent, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split() == [str(devices), "3", "None"]
