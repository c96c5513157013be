"""Turn Ctrl-C, SIGTERM and SIGHUP into events that a loop can check to end cleanly."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class _Handler:
    """Sets flags at the first Ctrl-C; the previous handler receives the second one."""

    def __init__(self, previous: Any) -> None:
        self.previous = previous
        self.flags: list[threading.Event] = []

    def __call__(self, *_: object) -> None:
        for flag in self.flags:
            flag.set()
        signal.signal(signal.SIGINT, self.previous)


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C sets. A second Ctrl-C raises KeyboardInterrupt.

    In nested blocks, the first Ctrl-C sets the events of both blocks.
    """
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag  # only the main thread receives signals
        return
    previous = signal.getsignal(signal.SIGINT)
    if previous in (signal.SIG_IGN, None):
        yield flag  # a background job ignores Ctrl-C; None is a handler that C code set
        return
    handler = previous if isinstance(previous, _Handler) else _Handler(previous)
    handler.flags.append(flag)
    signal.signal(signal.SIGINT, handler)
    try:
        yield flag
    finally:
        handler.flags.remove(flag)
        if not handler.flags:
            signal.signal(signal.SIGINT, handler.previous)


@contextmanager
def terminable() -> Iterator[threading.Event]:
    """Yield an event that SIGTERM and SIGHUP set, as a scheduler or a closed terminal send them."""
    terminated = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield terminated
        return
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    previous = {number: signal.getsignal(number) for number in numbers}
    previous = {n: old for n, old in previous.items() if old not in (signal.SIG_IGN, None)}
    for number in previous:
        signal.signal(number, lambda *_: terminated.set())
    try:
        yield terminated
    finally:
        for number, old in previous.items():
            signal.signal(number, old)
