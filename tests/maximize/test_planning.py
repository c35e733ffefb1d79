"""Batches of one size, the largest that fits, and what the machine says it has."""

import dataclasses
import types

import hypothesis
import jax
import jax.numpy as jnp
import optax
import pytest
from hypothesis import strategies

from featvis_jax import memory
from featvis_jax.maximize import objectives, parameterizations, planning
from featvis_jax.maximize.ascent import Recipe
from featvis_jax.maximize.planning import Batch
from featvis_jax.maximize.sharding import ShardedAscent
from featvis_jax.nn.cnn import CNN
from featvis_jax.nn.tracing import linen_network

GIB = 2**30


@dataclasses.dataclass
class FakeProgram:
    """A program that needs a fixed part and a part per unit."""

    size: int
    bytes_per_unit: float
    fixed_bytes: int = 0

    def memory_analysis(self):
        needed = int(self.fixed_bytes + self.size * self.bytes_per_unit)
        # Donated states are argument and result at once, and count once.
        return types.SimpleNamespace(
            temp_size_in_bytes=needed // 2,
            argument_size_in_bytes=needed - needed // 2,
            output_size_in_bytes=777,
            alias_size_in_bytes=777,
        )


class Compiler:
    """Makes fake programs and remembers for which sizes."""

    def __init__(self, bytes_per_unit, fixed_bytes=0):
        self.bytes_per_unit, self.fixed_bytes = bytes_per_unit, fixed_bytes
        self.sizes = []

    def __call__(self, size):
        self.sizes.append(size)
        return FakeProgram(size, self.bytes_per_unit, self.fixed_bytes)


@pytest.fixture
def unchecked(monkeypatch):
    """`largest_batch` without the check that a program is one of JAX's own."""
    function = planning.largest_batch
    monkeypatch.setattr(planning, "largest_batch", getattr(function, "__wrapped__", function))
    checked = memory.program_bytes
    monkeypatch.setattr(memory, "program_bytes", getattr(checked, "__wrapped__", checked))
    return planning.largest_batch


@hypothesis.given(
    channels=strategies.lists(strategies.integers(0, 63), unique=True, max_size=40),
    batch_size=strategies.integers(1, 20),
)
def test_batches_deal_every_channel_once_in_order_and_have_one_size(channels, batch_size):
    batches = planning.batches(channels, batch_size=batch_size)
    assert [c for batch in batches for c in batch.channels[: batch.count]] == channels
    assert all(len(batch.channels) == batch_size for batch in batches)
    assert all(batch.count == batch_size for batch in batches[:-1])
    assert all(1 <= batch.count <= batch_size for batch in batches)
    for batch in batches:
        padding = batch.channels[batch.count :]
        assert set(padding) <= {batch.channels[batch.count - 1]}


def test_the_deal_of_the_first_batches_does_not_depend_on_what_follows():
    few, many = (planning.batches(range(n), batch_size=4) for n in (8, 11))
    assert many[:2] == few
    assert many[2] == Batch((8, 9, 10, 10), 3)
    assert planning.batches([], batch_size=3) == []


@pytest.mark.parametrize("batch_size", [0, -2])
def test_a_batch_of_nothing_is_refused(batch_size):
    with pytest.raises(ValueError, match=rf"batch_size is {batch_size}; expected at least 1"):
        planning.batches([1], batch_size=batch_size)


@pytest.mark.parametrize(
    ("backend", "num_units", "expected"),
    [
        ("cpu", 1, 1),
        ("cpu", 4, 4),
        ("cpu", 5, 3),  # Two batches of 3 and 2, and not of 4 and 1.
        ("cpu", 64, 4),
        ("gpu", 64, 64),
        ("gpu", 65, 33),
        ("some_other", 64, 16),
    ],
)
def test_with_memory_enough_the_units_are_split_evenly(
    unchecked, monkeypatch, backend, num_units, expected
):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    compiler = Compiler(GIB)
    size, program = unchecked(compiler, num_units=num_units, memory_bytes=100 * GIB)
    assert size == program.size == expected
    assert compiler.sizes == [expected]


@pytest.mark.parametrize(
    ("bytes_per_unit", "fixed_bytes", "room", "expected"),
    [
        (1.0, 0, 16.0, 16),
        (1.0, 0, 15.9, 15),
        (1.0, 0, 5.5, 5),
        (1.0, 0, 1.0, 1),
        # A fixed part that does not shrink along takes a few attempts.
        (1.0, 4, 10.0, 6),
        (0.5, 9, 10.0, 2),
        (0.001, 9, 9.0015, 1),
    ],
)
def test_the_batch_shrinks_until_it_fits(
    unchecked, monkeypatch, bytes_per_unit, fixed_bytes, room, expected
):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    compiler = Compiler(bytes_per_unit * GIB, fixed_bytes * GIB)
    size, program = unchecked(compiler, num_units=16, memory_bytes=int(room * GIB))
    assert size == program.size
    assert memory.program_bytes(program) <= room * GIB
    # Never below what fits by half, and never twice for one size.
    assert expected / 2 <= size <= expected
    assert compiler.sizes == sorted(set(compiler.sizes), reverse=True)


