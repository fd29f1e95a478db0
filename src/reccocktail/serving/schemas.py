"""What comes in over HTTP and what goes out: every size bounded, every field known."""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from reccocktail.errors import RecipeError
from reccocktail.mixing.arithmetic import Method
from reccocktail.mixing.objectives import Objective
from reccocktail.mixing.search import Granularity
from reccocktail.schema import Scenario
from reccocktail.serving.items import NewItem
from reccocktail.serving.query import Query

MAX_HISTORY, MAX_K, MAX_CANDIDATES, MAX_CATEGORIES = 1_000, 1_000, 10_000, 100
MAX_ITEMS, MAX_ID, MAX_TITLE, MAX_PATH = 1_000, 256, 1_000, 500
MAX_IDS = 100  # of one look-up

DOMAIN_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"

ItemId = Annotated[str, Field(min_length=1, max_length=MAX_ID)]
Title = Annotated[str, Field(min_length=1, max_length=MAX_TITLE)]
Category = Annotated[str, Field(min_length=1, max_length=MAX_ID)]
Folder = Annotated[str, Field(min_length=1, max_length=MAX_PATH)]


def require_name(name: str) -> None:
    """Refuse what cannot be a domain's name in an address.

    Raises:
        RecipeError: it holds other signs than letters, digits, `_`, `.` and `-`, or is too long.
    """
    if not re.fullmatch(DOMAIN_NAME, name):
        raise RecipeError(
            f"{name!a} cannot be a domain's name; use at most 64 letters, digits, '_', '.' or '-'."
        )


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _History(_In):
    history: list[ItemId] = Field(
        default_factory=list, max_length=MAX_HISTORY, description="Item ids, oldest first."
    )
    history_titles: list[Title] = Field(
        default_factory=list,
        max_length=50,
        description="In place of ids: titles, each taken for the most similar item.",
    )

    @model_validator(mode="after")
    def _one_of_the_two(self) -> "_History":
        if bool(self.history) == bool(self.history_titles):
            raise ValueError("give history or history_titles, one of the two, not empty")
        return self


class RecommendIn(_History):
    """A user, and what may be recommended."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [
                {"history": ["B000FOI48G", "B000GLRREU"], "k": 5},
                {"history_titles": ["Green tea"], "k": 5, "categories": ["Tea"], "new_only": True},
            ]
        },
    )

    k: int = Field(10, ge=1, le=MAX_K, description="How many items.")
    exclude_seen: bool = Field(True, description="Leave out what the history holds.")
    candidates: list[ItemId] | None = Field(
        None,
        min_length=1,
        max_length=MAX_CANDIDATES,
        description="Choose among these; the whole catalogue if left out.",
    )
    categories: list[Category] = Field(
        default_factory=list,
        max_length=MAX_CATEGORIES,
        description="Only items of at least one of these.",
    )
    new_only: bool = Field(False, description="Only items that nobody touched in training.")
    coefficients: list[Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]] | None = Field(
        None,
        min_length=2,
        max_length=2,
        description="Mix the cocktail's two adapters like this; one of the domain's `positions`.",
    )

    def query(self) -> Query:
        """The request without HTTP."""
        return Query(**self.model_dump())


class RankIn(_History):
    """A user and candidates to put in order."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [{"history": ["B000FOI48G"], "candidates": ["B000GLRREU", "B0013NB7DW"]}]
        },
    )

    candidates: list[ItemId] = Field(min_length=1, max_length=MAX_CANDIDATES)

    def query(self) -> Query:
        """The request without HTTP: all candidates come back."""
        return Query(k=None, exclude_seen=False, **self.model_dump())


class PlaceOut(BaseModel):
    """One place of a ranking."""

    rank: int = Field(description="From 1.")
    item_id: str
    title: str
    score: float = Field(description="In logits; comparable within one answer only.")
    new: bool = Field(description="Nobody touched the item in training.")
    categories: list[str] = Field(description="As the catalogue writes them.")


class MatchOut(BaseModel):
    """A typed title and the item it was taken for."""

    typed: str
    item_id: str
    title: str
    similarity: float = Field(description="0 to 100; 100 is the same but for case and accents.")


class AnswerOut(BaseModel):
    """A ranking."""

    domain: str
    adapter: str = Field(description="Name of the adapter that ranked.")
    items: list[PlaceOut]
    matches: list[MatchOut] = Field(description="One for each typed title.")


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


class DomainsOut(BaseModel):
    """All domains."""

    domains: list[DomainOut]
    loading: list[str] = Field(description="Domains that are being plugged in.")
    failed: dict[str, str] = Field(description="Domains that could not be plugged in, and why.")


class DetailOut(DomainOut):
    """A domain with its cocktail's sheet."""

    cocktail: dict[str, Any] | None = Field(
        description="cocktail.json without the users it names; null for other adapters."
    )
    positions: list[list[float]] = Field(
        description="Coefficients that recommend takes; none where the parents are not at hand."
    )


class PlugIn(_In):
    """Where a domain comes from; folders lie below the service's root."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"data": "data/shop", "adapter": "cocktail"}]},
    )

    data: Folder = Field(description="Prepared folder, relative to the root.")
    adapter: Folder = Field(
        description="Adapter folder, relative to the root, or the name of a shipped base spirit."
    )


class PlugOut(BaseModel):
    """How far a plug-in is."""

    status: Literal["ready", "loading"]
    domain: DomainOut | None = Field(description="Once it is ready.")


class ItemIn(_In):
    """A new item."""

    item_id: ItemId
    title: Title
    categories: list[Category] = Field(default_factory=list, max_length=20)

    def item(self) -> NewItem:
        """The item without HTTP."""
        return NewItem(self.item_id, self.title, "|".join(self.categories) or None)


class ItemsIn(_In):
    """New items."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [
                {"items": [{"item_id": "n1", "title": "Matcha whisk", "categories": ["Tea"]}]}
            ]
        },
    )

    items: list[ItemIn] = Field(min_length=1, max_length=MAX_ITEMS)


class ItemsOut(BaseModel):
    """What became of new items; they are on disk and can be recommended."""

    added: int = Field(description="Those that were not there yet.")
    items: int = Field(description="Items of the domain now.")


class FoundOut(BaseModel):
    """An item of the catalogue."""

    item_id: str
    title: str
    new: bool = Field(description="Nobody touched the item in training.")
    categories: list[str] = Field(description="As the catalogue writes them.")


class SearchOut(BaseModel):
    """Items found by their titles or ids."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "items": [
                        {
                            "item_id": "B000FOI48G",
                            "title": "Green tea",
                            "new": False,
                            "categories": ["Tea"],
                        }
                    ]
                }
            ]
        }
    )

    items: list[FoundOut]


class MixIn(_In):
    """What to mix; the users are the ones who asked lately."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"adapters": ["base_spirit", "ingredient"]}]},
    )

    adapters: list[Folder] = Field(
        min_length=2,
        max_length=8,
        description="Adapter folders below the root or names of shipped base spirits.",
    )
    scenario: Scenario = "warm"
    method: Method = "delta"
    granularity: Granularity = "global"
    objective: Objective = "entropy"
    users: int = Field(50, ge=1, le=500, description="Recent histories to look at.")
    coefficients: list[Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)]] | None = Field(
        None, max_length=8, description="Fixed ones in place of a search, one an adapter."
    )


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
