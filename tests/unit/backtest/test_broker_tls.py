"""Whom the broker's clients believe to be the broker."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from kombu.exceptions import OperationalError

from services.backtest.executors.broker import make_celery
from tests.security import Authority

REFUSED = "CERTIFICATE_VERIFY_FAILED"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def port(authority: Authority) -> Iterator[int]:
    """Return a port that shakes hands, reads a command and hangs up."""
    own = authority.issue("broker")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own.certificate_file, own.key_file)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, contextlib.suppress(OSError), context.wrap_socket(connection, True) as channel:
                        channel.recv(1)

        thread = threading.Thread(target=answer)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize(
    ("query", "is_refused"), [("", True), ("?ssl_cert_reqs=none", False), ("?ssl_ca_certs={ca}", False)]
)
def test_a_stranger_with_a_certificate_is_no_broker(
    authority: Authority, port: int, query: str, is_refused: bool
) -> None:
    url = f"rediss://127.0.0.1:{port}/0{query.format(ca=authority.ca_file)}"
    with contextlib.closing(make_celery(url)) as app, app.connection_for_write() as connection:
        with pytest.raises(OperationalError) as raised:
            connection.ensure_connection(max_retries=1, interval_start=0)
        assert (REFUSED in str(raised.value)) == is_refused
