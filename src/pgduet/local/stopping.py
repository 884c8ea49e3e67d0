"""Ending in order: SIGTERM is taken like Ctrl-C, and once the end has begun no further signal disturbs it."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Never

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """Raise KeyboardInterrupt on either signal; call what is given when the end begins: from there on they are ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    before = {number: signal.signal(number, _interrupt) for number in _SIGNALS}

    def ending() -> None:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    try:
        yield ending
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> Never:
    del number, frame
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt
