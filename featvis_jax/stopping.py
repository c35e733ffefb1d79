"""Stopping when asked to: SIGTERM and SIGINT end a launcher at a safe place, with exit status 75.

What is being written is finished first. Everything else is given up where it stands: the next run
computes it again, to the same bits. A second SIGINT ends the process at once. A second SIGTERM does
not: Slurm sends it twice within a second to what it preempts, and SIGKILL to what stays.
"""

import contextlib
import functools
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator

# EX_TEMPFAIL of sysexits.h: start me again, and I shall go on.
START_AGAIN = 75
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# A signal is seen when Python runs again. A compilation can keep it waiting for minutes, and
# nothing is lost by ending in the middle of one.
_PATIENCE_S = 3.0
_A_MOMENT_S = 0.02


class Stopped(KeyboardInterrupt):
    """Somebody asked the launcher to stop. No `except Exception` on the way swallows it."""


class _State:
    """What the handler knows; signals belong to the process, and so does this."""

    asked: str | None = None
    seen: bool = False
    holding: int = 0


def requested() -> bool:
    """Whether somebody asked to stop."""
    return _State.asked is not None


def check() -> None:
    """End here if somebody asked to stop.

    Raises:
      Stopped: Somebody did.
    """
    if requested():
        raise Stopped(_State.asked)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Keep a signal waiting until the end of the block; `check` and `requested` tell of it."""
    _State.holding += 1
    try:
        yield
    finally:
        _State.holding -= 1
    if not _State.holding:
        check()


@contextlib.contextmanager
def listening(*, last: bool = False) -> Iterator[None]:
    """Handle the signals inside the block as this module promises.

    Only the main thread can; elsewhere, and where a caller ignores a signal, nothing changes.

    Args:
      last: Whether the process ends with the block. A signal that comes when all is done, and only
        Python has to be taken down, is then too late to stop anything.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _State.asked, _State.seen, _State.holding = None, False, 0
    # What nohup made ignored stays ignored.
    handled = [each for each in _SIGNALS if signal.getsignal(each) is not signal.SIG_IGN]
    earlier = {each: signal.signal(each, _handle) for each in (*handled, signal.SIGALRM)}
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    hook = sys.unraisablehook
    sys.unraisablehook = functools.partial(_try_again, hook)
    threading.Thread(target=_watch, args=(reading,), daemon=True, name="signals").start()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for each, handler in earlier.items():
            signal.signal(each, signal.SIG_IGN if last and not requested() else handler)
        signal.set_wakeup_fd(wakeup)
        sys.unraisablehook = hook
        os.close(writing)


def _handle(number: int, frame: types.FrameType | None) -> None:
    """Note the first signal, and end what may be given up; runs in the main thread."""
    if _State.asked is None and number != signal.SIGALRM:
        _State.asked, _State.seen = signal.Signals(number).name, True
    elif number != signal.SIGALRM:
        return  # What comes after the first one is for the watching thread.
    if _State.holding:
        return
    check()


def _try_again(
    otherwise: Callable[["sys.UnraisableHookArgs"], object], unraisable: "sys.UnraisableHookArgs"
) -> None:
    """Stop a moment later where the stop came to nothing.

    It does where the signal arrives in a callback of Python's memory management: a finalizer, a
    weak reference's, the collector's. Python passes such errors to `sys.unraisablehook` and goes
    on.
    """
    if issubclass(unraisable.exc_type, Stopped):
        signal.setitimer(signal.ITIMER_REAL, _A_MOMENT_S)
    else:
        otherwise(unraisable)


def _watch(reading: int) -> None:
    """See each signal as it comes, whatever the main thread is in."""
    impatient: threading.Timer | None = None
    while received := os.read(reading, 1):
        if received[0] not in _SIGNALS:
            continue
        if impatient is not None:
            if received[0] == signal.SIGINT:
                os._exit(128 + received[0])
            continue
        impatient = threading.Timer(_PATIENCE_S, _give_up, args=(received[0],))
        impatient.daemon = True
        impatient.start()
    if impatient is not None:
        impatient.cancel()
    os.close(reading)


def _give_up(number: int) -> None:
    """End the process if the main thread has not seen the signal and holds nothing."""
    if not _State.seen and not _State.holding:
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, told(number).encode())
        os._exit(START_AGAIN)


def told(number: int | str | None) -> str:
    """What the user reads.

    Args:
      number: The signal, or its name.
    """
    name = signal.Signals(number).name if isinstance(number, int) else number
    return (
        f"\nStopped by {name}. What was finished is saved; the same command goes on from there "
        f"(exit status {START_AGAIN}).\n"
    )
