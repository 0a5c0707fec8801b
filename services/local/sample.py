"""Makes the sample that the demo imports: a seeded, synthetic year of 1h klines. No market ever traded like this."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

SAMPLE = Path(__file__).parent / "samples" / "SYNTHETIC-1h-2025.csv.gz"
HEADER = (
    "open_time,open,high,low,close,volume,close_time,quote_asset_volume,number_of_trades,"
    "taker_buy_base,taker_buy_quote,ignore"
)
_SEED = 20250101
_START_MS = 1_735_689_600_000
_HOUR_MS = 3_600_000
_KLINES = 8_760
_REGIME_HOURS = 240


def generate_sample() -> str:
    """Return the CSV text: integer steps in cents, so that every machine makes the same bytes."""
    random = np.random.Generator(np.random.PCG64(_SEED))
    trend = np.repeat(random.integers(-9, 13, _KLINES // _REGIME_HOURS + 1), _REGIME_HOURS)[:_KLINES]
    steps = random.integers(-120, 121, _KLINES) + trend
    wicks = random.integers(0, 90, (2, _KLINES))
    volumes = random.integers(1_000, 90_000, _KLINES)
    lines, price = [HEADER], 40_000
    for index in range(_KLINES):
        open_, price = price, max(1_000, price + int(steps[index]))
        high, low = max(open_, price) + int(wicks[0, index]), max(500, min(open_, price) - int(wicks[1, index]))
        time = _START_MS + index * _HOUR_MS
        volume = f"{volumes[index] // 1000}.{volumes[index] % 1000:03d}"
        prices = ",".join(f"{cents // 100}.{cents % 100:02d}" for cents in (open_, high, low, price))
        lines.append(f"{time},{prices},{volume},{time + _HOUR_MS - 1},,,,,0")
    return "\n".join(lines) + "\n"


def write_sample(path: Path) -> None:
    """Write the compressed sample, the same bytes each time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(generate_sample().encode(), 9, mtime=0))
