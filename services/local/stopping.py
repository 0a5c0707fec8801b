"""Turns Ctrl-C, SIGTERM and a closed terminal into a flag: no start or stop is interrupted halfway."""

import signal
import threading
from collections.abc import Callable


def catch_signals() -> Callable[[], bool]:
    """Return a function that says whether the user wants us to stop; call once, from the main thread."""
    stop = threading.Event()
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # under nohup a closed terminal is to be survived
        numbers.append(signal.SIGHUP)
    for number in numbers:
        signal.signal(number, lambda *_: stop.set())
    return stop.is_set
