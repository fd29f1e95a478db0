"""From prepared domains to a report: base spirit, ingredient, average, two cocktails, evaluation.

Every step lies in its own folder and is skipped when it is there already, so an interrupted run
goes on.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from reccocktail.backbone import Backbone
from reccocktail.data.domain import Domain
from reccocktail.data.overlap import overlapping_items
from reccocktail.errors import DataError, RunError
from reccocktail.evaluation.evaluate import evaluate
from reccocktail.evaluation.report import report
from reccocktail.evaluation.settings import EvaluationSettings
from reccocktail.mixing.cocktail import mix
from reccocktail.mixing.measure import MixSettings
from reccocktail.mixing.sheet import load_sheet
from reccocktail.progress import say
from reccocktail.recipe import Recipe
from reccocktail.schema import SCENARIOS, Scenario
from reccocktail.storage import read_json, read_object, sha256_json, write_json
from reccocktail.training.adapter import Adapter, Card
from reccocktail.training.model import check_compatible
from reccocktail.training.schedule import Length
from reccocktail.training.trainer import train

BASE, INGREDIENT, AVERAGE = "base_spirit", "ingredient", "average"
EVALUATION, REPORT, STATE = "evaluation", "report.html", "pipeline.json"


@dataclass(frozen=True)
class Plan:
    """The sizes of a run.

    Attributes:
        base: length of the base spirit's training, as keywords of `Length`; empty where a finished
            one is given.
        ingredient: the same for the ingredient.
        mix: settings of both cocktails.
        evaluation: settings of the evaluation.
        baselines: baselines to judge beside the models.
    """

    base: Mapping[str, Any]
    ingredient: Mapping[str, Any]
    mix: MixSettings = field(default_factory=MixSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    baselines: Sequence[str] = ("popularity",)


def run_pipeline(
    base: Sequence[Domain] | Path,
    target: Domain,
    backbone: Backbone,
    recipe: Recipe,
    plan: Plan,
    out: Path,
) -> dict[str, Any]:
    """Train, mix, evaluate and report into `out`; finished steps are taken as they are.

    Args:
        base: domains to train the base spirit on, without the items whose titles occur in the
            target; or the folder of a finished base spirit, such as a shipped one. That one is
            taken as it is, under the name `base_spirit`, and if its card lists the target, the
            output and the report say so.
        target: domain of the ingredient, the cocktails and the evaluation.
        backbone: frozen language model.
        recipe: settings of both trainings. With a finished base spirit only `training` counts: the
            rest is the base spirit's own, or the two could not be mixed.
        plan: lengths and sizes.
        out: folder; gains base_spirit/ (if it is trained), ingredient/, average/, cocktail_warm/,
            cocktail_cold/, evaluation/, report.html.

    Returns:
        The content of metrics.json.

    Raises:
        RunError: `out` holds a run with other data or settings.
        DataError: the target has nobody to score.
        AdapterError: the base spirit is damaged, or was made on another backbone.
    """
    scenarios = [s for s in SCENARIOS if _has_users(target, s)]
    if not scenarios:
        raise DataError(f"{target.name} has nobody to mix for and to score; prepare more data.")
    notes = []
    if isinstance(base, Path):
        finished = replace(Adapter.load(base), name=BASE)
        check_compatible([finished], backbone)
        recipe = finished.card.recipe.model_copy(update={"training": recipe.training})
        state = _State.open(out, [finished.sha256], target, backbone, recipe, plan)
        if note := familiar(finished.card, target):
            say(note)
            notes.append(note)
        spirit = (finished, base)
    else:
        state = _State.open(out, [d.sha256 for d in base], target, backbone, recipe, plan)
        spirit = (_base_spirit(base, target, backbone, recipe, plan, out / BASE, state), out / BASE)
    with state.step("train ingredient"):
        ingredient = train(
            "ingredient",
            [target],
            backbone,
            recipe,
            out / INGREDIENT,
            Length(**plan.ingredient),
            resume=True,
        )
    pair = [spirit[0], ingredient]
    for scenario in scenarios:
        folder = out / f"cocktail_{scenario}"
        if not _made_of(folder, pair):
            with state.step(f"mix {scenario}"):
                # Without labelled validation users there is nothing to calibrate by.
                known = target.rows(f"valid_{scenario}").height > 0
                settings = plan.mix if known else replace(plan.mix, objective="entropy")
                mix(pair, backbone, target, scenario, folder, settings)
    average = out / AVERAGE
    if not _made_of(average, pair):
        with state.step("average"):
            mix(pair, backbone, target, scenarios[0], average, plan.mix, coefficients=(0.5, 0.5))
    folders = [out / INGREDIENT, average, *(out / f"cocktail_{s}" for s in scenarios)]
    if not _judged(out / EVALUATION, folders[1:]):
        with state.step("evaluate"):
            evaluate(
                target,
                [spirit, *((Adapter.load(folder), folder) for folder in folders)],
                backbone,
                out / EVALUATION,
                baselines=plan.baselines,
                settings=plan.evaluation,
            )
    run = read_json(out / EVALUATION / "run.json")
    if "notes" not in run:
        run = run | {"seconds": run["seconds"] | state.seconds, "notes": notes}
        write_json(out / EVALUATION / "run.json", run)
    report([out], out / REPORT)
    metrics: dict[str, Any] = read_json(out / EVALUATION / "metrics.json")
    return metrics


def familiar(card: Card, target: Domain) -> str | None:
    """One sentence if an adapter's card lists the target, None if it does not.

    Listed is a domain of the same hash, or whose name is the target's or ends in it after `_`.
    """
    for data in card.data:
        same_name = data.name == target.name or data.name.endswith(f"_{target.name}")
        if same_name or data.sha256 == target.sha256:
            return (
                f"The base spirit was trained on {data.name}, by its card: {target.name} is not a "
                "new domain to it, and its figures here say nothing of unseen domains."
            )
    return None


def _has_users(target: Domain, scenario: Scenario) -> bool:
    """Whether there is somebody to adapt to and somebody to score."""
    if target.rows(f"test_{scenario}").height > 1:
        return True
    say(f"{target.name} has too few test_{scenario} users; the scenario is left out.")
    return False


def _made_of(folder: Path, pair: Sequence[Adapter]) -> bool:
    """Whether a mix of these very adapters lies there, and not of former ones."""
    sheet = load_sheet(folder)
    return sheet is not None and [a["sha256"] for a in sheet["adapters"]] == [
        a.sha256 for a in pair
    ]


def _judged(evaluation: Path, mixes: Sequence[Path]) -> bool:
    """Whether the evaluation is whole, and of these very mixes."""
    return (evaluation / "metrics.json").exists() and read_json(evaluation / "cocktails.json") == [
        load_sheet(folder) for folder in mixes
    ]


def _base_spirit(
    sources: Sequence[Domain],
    target: Domain,
    backbone: Backbone,
    recipe: Recipe,
    plan: Plan,
    out: Path,
    state: "_State",
) -> Adapter:
    exclude = {source.name: frozenset(overlapping_items(source, [target])) for source in sources}
    for name, items in exclude.items():
        say(f"{name}: {len(items)} items share a title with {target.name} and are left out.")
    with state.step("train base spirit"):
        return train(
            "base",
            sources,
            backbone,
            recipe,
            out,
            Length(**plan.base),
            resume=True,
            exclude=exclude,
        )


class _State:
    """Identity and wall times of a run, kept over interruptions."""

    def __init__(self, path: Path, identity: str, seconds: dict[str, float]) -> None:
        self._path, self._identity, self.seconds = path, identity, seconds

    @classmethod
    def open(
        cls,
        out: Path,
        base: list[str],
        target: Domain,
        backbone: Backbone,
        recipe: Recipe,
        plan: Plan,
    ) -> "_State":
        """Start or go on; `base` are the hashes of the base spirit or of its domains."""
        precision = [backbone.precision] if backbone.autocast else []
        identity = sha256_json(
            [
                base,
                target.sha256,
                backbone.fingerprint.sha256,
                recipe.sha256,
                repr(plan),
                *precision,
            ]
        )
        path = out / STATE
        former: dict[str, Any] = (
            read_object(path, ("identity", "seconds"), f"delete {out} to start anew")
            if path.exists()
            else {"identity": identity, "seconds": {}}
        )
        if former["identity"] != identity:
            raise RunError(
                f"{out} holds a run with other data or settings; "
                "give the same ones or another --out."
            )
        state = cls(path, identity, former["seconds"])
        state._write()
        return state

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Add the time of the block to that of `name`, also if the block is interrupted."""
        started = time.monotonic()
        try:
            yield
        finally:
            spent = time.monotonic() - started
            self.seconds[name] = self.seconds.get(name, 0.0) + spent
            self._write()

    def _write(self) -> None:
        write_json(self._path, {"identity": self._identity, "seconds": self.seconds})
