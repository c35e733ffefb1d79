"""Several processes on one run: none waits for another, and a later one completes the rest."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from featvis_jax.results import files, manifest, shards, store
from tests.results import crash_points

REPOSITORY = Path(__file__).resolve().parents[2]
CHANNELS = range(6)
# Stores a unit for every line that it reads.
WRITER = """
import sys
from pathlib import Path
import numpy as np
from featvis_jax.results import shards, store
from tests.results import crash_points
out, index, count = Path(sys.argv[1]), *map(int, sys.argv[2:])
place = shards.shard_directory(out, index, count)
with store.open_run(place, crash_points.CONFIGURATION, environment={"numpy": "2"}) as run:
    for channel in range(index - 1, 6, count):
        if not sys.stdin.readline():
            break
        run.write_units([crash_points.result("conv1", channel)], affine=np.eye(4))
        print(channel, flush=True)
"""


def write(out: Path, channels, configuration=crash_points.CONFIGURATION) -> None:
    """Store units in a run or a shard."""
    with store.open_run(out, configuration, environment={"numpy": "2"}) as run:
        units = [crash_points.result("conv1", channel) for channel in channels]
        run.write_units(units, affine=np.eye(4))


def complete(out: Path) -> list[str]:
    """What a later run does: take over what there is, and compute the rest."""
    with store.open_run(out, crash_points.CONFIGURATION, environment={"numpy": "2"}) as run:
        held = shards.collect(run, affine=np.eye(4))
        missing = [channel for channel in CHANNELS if channel not in run.finished("conv1")]
        units = [crash_points.result("conv1", channel) for channel in missing]
        run.write_units(units, affine=np.eye(4))
    return held


def outside_shards(out: Path) -> dict[str, str]:
    """Digests of the files of a run but those of its shards, and but the lock."""
    return {
        name: digest
        for name, digest in crash_points.digests(out).items()
        if not name.startswith(files.SHARDS) and name != files.LOCK
    }


def start(out: Path, index: int, count: int) -> subprocess.Popen[str]:
    """A process that writes a shard."""
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(out), str(index), str(count)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def step(process: subprocess.Popen[str]) -> int:
    """Let a process store one unit."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    return int(process.stdout.readline())


