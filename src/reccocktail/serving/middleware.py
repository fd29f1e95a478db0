"""Around every request: a bound on its body, headers that keep browsers careful, a log line."""

import time
import uuid
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reccocktail.serving import errors
from reccocktail.serving.logs import event
from reccocktail.serving.monitoring import Monitoring

_SAFE = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "; ".join(
        [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self' data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    ),
}


class Outside:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, monitoring: Monitoring, max_body: int) -> None:
        """Wrap `app`; bodies above `max_body` bytes are refused."""
        self._app, self._monitoring, self._max_body = app, monitoring, max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500
        number = uuid.uuid4().hex[:16]
        read = 0
        too_large = f"The body is larger than {self._max_body:,} bytes; send less at once."

        async def bounded() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._max_body:
                raise HTTPException(413, too_large)
            return message

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = number
                for name, value in _SAFE.items():
                    headers[name] = value
            await send(message)

        try:
            length = Headers(scope=scope).get("content-length", "0")
            if length.isdigit() and int(length) > self._max_body:
                await errors.answer(413, too_large)(scope, receive, noting)
            else:
                await self._app(scope, bounded, noting)
        finally:
            seconds = time.perf_counter() - started
            route: Any = scope.get("route")
            pattern = str(getattr(route, "path", "other"))
            self._monitoring.request(scope["method"], pattern, status, seconds)
            event(
                "request",
                request_id=number,
                method=scope["method"],
                path=scope["path"][:500],
                route=pattern,
                status=status,
                ms=round(1000 * seconds, 2),
            )
