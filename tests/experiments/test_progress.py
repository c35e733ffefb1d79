"""Progress: a bar on a terminal, a line now and then elsewhere, and an honest time left."""

import doctest
import functools
import io
import re
import threading
from pathlib import Path

import pytest

from featvis_jax import progress
from featvis_jax.progress import Progress, duration


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


def test_a_number_is_told_from_the_first_one_that_is_known():
    stream = io.StringIO()
    clock = Clock()
    with Progress(10, stream=stream, interval_s=0, clock=clock) as told:
        for loss in (float("nan"), 0.5, float("nan")):
            clock.now += 1
            told.measured("loss", loss)
            told.advance(1)
    lines = stream.getvalue().splitlines()
    assert [line.split("left")[1] for line in lines] == ["", ", loss 0.500", ", loss nan"]


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


def test_a_loop_and_the_library_s_callback_write_no_bar_where_there_is_no_terminal(monkeypatch):
    clock = Clock()
    timed = functools.partialmethod(progress.Progress.__init__, clock=clock)
    monkeypatch.setattr(progress.Progress, "__init__", timed)
    loop, library = io.StringIO(), io.StringIO()
    for _ in progress.each(range(4), "grading", unit="picture", stream=loop):
        clock.now += 20
    with progress.callback("reading scans", unit="scan", stream=library) as on_scans:
        on_scans(1, 8)
        clock.now += 40
        on_scans(5, 8)
        clock.now += 1
        on_scans(8, 8)
    assert loop.getvalue().splitlines() == [
        "grading: 2 of 4 pictures (50 %), 0.05 pictures/s, 40 s left",
        "grading: 4 of 4 pictures (100 %), 0.05 pictures/s, 0 s left",
    ]
    assert library.getvalue().splitlines() == [
        "reading scans: 5 of 8 scans (62 %), 0.125 scans/s, 24 s left"
    ]


def test_what_cannot_be_counted_is_told_once_it_takes_long():
    stream = io.StringIO()
    with progress.announced("reading the model", after_s=60, stream=stream):
        pass
    assert stream.getvalue() == ""
    said = threading.Event()
    stream.flush = said.set
    with progress.announced("reading the model", after_s=0.01, stream=stream):
        assert said.wait(10)
    assert stream.getvalue() == "reading the model ...\n"


def test_no_launcher_and_no_module_draws_a_bar_of_its_own():
    root = Path(__file__).resolve().parents[2]
    files = [*(root / "experiments").rglob("*.py"), *(root / "featvis_jax").rglob("*.py")]
    drawing = [path.name for path in files if re.search(r"\btqdm\b", path.read_text())]
    assert drawing == ["progress.py"]
