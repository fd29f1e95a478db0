"""The published search of coefficients against ours: seconds, peak memory, NDCG of what it finds.

    python benchmarks/published_cost.py --data PREPARED --base A --ingredient B --out DIR
    python benchmarks/published_cost.py ... --users 4 --test 20 --steps 1 --rates 1 \
        --scenario warm --ranking-users 2 --minutes 3          # does it run? minutes on one core

Published: a softmax pair for every module, Adam on entropy, a run for each of ten learning rates,
of which test labels choose (this is their way; the choice by entropy stands beside it). Ours: the
line search on entropy, and the same on calibrated entropy, which reads `--labelled` validation
users besides. Same backbone, users and adapters, one process, the search alone, each run with an
empty cache. Test users are none of those adapted to.

A second part, `ranking`, times the ways of ranking (see `ranking_speed.py`).

Each run is kept in DIR as it ends and published_cost.json is written anew; the same command goes
on. `--minutes` bounds each part: no run of it is begun later, and what is missing is said.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from rich.console import Console
from torch import Tensor

from cells import finished
from costs import PeakMemory, seconds
from program import program
from provenance import environment, write_result
from ranking_speed import measure
from reccocktail.backbone import Backbone, load_backbone
from reccocktail.data.domain import Domain, sample_rows
from reccocktail.evaluation.metrics import FloatArray, in_words, per_user, ranks
from reccocktail.evaluation.significance import paired_bootstrap
from reccocktail.mixing.batch_loss import BatchLoss
from reccocktail.mixing.measure import Mixer, MixSettings
from reccocktail.mixing.search import Descent, Groups, gradient_search, line_search
from reccocktail.progress import bar
from reccocktail.ranking.scoring import positive_columns, score
from reccocktail.schema import SCENARIOS, USER, Scenario
from reccocktail.spirits import resolve
from reccocktail.storage import sha256_json, write_json
from reccocktail.training.adapter import Adapter, Lora
from reccocktail.training.model import merged
from spreads import gap_in_words

RATES: dict[Scenario, tuple[float, ...]] = {
    "warm": tuple(round(float(x), 3) for x in np.linspace(0.5, 5.0, 10)),
    "cold": tuple(round(float(x), 3) for x in np.linspace(0.01, 0.09, 10)),
}
PARTS = ("search", "ranking")
OURS, CALIBRATED = "ours", "ours, calibrated"
SHOWN = ("ndcg@1", "ndcg@3", "ndcg@10")


class Found(NamedTuple):
    """What a search gives: the mix, its coefficients (groups, adapters), its objective's value."""

    lora: Lora
    coefficients: Tensor
    value: float


def find(mixer: Mixer, steps: int | None = None) -> Found:
    """The search alone: no curve, no validation, no files. `steps` shortens it (a warm-up)."""
    settings, loras = mixer.settings, [a.lora for a in mixer.adapters]
    groups = Groups.build(loras, settings.granularity)
    if settings.search == "published":
        descent = replace(mixer.descent, steps=steps or mixer.descent.steps)
        coefficients, losses = gradient_search(
            mixer.backbone.model, loras, groups, settings.method, BatchLoss(mixer, []), descent
        )
        return Found(mixer.merged_lora(coefficients, groups), coefficients, losses[-1])
    grid = settings.grid[:steps]
    best, seen = line_search(
        lambda first: mixer.measure_pair(first).value(settings.objective),
        grid,
        0 if steps else settings.refinements,
    )
    coefficients = torch.tensor([[best, 1 - best]])
    return Found(mixer.merged_lora(coefficients, groups), coefficients, seen[best])


@contextmanager
def own_cache() -> Iterator[None]:
    """No run may find item vectors that another one has left."""
    before = os.environ.get("RECCOCKTAIL_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RECCOCKTAIL_CACHE"] = folder
        try:
            yield
        finally:
            os.environ.pop("RECCOCKTAIL_CACHE")
            if before is not None:
                os.environ["RECCOCKTAIL_CACHE"] = before


class Plan(NamedTuple):
    """One run: whose search, at which learning rate, with which settings."""

    search: str
    rate: float | None
    settings: MixSettings

    @property
    def label(self) -> str:
        """Name of the run's file."""
        name = self.search.replace(", ", "-")
        return name if self.rate is None else f"{name}-{self.rate:g}"