def test_one_unit_that_does_not_fit_is_a_memory_error_with_numbers(unchecked, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    compiler = Compiler(3 * GIB)
    with pytest.raises(
        MemoryError, match=r"One unit needs 3\.0 GiB and 2\.5 GiB are free: use a smaller input"
    ):
        unchecked(compiler, num_units=16, memory_bytes=int(2.5 * GIB))
    assert compiler.sizes[-1] == 1


def test_devices_whose_memory_does_not_hold_a_unit_each_run_in_smaller_number(
    unchecked, monkeypatch
):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    total = 10 * GIB  # Shared by all that run.
    monkeypatch.setattr(memory, "free_bytes", lambda *, num_devices: total / num_devices)

    def compile_batch(size):  # 8 devices, each with its part of the batch.
        return FakeProgram(-(-size // min(size, 8)), 3 * GIB)

    size, program = unchecked(compile_batch, num_units=64, num_devices=8)
    assert (size, program.size) == (3, 1)


@pytest.mark.parametrize("memory_bytes", [0, -5])
def test_no_memory_at_all_ends_too(unchecked, memory_bytes):
    with pytest.raises(MemoryError, match=r"One unit needs 1\.0 GiB"):
        unchecked(Compiler(GIB), num_units=5, memory_bytes=memory_bytes)


def test_no_units_are_refused():
    with pytest.raises(ValueError, match=r"num_units is 0; expected at least 1"):
        planning.largest_batch(Compiler(1), num_units=0, memory_bytes=GIB)


def test_a_compiled_program_needs_its_arguments_its_results_and_its_temporaries():
    def compiled(donate):
        function = jax.jit(lambda x, y: (x + 1, y @ y.T), donate_argnums=(0,) if donate else ())
        wide = jax.ShapeDtypeStruct((1000, 100), jnp.float32)
        return memory.program_bytes(function.lower(wide, wide).compile())

    argument = 1000 * 100 * 4
    plain, donated = compiled(False), compiled(True)
    # Two arguments, one result of their shape and one of 1000 x 1000.
    assert plain >= 3 * argument + 1000 * 1000 * 4
    assert plain < 20 * argument
    # A donated argument is the room of its result.
    assert donated == plain - argument


def test_a_program_that_does_not_say_what_it_needs_is_taken_as_small(unchecked):
    class Silent:
        def memory_analysis(self):
            return None

    assert memory.program_bytes(Silent()) == 0


class FakeDevice:
    def __init__(self, stats):
        self.stats = stats

    def memory_stats(self):
        return self.stats


def test_a_device_that_reports_its_memory_is_believed_up_to_a_margin(monkeypatch):
    stats = {"bytes_limit": 10 * GIB, "bytes_in_use": 4 * GIB}
    monkeypatch.setattr(jax, "local_devices", lambda: [FakeDevice(stats)])
    assert memory.free_bytes() == pytest.approx(0.8 * 6 * GIB)


@pytest.mark.parametrize("stats", [None, {}])
def test_else_devices_share_what_this_process_can_still_take(monkeypatch, stats):
    monkeypatch.setattr(jax, "local_devices", lambda: [FakeDevice(stats)] * 4)
    monkeypatch.setattr(memory, "available_bytes", lambda: 10 * GIB)
    assert memory.free_bytes() == pytest.approx(0.8 * 10 * GIB / 4)
    assert memory.free_bytes(num_devices=2) == pytest.approx(0.8 * 10 * GIB / 2)


@pytest.fixture(scope="module")
def network():
    model, shape = CNN(rank=2), (80, 90, 1)
    return linen_network(model, jax.jit(model.init)(jax.random.key(0), jnp.zeros(shape)), shape)


@pytest.mark.parametrize("layer", ["conv2", "conv5", "logits"])
def test_the_estimate_from_shapes_is_near_what_compiled_programs_take(network, layer):
    recipe = Recipe(
        objective=objectives.channel(layer),
        parameterization=parameterizations.pixels(),
        optimizer=optax.sgd(0.05),
        steps=2,
    )
    # The ascent alone is compiled, of which `LayerProgram.memory_bytes` tells.
    few, many = (
        memory.program_bytes(
            ShardedAscent(network, recipe, n, jax.local_devices()[:1]).compile_advance()
        )
        for n in (1, 2)
    )
    # What all units share, the weights above all, is not part of a unit's memory.
    assert 0.5 < (many - few) / planning.estimated_unit_bytes(network, layer) < 1.5
