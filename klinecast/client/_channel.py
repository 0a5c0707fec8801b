"""Channels to the services: options measured against dead peers, and the metadata every call carries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc

from klinecast.client._renewing import RenewingChannel
from klinecast.client._security import Security

OPTIONS: list[tuple[str, int | str]] = [
    ("grpc.keepalive_time_ms", 4_000),
    ("grpc.http2.ping_timeout_ms", 2_000),  # keepalive_timeout_ms has no effect: a dead peer was noticed after 64 s
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.dns_min_time_between_resolutions_ms", 5_000),  # 30 s by default: a rollout's new pods were found that late
    # Frames of 16 KiB and the small first window cost a stream of klines a quarter of its speed; a reader that stalls
    # holds the window in memory, so it is no larger than it has to be.
    ("grpc.http2.max_frame_size", 1024 * 1024),
    ("grpc.http2.lookahead_bytes", 1024 * 1024),
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
    ("grpc.max_send_message_length", 4 * 1024 * 1024),
    ("grpc.service_config", '{"loadBalancingConfig":[{"round_robin":{}}]}'),
]


def open_channel(target: str, security: Security, interceptors: Sequence[Any], *, own: str = "") -> grpc.Channel:
    """Open a channel; a name in `own` keeps it from sharing connections with others to the same target."""
    security.check_target(target)
    options = [*OPTIONS, ("klinecast.channel", own)] if own else OPTIONS
    channel: grpc.Channel
    if security.ca_file is None:
        channel = grpc.insecure_channel(target, options=options)
    else:
        channel = RenewingChannel(
            lambda: grpc.secure_channel(target, security.channel_credentials(), options=options),
            security.certificate_stamp,
        )
    return grpc.intercept_channel(channel, *interceptors) if interceptors else channel