def compare(
    pair: Sequence[Adapter],
    backbone: Backbone,
    domain: Domain,
    scenario: Scenario,
    settings: MixSettings,
    rates: Sequence[float],
    steps: int,
    labelled: int,
    test_users: int,
    out: Path,
    minutes: float | None,
    tell: Callable[[dict[str, Any]], object],
) -> dict[str, Any]:
    """Both searches for one scenario; `tell` hears of the result after every run."""
    plans = [Plan(OURS, None, settings)]
    for rate in rates:
        descent = Descent(steps, rate)
        plans.append(
            Plan("published", rate, replace(settings, search="published", descent=descent))
        )
    # Last, so that a run from before it was measured goes on.
    calibrated = replace(settings, objective="calibrated", validation_users=labelled)
    plans.append(Plan(CALIBRATED, None, calibrated))
    common: list[object] = [
        [a.sha256 for a in pair], backbone.fingerprint.sha256, backbone.device.type,
        str(backbone.model.dtype), domain.sha256, scenario, test_users,
    ]  # fmt: skip
    runs: list[dict[str, Any]] = []
    started, warmed = time.monotonic(), False
    with bar(f"Searches ({scenario})", len(plans)) as advance:
        for plan in plans:
            file = out / scenario / f"{plan.label}.json"
            identity = sha256_json([*common, plan.search, asdict(plan.settings)])
            run = finished(file, identity)
            late = minutes is not None and time.monotonic() - started > 60 * minutes
            if run is None and late and runs:
                advance(1)
                continue
            if run is None:
                if not warmed:  # the first pass of a process pays for what all of them need
                    _warm_up(plans, pair, backbone, domain, scenario)
                    warmed = True
                run = _run(plan, pair, backbone, domain, scenario, test_users)
                write_json(file, {"identity": identity, **run})
            runs.append(run)
            tell(_result(runs, len(plans)))
            advance(1, f"Searches ({scenario}, {plan.label})")
    return _result(runs, len(plans))


def _warm_up(
    plans: Sequence[Plan],
    pair: Sequence[Adapter],
    backbone: Backbone,
    domain: Domain,
    scenario: Scenario,
) -> None:
    for plan in plans[:2]:
        first = Mixer(pair, backbone, domain, scenario, plan.settings)
        with own_cache():
            find(first, steps=1)


def _run(
    plan: Plan,
    pair: Sequence[Adapter],
    backbone: Backbone,
    domain: Domain,
    scenario: Scenario,
    test_users: int,
) -> dict[str, Any]:
    """One search, timed, and what it found, judged on users that it did not adapt to."""
    mixer = Mixer(pair, backbone, domain, scenario, plan.settings)  # knows nothing of the warm-up
    rest = domain.rows(f"test_{scenario}").filter(
        ~pl.col(USER).is_in(mixer.unlabelled[USER].to_list())
    )
    rows = sample_rows(rest, test_users, plan.settings.seed)
    found: list[Found] = []
    with own_cache():
        with PeakMemory(backbone.device) as memory:
            spent = seconds(lambda: found.append(find(mixer)), backbone.device)
        with merged(backbone.model, found[0].lora) as model:
            label = f"Judging {plan.label}"
            scored = score(model, mixer.catalogue, [rows], label, entropy=False)
    values = per_user(ranks(scored[0].scores, positive_columns(rows)))
    first = found[0].coefficients[:, 0]
    return {
        "search": plan.search,
        "learning_rate": plan.rate,
        "seconds": spent,
        "peak_bytes": memory.bytes,
        "objective": mixer.settings.objective,
        "entropy": found[0].value,
        "lambda_1": float(first.mean()),
        "lambda_1_range": [float(first.min()), float(first.max())],
        "adapted_users": mixer.unlabelled.height,
        "n": rows.height,
        **{m: float(values[m].mean()) for m in SHOWN},
        "values": {m: values[m].tolist() for m in SHOWN},
    }


def _result(runs: Sequence[dict[str, Any]], planned: int) -> dict[str, Any]:
    """What the runs so far say; ratios need ours and a published one."""
    shown = [{k: v for k, v in r.items() if k not in ("values", "identity")} for r in runs]
    found: dict[str, Any] = {"runs": shown, "complete": len(runs) == planned}
    theirs = [r for r in runs if r["search"] == "published"]
    ours = {r["search"]: r for r in runs if r["search"] != "published"}
    if not theirs:
        return found
    total = sum(r["seconds"] for r in theirs)
    chosen = {
        "rate chosen by test labels": max(theirs, key=lambda r: r["ndcg@10"]),
        "rate chosen by entropy": min(theirs, key=lambda r: r["entropy"]),
    }
    found["published_seconds"] = total
    for name, end in ((OURS, ""), (CALIBRATED, "_calibrated")):
        if name in ours:
            spent = ours[name]["seconds"]
            found |= {
                f"times_cheaper{end}": total / spent,
                f"times_cheaper_than_one_rate{end}": total / len(theirs) / spent,
                f"ours{end}_minus_published": {
                    way: _paired(_values(ours[name]), _values(run)) for way, run in chosen.items()
                },
            }
    return found


