"""What administrators send and get."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from reccocktail.data.categories import join
from reccocktail.schema import Granularity, Method, Objective, Scenario
from reccocktail.serving.items import NewItem
from reccocktail.serving.schemas import Category, DomainOut, In, ItemId, Title

MAX_ITEMS, MAX_PATH = 1_000, 500

Folder = Annotated[str, Field(min_length=1, max_length=MAX_PATH)]


class PlugIn(In):
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


class ItemIn(In):
    """A new item."""

    item_id: ItemId
    title: Title
    categories: list[Category] = Field(default_factory=list, max_length=20)

    def item(self) -> NewItem:
        """The item without HTTP."""
        return NewItem(self.item_id, self.title, join(self.categories))


class ItemsIn(In):
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


class MixIn(In):
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
