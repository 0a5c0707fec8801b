"""What the command shows while a backtest runs."""

import pytest

from klinecast.cli._follow import follow
from klinecast.client import BacktestEvent


def test_the_time_that_is_left_is_shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    event = BacktestEvent(
        backtest_id="b", sequence=2, state="RUNNING", attempt=1, phase="SIMULATE",
        fraction_done=0.5, klines_done=500, klines_total=1_000, equity=10_000.0, eta_s=12.4,
    )  # fmt: skip
    seen: list[BacktestEvent] = []
    follow(iter([event]), seen)
    assert seen == [event]
    assert "500/1,000 klines equity 10,000.00 0:00:00 12 s left" in capsys.readouterr().err
