"""What all routes share: the name of a domain in an address, and the key of a request."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Path
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from reccocktail.serving.schemas import DOMAIN_NAME

DomainName = Annotated[
    str, Path(pattern=DOMAIN_NAME, description="Name of a domain.", examples=["shop"])
]
_header = APIKeyHeader(name="X-API-Key", auto_error=False)
_bearer = HTTPBearer(auto_error=False)


def _given(
    header: Annotated[str | None, Depends(_header)],
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> str | None:
    """The key that came with a request."""
    return header or (bearer.credentials if bearer else None)


def require(allowed: Callable[[str | None], bool]) -> Any:
    """A dependency that refuses requests whose key is not `allowed`."""

    def check(given: Annotated[str | None, Depends(_given)]) -> None:
        if not allowed(given):
            raise HTTPException(
                401,
                "The key is missing or wrong; send it as X-API-Key or as Bearer token.",
                {"WWW-Authenticate": "Bearer"},
            )

    return Depends(check)
