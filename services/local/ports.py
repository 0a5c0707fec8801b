"""Which ports the services of one machine listen on."""

import socket
from dataclasses import dataclass

HOST = "127.0.0.1"


class PortTakenError(Exception):
    """A port the deployment is to use belongs to another program."""


@dataclass(frozen=True, slots=True)
class Ports:
    """What a service listens on; 0 takes a free one."""

    grpc: int
    metrics: int


DEFAULT_PORTS = {"data": Ports(50051, 9101), "results": Ports(50053, 9103), "backtest": Ports(50052, 9102)}
"""In the order of starting: a backtest needs the other two."""
FREE_PORTS = {name: Ports(0, 0) for name in DEFAULT_PORTS}


def check_ports(ports: dict[str, Ports]) -> None:
    """Raise PortTakenError naming every port that cannot be had."""
    wanted = {f"{name}'s {kind}": getattr(pair, kind) for name, pair in ports.items() for kind in ("grpc", "metrics")}
    taken = [f"{port} ({use})" for use, port in wanted.items() if port != 0 and not _is_free(port)]
    if taken:
        raise PortTakenError(f"taken by another program: port {', '.join(taken)}; free it or say --free-ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
