"""What studies of a target share: whom they judge, recipes, kept cocktails."""

import argparse
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import polars as pl
import torch

from cells import require_alike
from costs import PeakMemory
from provenance import machine, write_result
from reccocktail.backbone import Backbone
from reccocktail.data.domain import Domain, sample_rows
from reccocktail.errors import RunError
from reccocktail.evaluation.controls import GRID
from reccocktail.mixing.cocktail import mix
from reccocktail.mixing.measure import MixSettings, adaptation_rows
from reccocktail.mixing.sheet import COCKTAIL_FILE
from reccocktail.recipe import Recipe
from reccocktail.schema import SCENARIOS, USER, Scenario
from reccocktail.storage import read_json, write_json
from reccocktail.training.adapter import Adapter
from reccocktail.training.model import check_compatible


def judged_rows(
    domain: Domain, users: int, validation_users: int, adaptation_users: int
) -> tuple[list[Scenario], dict[str, pl.DataFrame]]:
    """The rows that every model of a study is judged on.

    Users whom a cocktail with these settings adapts to, in any scenario, are left out.

    Returns:
        Scenarios with at least three test users, and the rows of their tables (`test_warm`,
        `valid_warm`, ...).
    """
    scenarios: list[Scenario] = [s for s in SCENARIOS if domain.rows(f"test_{s}").height > 2]
    adapted: set[str] = set()
    for scenario in scenarios:
        rows = adaptation_rows(domain.rows(f"test_{scenario}"), adaptation_users, seed=0)
        adapted |= set(rows[USER].to_list())
    tables: dict[str, pl.DataFrame] = {}
    for scenario in scenarios:
        test = domain.rows(f"test_{scenario}").filter(~pl.col(USER).is_in(sorted(adapted)))
        tables[f"test_{scenario}"] = sample_rows(test, users, seed=0)
        valid = domain.rows(f"valid_{scenario}")
        tables[f"valid_{scenario}"] = sample_rows(valid, validation_users, seed=0)
    return scenarios, tables


def require_judgeable(adapters: Sequence[Adapter], backbone: Backbone) -> None:
    """Refuse adapters of another backbone, and cocktails: users that they adapted to are scored.

    Raises:
        AdapterError: see `check_compatible`.
        RunError: one is a cocktail.
    """
    for adapter in adapters:
        check_compatible([adapter], backbone)
        if adapter.card.role == "cocktail":
            raise RunError(
                f"'{adapter.name}' is a cocktail, and this study scores whom it adapted to; "
                "judge it with `reccocktail evaluate`."
            )


def study_without_model(
    doc: str | None,
    study: Callable[[Sequence[Domain], int], dict[str, Any]],
    arguments: Sequence[str] | None,
) -> None:
    """A whole program: `study` looks at so many validation users of some domains, without a model.

    What it gives is written with the data's hashes and the machine, if `--out` is given.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--users", type=int, default=500, help="at most so many a table")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(arguments)
    if args.users < 3:
        raise RunError("--users must be at least 3; raise it.")
    domains = [Domain.load(path) for path in args.data]
    result = study(domains, args.users)
    if args.out:
        data = {domain.name: domain.sha256 for domain in domains}
        write_result(args.out, result | {"data": data} | machine(torch.device("cpu")))


def without_validation(recipe: Recipe, seed: int) -> Recipe:
    """The recipe with no time spent on validation, and this seed's order of batches."""
    training = recipe.training.model_copy(update={"validations": 0, "seed": seed})
    return recipe.model_copy(update={"training": training})


def target_recipe(base: Adapter, file: Path | None) -> Recipe:
    """How a target's adapters are trained: as the base spirit was, or as a file's `training` says.

    Raises:
        RunError: the file would have the adapters read or shaped otherwise than the base spirit.
    """
    own = base.card.recipe
    if file is None:
        return own
    asked = Recipe.load(file).model_copy(update={"backbone": own.backbone})
    # What is read and how it is scored, is compared when the adapters meet.
    others = [name for name in ("ranker", "lora") if getattr(asked, name) != getattr(own, name)]
    if others:
        raise RunError(
            f"{file} differs from the base spirit's recipe in {', '.join(others)}; "
            "only its training may be another."
        )
    return asked


def kept_sheet(
    pair: Sequence[Adapter],
    backbone: Backbone,
    domain: Domain,
    scenario: Scenario,
    out: Path,
    settings: MixSettings,
) -> dict[str, Any]:
    """Sheet of the cocktail that `mix` makes, with what decides it and its cost, in `<out>.json`.

    The adapter itself follows from the sheet and is dropped.

    Raises:
        RunError: the sheet that is there was mixed of other adapters or data, or with other
            settings.
    """
    file = out.with_name(f"{out.name}.json")
    asked = _decides(pair, backbone, domain, scenario, settings)
    if not file.exists():
        started = time.monotonic()
        with PeakMemory(backbone.device) as memory:
            mix(pair, backbone, domain, scenario, out, settings)
        sheet = read_json(out / COCKTAIL_FILE)
        cost = {"seconds": time.monotonic() - started, "peak_memory_bytes": memory.bytes}
        write_json(file, sheet | cost | {"identity": asked})
        shutil.rmtree(out)
    found: dict[str, Any] = read_json(file)
    require_alike(file, found.get("identity") or _said(found, backbone), asked)
    return found


def _decides(
    pair: Sequence[Adapter],
    backbone: Backbone,
    domain: Domain,
    scenario: Scenario,
    settings: MixSettings,
) -> dict[str, Any]:
    """All that decides a cocktail, by name, as JSON has it; users as many as there are."""
    adapted = adaptation_rows(domain.rows(f"test_{scenario}"), settings.users, settings.seed)
    labelled = min(settings.validation_users, domain.rows(f"valid_{scenario}").height)
    found = {
        **asdict(settings),
        "adapters": [adapter.sha256 for adapter in pair],
        "backbone": backbone.fingerprint.sha256,
        "data": domain.sha256,
        "scenario": scenario,
        "precision": backbone.precision,
        "users": adapted.height,
        "validation_users": labelled,
    }
    return json.loads(json.dumps(found))


def _said(sheet: Mapping[str, Any], backbone: Backbone) -> dict[str, Any]:
    """What a sheet from before identities were kept says of what decided it."""
    names = ("method", "search", "granularity", "objective", "scenario", "seed")
    return {
        **{name: sheet[name] for name in names if name in sheet},
        "adapters": [adapter["sha256"] for adapter in sheet["adapters"]],
        "backbone": sheet["backbone"]["sha256"],
        "data": sheet["data"]["sha256"],
        # Before there was a choice it was that of the weights.
        "precision": sheet.get("precision", replace(backbone, autocast=None).precision),
        "users": sheet["adaptation"]["users"],
        "validation_users": sheet["validation"]["users"],
    }


def best_of_curve(sheet: Mapping[str, Any], value: str) -> list[float] | None:
    """Coefficients of the measured mix with the least `value`, by its name in a sheet's curve.

    Only of the grid that controls choose from; None where it was measured of no mix.
    """
    points = [p for p in sheet["curve"] if p["coefficients"] and p["coefficients"][0] in GRID]
    judged = [point for point in points if point[value] is not None]
    best = min(judged, key=lambda point: float(point[value]), default=None)
    return best["coefficients"] if best else None
