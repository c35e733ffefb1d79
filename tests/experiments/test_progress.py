"""Progress: a bar on a terminal, a line now and then elsewhere, and an honest time left."""

import doctest
import io

import pytest

from experiments import progress
from experiments.progress import Progress, duration


class Terminal(io.StringIO):
    """A stream that says it is one."""

    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_examples_work():
    assert doctest.testmod(progress, optionflags=doctest.ELLIPSIS).failed == 0


def test_where_there_is_no_terminal_a_line_comes_every_interval():
    stream, clock = io.StringIO(), Clock()
    with Progress(1000, stream=stream, interval_s=30, clock=clock) as told:
        told.describe("conv3")
        for _ in range(70):
            clock.now += 1
            told.advance(10)
    lines = stream.getvalue().splitlines()
    assert lines == [
        "conv3: 300 of 1000 steps (30 %), 10 steps/s, 1 min 10 s left",
        "conv3: 600 of 1000 steps (60 %), 10 steps/s, 40 s left",
    ]


def test_neither_compiling_nor_earlier_steps_count_for_the_time_left():
    stream, clock = io.StringIO(), Clock()
    with Progress(1000, stream=stream, interval_s=0, clock=clock) as told:
        told.skip(500)
        with told.paused():
            clock.now += 100
        clock.now += 10
        told.count("alive")
        told.count("dead")
        told.count("alive")
        told.note("loss 0.5")
        told.advance(100)
    assert stream.getvalue() == (
        "600 of 1000 steps (60 %), 10 steps/s, 40 s left, 2 alive, 1 dead, loss 0.5\n"
    )
    assert told.done == 600


def test_a_terminal_gets_a_bar_with_rate_time_left_and_counts():
    stream, clock = Terminal(), Clock()
    with Progress(40, stream=stream, clock=clock) as told:
        told.describe("conv3")
        told.count("alive")
        clock.now += 10
        told.advance(20)
        told.write("step 20: all is well")
    shown = stream.getvalue()
    assert "step 20: all is well\n" in shown
    last = shown.rstrip().split("\r")[-1]
    assert last.startswith("conv3:  50%|")
    assert "20.0/40.0" in last
    assert last.rstrip().endswith("2 steps/s, 10 s left, 1 alive")
    assert "of 40 steps" not in shown


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.6, "1 min 0 s"), (3599, "59 min 59 s"), (3600, "1 h 0 min")],
)
def test_durations_are_for_people(seconds, text):
    assert duration(seconds) == text
