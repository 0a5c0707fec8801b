"""Publishes backtests to the broker, in a thread: a broker that is away holds nobody up, and loses nothing."""

from __future__ import annotations

import queue
import threading
import time

from services.backtest.executors.broker import TASK, make_celery
from services.backtest.jobs import REDELIVER_S
from services.runtime.logs import get_logger


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
            since, backtest_id = one
            if time.monotonic() - since > REDELIVER_S:
                continue  # it is delivered anew by now
            try:
                self._app.send_task(TASK, (backtest_id,), retry=False)
            except Exception as error:  # the broker is away; the row is delivered again after a while
                self._log.warning("publish_failed", backtest_id=backtest_id, problem=type(error).__name__)
        self._app.close()
