"""The frame of every page: the template is filled in one pass, and all a page needs is inside it."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Iterable, Mapping
from importlib.resources import files

from klinecast.columns import Column
from klinecast.report.labels import shortened, spaced, text

MAX_ROWS = 300
"""Of a table of facts, so that the size of a page is bounded."""


def fill_page(*, title: str, subtitle: str, body: str, data: Mapping[str, object], script: str) -> str:
    """Return the document; `title` and `subtitle` are plain text, `body` is HTML, `script` names an asset."""
    code = "\n".join(map(_asset, ("vendor/uplot/uPlot.iife.min.js", "charts.js", script)))
    licence = f"/*! uPlot\n{_asset('vendor/uplot/LICENSE')}*/\n"
    parts = {
        "policy": _policy(licence + code),
        "title": html.escape(shortened(title)),
        "heading": html.escape(shortened(title)),
        "subtitle": html.escape(subtitle),
        "body": body,
        "data": _script_json(data),
        "style": _asset("vendor/uplot/uPlot.min.css") + "\n" + _asset("report.css"),
        "script": licence + code,
    }
    return re.sub(r"<!--(\w+)-->", lambda found: parts[found[1]], _asset("template.html"))


def section(name: str, title: str, content: str, note: str = "") -> str:
    """Return a section whose heading is `title`; `content` and `note` are HTML."""
    said = f'<p class="note">{note}</p>' if note else ""
    return (
        f'<section id="s-{name}" aria-labelledby="h-{name}"><h2 id="h-{name}">{html.escape(title)}</h2>'
        f"{said}{content}</section>"
    )


def chart_box(name: str, described: str, css: str = "") -> str:
    """Return the place of a chart; `described` is what it shows, for those who do not see it; arrow keys read it."""
    return f'<div class="chart {css}" id="{name}" tabindex="0" role="img" aria-label="{html.escape(described)}"></div>'


def scrolled(table: str, described: str, css: str = "") -> str:
    """Return a table in a box of its own that scrolls, also by keyboard."""
    return f'<div class="scroll {css}" tabindex="0" role="region" aria-label="{html.escape(described)}">{table}</div>'


def fact_rows(values: Mapping[str, object]) -> str:
    """Return rows of a name and a value, both plain."""
    return "".join(
        f'<tr><th scope="row">{html.escape(spaced(name))}</th><td>{html.escape(text(value))}</td></tr>'
        for name, value in list(values.items())[:MAX_ROWS]
    )


def facts(values: Mapping[str, object]) -> str:
    """Return a table of names and values."""
    return f'<table class="facts"><tbody>{fact_rows(values)}</tbody></table>'


def fact_columns(values: Mapping[str, object], columns: int = 3) -> str:
    """Return tables of names and values side by side where there is room."""
    rows = list(values.items())[:MAX_ROWS]
    size = max(1, math.ceil(len(rows) / columns))
    parts = (facts(dict(rows[at : at + size])) for at in range(0, len(rows), size))
    return f'<div class="pair three">{"".join(parts)}</div>'


def head_row(names: Iterable[str]) -> str:
    """Return the head of a table; the names are plain."""
    return "<thead><tr>" + "".join(f'<th scope="col">{html.escape(name)}</th>' for name in names) + "</tr></thead>"


def plain(values: Column) -> list[object]:
    """Return a picked column for a chart: 7 digits, or cents where they are more; None where it is not finite."""
    return [_rounded(one) if isinstance(one, float) else one for one in exact(values)]


def exact(values: Column) -> list[object]:
    """Return a column for JSON, every number as it is; None where it is not finite."""
    return [_written(one) for one in values.tolist()]


def _written(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return shortened(value) if isinstance(value, str) else value


def _rounded(value: float) -> float:
    return float(f"{value:.7g}") if abs(value) < 1e5 else round(value, 2)


def _policy(code: str) -> str:
    """Return a content security policy under which this script runs and no other, and nothing is fetched."""
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    allowed = f"script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:"
    return f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"


def _script_json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _asset(name: str) -> str:
    return files("klinecast.report").joinpath(name).read_text(encoding="utf-8")
