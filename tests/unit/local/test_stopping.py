"""Signals become a flag."""

import signal
from collections.abc import Iterator

import pytest

from services.local.stopping import catch_signals

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def _handlers_put_back() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in NUMBERS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", NUMBERS)
def test_signal_sets_the_flag_and_interrupts_nothing(number: signal.Signals) -> None:
    is_stopping = catch_signals()
    assert not is_stopping()
    signal.raise_signal(number)
    assert is_stopping()


def test_nohup_is_respected() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    is_stopping = catch_signals()
    signal.raise_signal(signal.SIGHUP)
    assert not is_stopping()
