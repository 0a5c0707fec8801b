"""The checker finds what it is there to find."""

from __future__ import annotations

import dataclasses

from tests.faults.history import Final, History, Submit, check

GOOD = Final(
    states={"b1": "SUCCEEDED", "b2": "SUCCEEDED"},
    requests={"b1": "r1", "b2": "r2"},
    events={name: [(1, "QUEUED"), (2, "RUNNING"), (3, "SUCCEEDED")] for name in ("b1", "b2")},
    results=["b1", "b2"],
    digests={"b1": "x", "b2": "x"},
)


def verdict_of(final: Final = GOOD, story: list[int] | None = None) -> dict[str, int]:
    history = History()
    history.submitted(Submit("r1", "c", "b1"))
    history.submitted(Submit("r2", "c", None))  # never answered, but it was stored
    history.watched("b1", story or [1, 2, 3])
    verdict = check(history, final, {"c": "x"})
    found = {name: len(getattr(verdict, name)) for name in ("lost", "doubled", "unexpected", "wrong")}
    assert verdict.clean == (sum(found.values()) == 0)
    return {name: count for name, count in found.items() if count}


def changed(**fields: object) -> Final:
    return dataclasses.replace(GOOD, **fields)


def test_a_good_run_is_clean() -> None:
    assert verdict_of() == {}


def test_a_lost_backtest_is_found() -> None:
    gone = changed(
        states={"b2": "SUCCEEDED"}, requests={"b2": "r2"}, events={"b1": GOOD.events["b1"], "b2": GOOD.events["b2"]}
    )
    assert verdict_of(gone) == {"lost": 1}
    stuck = changed(
        states=dict(GOOD.states) | {"b1": "RUNNING"}, events=dict(GOOD.events) | {"b1": GOOD.events["b1"][:2]}
    )
    assert verdict_of(stuck, [1, 2]) == {"lost": 1, "unexpected": 1}


def test_doubles_are_found() -> None:
    assert verdict_of(changed(requests={"b1": "r1", "b2": "r1"})) == {"doubled": 1, "unexpected": 1}
    assert verdict_of(changed(results=["b1", "b1", "b2"])) == {"doubled": 1}
    twice = [*GOOD.events["b2"], (4, "SUCCEEDED")]
    assert verdict_of(changed(events=dict(GOOD.events) | {"b2": twice})) == {"doubled": 1}
    skipped = [(1, "QUEUED"), (3, "SUCCEEDED")]
    assert verdict_of(changed(events=dict(GOOD.events) | {"b2": skipped})) == {"doubled": 1}


def test_a_watcher_that_missed_something_is_found() -> None:
    assert verdict_of(story=[1, 3]) == {"doubled": 1}


def test_an_unexpected_end_is_found() -> None:
    failed = [(1, "QUEUED"), (2, "FAILED")]
    final = changed(states=dict(GOOD.states) | {"b2": "FAILED"}, events=dict(GOOD.events) | {"b2": failed})
    assert verdict_of(final) == {"unexpected": 1}
    stranger = changed(requests={"b1": "r1", "b2": "r9"})
    assert verdict_of(stranger) == {"unexpected": 1}


def test_a_wrong_result_is_found() -> None:
    assert verdict_of(changed(digests={"b1": "x", "b2": "y"})) == {"wrong": 1}
    assert verdict_of(changed(digests={"b1": "x"})) == {"wrong": 1}
