"""klinecast results policy, preview, audit."""

from __future__ import annotations

import dataclasses
import re
from typing import Annotated

import typer

from klinecast.cli._session import JsonOption, Session, format_time, print_json, print_rows, usage_error
from klinecast.client import RetentionPolicy, RetentionUsage

_UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd])")

DefaultTtl = Annotated[str | None, typer.Option(help="TTL of a result saved without one, for example 30d, 12h")]
MinTtl = Annotated[str | None, typer.Option(help="shortest TTL of a request")]
MaxTtl = Annotated[str | None, typer.Option(help="longest TTL of a request")]
MaxResults = Annotated[int | None, typer.Option(help="most results kept", min=1)]
MaxBytes = Annotated[int | None, typer.Option(help="most bytes kept", min=1)]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("policy")(policy)
    app.command("preview")(preview)
    app.command("audit")(audit)


def policy(
    context: typer.Context,
    default_ttl: DefaultTtl = None,
    min_ttl: MinTtl = None,
    max_ttl: MaxTtl = None,
    max_results: MaxResults = None,
    max_bytes: MaxBytes = None,
    reset: Annotated[bool, typer.Option("--reset", help="back to the service's policy")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show the retention policy and what it keeps; with options, replace it by them."""
    wanted = _policy(default_ttl, min_ttl, max_ttl, max_results, max_bytes)
    session: Session = context.obj
    with session.client() as client:
        if wanted is not None or reset:
            client.set_retention_policy(wanted or RetentionPolicy())
        found, usage = client.get_retention_policy(), client.get_retention_usage()
    if as_json:
        print_json({"policy": dataclasses.asdict(found), "usage": dataclasses.asdict(usage)})
        return
    rows: list[tuple[str, object]] = [
        (name.removesuffix("_s"), _text(name, value)) for name, value in dataclasses.asdict(found).items()
    ]
    print_rows(("field", "value"), rows + _usage_rows("kept", usage))


def preview(
    context: typer.Context,
    default_ttl: DefaultTtl = None,
    min_ttl: MinTtl = None,
    max_ttl: MaxTtl = None,
    max_results: MaxResults = None,
    max_bytes: MaxBytes = None,
    as_json: JsonOption = False,
) -> None:
    """Tell what would go now under the policy, or under one of these options; nothing is deleted."""
    session: Session = context.obj
    with session.client() as client:
        found = client.preview_retention(_policy(default_ttl, min_ttl, max_ttl, max_results, max_bytes))
    if as_json:
        losses = {reason: {"results": count, "bytes": size} for reason, (count, size) in found.losses.items()}
        kept = dataclasses.asdict(found.kept)
        print_json({"losses": losses, "result_ids": list(found.result_ids), "kept": kept})
        return
    rows: list[tuple[str, object]] = [
        (reason.lower(), f"{count:,} results, {size:,} bytes") for reason, (count, size) in found.losses.items()
    ]
    print_rows(("goes because", "what"), rows + _usage_rows("would be kept", found.kept))


def audit(
    context: typer.Context,
    reason: Annotated[str, typer.Option(help="only expired, max_results, max_bytes or deleted")] = "",
    limit: Annotated[int, typer.Option(help="at most so many", min=1)] = 20,
    as_json: JsonOption = False,
) -> None:
    """List what went and why, newest first."""
    if reason.lower() not in ("", "expired", "max_results", "max_bytes", "deleted"):
        raise usage_error("--reason", f"{reason!r} is none of expired, max_results, max_bytes, deleted")
    session: Session = context.obj
    with session.client() as client:
        found = list(client.list_retention_audit(reason=reason or None, limit=limit))
    if as_json:
        print_json([dataclasses.asdict(one) for one in found])
        return
    rows = (
        (one.result_id, one.strategy, one.reason.lower(), f"{one.stored_bytes:,}", format_time(one.delete_time_ms))
        for one in found
    )
    print_rows(("result", "strategy", "reason", "bytes", "went (UTC)"), rows)


def _policy(
    default_ttl: str | None, min_ttl: str | None, max_ttl: str | None, max_results: int | None, max_bytes: int | None
) -> RetentionPolicy | None:
    wanted = RetentionPolicy(
        default_ttl_s=_seconds("--default-ttl", default_ttl),
        min_ttl_s=_seconds("--min-ttl", min_ttl),
        max_ttl_s=_seconds("--max-ttl", max_ttl),
        max_results=max_results,
        max_bytes=max_bytes,
    )
    return None if wanted == RetentionPolicy() else wanted


def _seconds(option: str, text: str | None) -> float | None:
    if text is None:
        return None
    match = _DURATION.fullmatch(text)
    if match is None:
        raise usage_error(option, f"{text!r} is no duration like 90s, 15m, 12h or 30d")
    return float(match[1]) * _UNITS_S[match[2]]


def _text(name: str, value: float | None) -> str:
    if value is None:
        return "no limit"
    if name.endswith("_ttl_s"):
        unit = next(unit for unit in ("d", "h", "m", "s") if value >= _UNITS_S[unit] or unit == "s")
        return f"{value / _UNITS_S[unit]:g}{unit}"
    return f"{value:,}"


def _usage_rows(label: str, usage: RetentionUsage) -> list[tuple[str, object]]:
    return [
        (label, f"{usage.results:,} results, {usage.bytes:,} bytes"),
        ("of these pinned", f"{usage.pinned_results:,} results, {usage.pinned_bytes:,} bytes"),
    ]
