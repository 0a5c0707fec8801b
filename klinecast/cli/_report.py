"""Writes reports: the results service renders them."""

from __future__ import annotations

from pathlib import Path

from klinecast.client import Client


def write_report(client: Client, path: Path, *result_ids: str) -> None:
    """Write the report of a result, or of a comparison, as one HTML file that needs no network."""
    page = client.render_report(*result_ids)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
