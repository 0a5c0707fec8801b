"""Turns what a strategy or the engine raised into the failure of a backtest, without anything of the server in it."""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.backtest import strategies
from services.backtest.engine import DecisionFailed, EngineError
from services.backtest.jobs import Failure
from services.backtest.run import GivenUp, RunFailed

_ROOM = Path(__file__).parent
_REASONS = frozenset(
    {
        "INVALID_SIGNALS",
        "INVALID_EXPOSURE",
        "INVALID_KLINES",
        "INVALID_FUNDING",
        "MISSING_FUNDING",
        "UNSUPPORTED_MARKET_TYPE",
        "UNSUPPORTED_EXECUTION",
    }
)


@contextmanager
def blamed_on(strategy: str) -> Iterator[None]:
    """Raise RunFailed for whatever a strategy, or the engine working on its signals, raises."""
    try:
        yield
    except (RunFailed, GivenUp):
        raise
    except EngineError as error:
        reason = error.reason if error.reason in _REASONS else "INVALID_SIGNALS"
        raise RunFailed(Failure(reason, f"strategy {strategy}: {error}", error.kline_index)) from None
    except MemoryError:
        raise RunFailed(Failure("RESOURCE", f"strategy {strategy} ran out of memory")) from None
    except DecisionFailed as error:
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        raise RunFailed(_raised(strategy, cause, error.kline_index)) from None
    except Exception as error:
        raise RunFailed(_raised(strategy, error)) from None


def _raised(strategy: str, error: Exception, kline_index: int | None = None) -> Failure:
    where = "" if kline_index is None else f" at kline {kline_index}"
    message = f"strategy {strategy} raised {type(error).__name__}{where}: {error}"
    return Failure("STRATEGY_FAILED", message[:500], kline_index, detail=_author_traceback(error))


def _author_traceback(error: Exception) -> str:
    """Format a traceback for the author of the strategy: frames from the strategy on, file names without folders."""
    frames = [
        f'  File "{Path(frame.filename).name}", line {frame.lineno}, in {frame.name}\n    {frame.line}'
        for frame in itertools.dropwhile(_is_ours, traceback.extract_tb(error.__traceback__))
    ]
    return "\n".join([*frames, f"{type(error).__name__}: {error}"])[:8_000]


def _is_ours(frame: traceback.FrameSummary) -> bool:
    return Path(frame.filename).parent in (_ROOM, _ROOM / "engine") or frame.filename == strategies.__file__
