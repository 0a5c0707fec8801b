"""A TCP balancer on loopback, as a Service of Kubernetes: it knows connections, not calls."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterator, Sequence

from services.local.running import is_serving
from tests.faults.proxy import Proxy

PROBE_S = 0.2


class Balancer(Proxy):
    """New connections go in turn to replicas whose health check says SERVING; old ones live until a replica ends them.

    A replica that begins to stop goes on getting connections until the next probe: so does one of Kubernetes.
    """

    def __init__(self) -> None:
        self.replicas: Sequence[str] = ()
        """Who may be asked; set it once they have their ports."""
        self.serving: tuple[str, ...] = ()
        self._turns = itertools.count()
        self._closing = threading.Event()
        super().__init__("")
        self._start(self._probe_forever)

    def pick(self) -> str | None:
        """Return the next of the replicas that serve."""
        serving = self.serving
        return serving[next(self._turns) % len(serving)] if serving else None

    def close(self) -> None:
        """Stop probing and listening, cut everything."""
        self._closing.set()
        super().close()

    def _probe_forever(self) -> None:
        while not self._closing.wait(PROBE_S):
            self._probe()

    def _probe(self) -> None:
        self.serving = tuple(filter(is_serving, self.replicas))


@contextlib.contextmanager
def balance() -> Iterator[Balancer]:
    """Yield a balancer; nothing of it is left at the end."""
    balancer = Balancer()
    try:
        yield balancer
    finally:
        balancer.close()
