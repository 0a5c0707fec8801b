"""Fans stored events out to their watchers: one database read per event and backtest, however many watch."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from services.backtest.jobs import Event, JobKey, State

POLL_S = 1.0
"""How late an event may be seen when no notification arrives."""
_BUFFERED = 256
_PAGE = 500
_BEHIND = 16
"""A watcher so many events behind what happens is spared the progress that later progress superseded."""


class EventSource(Protocol):
    """Where stored events are read."""

    async def events(self, key: JobKey, after: int, limit: int) -> Sequence[Event]:
        """Return events after a sequence number, in order."""


class _Topic:
    """The latest events of one watched backtest, and a wake-up for those who wait for more."""

    def __init__(self, after: int) -> None:
        self.watchers = 0
        self.last = after
        self.buffer: deque[Event] = deque(maxlen=_BUFFERED)
        self.dirty = asyncio.Event()
        self.dirty.set()
        self.changed = asyncio.Event()
        self.reader: asyncio.Task[None] | None = None

    def append(self, events: Sequence[Event]) -> None:
        self.buffer.extend(events)
        self.last = events[-1].sequence
        self.changed.set()
        self.changed = asyncio.Event()

    def after(self, sequence: int) -> Sequence[Event] | None:
        """Return buffered events after a number; None when some of them are not in the buffer."""
        if sequence >= self.last:
            return ()
        if not self.buffer or self.buffer[0].sequence > sequence + 1:
            return None
        return [event for event in self.buffer if event.sequence > sequence]


def without_superseded(events: Sequence[Event]) -> Sequence[Event]:
    """Leave progress out that later progress of the same attempt makes old news; states stay, and the last event."""
    kept: list[Event] = []
    for event in events:
        if kept and _is_progress(kept[-1]) and _is_progress(event) and kept[-1].attempt == event.attempt:
            kept.pop()
        kept.append(event)
    return kept


def _is_progress(event: Event) -> bool:
    return event.state is State.RUNNING and "phase" in event.body


class WatchHub:
    """All watched backtests of this process."""

    def __init__(self, source: EventSource) -> None:
        self._source = source
        self._topics: dict[JobKey, _Topic] = {}
        self._by_id: dict[str, JobKey] = {}

    def wake(self, backtest_id: str | None, sequence: int | None = None) -> None:
        """Read the events of a backtest soon, unless the one of that number is known; None: of every watched one."""
        keys = list(self._topics)
        if backtest_id is not None:
            keys = [self._by_id[backtest_id]] if backtest_id in self._by_id else []
        for topic in (self._topics[key] for key in keys):
            if sequence is None or topic.last < sequence:
                topic.dirty.set()

    async def watch(self, key: JobKey, after: int, *, story: int, quiet_s: float) -> AsyncGenerator[Sequence[Event]]:
        """Yield events after a number up to the terminal one; after quiet_s without any, an empty list.

        story: what had happened when the watcher came is told whole, whatever its pace.
        """
        topic = self._join(key, after)
        try:
            while True:
                changed = topic.changed
                events = topic.after(after)
                if events is None:
                    events = await self._source.events(key, after, _PAGE)
                if after >= story and len(events) > _BEHIND:
                    events = without_superseded(events)
                if not events:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(changed.wait(), quiet_s)
                        continue
                else:
                    after = events[-1].sequence
                yield events
                if events and events[-1].state.terminal:
                    return
        finally:
            self._leave(key, topic)

    async def close(self) -> None:
        """Stop reading."""
        for topic in list(self._topics.values()):
            if topic.reader is not None:
                topic.reader.cancel()

    def _join(self, key: JobKey, after: int) -> _Topic:
        topic = self._topics.get(key)
        if topic is None:
            topic = self._topics[key] = _Topic(after)
            self._by_id[key.backtest_id] = key
            topic.reader = asyncio.create_task(self._read(key, topic))
        topic.watchers += 1
        return topic

    def _leave(self, key: JobKey, topic: _Topic) -> None:
        topic.watchers -= 1
        if topic.watchers == 0:
            del self._topics[key], self._by_id[key.backtest_id]
            if topic.reader is not None:
                topic.reader.cancel()

    async def _read(self, key: JobKey, topic: _Topic) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(topic.dirty.wait(), POLL_S)
            topic.dirty.clear()
            try:
                while events := await self._source.events(key, topic.last, _PAGE):
                    topic.append(events)
            except Exception:  # the database is away: the next turn tries again, watchers see heartbeats meanwhile
                await asyncio.sleep(POLL_S)
                topic.dirty.set()
