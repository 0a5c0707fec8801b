"""Publishes backtests to the broker, in a thread: a broker that is away holds nobody up, and loses nothing."""

from __future__ import annotations

import queue
import threading
import time

from services.backtest.executors.broker import TASK, make_celery
from services.backtest.jobs import REDELIVER_S
from services.runtime.logs import get_logger

_RETRY_S = 0.25


class CeleryExecutor:
    """Workers elsewhere run what is published; how many there are they say in Postgres."""

    ready = True

    def __init__(self, broker_url: str) -> None:
        self._app = make_celery(broker_url)
        self._waiting: queue.SimpleQueue[tuple[float, str] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._publish_forever, name="publisher", daemon=True)
        self._log = get_logger("celery")

    def start(self) -> None:
        """Start publishing."""
        self._thread.start()

    def free_slots(self) -> None:
        """Return None: the announced pools tell."""

    def deliver(self, backtest_id: str) -> None:
        """Publish a backtest soon."""
        self._waiting.put((time.monotonic(), backtest_id))

    def stop(self, grace_s: float) -> None:
        """Publish what waits, if the broker is there."""
        self._waiting.put(None)
        if self._thread.is_alive():
            self._thread.join(min(grace_s, REDELIVER_S))

    def _publish_forever(self) -> None:
        while (one := self._waiting.get()) is not None:
            self._publish(*one)
        self._app.close()

    def _publish(self, since: float, backtest_id: str) -> None:
        """Try until it is published or, the broker being away, the row is delivered anew."""
        problem = None
        while time.monotonic() - since < REDELIVER_S:
            try:
                self._app.send_task(TASK, (backtest_id,), retry=False)
            except Exception as error:
                problem = type(error).__name__
                time.sleep(_RETRY_S)
            else:
                return
        if problem is not None:
            self._log.warning("publish_failed", backtest_id=backtest_id, problem=problem)
