"""Random graphs of three operators: what the reference says, or one clear error.

`tests.stress.fuzz_onnx` asks the same of ten thousand graphs, and of ONNX Runtime.
"""

import tempfile
from pathlib import Path
from random import Random

import hypothesis
import pytest
from hypothesis import strategies
from onnx.reference import ReferenceEvaluator

from tests.importers.onnx.comparison import compare
from tests.importers.onnx.random_graphs import random_model

# What the reference implementation does in a way of its own; before version 13, softmax too.
ITS_OWN = frozenset(["AveragePool", "ConvTranspose", "MaxPool", "ReduceL2", "Resize"])
OPSETS = (13, 17, 18, 20, 21)


def by_the_reference(model, names, feed):
    """Values by ONNX's own implementation; ``None`` where it cannot."""
    try:
        return ReferenceEvaluator(model).run(names, feed)
    except Exception:
        return None


@pytest.mark.filterwarnings("ignore:(divide|invalid|overflow):RuntimeWarning")
@hypothesis.given(strategies.integers(min_value=0, max_value=10**9))
def test_a_random_graph_is_what_the_reference_says_or_refused_in_one_line(seed):
    model = random_model(Random(seed), opsets=OPSETS)
    hypothesis.assume(ITS_OWN.isdisjoint(node.op_type for node in model.graph.node))
    with tempfile.TemporaryDirectory() as folder:
        outcome = compare(model, Path(folder), seed=seed, values=by_the_reference)
    hypothesis.event(outcome)
    assert outcome in ("same", "refused", "unsupported", "accepted alone")