def _values(run: dict[str, Any]) -> dict[str, FloatArray]:
    return {m: np.array(run["values"][m]) for m in SHOWN}


def _paired(one: dict[str, FloatArray], other: dict[str, FloatArray]) -> dict[str, Any]:
    found = paired_bootstrap(one, other)
    return {m: {k: found[m][k] for k in ("difference", "ci95")} for m in SHOWN}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--ingredient", type=Path, required=True)
    parser.add_argument("--scenario", choices=SCENARIOS, action="append")
    parser.add_argument("--users", type=int, default=50, help="to adapt to")
    parser.add_argument("--test", type=int, default=1000, help="users")
    parser.add_argument("--labelled", type=int, default=100, help="users to calibrate by")
    parser.add_argument("--steps", type=int, default=10, help="of Adam")
    parser.add_argument("--rates", type=float, nargs="+", help="in place of the published ten")
    parser.add_argument("--part", choices=PARTS, action="append")
    parser.add_argument("--ranking-users", type=int, default=40)
    parser.add_argument("--chunk", type=int, default=4, help="users ranked at a time")
    parser.add_argument("--minutes", type=float, help="of each part, the last run's end aside")
    parser.add_argument("--backbone")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(arguments)
    pair = [Adapter.load(resolve(path)) for path in (args.base, args.ingredient)]
    backbone = load_backbone(args.backbone or pair[0].card.recipe.backbone)
    domain = Domain.load(args.data)
    settings = MixSettings(users=args.users, validation_users=0)
    parts = args.part or PARTS
    recipe = pair[0].card.recipe
    whole: dict[str, Any] = {
        "ranker": recipe.ranker,
        "steps": args.steps,
        "scenarios": {},
        "ranking": None,
        **environment(backbone, domain),
    }

    def keep() -> None:
        write_result(args.out / "published_cost.json", whole)

    for scenario in (args.scenario or SCENARIOS) if "search" in parts else ():

        def tell(found: dict[str, Any], scenario: Scenario = scenario) -> None:
            whole["scenarios"][scenario] = found
            keep()

        found = compare(
            pair, backbone, domain, scenario, settings, args.rates or RATES[scenario], args.steps,
            args.labelled, args.test, args.out, args.minutes, tell,
        )  # fmt: skip
        Console().print(_sentence(scenario, found), markup=False)
    if "ranking" in parts:
        # Figures of another machine, model or chunk do not belong beside these.
        kind = [backbone.fingerprint.sha256, backbone.device.type, str(backbone.model.dtype)]
        size = [domain.sha256, recipe.prompt.model_dump(), args.ranking_users, args.chunk]
        log = args.out / f"ranking-{sha256_json([*kind, *size])[:12]}.jsonl"
        log.parent.mkdir(parents=True, exist_ok=True)
        whole["ranking"] = measure(
            backbone, domain, recipe.prompt, args.ranking_users, args.chunk, args.minutes, log
        )
        keep()
        for name, way in whole["ranking"]["ways"].items():
            speed = in_words(way["users_a_second"], way["ci95"], ".2f")
            text = f"{name}: {speed} users a second, n = {way['users']}."
            Console().print(text, markup=False, highlight=False)


def _sentence(scenario: Scenario, found: dict[str, Any]) -> str:
    if "times_cheaper" not in found:
        return f"{scenario}: no published run yet; the same command goes on."
    gap = found["ours_minus_published"]["rate chosen by test labels"]["ndcg@10"]
    more = "" if found["complete"] else " Rates are missing; the same command goes on."
    return (
        f"{scenario}: ours {found['runs'][0]['seconds']:.1f} s, published "
        f"{found['published_seconds']:.1f} s ({found['times_cheaper']:.1f} times); NDCG@10 ours "
        f"minus published {gap_in_words(gap, '+.4f')}.{more}"
    )


if __name__ == "__main__":
    program(main)
