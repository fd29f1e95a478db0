"""What users send and get."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from reccocktail.serving.query import Query
from reccocktail.serving.schemas import Category, DomainOut, In, ItemId, Title

MAX_HISTORY, MAX_K, MAX_CANDIDATES, MAX_CATEGORIES = 1_000, 1_000, 10_000, 100
MAX_IDS = 100  # of one look-up


class _History(In):
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
