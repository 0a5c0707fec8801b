"""A model of the life of one backtest: its row, two workers, a broker that loses and repeats, the results service.

Written from the rules (ARCHITECTURE, docs), not from the SQL: test_life_model.py looks at every state it can reach,
test_life_statements.py compares each step with what Postgres does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

MOST_DEATHS = 2
TERMINAL = ("SUCCEEDED", "FAILED", "CANCELLED")


@dataclass(frozen=True, slots=True)
class Row:
    """The row of the backtest, as far as the protocol looks at it."""

    state: str = "QUEUED"
    fence: int = 0
    deaths: int = 0
    delivered: bool = False
    cancel_asked: bool = False
    outbox: bool = False
    """Whether results that attempts may have saved are still to be deleted."""

    @property
    def terminal(self) -> bool:
        """Whether it is never left."""
        return self.state in TERMINAL

    def deliver(self) -> Row | None:
        """Hand it to an executor."""
        return replace(self, delivered=True) if self.state == "QUEUED" and not self.delivered else None

    def take_back(self) -> Row | None:
        """Give a delivery up that nobody claimed in time."""
        return replace(self, delivered=False) if self.state == "QUEUED" and self.delivered else None

    def claim(self) -> Row | None:
        """Be claimed by whoever has a message, at any time after a delivery that was not taken back."""
        if self.state != "QUEUED" or not self.delivered:
            return None
        return replace(self, state="RUNNING", fence=self.fence + 1, delivered=False)

    def progress(self, fence: int) -> Row | None:
        """Store progress."""
        return self if self._is_held(fence) else None

    def succeed(self, fence: int) -> Row | None:
        """End well; the result is saved by then."""
        return replace(self, state="SUCCEEDED") if self._is_held(fence) else None

    def fail(self, fence: int) -> Row | None:
        """End with an error."""
        return self._end("FAILED") if self._is_held(fence) else None

    def finish_cancelled(self, fence: int) -> Row | None:
        """End because a cancel was asked for."""
        return self._end("CANCELLED") if self._is_held(fence) and self.cancel_asked else None

    def hand_back(self, fence: int) -> Row | None:
        """Go back to the queue, unless a cancel was asked for, because the worker is stopped on purpose."""
        if not self._is_held(fence):
            return None
        return self._end("CANCELLED") if self.cancel_asked else replace(self, state="QUEUED")

    def die(self, fence: int | None = None) -> Row | None:
        """Lose the worker: noticed by its parent or said by itself (fence given), or by the end of the lease."""
        if self.state != "RUNNING" or fence not in (None, self.fence):
            return None
        dead = replace(self, deaths=self.deaths + 1)
        if self.cancel_asked:
            return dead._end("CANCELLED")
        return dead._end("FAILED") if dead.deaths >= MOST_DEATHS else replace(dead, state="QUEUED")

    def cancel(self) -> Row | None:
        """Be cancelled by its owner: at once while queued, else by its worker."""
        if self.state == "QUEUED":
            return replace(self._end("CANCELLED"), delivered=False)
        if self.state == "RUNNING" and not self.cancel_asked:
            return replace(self, cancel_asked=True)
        return None

    def _is_held(self, fence: int) -> bool:
        return self.state == "RUNNING" and self.fence == fence

    def _end(self, state: str) -> Row:
        return replace(self, state=state, outbox=self.fence > 0)


@dataclass(frozen=True, slots=True)
class World:
    """Everything at one instant."""

    row: Row = Row()
    messages: int = 0
    """Deliveries under way, repeated and late ones included."""
    workers: tuple[tuple[int, bool] | None, ...] = (None, None)
    """What each is at: the fence it claimed with, and whether it has saved its result. It may be paused for ever."""
    result: int | None = None
    """Fence of the stored result."""
    buried: int = 0
    """Fence up to which saves are refused."""
    ended: int = 0
    """How often a terminal state was entered."""

    def steps(self) -> Iterator[tuple[str, World]]:
        """Yield what may happen next, faults included."""
        yield from self._row_steps()
        for at, work in enumerate(self.workers):
            yield from self._idle_steps(at) if work is None else self._busy_steps(at, *work)
        if self.messages:
            yield "the broker loses a message", replace(self, messages=self.messages - 1)
            if self.messages < 2:
                yield "the broker repeats a message", replace(self, messages=self.messages + 1)
        if self.row.outbox:
            gone = self.result if self.result is not None and self.result > self.row.fence else None
            yield (
                "the outbox is emptied",
                replace(
                    self, row=replace(self.row, outbox=False), result=gone, buried=max(self.buried, self.row.fence)
                ),
            )

    def _row_steps(self) -> Iterator[tuple[str, World]]:
        if (row := self.row.deliver()) and self.messages < 2:
            yield "deliver", replace(self, row=row, messages=self.messages + 1)
        for name, moved in (
            ("take back", self.row.take_back()),
            ("cancel", self.row.cancel()),
            ("rescue", self.row.die()),
        ):
            if moved:
                yield name, self._moved(moved)

    def _idle_steps(self, at: int) -> Iterator[tuple[str, World]]:
        if not self.messages:
            return
        after = replace(self, messages=self.messages - 1)
        row = self.row.claim()
        yield f"worker {at} claims", after._moved(row)._with(at, (row.fence, False)) if row else after

    def _busy_steps(self, at: int, fence: int, saved: bool) -> Iterator[tuple[str, World]]:
        gone = self._with(at, None)
        yield f"worker {at} dies unseen", gone
        for name, row in (
            ("dies", self.row.die(fence)),
            ("fails", self.row.fail(fence)),
            ("is handed back", self.row.hand_back(fence)),
            ("gives up", self.row.finish_cancelled(fence)),
        ):
            yield f"worker {at} {name}", gone._moved(row) if row else gone
        if saved:
            row = self.row.succeed(fence)
            yield f"worker {at} succeeds", gone._moved(row) if row else gone
        elif fence > self.buried and (self.result is None or fence >= self.result):
            yield f"worker {at} saves", replace(self, result=fence)._with(at, (fence, True))
        else:
            yield f"worker {at} may not save", gone

    def _moved(self, row: Row) -> World:
        return replace(self, row=row, ended=self.ended + (row.terminal and not self.row.terminal))

    def _with(self, at: int, work: tuple[int, bool] | None) -> World:
        workers = list(self.workers)
        workers[at] = work
        return replace(self, workers=tuple(workers))
