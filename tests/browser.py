"""A real browser for tests: the Chromium of this machine, driven by Playwright."""

import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn

# No service of the browser's maker is asked for anything.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def chromium() -> str | None:
    """The executable: `$CHROMIUM`, or the first on the path; None without one."""
    named = os.environ.get("CHROMIUM")
    names = [named] if named else ["chromium", "chromium-browser", "google-chrome"]
    return next((found for name in names if (found := shutil.which(name))), None)


@contextmanager
def listening(app: Any) -> Iterator[str]:
    """The application behind a real socket of this machine; gives its address."""
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{own.getsockname()[1]}"
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, args=([own],), daemon=True)
        thread.start()
        until = time.monotonic() + 60
        while not server.started:
            assert thread.is_alive() and time.monotonic() < until, "the service does not start"
            time.sleep(0.01)
        try:
            yield address
        finally:
            server.should_exit = True
            thread.join(30)


@dataclass
class Visit:
    """A page of the browser and what it did that it should not.

    Attributes:
        page: Playwright's page.
        home: address of the service.
        errors: messages of the console and errors of scripts.
        outside: requests that went elsewhere.
    """

    page: Any
    home: str
    errors: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Watch from the first request on."""
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", self._asked)

    def forgive(self, pattern: str) -> None:
        """Take expected errors off the list; there must be some."""
        rest = [error for error in self.errors if not re.search(pattern, error)]
        assert len(rest) < len(self.errors), self.errors
        self.errors[:] = rest

    def _said(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    def _asked(self, request: Any) -> None:
        if not request.url.startswith((self.home + "/", "data:")):
            self.outside.append(request.url)
