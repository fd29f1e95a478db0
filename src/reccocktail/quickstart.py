"""The main job on data and a language model that any machine can get: from nothing to a report."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reccocktail.backbone import SMOLLM2, load_backbone
from reccocktail.data.domain import Domain
from reccocktail.data.fetch import SOURCES, fetch
from reccocktail.data.prepare import prepare
from reccocktail.errors import RecipeError
from reccocktail.evaluation.evaluate import EvaluationSettings
from reccocktail.mixing.measure import MixSettings
from reccocktail.pipeline import Plan, run_pipeline
from reccocktail.progress import say
from reccocktail.recipe import Recipe

MINUTES = 12.0
TARGET = "movielens-1m"
DEPARTMENTS = ("grocery", "drug_gm", "fresh")


@dataclass(frozen=True)
class Share:
    """How the minutes are spent: the rest of them goes to mixing and evaluation."""

    base: float = 0.2
    ingredient: float = 0.2


def quickstart(out: Path, minutes: float = MINUTES, share: Share | None = None) -> dict[str, Any]:
    """Fetch, prepare, train a base spirit on groceries and an ingredient on films, mix, report.

    Args:
        out: folder of the run; a second call goes on where the first one stopped.
        minutes: what the whole should take on 2 cores after the downloads, at least 2.
        share: how the minutes are divided.

    Returns:
        The content of metrics.json.

    Raises:
        RecipeError: too few minutes.
        FetchError: a download failed.
    """
    share = share or Share()
    if not 2 <= minutes < float("inf"):
        raise RecipeError(
            f"The quickstart needs at least 2 minutes, not {minutes:g}; raise --minutes."
        )
    say(
        "Quickstart: a base spirit from groceries, an ingredient from films, and their cocktail, "
        "on SmolLM2-135M.\n"
        f"It downloads about 140 MB once and then takes about {minutes:g} minutes on 2 cores. "
        f"Interrupt it at any time; the same command goes on."
    )
    for name in (TARGET, "complete-journey", SMOLLM2):
        say(f"{name}: {SOURCES[name].description} ({SOURCES[name].licence})")
    films = _prepared(fetch(TARGET), TARGET, out)
    groceries = fetch("complete-journey")
    sources = [_prepared(groceries / name, name, out) for name in DEPARTMENTS]
    backbone = load_backbone(SMOLLM2)
    recipe = Recipe.model_validate(
        {
            "prompt": {"max_history": 6},
            "training": {"validation_users": 8, "validations": 1, "checkpoint_minutes": 1.0},
        }
    )
    scored = max(20, round(15 * minutes))
    plan = Plan(
        base={"minutes": share.base * minutes},
        ingredient={"minutes": share.ingredient * minutes},
        mix=MixSettings(users=50, validation_users=50, refinements=0),
        evaluation=EvaluationSettings(users=scored, validation_users=50),
    )
    return run_pipeline(sources, films, backbone, recipe, plan, out)


def _prepared(raw: Path, name: str, out: Path) -> Domain:
    folder = out / "data" / name
    if (folder / "manifest.json").exists():
        return Domain.load(folder)
    say(f"Preparing {name} ...")
    return prepare(raw / "interactions.parquet", raw / "items.parquet", name, folder)
