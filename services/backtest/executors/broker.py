"""Celery as the channel that carries ids of backtests to workers elsewhere; it keeps nothing and decides nothing."""

from __future__ import annotations

import ssl

from celery import Celery

QUEUE = "klinecast"
TASK = "klinecast.run_backtest"
_SOCKET_S = 2.0


def make_celery(broker_url: str) -> Celery:
    """Return an app that takes JSON only and knows one task, the id of a backtest.

    Messages are acknowledged when they arrive: one lost with its worker is published again, for the row says so.
    """
    app = Celery("klinecast", broker=broker_url, backend=None, set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_default_queue=QUEUE,
        task_ignore_result=True,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # Kombu would take anybody's certificate; what the URL says (?ssl_ca_certs=, ?ssl_cert_reqs=) goes before this.
        broker_use_ssl={"ssl_cert_reqs": ssl.CERT_REQUIRED} if broker_url.startswith("rediss:") else False,
        broker_transport_options={
            "socket_connect_timeout": _SOCKET_S,
            "socket_timeout": 3 * _SOCKET_S,
            "socket_keepalive": True,
            "health_check_interval": 5,
        },
    )
    return app
