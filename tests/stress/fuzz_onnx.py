"""Imports random ONNX graphs by the ten thousand, and compares every layer with ONNX Runtime.

    python -m tests.stress.fuzz_onnx --count=10000

It takes ONNX Runtime (``pip install onnxruntime``), which no test needs. A case is a graph of three
operators, drawn from the seed and its own number (`--first=N --count=1` repeats one). It has to
give what ONNX Runtime gives, layer by layer and channel by channel, or be refused by one
`ValueError` that names the file (`tests/stress/fuzzing.py` says what is counted). The exit status
is 0 if nothing bad happened.
"""

import sys
import tempfile
from pathlib import Path
from random import Random

import jax
import onnx

from tests.importers.onnx.comparison import compare
from tests.importers.onnx.random_graphs import random_model
from tests.stress import fuzzing

_CASES_PER_CACHE = 250


def values(model: onnx.ModelProto, names: list[str], feed: dict) -> list | None:
    """Values of a graph by ONNX Runtime, as it is written; ``None`` where it refuses the graph."""
    import onnxruntime  # Not at the top: pytest imports this module, and does without it.

    onnxruntime.set_default_logger_severity(4)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return session.run(names, feed)
    except Exception:  # Whatever it says: nobody can run this graph.
        return None


def run_case(seed: int, number: int) -> tuple[str, str]:
    """Kind and outcome of one case."""
    if number % _CASES_PER_CACHE == 0:
        jax.clear_caches()
    random = Random(f"{seed} {number}")
    try:
        model = random_model(random)
    except Exception as error:
        return "graph", f"crash: the generator failed: {type(error).__name__}: {error}"
    with tempfile.TemporaryDirectory(prefix="fuzz") as folder:
        return "graph", compare(model, Path(folder), seed=number, values=values)


if __name__ == "__main__":
    sys.exit(fuzzing.main(run_case, __doc__.splitlines()[0]))
