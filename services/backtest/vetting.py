"""Looks at each registered strategy once, in a child process: one that looks ahead is refused.

python -m services.backtest.vetting NAME... is the child: it prints one JSON line when it is ready and one per strategy.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict
from typing import Protocol

from services.backtest.catalogue import Catalogue
from services.backtest.code_hash import UNKNOWN
from services.backtest.strategies import StrategyRegistry
from services.backtest.strategies.lookahead import Finding, find_lookahead
from services.runtime.config import environment_without_settings
from services.runtime.lifecycle import die_with_parent
from services.runtime.logs import get_logger

LOOK_S = 3.0
"""What looking at one strategy may take."""
START_S = 30.0
"""What the child may take to start."""
WAIT_S = 20.0
"""How long a request waits for a strategy to be looked at."""


class VerdictStore(Protocol):
    """Remembers what was seen, by (code hash, name)."""

    async def verdicts(self) -> Mapping[tuple[str, str], Finding]:
        """Return everything remembered."""

    async def remember_verdict(self, code_hash: str, name: str, finding: Finding) -> None:
        """Keep a finding."""


class Vetting:
    """One per service process."""

    def __init__(self, catalogue: Catalogue, store: VerdictStore) -> None:
        self._catalogue = catalogue
        self._store = store
        self._seen = {name: asyncio.Event() for name in catalogue.names()}
        self._log = get_logger("vetting")

    async def run(self) -> None:
        """Look at every strategy that is not remembered."""
        known: Mapping[tuple[str, str], Finding] = {}
        with contextlib.suppress(Exception):  # the database is away: everything is looked at
            known = await self._store.verdicts()
        unknown = []
        for name in self._seen:
            code = self._catalogue.code_hash(name)
            found = None if code == UNKNOWN else known.get((code, name))
            if found is None:
                unknown.append(name)
            else:
                self._settle(name, found)
        try:
            async for name, found in look_at(unknown):
                self._settle(name, found)
                with contextlib.suppress(Exception):  # looked at again after the next start
                    await self._store.remember_verdict(self._catalogue.code_hash(name), name, found)
        except OSError as error:  # no child can be started; strategies stay as they are
            self._log.warning("strategies_not_looked_at", problem=str(error))
        for seen in self._seen.values():
            seen.set()

    async def wait(self, name: str) -> None:
        """Wait until a strategy has been looked at, or long enough."""
        if name in self._seen:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._seen[name].wait(), WAIT_S)

    def _settle(self, name: str, found: Finding) -> None:
        if found.kline_index is not None:
            self._log.warning("strategy_refused", strategy=name, kline_index=found.kline_index)
            self._catalogue.refuse(
                name,
                f"strategy {name} looks ahead: its decision at kline {found.kline_index} changes when later klines are "
                "cut off",
            )
        elif found.unproven is not None:
            self._log.warning("strategy_not_proven", strategy=name, problem=found.unproven)
        self._seen[name].set()


async def look_at(names: Sequence[str]) -> AsyncIterator[tuple[str, Finding]]:
    """Yield what is seen of each strategy; one that hangs or ends its process only costs its own verdict."""
    left = list(names)
    while left:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.backtest.vetting", *left,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
            env=environment_without_settings(),
        )  # fmt: skip
        try:
            if await _line(child, START_S) is None:
                for name in left:
                    yield name, Finding(unproven="the process that looks at strategies did not start")
                return
            while left:
                line = await _line(child, LOOK_S)
                name = left.pop(0)
                if line is None:
                    yield name, Finding(unproven=f"it took longer than {LOOK_S:g} s, or ended its process")
                    break
                yield name, Finding(**json.loads(line))
        finally:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()


async def _line(child: asyncio.subprocess.Process, timeout_s: float) -> bytes | None:
    """Return the next line of a child, None when it ended or took too long."""
    assert child.stdout is not None
    try:
        return await asyncio.wait_for(child.stdout.readline(), timeout_s) or None
    except TimeoutError:
        return None


def main(names: Sequence[str]) -> None:
    """Look at strategies and print what is seen; what they print themselves goes nowhere."""
    die_with_parent()
    report = os.fdopen(os.dup(1), "w", buffering=1)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    registry = StrategyRegistry()
    print("ready", file=report)
    for name in names:
        print(json.dumps(asdict(find_lookahead(registry.get(name)))), file=report)


if __name__ == "__main__":
    main(sys.argv[1:])
