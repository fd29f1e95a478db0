"""Mix a served domain's cocktail anew, with the histories of the users who come now (Eq. 8, 9)."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import polars as pl

from reccocktail.backbone import Backbone
from reccocktail.data.domain import Domain
from reccocktail.errors import DataError
from reccocktail.mixing.cocktail import mix
from reccocktail.mixing.measure import MixSettings
from reccocktail.schema import CANDIDATES, CATEGORIES, HISTORY, ITEM, SPLIT, TITLE, USER, Scenario
from reccocktail.serving.served import Served
from reccocktail.training.adapter import Adapter
from reccocktail.training.model import twin

CANDIDATES_A_USER = 30
LEAST_HISTORIES = 20


@dataclass(frozen=True)
class MixRequest:
    """What to mix.

    Attributes:
        adapters: folders, two or more; by custom the base spirit first.
        scenario: whose validation users draw the curve.
        settings: see `MixSettings`.
        coefficients: fixed ones in place of a search.
    """

    adapters: tuple[Path, ...]
    scenario: Scenario = "warm"
    settings: MixSettings = field(default_factory=MixSettings)
    coefficients: tuple[float, ...] | None = None


@dataclass(frozen=True, eq=False)
class RecentDomain(Domain):
    """A domain whose test users are the ones who asked lately. They have no targets.

    Attributes:
        recent: `user_id`, `history`, `candidates`.
    """

    recent: pl.DataFrame

    def rows(self, table: str) -> pl.DataFrame:
        """An evaluation table; in place of the test tables, the recent users."""
        return self.recent if table.startswith("test_") else super().rows(table)


def recent_domain(
    state: Served, histories: Sequence[Sequence[str]], users: int, seed: int
) -> RecentDomain:
    """The domain of recent histories, each with items drawn at random as candidates.

    Args:
        state: the served domain; items added to it take part.
        histories: item ids, the latest history last.
        users: so many of the latest are to be looked at.
        seed: draws the candidates.

    Raises:
        DataError: too few histories, or a catalogue that is too small.
    """
    known = [tuple(item for item in history if item in state.index) for history in histories]
    # A history that was asked for again and again is one user; what matters is the order of
    # the last time.
    distinct = list(dict.fromkeys(history for history in reversed(known) if history))
    if len(distinct) < LEAST_HISTORIES:
        raise DataError(
            f"{state.name} was asked for {len(distinct)} different histories since the start and "
            f"a mix needs {LEAST_HISTORIES}; try again later."
        )
    # `Mixer` looks at half of a table at most.
    latest = distinct[: 2 * users]
    longest = max(len(set(history)) for history in latest)
    if len(state.ids) < longest + CANDIDATES_A_USER:
        raise DataError(
            f"{state.name} has {len(state.ids)} items, too few to draw {CANDIDATES_A_USER} "
            "candidates that a user has not touched."
        )
    rng = np.random.default_rng(seed)
    candidates = []
    for history in latest:
        # So many more are drawn that enough are left when the touched ones are taken out.
        size = min(len(state.ids), CANDIDATES_A_USER + len(history))
        drawn = rng.choice(len(state.ids), size=size, replace=False).tolist()
        touched = set(history)
        untouched = [state.ids[number] for number in drawn if state.ids[number] not in touched]
        candidates.append(untouched[:CANDIDATES_A_USER])
    recent = pl.DataFrame(
        {
            USER: [f"recent{number}" for number in range(len(latest))],
            HISTORY: [list(history) for history in latest],
            CANDIDATES: candidates,
        }
    )
    domain = state.domain
    added = state.added.with_columns(pl.lit("test_cold").alias(SPLIT))
    if CATEGORIES not in domain.items.columns:
        added = added.select(ITEM, TITLE, SPLIT)
    items = pl.concat([domain.items, added], how="diagonal")
    return RecentDomain(domain.name, domain.path, items, domain.manifest, recent)


def remix(
    state: Served,
    request: MixRequest,
    histories: Sequence[Sequence[str]],
    backbone: Backbone,
    out: Path,
) -> Adapter:
    """Write a cocktail of the request's adapters to `out`.

    The backbone is not touched: the search works on a twin of it.

    Raises:
        DataError, AdapterError: see `recent_domain` and `mixing.cocktail.mix`.
    """
    adapters = [Adapter.load(path) for path in request.adapters]
    domain = recent_domain(state, histories, request.settings.users, request.settings.seed)
    own = replace(backbone, model=twin(backbone.model))
    return mix(
        adapters,
        own,
        domain,
        request.scenario,
        out,
        request.settings,
        request.coefficients,
    )
