"""The page of metrics, whoever connects to it."""

import socket
import threading
import urllib.request
from contextlib import ExitStack

import pytest

from services.runtime import metrics


def test_mute_connections_are_closed_and_hold_no_thread(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(metrics._SilentHandler, "timeout", 0.2)
    before = set(threading.enumerate())
    page = metrics.start_metrics_server(metrics.new_registry(), "127.0.0.1:0")
    with ExitStack() as stack:
        mute = [socket.create_connection(("127.0.0.1", page.port), timeout=10) for _ in range(20)]
        for one in mute:
            stack.enter_context(one)
        mute[0].sendall(b"GET /metrics HTTP/1.1\r\nHost")
        url = f"http://127.0.0.1:{page.port}/metrics"
        assert b"process_threads" in urllib.request.urlopen(url, timeout=5).read()
        assert [one.recv(1) for one in mute] == [b""] * 20
    page.close()
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
        assert not thread.is_alive()
    assert "Traceback" not in capfd.readouterr().err
