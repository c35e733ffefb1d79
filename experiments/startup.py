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


def prepare() -> None:
    """Set up JAX as the flags say; once, before the first computation.

    Raises:
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
    _one_device_per_core()


def _one_device_per_core() -> None:
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
        jax.config.update("jax_num_cpu_devices", cores or 1)