def test_one_process_is_killed_and_one_stopped_and_nothing_is_lost_or_done_twice(tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "out"
    write(whole, CHANNELS)
    with start(out, 1, 3) as stopped, start(out, 2, 3) as killed, start(out, 3, 3) as sound:
        try:
            assert [step(process) for process in (stopped, killed, sound)] == [0, 1, 2]
            stopped.send_signal(signal.SIGSTOP)
            killed.kill()
            killed.wait()
            # Nobody waits for them.
            assert step(sound) == 5
            sound.communicate()
            assert sound.returncode == 0
            done = shards.done_elsewhere(out, crash_points.CONFIGURATION)
            assert sorted(done) == [("conv1", channel, 1) for channel in (0, 1, 2, 5)]

            (held,) = complete(out)
            assert f"process {stopped.pid} " in held
            assert outside_shards(out) == outside_shards(whole)

            # It wakes up and finishes what nobody needs any more.
            stopped.send_signal(signal.SIGCONT)
            assert step(stopped) == 3
            stopped.communicate()
            assert stopped.returncode == 0
        finally:
            for process in (stopped, killed, sound):
                process.kill()
    assert complete(out) == []
    assert not (out / files.SHARDS).exists()
    assert outside_shards(out) == outside_shards(whole)


def test_another_number_of_processes_leaves_no_gap_and_no_duplicate(tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "out"
    write(whole, CHANNELS)
    write(shards.shard_directory(out, 1, 2), [0, 2])
    write(shards.shard_directory(out, 1, 3), [0, 3])
    write(shards.shard_directory(out, 3, 3), [2, 5])
    assert complete(out) == []
    assert outside_shards(out) == outside_shards(whole)


def test_times_and_machines_of_shards_are_kept_and_counted_once(tmp_path):
    second = shards.shard_directory(tmp_path, 2, 2)
    for index in (1, 2):
        place = shards.shard_directory(tmp_path, index, 2)
        machine = {"numpy": "2", "device": f"GPU {index}"}
        with store.open_run(place, crash_points.CONFIGURATION, environment=machine) as run:
            run.record_timing("batch", index, layer="conv1", units=1)
    batch = {"name": "batch", "layer": "conv1", "units": 1}
    times = [{**batch, "seconds": index, "shard": f"000{index}-of-0002"} for index in (1, 2)]
    # Somebody holds the second shard, which stays, and finishes another batch.
    with store.open_run(second, crash_points.CONFIGURATION, environment=machine) as held:
        assert len(complete(tmp_path)) == 1
        assert store.read_run(tmp_path).timings == times
        held.record_timing("batch", 0.5)
    for _ in range(2):
        assert complete(tmp_path) == []
        found = store.read_run(tmp_path)
        assert found.timings == [
            *times,
            {"name": "batch", "seconds": 0.5, "shard": "0002-of-0002"},
        ]
        assert [each.get("device") for each in found.environments] == [None, "GPU 1", "GPU 2"]


def test_a_shard_of_another_configuration_is_refused_and_left_alone(tmp_path):
    place = shards.shard_directory(tmp_path, 1, 2)
    write(place, [0], {**crash_points.CONFIGURATION, "seed": 2})
    before = crash_points.digests(place)
    with pytest.raises(manifest.ConfigurationMismatch, match="seed: the run has 2, asked for is 1"):
        shards.done_elsewhere(tmp_path, crash_points.CONFIGURATION)
    with pytest.raises(manifest.ConfigurationMismatch, match="0001-of-0002"):
        complete(tmp_path)
    assert crash_points.digests(place) == before


def test_variants_come_together_wherever_each_was_stored(tmp_path):
    configuration = {**crash_points.CONFIGURATION, "variants": 2}
    images = {variant: crash_points.result("conv1", 0, variant=variant) for variant in (1, 2)}
    for place, variant in ((tmp_path, 1), (shards.shard_directory(tmp_path, 1, 2), 2)):
        with store.open_run(place, configuration, environment={}) as run:
            run.write_units([images[variant]], affine=None)
    done = shards.done_elsewhere(tmp_path, configuration)
    assert sorted(done) == [("conv1", 0, 1), ("conv1", 0, 2)]
    with store.open_run(tmp_path, configuration, environment={}) as run:
        assert not run.finished("conv1")
        assert not shards.collect(run, affine=None)
        assert run.finished("conv1") == {0}
        for variant, expected in images.items():
            image, affine = run.image("conv1", 0, variant)
            np.testing.assert_array_equal(image, expected.image)
            assert affine is None
            np.testing.assert_array_equal(
                run.traces("conv1").objective[variant - 1], expected.objective
            )


def test_a_run_that_begins_beside_its_shards_leaves_what_they_write_alone(tmp_path):
    place = shards.shard_directory(tmp_path, 1, 2)
    write(place, [0])
    half = place / "images" / f".x{files.PARTIAL}"
    half.write_bytes(b"half")
    store.open_run(tmp_path, crash_points.CONFIGURATION, environment={}).close()
    assert half.exists()


def test_a_collection_that_was_killed_is_gone_on_with(tmp_path, monkeypatch):
    whole, out = tmp_path / "whole", tmp_path / "out"
    write(whole, CHANNELS)
    write(shards.shard_directory(out, 1, 1), [0, 1])

    def killed(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            complete(out)
    # The shard is hidden, half removed.
    assert [path.name for path in (out / files.SHARDS).iterdir()] == [".0001-of-0001.partial"]
    assert complete(out) == []
    assert not (out / files.SHARDS).exists()
    assert outside_shards(out) == outside_shards(whole)
