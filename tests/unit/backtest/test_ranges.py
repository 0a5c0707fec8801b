"""What one request asks the data service about ranges."""

import asyncio
from dataclasses import replace

from klinecast.interval import Interval
from klinecast.models import RangeSummary
from klinecast.series import SeriesKey
from services.backtest.ranges import AT_ONCE, Range, Ranges
from tests.factories import make_series


class Market:
    """Holds as many klines as milliseconds."""

    def __init__(self) -> None:
        self.asked: list[Range] = []
        self.most = self._now = 0

    async def ask(self, tenant: str, wanted: Range) -> RangeSummary:
        """Answer after all others had their turn."""
        self.asked.append(wanted)
        self._now += 1
        self.most = max(self.most, self._now)
        await asyncio.sleep(0)
        self._now -= 1
        return RangeSummary(wanted[2] - wanted[1], 1, 0, Interval.H1, {})


def many(count: int) -> list[SeriesKey]:
    return [replace(make_series(), symbol=f"S{at}") for at in range(count)]


async def test_a_hundred_series_are_asked_about_a_few_at_a_time() -> None:
    market = Market()
    assert await Ranges(market.ask, "acme").count_klines(many(100), 5, 8) == 300
    assert (len(market.asked), market.most) == (100, AT_ONCE)


async def test_a_range_that_was_counted_is_not_asked_about_again() -> None:
    market, [series] = Market(), many(1)
    ranges = Ranges(market.ask, "acme")
    await ranges.count_klines([series], 5, 8)
    assert (await ranges.get(series, 5, 8)).kline_count == 3
    await ranges.get(series, 5, 8, ("mood",))
    assert market.asked == [(series, 5, 8, ()), (series, 5, 8, ("mood",))]
