"""The launcher of the gallery: one run, several runs, and runs that are none."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np

from featvis_jax.results.store import open_run
from featvis_jax.results.tables import UnitRecord, UnitResult


def write_run(directory: Path, regularization: str) -> Path:
    """A run of one channel."""
    image = np.random.default_rng(0).random((8, 9, 1)).astype(np.float32)
    trace = np.arange(4, dtype=np.float32)
    record = UnitRecord("conv1", 0, "alive", 0.0, 3.0, 0.0, 0.0, 1.0, 4, 0.1, 0)
    configuration = {"layers": {"conv1": [0]}, "regularization": regularization}
    with open_run(directory, configuration, environment={}) as run:
        run.write_units([UnitResult(record, image, trace, trace)], affine=np.eye(4))
    return directory


def address(output: str) -> Path:
    """The file that the last line names."""
    line = output.strip().splitlines()[-1]
    assert line.startswith("file:///")
    return Path(unquote(urlsplit(line).path))


def test_a_run_gets_a_gallery_and_two_are_compared(launch, tmp_path):
    first, second = (write_run(tmp_path / name, name) for name in ("none", "blur 1"))
    done = launch("gallery", f"--run={second}")
    assert done.returncode == 0, done.stderr
    assert address(done.stdout) == second / "gallery" / "index.html"
    assert address(done.stdout).is_file()
    out = tmp_path / "side by side"
    done = launch("gallery", f"--run={first}", f"--run={second}", f"--out={out}")
    assert done.returncode == 0, done.stderr
    assert address(done.stdout) == out / "index.html"
    assert (out / "layers" / "conv1.html").is_file()


def test_what_is_no_run_is_refused(drive, tmp_path):
    told = {
        "holds no run": [f"--run={tmp_path}"],
        "--run": [],
        "volumes": [f"--run={tmp_path}", "--volumes=perhaps"],
    }
    for text, outcome in zip(told, drive("gallery", list(told.values())), strict=True):
        assert outcome["status"] == 2
        assert text in outcome["errors"]
        assert "Traceback" not in outcome["errors"]
