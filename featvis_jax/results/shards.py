"""Several processes on one run: each writes a run of its own below it, and a later one collects.

    shards/0002-of-0004/    a run directory, with a lock of its own

No process waits for another. What one that died or hangs has left undone, the collecting run
computes itself; what a hanging one finishes later is no longer asked for.
"""

import contextlib
from pathlib import Path

from featvis_jax.results import files, manifest, nifti, pixels
from featvis_jax.results.store import Run, RunView
from featvis_jax.results.tables import Key


def shard_directory(directory: Path, index: int, count: int) -> Path:
    """Return the directory that one of several processes writes to.

    Args:
      directory: Of the run.
      index: Of the process, from 1.
      count: Number of processes.

    Example:
      >>> shard_directory(Path("run"), 2, 4).as_posix()
      'run/shards/0002-of-0004'
    """
    return directory / files.SHARDS / f"{index:04d}-of-{count:04d}"


def shards(directory: Path) -> list[RunView]:
    """Return the shards of a run that were begun.

    Args:
      directory: Of the run.

    Example:
      >>> shards(Path("no such run"))
      []
    """
    found = sorted((directory / files.SHARDS).glob("*-of-*"))
    return [RunView(path) for path in found if (path / "run.json").is_file()]


def done_elsewhere(directory: Path, configuration: object) -> frozenset[Key]:
    """Return the images that the run and its shards hold, whoever computed them.

    Args:
      directory: Of the run.
      configuration: Of the process that asks.

    Returns:
      Layer, channel and variant of each.

    Raises:
      ConfigurationMismatch: If one of them has another configuration.

    Example:
      >>> done_elsewhere(Path("no such run"), {})
      frozenset()
    """
    views = shards(directory)
    if (directory / "run.json").is_file():
        views.append(RunView(directory))
    for view in views:
        manifest.refuse_mismatch(view.directory, view.configuration, configuration)
    return frozenset(record.key for view in views for record in view.records())


def collect(
    run: Run, *, affine: nifti.Affine | None, window: pixels.Window = (0.0, 1.0)
) -> list[str]:
    """Take over what the shards of a run have finished, and remove those that nobody writes to.

    Their timings and environments go into the run's own.

    Args:
      run: Open for writing.
      affine: As in `Run.write_units`.
      window: As in `Run.write_units`.

    Returns:
      For each shard that a process still holds, a sentence that names both.

    Raises:
      ConfigurationMismatch: If a shard has another configuration.

    Example:
      >>> import tempfile
      >>> from featvis_jax.results.store import open_run
      >>> with tempfile.TemporaryDirectory() as out, open_run(out, {}, environment={}) as run:
      ...     open_run(shard_directory(Path(out), 1, 2), {}, environment={}).close()
      ...     collect(run, affine=None), shards(Path(out))
      ([], [])
    """
    views, held = shards(run.directory), []
    for view in views:
        manifest.refuse_mismatch(view.directory, view.configuration, run.configuration)
    for view in views:
        try:
            lock = files.lock(view.directory)
        except files.RunInUse as error:
            held.append(str(error).split(". ")[0])
            lock = None
        try:
            for layer in dict.fromkeys(record.layer for record in view.records()):
                done = frozenset(record.key for record in run.records())
                missing = list(view.units(layer, without=done))
                run.write_units(missing, affine=affine, window=window)
            run.record_shard(view)
            if lock is not None:
                files.remove_directory(view.directory)
        finally:
            if lock is not None:
                files.unlock(lock)
    place = run.directory / files.SHARDS
    if place.is_dir():
        for hidden in place.glob(f".*{files.PARTIAL}"):
            files.remove_directory(hidden)
        with contextlib.suppress(OSError):  # Somebody is at work there.
            place.rmdir()
    return held
