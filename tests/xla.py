"""XLA as tests want it: most programs run once, so that compiling them takes longest."""

import importlib.metadata
import os

_FLAGS = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
# The older emitters compile in a third of the time. Newer releases have none, and end a program
# that names a flag they do not know.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    _FLAGS.append("--xla_cpu_use_fusion_emitters=false")


def quick_to_compile() -> str:
    """A value of XLA_FLAGS; of two that contradict each other the caller's comes last and wins."""
    return " ".join([*_FLAGS, os.environ.get("XLA_FLAGS", "")]).strip()
