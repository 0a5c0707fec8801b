"""Stands in for a service where only its life as a process matters: health, port file, supervisor's pipe, SIGTERM."""

import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health, health_pb2_grpc

from services.runtime.lifecycle import stop_with_supervisor, write_port_file


def serve() -> None:
    """Answer health checks until SIGTERM or the end of the supervisor; say on standard output what we were told."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    stop_with_supervisor(int(os.environ["KLINECAST_SUPERVISOR_PIPE_FD"]))
    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
    health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
    port = server.add_insecure_port(os.environ["KLINECAST_LISTEN"])
    server.start()
    print(sorted(name for name in os.environ if name.startswith("KLINECAST_")), flush=True)
    write_port_file(os.environ["KLINECAST_PORT_FILE"], {"port": port, "metrics_port": port})
    stop.wait()
    server.stop(0)
    sys.exit(0)
