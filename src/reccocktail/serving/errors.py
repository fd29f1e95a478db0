"""Errors as HTTP answers: one sentence each, in the same form."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from reccocktail.errors import RecCocktailError
from reccocktail.serving.batching import ClosedError, OverloadedError
from reccocktail.serving.limits import (
    ConflictError,
    TimedOutError,
    UnavailableError,
    UnknownDomainError,
)
from reccocktail.serving.logs import unexpected
from reccocktail.serving.paths import ForbiddenError
from reccocktail.serving.positions import PreparingError
from reccocktail.serving.schemas import ErrorOut, PreparingOut
from reccocktail.serving.store import StateError

STATUS: dict[type[RecCocktailError], int] = {
    PreparingError: 202,
    ForbiddenError: 403,
    UnknownDomainError: 404,
    ConflictError: 409,
    OverloadedError: 429,
    ClosedError: 503,
    StateError: 503,
    UnavailableError: 503,
    TimedOutError: 504,
    RecCocktailError: 422,
}
_MEANING = {
    202: "This mix is being prepared; ask again.",
    400: "The body is not JSON.",
    401: "A key is missing or wrong.",
    403: "Not allowed, or changes are off.",
    404: "No such domain.",
    409: "Does not fit what the service holds or does.",
    413: "The body is too large.",
    422: "A field is unknown, out of range or names what is not there.",
    429: "Too many requests; Retry-After says when to come back.",
    503: "Shutting down, the domain is damaged, or the state folder cannot be written.",
    504: "Took too long.",
}


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error answers of a route, for OpenAPI."""
    return {
        status: {
            "model": PreparingOut if status == 202 else ErrorOut,
            "description": _MEANING[status],
        }
        for status in sorted({*statuses, 401})
    }


REFUSAL_SECONDS = 0.5
"""How long a refusal for overload is held back. It costs nothing, and clients that ask again at
once would otherwise take the cores from those that are answered."""


def install(app: FastAPI) -> None:
    """Answer every error of the application as `{"detail": sentence}`."""
    app.add_exception_handler(RecCocktailError, _ours)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, _invalid)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, _http)  # type: ignore[arg-type]
    app.add_exception_handler(Exception, _unexpected)


def answer(
    status: int, detail: str, headers: dict[str, str] | None = None, **more: float
) -> Response:
    """An error answer. ASCII, because a wrong request may hold what is no Unicode."""
    body = json.dumps({"detail": detail} | more, ensure_ascii=True)
    return Response(body, status, headers, "application/json")


async def _ours(_: Request, error: RecCocktailError) -> Response:
    status = next(code for kind, code in STATUS.items() if isinstance(error, kind))
    headers = None
    if isinstance(error, OverloadedError):
        await asyncio.sleep(REFUSAL_SECONDS)
    if isinstance(error, OverloadedError | PreparingError):
        headers = {"Retry-After": str(error.retry_after)}
    more = {"share": error.share} if isinstance(error, PreparingError) else {}
    return answer(status, str(error), headers, **more)


async def _invalid(_: Request, error: RequestValidationError) -> Response:
    """The first mistake as one sentence. What was sent is not repeated: it may be long."""
    errors: Sequence[Any] = error.errors()
    first = errors[0]
    where = ".".join(str(part) for part in first["loc"][1:])[:200]
    if first["type"] == "json_invalid":
        return answer(400, "The body is not JSON; send one JSON object.")
    if first["type"] == "model_attributes_type" and not where:
        return answer(422, "Send one JSON object, with Content-Type: application/json.")
    if first["type"] == "missing" and not where:
        return answer(422, "The body is missing; send one JSON object.")
    message = str(first["msg"]).removeprefix("Value error, ")[:300]
    return answer(422, f"{where}: {message}." if where else f"{message}.")


async def _http(_: Request, error: HTTPException) -> Response:
    # Starlette's own sentences come without a full stop.
    return answer(error.status_code, f"{error.detail}".rstrip(".") + ".", dict(error.headers or {}))


async def _unexpected(_: Request, error: Exception) -> Response:
    unexpected(error)
    return answer(500, "Something went wrong here; the log of the service says what.")
