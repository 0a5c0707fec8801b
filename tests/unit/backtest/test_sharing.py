"""Who is next: priority first, then shares by weight; nothing waits for ever, no limit is passed."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from services.backtest.sharing import AGEING_S, Limits, Queue, Waiting, choose


class Line:
    """A queue that is served again and again, as the store keeps it between dispatches."""

    def __init__(self, tenant: str, priority: int, count: int, klines: int = 0) -> None:
        self.tenant, self.priority, self.count, self.klines = tenant, priority, count, klines
        self.started = self.finished = self.passed_over_s = 0.0
        self.served = 0

    def queue(self, slots: int) -> Queue:
        heads = [
            Waiting(f"{self.tenant}{self.priority}-{self.served + n}", self.klines)
            for n in range(min(slots, self.count))
        ]
        return Queue(
            tenant=self.tenant,
            priority=self.priority,
            heads=heads,
            passed_over_s=self.passed_over_s,
            started=self.started,
            finished=self.finished,
        )


def serve(lines: list[Line], starts: int, *, limits: dict[str, Limits] | None = None, step_s: float = 0.0) -> list[str]:
    """Dispatch one slot at a time, as backtests end; return whose backtest started each time."""
    order: list[str] = []
    for _ in range(starts):
        clocks = {line.priority: max(one.started for one in lines if one.priority == line.priority) for line in lines}
        queues = [line.queue(1) for line in lines if line.count]
        if not choose(queues, 1, clocks=clocks, busy={}, limits_of=lambda t: (limits or {}).get(t, Limits())):
            break
        for line in lines:
            line.passed_over_s += step_s
        for queue in queues:
            if queue.taken:
                line = next(one for one in lines if (one.tenant, one.priority) == (queue.tenant, queue.priority))
                line.started, line.finished, line.passed_over_s = queue.started, queue.finished, 0.0
                line.count -= 1
                line.served += 1
                order.append(f"{line.tenant}{line.priority}")
    return order


def test_ten_of_high_priority_start_before_ten_thousand_of_low() -> None:
    order = serve([Line("a", 1, 10_000), Line("a", 8, 10)], 11)
    assert order == ["a8"] * 10 + ["a1"]


def test_a_newcomer_is_next_but_one_behind_a_long_queue() -> None:
    flood, one = Line("a", 4, 10_000), Line("b", 4, 0)
    serve([flood, one], 500)
    one.count = 1
    assert "b4" in serve([flood, one], 2)


def test_shares_follow_weights() -> None:
    order = Counter(serve([Line("a", 4, 9_999), Line("b", 4, 9_999)], 400, limits={"a": Limits(weight=3)}))
    assert order == {"a4": 300, "b4": 100}


def test_a_tenant_of_long_backtests_starts_fewer_of_them() -> None:
    order = Counter(serve([Line("a", 4, 999, klines=1_500_000), Line("b", 4, 999)], 100))
    assert order["b4"] == 4 * order["a4"]


def test_a_tenant_that_was_away_catches_nothing_up() -> None:
    busy, away = Line("a", 4, 9_999), Line("b", 4, 0)
    serve([busy, away], 1_000)
    away.count = 9_999
    assert Counter(serve([busy, away], 100)) == {"a4": 50, "b4": 50}


def test_what_is_passed_over_moves_up_until_it_is_served() -> None:
    low, high = Line("a", 0, 10), Line("b", 9, 99_999)
    order = serve([low, high], 2_000, step_s=AGEING_S / 100)
    first = order.index("a0")
    assert 890 <= first <= 910  # nine priorities, a hundred starts each
    assert order.index("a0", first + 1) - first >= 890  # served once, it waits anew


def test_a_long_queue_gains_nothing_by_its_age() -> None:
    old, fresh = Line("a", 4, 10_000), Line("b", 4, 10_000)
    old.passed_over_s = 0.0
    assert Counter(serve([old, fresh], 1_000, step_s=AGEING_S)) == {"a4": 500, "b4": 500}


@given(
    counts=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9), st.integers(0, 6)), max_size=12),
    slots=st.integers(0, 20),
    busy=st.dictionaries(st.sampled_from("abc"), st.integers(0, 5)),
    most=st.integers(1, 5),
)
def test_no_limit_is_passed_and_no_slot_is_wasted(
    counts: list[tuple[str, int, int]], slots: int, busy: dict[str, int], most: int
) -> None:
    lines = {(tenant, priority): Line(tenant, priority, count) for tenant, priority, count in counts}
    queues = [line.queue(slots) for line in lines.values() if line.count]
    limits = {"a": Limits(max_running=most), "b": Limits(max_running=1)}
    chosen = choose(queues, slots, clocks={}, busy=busy, limits_of=lambda tenant: limits.get(tenant, Limits()))
    taken = Counter(busy)
    for queue in queues:
        taken[queue.tenant] += queue.taken
    assert len(chosen) == len({one.backtest_id for one in chosen}) == sum(queue.taken for queue in queues) <= slots
    assert taken["a"] <= max(most, busy.get("a", 0))
    assert taken["b"] <= max(1, busy.get("b", 0))
    if len(chosen) < slots:
        assert all(
            queue.taken == len(queue.heads) or taken[queue.tenant] >= (limits[queue.tenant].max_running or 0)
            for queue in queues
            if queue.tenant != "c"
        )
        assert all(queue.taken == len(queue.heads) for queue in queues if queue.tenant == "c")
