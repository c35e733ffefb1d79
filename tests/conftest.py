"""What every test shares: checked types, strict numerics, repeatable draws, the real brains."""

import logging
import os
import signal
from importlib.metadata import version
from pathlib import Path

import hypothesis
import jax
import numpy as np
import pytest
from jaxtyping import install_import_hook

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED_COHORT = REPOSITORY.parent / "shared" / "data" / "ds002748_mni152"

# Every annotation of the library is checked at every call, in the tests and only there. An integer
# passes for a float, as it does for a static type checker.
install_import_hook(
    "featvis_jax", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
)

# Most of the time goes to compiling what runs once. XLA's lowest level of optimization takes a
# third of that time, with a single module for LLVM and without the fusions' own compiler, which
# later versions cannot do without. Programs that a test starts inherit it. Whoever names a level,
# gets it, and XLA as its users have it: XLA_FLAGS=--xla_backend_optimization_level=3 make test
QUICK_TO_COMPILE = [
    "--xla_backend_optimization_level=0",
    "--xla_cpu_parallel_codegen_split_count=1",
]
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):
    QUICK_TO_COMPILE.append("--xla_cpu_use_fusion_emitters=false")
if "xla_backend_optimization_level" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = " ".join([*QUICK_TO_COMPILE, os.environ.get("XLA_FLAGS", "")]).strip()

# A job in a shell's background ignores SIGINT, and so would every program that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# An image is unbatched, so a silently added axis is a mistake.
jax.config.update("jax_numpy_rank_promotion", "raise")

# The same examples on every machine and in every run, and no time limit that a busy machine breaks.
hypothesis.settings.register_profile(
    "repeatable", derandomize=True, deadline=None, max_examples=25, database=None
)
hypothesis.settings.load_profile("repeatable")


# Each takes a minute or more, most of it in a fixture of its own. They begin, so that no process is
# left with one of them when the others have nothing to do; --no-loadscope-reorder keeps the order.
LONGEST = (
    "experiments/test_reproduce_paper.py",
    "experiments/test_grade.py",
    "experiments/test_train.py",
    "experiments/",
    "test_training.py",
    "test_docs.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the files that take longest in front; others stay in their order."""

    def rank(item: pytest.Item) -> int:
        begun = [item.nodeid.startswith(f"tests/{name}") for name in LONGEST]
        return begun.index(True) if any(begun) else len(begun)

    items.sort(key=rank)


@pytest.fixture(autouse=True)
def strict_dtype_promotion(request: pytest.FixtureRequest):
    """Makes an implicit change of dtype an error, save where a test is marked `optax`."""
    promotion = "standard" if request.node.get_closest_marker("optax") else "strict"
    with jax.numpy_dtype_promotion(promotion):
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    """A NumPy generator that draws the same numbers in every test and every run."""
    return np.random.default_rng(20220411)


@pytest.fixture(scope="session")
def shared_cohort() -> Path:
    """The directory of real brains beside the checkout; skips where it is absent."""
    if not SHARED_COHORT.is_dir():
        pytest.skip(f"the cohort of real brains is not at {SHARED_COHORT}")
    return SHARED_COHORT


@pytest.fixture(scope="module")
def quiet_nibabel():
    """Nibabel tells of every header that it mends."""
    logger = logging.getLogger("nibabel.global")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(before)
