"""What a launcher sets up in its process before it computes anything."""

import contextlib
import dataclasses
import os
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import jax

from featvis_jax.options import Options, option, tell


@dataclasses.dataclass(frozen=True, kw_only=True)
class StartupOptions(Options):
    """Start-up of JAX."""

    compilation_cache: str | None = option(
        None,
        "Directory in which compiled programs are kept for the next start; "
        "~/.cache/featvis_jax/programs by default, empty for none.",
        belongs_to_run=False,
    )


_PROGRAMS = "~/.cache/featvis_jax/programs"


def prepare(options: StartupOptions, *, threads: int | None = None) -> None:
    """Set up JAX; once, before the first computation.

    Args:
      options: How.
      threads: Of computations on a CPU, by whose number XLA cuts large sums; by default what the
        machine has.

    Raises:
      ValueError: There are more devices than that many threads, or none of those asked for.
      OSError: The directory for compiled programs cannot be written.
    """
    _keep_programs(options.compilation_cache)
    _one_device_per_core(most=threads)
    if threads is None:
        _devices()
    else:
        _fix_threads(threads)


def _keep_programs(place: str | None) -> None:
    """Have JAX keep compiled programs in a directory."""
    # A cache that JAX's own variable names is left as it is, unless another is asked for.
    is_set = jax.config.values["jax_compilation_cache_dir"] is not None
    asked, place = place is not None, _PROGRAMS if place is None else place
    if not place or (is_set and not asked):
        return
    try:
        directory = Path(place).expanduser()
        directory.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
    except (OSError, RuntimeError) as error:  # Without a home, "~" is a RuntimeError.
        told = f"`compilation_cache={place}`: {error}"
        if asked:
            raise OSError(
                f"{told}. Give a directory that can be written, or an empty one for no cache."
            ) from error
        # What nobody asked for must not stop a run; a home may be read-only on a cluster's nodes.
        tell(f"{told}; compiled programs are not kept for the next start.")
        return
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _devices() -> list[Any]:
    """The devices of this process, or an error that names what asked for others."""
    try:
        return jax.local_devices()
    # A backend that is not there ends in errors of several types, one of them without a word.
    except Exception as error:
        asked = jax.config.values["jax_platforms"] or ""
        cause = textwrap.shorten(str(error), 200) or "its package is not installed"
        raise ValueError(
            f"JAX_PLATFORMS={asked}: JAX finds no such device ({cause}). Install what BUILD.md "
            "names for the GPU, or unset the variable, and JAX takes what there is."
        ) from error


def _fix_threads(number: int) -> None:
    """Start XLA's CPU backend with so many threads, on however many cores.

    XLA has no option for it. It takes the variable NPROC for what a process may use, else the
    number of cores; there is a thread for each device at least.
    """
    earlier = os.environ.get("NPROC")
    os.environ["NPROC"] = str(number)
    try:
        devices = _devices()
    finally:
        os.environ.pop("NPROC")
        if earlier is not None:
            os.environ["NPROC"] = earlier
    if devices[0].platform == "cpu" and len(devices) > number:
        raise ValueError(
            f"`cpu_threads={number}` is fewer than the {len(devices)} devices that "
            "JAX_NUM_CPU_DEVICES or XLA_FLAGS ask for. Give at least as many, for a new `out`, or "
            "ask for fewer devices."
        )


def _one_device_per_core(*, most: int | None) -> None:
    """Have JAX take every core that this process may use for a device, unless told otherwise.

    Cores with units of their own never wait for each other, where many small operations on all of
    them do: an ascent takes 0.7 of the time. JAX_NUM_CPU_DEVICES says another number.
    """
    told = jax.config.values["jax_num_cpu_devices"] > 0
    if told or "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    # A process that has computed something already, as one of tests, keeps the devices it has.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", min(cores or 1, most or cores or 1))
