"""A real browser: headless Chromium, steered over the two pipes of its DevTools protocol.

test ──fd 3──► Chromium      {"id", "method", "params"} and {"id", "result"}, each ended by a zero byte
     ◄──fd 4──
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
# Tests run as root in a container, where Chromium has no sandbox and little shared memory.
OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
START = """
import os, sys
from fcntl import F_DUPFD_CLOEXEC, fcntl
ends = [fcntl(int(end), F_DUPFD_CLOEXEC, 10) for end in sys.argv[1:3]]
for number, end in zip((3, 4), ends):
    os.dup2(end, number)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Makes the ends of two pipes, whatever their numbers, the descriptors 3 and 4 of the browser."""
UNTIL = """new Promise((done) => {
  const look = () => { const found = %s; if (found) { watcher.disconnect(); done(found); } };
  const watcher = new MutationObserver(look);
  watcher.observe(document, { attributes: true, childList: true, characterData: true, subtree: true });
  look();
})"""


@dataclass(kw_only=True)
class Page:
    """One page of a browser."""

    reading: int
    writing: int
    session: str | None = None
    ids: Iterator[int] = field(default_factory=count)
    unread: bytes = b""

    def open(self, url: str) -> None:
        """Returns once the page is there, though not all that its script asks for."""
        self.tell("Page.navigate", url=url)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression as JSON, of a promise once it is kept."""
        answer = self.tell("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, expression: str) -> Any:
        """The first value that counts as true, looked at whenever the page changes."""
        return self.evaluate(UNTIL % f"({expression})")

    @contextmanager
    def wide(self, width: int) -> Iterator[None]:
        """Lay the page out in a window of so many pixels."""
        self.tell("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
        try:
            yield
        finally:
            self.tell("Emulation.clearDeviceMetricsOverride")

    def spoken(self, role: str) -> list[str]:
        """What a screen reader says of each element of this role, in their order."""
        nodes = self.tell("Accessibility.getFullAXTree")["nodes"]
        return [node["name"]["value"] for node in nodes if not node["ignored"] and node["role"]["value"] == role]

    def tell(self, method: str, **params: Any) -> dict[str, Any]:
        """A command of the protocol and its result."""
        number = next(self.ids)
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if self.session is not None:
            message["sessionId"] = self.session
        os.write(self.writing, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + 30
        while (answer := self._next(deadline)).get("id") != number:
            pass
        assert "error" not in answer, answer["error"]
        result: dict[str, Any] = answer["result"]
        return result

    def _next(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self.unread:
            ready, _, _ = select.select([self.reading], [], [], max(0.0, deadline - time.monotonic()))
            more = os.read(self.reading, 1 << 16) if ready else b""
            assert more, "the browser ended" if ready else "the browser said nothing for 30 seconds"
            self.unread += more
        first, _, self.unread = self.unread.partition(b"\0")
        message: dict[str, Any] = json.loads(first)
        return message


@contextmanager
def opened(profile: Path) -> Iterator[Page]:
    """A page of a browser that keeps what it keeps in the folder `profile`."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("Chromium is not installed")
    commands, writing = os.pipe()
    reading, answers = os.pipe()
    start = [sys.executable, "-I", "-S", "-c", START, str(commands), str(answers)]
    process = subprocess.Popen(
        [*start, program, *OPTIONS, f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"],
        pass_fds=(commands, answers),
        stderr=subprocess.DEVNULL,
    )
    os.close(commands)
    os.close(answers)
    try:
        page = Page(reading=reading, writing=writing)
        target = page.tell("Target.createTarget", url="about:blank")["targetId"]
        page.session = page.tell("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page.tell("Page.enable")
        yield page
    finally:
        # It ends with the pipe that it is told by.
        os.close(writing)
        os.close(reading)
        process.wait(30)
