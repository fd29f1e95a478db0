"""What users and administrators share of what comes in over HTTP and what goes out.

Every size is bounded, every field known.
"""

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from reccocktail.errors import RecipeError

API = "/v1"
"""What the path of every route begins with, but for those of operation."""

MAX_ID, MAX_TITLE = 256, 1_000

DOMAIN_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"

ItemId = Annotated[str, Field(min_length=1, max_length=MAX_ID)]
Title = Annotated[str, Field(min_length=1, max_length=MAX_TITLE)]
Category = Annotated[str, Field(min_length=1, max_length=MAX_ID)]


def require_name(name: str) -> None:
    """Refuse what cannot be a domain's name in an address.

    Raises:
        RecipeError: it holds other signs than letters, digits, `_`, `.` and `-`, or is too long.
    """
    if not re.fullmatch(DOMAIN_NAME, name):
        raise RecipeError(
            f"{name!a} cannot be a domain's name; use at most 64 letters, digits, '_', '.' or '-'."
        )


def usable_name(text: str) -> str:
    """A domain's name that is as near to a text as can be."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).lstrip("_.-")[:64] or "domain"


class In(BaseModel):
    """What comes in: no field that is not known, no type that is not meant."""

    model_config = ConfigDict(extra="forbid", strict=True)


class DomainOut(BaseModel):
    """A domain that is served."""

    name: str
    items: int
    added_items: int = Field(description="Of the items, those added at run time.")
    new_items: int = Field(description="Of the items, those that nobody touched in training.")
    categories: int
    adapter: str
    role: str = Field(description="base, ingredient or cocktail.")
    trained_on: list[str] = Field(description="The domains on the adapter's card.")
    max_history: int = Field(description="Most recent items of a history that are read.")


class MixOut(BaseModel):
    """How a mix goes."""

    status: Literal["idle", "running", "done", "failed", "dropped"]
    message: str = Field(description="Why it failed or was dropped.")
    adapter: str | None = Field(description="The cocktail that is served since.")
    started: float | None = Field(description="Seconds since 1970.")
    finished: float | None


class ErrorOut(BaseModel):
    """What is wrong, in one sentence."""

    detail: str


class PreparingOut(ErrorOut):
    """Not an answer yet."""

    share: float = Field(ge=0, le=1, description="Of the work that is done.")


class HealthOut(BaseModel):
    """Whether the service is up."""

    status: Literal["ok", "ready", "not ready"]
