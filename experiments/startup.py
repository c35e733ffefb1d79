"""What a launcher sets up in its process before it computes anything."""

import contextlib
import os
from pathlib import Path

import jax
from absl import flags

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "compilation_cache",
    "~/.cache/featvis_jax/programs",
    "Directory that keeps compiled programs for the next start; empty for none.",
)
flags.DEFINE_enum(
    "precision",
    None,
    ["float32", "tensorfloat32", "bfloat16"],
    "Of products on an accelerator. By default JAX's own choice: tensorfloat32 on recent GPUs.",
)


def prepare(*, threads: int | None = None) -> None:
    """Set up JAX as the flags say; once, before the first computation.

    Args:
      threads: Of computations on a CPU, by whose number XLA cuts large sums; by default what the
        machine has.

    Raises:
      ValueError: There are more devices than that many threads.
      OSError: The directory of the compilation cache cannot be made.
    """
    # A cache that JAX's own variable names is left as it is, unless the flag asks for another.
    is_set = jax.config.values["jax_compilation_cache_dir"] is not None
    if FLAGS.compilation_cache and (FLAGS["compilation_cache"].present or not is_set):
        directory = Path(FLAGS.compilation_cache).expanduser()
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(
                f"--compilation_cache={FLAGS.compilation_cache}: {error}. Give a directory that "
                "can be written, or an empty one for no cache."
            ) from error
        jax.config.update("jax_compilation_cache_dir", str(directory))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    if FLAGS.precision is not None:
        jax.config.update("jax_default_matmul_precision", FLAGS.precision)
    _one_device_per_core(most=threads)
    if threads is not None:
        _fix_threads(threads)


def _fix_threads(number: int) -> None:
    """Start XLA's CPU backend with so many threads, on however many cores.

    XLA has no option for it. It takes the variable NPROC for what a process may use, else the
    number of cores; there is a thread for each device at least.
    """
    earlier = os.environ.get("NPROC")
    os.environ["NPROC"] = str(number)
    try:
        devices = jax.local_devices()
    finally:
        os.environ.pop("NPROC")
        if earlier is not None:
            os.environ["NPROC"] = earlier
    if devices[0].platform == "cpu" and len(devices) > number:
        raise ValueError(
            f"--cpu_threads={number} is fewer than the {len(devices)} devices that "
            "JAX_NUM_CPU_DEVICES or XLA_FLAGS ask for. Give at least as many, for a new --out, or "
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
