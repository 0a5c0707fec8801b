"""Reads a caller's stream one message ahead of the handler."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TypeVar

_T = TypeVar("_T")


async def read_ahead(messages: AsyncIterator[_T]) -> AsyncGenerator[_T, None]:
    """Yield the messages; the next one arrives while the handler works on the last."""
    upcoming = _next(messages)
    try:
        while True:
            try:
                message = await upcoming
            except StopAsyncIteration:
                return
            upcoming = _next(messages)
            yield message
    finally:
        upcoming.cancel()


def _next(messages: AsyncIterator[_T]) -> asyncio.Task[_T]:
    task = asyncio.ensure_future(anext(messages))
    task.add_done_callback(lambda done: done.cancelled() or done.exception())  # a handler that failed asks no more
    return task
