"""The server's gRPC channel options and why each has its number. Knows no service."""

from __future__ import annotations

from services.runtime.config import LimitSettings

KEEPALIVE_MS = 3_000
"""A silent connection is pinged this often; the client's own keepalive may be as short as MIN_CLIENT_PING_MS."""
MIN_CLIENT_PING_MS = 1_000
PING_TIMEOUT_MS = 2_000
SETTINGS_TIMEOUT_MS = 5_000
METADATA_BYTES = 16 * 1024


def server_options(limits: LimitSettings) -> list[tuple[str, object]]:
    """Return the options of a server: dead peers are noticed in 5 s, ports are not shared, messages are bounded."""
    return [
        *_keepalive(),
        ("grpc.so_reuseport", 0),  # on by default: a second server would share the port silently
        ("grpc.server_handshake_timeout_ms", 5_000),  # against connections that never speak
        ("grpc.http2.settings_timeout", SETTINGS_TIMEOUT_MS),  # and that never take note of our limits
        ("grpc.max_receive_message_length", limits.max_message_bytes),
        ("grpc.max_send_message_length", limits.max_message_bytes),
        ("grpc.max_concurrent_streams", limits.max_concurrent_streams),
        ("grpc.max_metadata_size", METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", METADATA_BYTES),  # else a quarter more, refused at random
        # The receive window does not grow by itself, so what callers upload and we have not read stays in their memory;
        # on loopback uploads are as fast with it as without (about 1 GB/s).
        ("grpc.http2.bdp_probe", 0),
        ("grpc.max_connection_age_ms", round(limits.connection_age_s * 1000)),
    ]


def _keepalive() -> list[tuple[str, object]]:
    return [
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.http2.ping_timeout_ms", PING_TIMEOUT_MS),  # grpc.keepalive_timeout_ms has no effect (grpc#39239)
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", MIN_CLIENT_PING_MS),  # else GOAWAY too_many_pings
        ("grpc.http2.max_ping_strikes", 0),
    ]
