"""Progress: one bar on a terminal, and otherwise a plain line every 30 seconds.

Everything that takes long tells of itself here: steps (`Progress`), the items of a loop (`each`),
a loop of the library (`callback`), and what cannot be counted (`announced`). The time left comes
from the steps that were taken here and the time they took: neither compiling, nor steps that an
earlier run had taken already, count.
"""

import contextlib
import math
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from io import TextIOBase
from typing import TypeVar

from tqdm import tqdm

_Item = TypeVar("_Item")

# Silence that is too short for anybody to wonder.
_PATIENCE_S = 5.0
_BAR = "{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {postfix}"


class Progress:
    """How far a launcher is; used in a `with` statement.

    Example:
      >>> ticks = iter([0, 0, 20, 70])  # The clock's seconds; 20 of them are a compilation.
      >>> with Progress(300, stream=sys.stdout, clock=lambda: next(ticks)) as progress:
      ...     progress.describe("conv3")
      ...     with progress.paused():
      ...         pass
      ...     progress.count("alive")
      ...     progress.advance(100)
      conv3: 100 of 300 steps (33 %), 2 steps/s, 1 min 40 s left, 1 alive
    """

    def __init__(
        self,
        total: int,
        *,
        unit: str = "step",
        stream: TextIOBase | None = None,
        interval_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the clock.

        Args:
          total: Steps to take.
          unit: What they are called.
          stream: Where to; standard error by default.
          interval_s: Seconds between two lines where there is no terminal.
          clock: Seconds since any point in time.
        """
        self._stream = sys.stderr if stream is None else stream
        self._total, self._unit, self._interval, self._clock = total, unit, interval_s, clock
        self._done = self._taken = 0
        self._what, self._note = "", ""
        self._counts: Counter[str] = Counter()
        self._busy = 0.0
        self._resumed = self._told = clock()
        self._bar: tqdm | None = None
        if self._stream.isatty():
            self._bar = tqdm(
                total=total,
                file=self._stream,
                unit_scale=True,
                mininterval=0.5,
                bar_format=_BAR,
                dynamic_ncols=True,
            )

    def __enter__(self) -> "Progress":
        """Return the progress."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()

    @property
    def done(self) -> int:
        """Steps so far, those of an earlier run with them."""
        return self._done

    def describe(self, what: str) -> None:
        """Name what is being worked on."""
        self._what = what
        if self._bar is not None:
            self._bar.set_description(what)

    def note(self, text: str) -> None:
        """Add a number of interest, such as the loss, to whatever is shown next."""
        self._note = text

    def measured(self, name: str, value: float) -> None:
        """Note a number from the first finite one on; one that is not finite later on is told."""
        if self._note or math.isfinite(value):
            self.note(f"{name} {value:.3f}")

    def count(self, status: str) -> None:
        """Count something that is finished, by its status."""
        self._counts[status] += 1

    def skip(self, steps: int) -> None:
        """Pass over steps that an earlier run took; they say nothing about the time left."""
        self._done += steps
        if self._bar is not None:
            self._bar.update(steps)

    def advance(self, steps: int) -> None:
        """Tell of steps that were just taken."""
        now = self._clock()
        self._busy += now - self._resumed
        self._resumed = now
        self._done += steps
        self._taken += steps
        if self._bar is not None:
            self._bar.set_postfix_str(self._state(), refresh=False)
            self._bar.update(steps)
        elif now - self._told >= self._interval:
            self._told = now
            self._line(
                f"{self._what}{': ' if self._what else ''}{self._done} of {self._total} "
                f"{self._unit}s ({100 * self._done // max(self._total, 1)} %), {self._state()}"
            )

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time of the block, which goes into no step, out of the account."""
        self._busy += self._clock() - self._resumed
        try:
            yield
        finally:
            self._resumed = self._clock()

    def write(self, line: str) -> None:
        """Print a line, above the bar if there is one."""
        if self._bar is not None:
            self._bar.write(line, file=self._stream)
        else:
            self._line(line)

    def _line(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def _state(self) -> str:
        """Rate, time left and what was counted."""
        parts = []
        if self._busy > 0 and self._taken:
            rate = self._taken / self._busy
            parts.append(f"{rate:.3g} {self._unit}s/s")
            parts.append(f"{duration((self._total - self._done) / rate)} left")
        parts += [f"{count} {status}" for status, count in sorted(self._counts.items())]
        return ", ".join([*parts, self._note] if self._note else parts)


def each(
    items: Sequence[_Item], what: str, *, unit: str, stream: TextIOBase | None = None
) -> Iterator[_Item]:
    """Go through a sequence and tell how far it is.

    Args:
      items: To go through.
      what: Is being done to them.
      unit: What one of them is called.
      stream: Where to; standard error by default.

    Example:
      >>> [picture for picture in each("ab", "grading", unit="picture")]
      ['a', 'b']
    """
    with Progress(len(items), unit=unit, stream=stream) as progress:
        progress.describe(what)
        for item in items:
            yield item
            progress.advance(1)


@contextlib.contextmanager
def callback(
    what: str, *, unit: str, stream: TextIOBase | None = None
) -> Iterator[Callable[[int, int], None]]:
    """Give a function that a loop of the library calls with what is done and how much there is.

    Args:
      what: Is being done.
      unit: What one of the items is called.
      stream: Where to; standard error by default.

    Example:
      >>> with callback("reading scans", unit="scan") as on_scans:
      ...     on_scans(1, 2)
    """
    with contextlib.ExitStack() as stack:
        shown: list[Progress] = []

        def tell(done: int, total: int) -> None:
            if not shown:
                shown.append(stack.enter_context(Progress(total, unit=unit, stream=stream)))
                shown[0].describe(what)
            shown[0].advance(done - shown[0].done)

        yield tell


@contextlib.contextmanager
def announced(
    what: str, *, after_s: float = _PATIENCE_S, stream: TextIOBase | None = None
) -> Iterator[None]:
    """Say what the block does that cannot be counted, if it takes more than a few seconds.

    Args:
      what: Is being done.
      after_s: Seconds of silence before that; 0 to say it at once.
      stream: Where to; standard error by default.

    Example:
      >>> with announced("compiling conv5", after_s=0, stream=sys.stdout):
      ...     pass
      compiling conv5 ...
    """
    out = sys.stderr if stream is None else stream

    def say() -> None:
        # Above a bar, if one is shown.
        tqdm.write(f"{what} ...", file=out)
        out.flush()

    if after_s <= 0:
        say()
        yield
        return
    timer = threading.Timer(after_s, say)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def duration(seconds: float) -> str:
    """Write a time for people.

    Args:
      seconds: From 0.

    Example:
      >>> duration(7.6), duration(100), duration(7384)
      ('8 s', '1 min 40 s', '2 h 3 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
