"""What a quickstart's minutes pay for: how long to train, how thoroughly to mix and to judge.

All of its numbers stand here.
"""

import math
from dataclasses import dataclass

from reccocktail.evaluation.settings import EvaluationSettings
from reccocktail.mixing.measure import MixSettings
from reccocktail.mixing.search import GRID
from reccocktail.prompting.prefixes import forests
from reccocktail.ranking.base import LARGE_PASS
from reccocktail.ranking.dense import DenseRanker
from reccocktail.ranking.scoring import Catalogue
from reccocktail.schema import SCENARIOS


@dataclass(frozen=True)
class Share:
    """How the minutes are spent: the rest of them goes to mixing and evaluation."""

    base: float
    ingredient: float


MINUTES_WITH_SPIRIT, SHARE_WITH_SPIRIT = 8.0, Share(base=0.0, ingredient=0.35)
MINUTES_OF_FILMS = 12.0  # enough for the whole catalogue, which gives the report its examples
MINUTES_WITHOUT, SHARE_WITHOUT = 12.0, Share(base=0.2, ingredient=0.2)


@dataclass(frozen=True)
class Level:
    """How thoroughly a cocktail is mixed and judged.

    Attributes:
        grid: values of lambda_1 that are tried; with 0.5, so that the plain average costs nothing.
        users: unlabelled users that a cocktail adapts to.
        validation_users: labelled users of the curve and of the prior's weight.
        full_catalogue: rank the whole catalogue too, which gives the report its examples.
        least: scored users a scenario below which the next level is better.
    """

    grid: tuple[float, ...]
    users: int
    validation_users: int
    full_catalogue: bool
    least: int


COARSE = (0.0, 0.5, 1.0)
# Labelled users are cut last: a temperature fitted on too few of them misleads calibrated entropy
# sooner than too few unlabelled users do.
LEVELS = (
    Level(GRID, 50, 50, True, least=100),
    Level(COARSE, 30, 50, True, least=40),
    Level(COARSE, 30, 40, False, least=40),
    Level(COARSE, 20, 30, False, least=20),
)
# What a machine reads for which the minutes above are meant: SmolLM2-135M on 2 cores with AVX-512.
TOKENS_PER_SECOND = 1000.0
LONGEST = 1.75  # times those minutes, on a slower machine
USED = 0.95  # of a machine's pace: merging, scores, last batches
FIXED_SECONDS = 30.0  # loading, validation, drawing the report
MODELS = 4  # backbone, base spirit, ingredient, average; a cocktail is often one of these
CANDIDATES = 30  # of one user, as `prepare` draws them


@dataclass(frozen=True)
class Texts:
    """What there is to read of a domain.

    Attributes:
        items: size of the catalogue.
        item_tokens: tokens read of an item, with what titles share counted once.
        user_tokens: tokens read of a user.
    """

    items: int
    item_tokens: float
    user_tokens: float

    @classmethod
    def of(cls, catalogue: Catalogue[DenseRanker]) -> "Texts":
        """Count them."""
        ranker, titles = catalogue.ranker, catalogue.tokens
        items = [ranker.encoder.item(title) for title in titles]
        read = sum(f.input_ids.numel() for f in forests(items, ranker.tree_tokens, LARGE_PASS))
        user = ranker.prompt.max_history * (1 + sum(map(len, titles)) / len(titles))
        return cls(len(items), read / len(items), user)


def stretched(minutes: float, pace: float) -> float:
    """Minutes that this machine takes for what others do in `minutes`, at most `LONGEST` times.

    Args:
        minutes: meant for `TOKENS_PER_SECOND`.
        pace: tokens a second of this machine; a faster one does more in the same time.
    """
    return minutes * min(max(TOKENS_PER_SECOND / pace, 1.0), LONGEST)


def tokens(minutes: float, share: Share, pace: float) -> float:
    """Tokens that may be read for mixing and evaluation, at `pace` tokens a second."""
    seconds = 60 * minutes * (1 - share.base - share.ingredient) - FIXED_SECONDS
    return seconds * USED * pace


def sizes(budget: float, texts: Texts) -> tuple[MixSettings, EvaluationSettings]:
    """The most thorough level that a budget pays for, and how many users it leaves to be scored.

    Args:
        budget: tokens that may be read for two cocktails and their evaluation.
        texts: the domain's.
    """
    for level in LEVELS:
        scored = _affordable(budget, level, texts)
        if scored >= level.least:
            break
    return (
        MixSettings(
            users=level.users,
            validation_users=level.validation_users,
            # A few minutes leave an ingredient that is right but not sure; plain entropy then takes
            # the sure base spirit (results/remedies_short.json).
            objective="calibrated",
            grid=level.grid,
            refinements=0,
        ),
        EvaluationSettings(
            users=max(scored, level.least),
            validation_users=level.validation_users,
            full_catalogue=level.full_catalogue,
        ),
    )


def _affordable(budget: float, level: Level, texts: Texts) -> int:
    """The most scored users a scenario that the budget pays for at a level."""
    low, high = 0, 100_000
    while low < high:
        middle = (low + high + 1) // 2
        fits = _cost(middle, level, texts) <= budget
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def _cost(scored: int, level: Level, texts: Texts) -> float:
    """Tokens that are read; each item is read once by each model, whoever asks for it."""
    items, item, user = texts.items, texts.item_tokens, texts.user_tokens
    mixed_rows = len(SCENARIOS) * (level.users + level.validation_users)
    judged_rows = len(SCENARIOS) * (scored + level.validation_users)
    mixed = _covered(mixed_rows * CANDIDATES, items)
    judged = _covered((mixed_rows + len(SCENARIOS) * scored) * CANDIDATES, items)
    if level.full_catalogue:
        judged = items
    mixing = len(level.grid) * (mixed * item + mixed_rows * user)
    # Of the four models, three stand on the grid and have read the candidates of mixing.
    judging = MODELS * (judged * item + judged_rows * user) - (MODELS - 1) * mixed * item
    return mixing + judging


def _covered(draws: int, items: int) -> float:
    """How many different items so many draws are expected to give."""
    return items * -math.expm1(-draws / items)
