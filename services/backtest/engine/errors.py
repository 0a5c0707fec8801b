"""Why the engine refuses or stops."""

from __future__ import annotations


class EngineError(Exception):
    """Inputs the engine cannot simulate.

    `reason` is INVALID_KLINES, INVALID_SIGNALS, INVALID_EXPOSURE, INVALID_FUNDING, MISSING_FUNDING,
    UNSUPPORTED_MARKET_TYPE or UNSUPPORTED_EXECUTION; `kline_index` is the kline it is about, None when about none.
    """

    def __init__(self, reason: str, kline_index: int | None = None, detail: str = "") -> None:
        where = "" if kline_index is None else f" at kline {kline_index}"
        super().__init__(f"{reason}{where}" + (f": {detail}" if detail else ""))
        self.reason = reason
        self.kline_index = kline_index
        self.detail = detail

    def __reduce__(self) -> tuple[type[EngineError], tuple[str, int | None, str]]:
        return type(self), (self.reason, self.kline_index, self.detail)


class DecisionFailed(Exception):  # noqa: N818 - the cause is the error
    """A strategy raised while it decided at a kline; `__cause__` is what it raised."""

    def __init__(self, kline_index: int) -> None:
        super().__init__(f"the decision at kline {kline_index} failed")
        self.kline_index = kline_index
