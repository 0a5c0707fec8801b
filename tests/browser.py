"""A headless Chromium, spoken to through the DevTools protocol over a pipe: no port, no package."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
_FLAGS += ("--disable-extensions", "--disable-background-networking", "--hide-scrollbars", "--remote-debugging-pipe")


def find_browser() -> str | None:
    """Return the path of a Chromium, None where there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


@contextmanager
def run_browser(command: str) -> Iterator[Browser]:
    """Run a browser with a profile of its own; it ends with the block."""
    read_from_browser, written_by_browser = os.pipe()
    read_by_browser, write_to_browser = os.pipe()
    script = f'exec "$@" 3<&{read_by_browser} 4>&{written_by_browser}'  # the numbers Chromium expects
    with tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            ["/bin/bash", "-c", script, "bash", command, *_FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(read_by_browser, written_by_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_by_browser)
        os.close(written_by_browser)
        with os.fdopen(read_from_browser, "rb") as reads, os.fdopen(write_to_browser, "wb", buffering=0) as writes:
            browser = Browser(reads, writes)
            try:
                yield browser
                browser.call("Browser.close")
            finally:
                _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Browser:
    """Calls the browser and keeps what it says unasked."""

    def __init__(self, reads: Any, writes: Any) -> None:
        self._reads, self._writes = reads, writes
        self._numbers = itertools.count(1)
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **params: object) -> dict[str, Any]:
        """Return the answer of a method; RuntimeError where it is an error."""
        number = next(self._numbers)
        message: dict[str, object] = {"id": number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        self._writes.write(json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != number:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return dict(answer["result"])

    def open(self, path: Path, *, width: int = 1200, height: int = 900, fragment: str = "") -> Page:
        """Open a file in a page of its own and wait until it is loaded."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        page.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        page.call("Page.navigate", url=path.resolve().as_uri() + fragment)
        page.wait_for("Page.loadEventFired")
        return page

    def wait_for(self, session: str, method: str) -> None:
        """Wait until the page has said something."""
        while not any(one.get("sessionId") == session and one["method"] == method for one in self.events):
            self.events.append(self._read())

    def _read(self) -> dict[str, Any]:
        message = bytearray()
        while (byte := self._reads.read(1)) != b"\0":
            if not byte:
                raise RuntimeError("the browser has ended")
            message += byte
        found: dict[str, Any] = json.loads(message)
        return found


class Page:
    """One page of the browser."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session

    def call(self, method: str, **params: object) -> dict[str, Any]:
        """Call a method on this page."""
        return self._browser.call(method, self._session, **params)

    def wait_for(self, method: str) -> None:
        """Wait until the page has said something."""
        self._browser.wait_for(self._session, method)

    def evaluate(self, expression: str) -> Any:
        """Return what an expression is, awaited; RuntimeError where it throws."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def prefer(self, theme: str) -> Page:
        """Be the page of somebody whose system is "light" or "dark"."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        return self

    def complaints(self) -> list[str]:
        """Return errors and warnings of the console, uncaught exceptions, and requests beyond the file itself."""
        return [found for one in self._events() if (found := _complaint(one["method"], one["params"]))]

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """Write what the page looks like as PNG."""
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))

    def _events(self) -> list[dict[str, Any]]:
        return [one for one in self._browser.events if one.get("sessionId") == self._session]


def _complaint(method: str, params: Mapping[str, Any]) -> str | None:
    if method == "Runtime.exceptionThrown":
        return f"exception: {params['exceptionDetails']}"
    if method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
        return f"log: {params['entry']['text']}"
    if method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
        return f"console: {params['args']}"
    if method == "Network.requestWillBeSent" and not params["request"]["url"].startswith(("file:", "data:", "blob:")):
        return f"request: {params['request']['url']}"
    return None
