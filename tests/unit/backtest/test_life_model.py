"""Every state that one backtest, two workers, a bad broker and the results service can reach keeps the promises."""

from __future__ import annotations

from collections import deque

import pytest

from tests.reference.life import World

MOST_FENCES = 4
"""Attempts that are looked at: deaths end after two, handing back would go on for ever."""


@pytest.fixture(scope="module")
def reached() -> dict[World, list[tuple[str, World]]]:
    """Return every reachable state with what may happen in it."""
    found: dict[World, list[tuple[str, World]]] = {}
    waiting = deque([World()])
    while waiting:
        world = waiting.popleft()
        if world not in found:
            found[world] = [(name, after) for name, after in world.steps() if after.row.fence <= MOST_FENCES]
            waiting.extend(after for _, after in found[world])
    return found


def test_the_model_is_not_empty(reached) -> None:
    assert len(reached) > 2_000
    assert {world.row.state for world in reached} == {"QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED"}
    assert any(None not in world.workers for world in reached)  # two at once: one of them is stale


def test_a_terminal_state_is_never_left(reached) -> None:
    for world, steps in reached.items():
        assert world.ended == world.row.terminal
        for name, after in steps:
            assert not world.row.terminal or after.row.state == world.row.state, (name, world)


def test_what_succeeded_has_its_result_for_good(reached) -> None:
    for world in reached:
        if world.row.state == "SUCCEEDED":
            assert world.result is not None, world
            assert world.result <= world.row.fence


def test_what_ended_otherwise_has_none_once_the_outbox_is_empty_whoever_saves_late(reached) -> None:
    for world in reached:
        if world.row.terminal and world.row.state != "SUCCEEDED" and not world.row.outbox:
            assert world.result is None, world


def test_only_the_latest_claim_moves_a_running_backtest(reached) -> None:
    for world, steps in reached.items():
        for at, work in enumerate(world.workers):
            if work is not None and work[0] != world.row.fence:
                moved = [name for name, after in steps if name.startswith(f"worker {at}") and after.row != world.row]
                assert not moved, world


def test_a_cancel_that_was_accepted_is_never_forgotten(reached) -> None:
    for world, steps in reached.items():
        for name, after in steps:
            assert not world.row.cancel_asked or after.row.state != "QUEUED", (name, world)


def test_nothing_is_stuck(reached) -> None:
    """From every state a terminal one can be reached without the help of a cancel or of another fault."""
    faults = ("cancel", "dies", "fails", "handed back", "loses", "repeats", "may not save")
    back: dict[World, list[World]] = {world: [] for world in reached}
    for world, steps in reached.items():
        for name, after in steps:
            if not any(fault in name for fault in faults):
                back[after].append(world)
    good = {world for world in reached if world.row.terminal and not world.row.outbox}
    waiting = deque(good)
    while waiting:
        for before in back[waiting.popleft()]:
            if before not in good:
                good.add(before)
                waiting.append(before)
    edge = [world for world in reached if world not in good]
    assert all(world.row.fence >= MOST_FENCES for world in edge), edge[:3]


@pytest.mark.parametrize(
    ("broken", "promise"),
    [
        ("fence", test_only_the_latest_claim_moves_a_running_backtest),
        ("bury", test_what_ended_otherwise_has_none_once_the_outbox_is_empty_whoever_saves_late),
        ("save", test_what_succeeded_has_its_result_for_good),
        ("hand back", test_a_cancel_that_was_accepted_is_never_forgotten),
    ],
)
def test_a_broken_rule_is_noticed(monkeypatch: pytest.MonkeyPatch, broken: str, promise) -> None:
    """The promises above can fail: each does when the rule that keeps it is taken away."""
    from dataclasses import replace

    from tests.reference import life

    if broken == "fence":
        monkeypatch.setattr(life.Row, "_is_held", lambda self, fence: self.state == "RUNNING")
    if broken == "hand back":
        requeue = lambda self, fence: replace(self, state="QUEUED") if self._is_held(fence) else None  # noqa: E731
        monkeypatch.setattr(life.Row, "hand_back", requeue)
    steps = life.World.steps

    def without_rule(self):
        for name, after in steps(self):
            if broken == "bury" and name == "the outbox is emptied":
                after = replace(after, buried=0)
            if broken == "save" and name.endswith("claims"):
                after = replace(after, workers=tuple(w and (w[0], True) for w in after.workers))
            yield name, after

    monkeypatch.setattr(life.World, "steps", without_rule)
    with pytest.raises(AssertionError):
        promise(reached.__wrapped__())
