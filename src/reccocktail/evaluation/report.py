"""One self-contained HTML page from evaluation folders: what came out, how sure, at what cost."""

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jinja2
import polars as pl
from markupsafe import Markup
from matplotlib.figure import Figure

from reccocktail.errors import RunError
from reccocktail.evaluation import plots
from reccocktail.evaluation.results import (
    METRICS_FILE,
    PREDICTIONS_FILE,
    RUN_FILE,
    TABLE_METRICS,
    mark,
    paired_entry,
    read_metrics,
    scenarios_of,
)
from reccocktail.mixing.objectives import OBJECTIVES
from reccocktail.storage import atomic_file, read_json

__all__ = ["report", "verdict", "verdict_sentence"]

EXAMPLES_FILE = "examples.json"
COCKTAILS_FILE = "cocktails.json"

HEADLINE = "ndcg@10"
_SIDE_METRICS = ("ndcg@1", "ndcg@3")

_KINDS = {
    "popularity": "counts",
    "backbone": "no adapter",
    "base": "base spirit",
    "ingredient": "ingredient",
    "average": "plain average",
    "cocktail": "cocktail",
}
_READERS = frozenset({"backbone", "base", "ingredient", "cocktail"})  # models on the backbone


def report(runs: list[Path], out: Path) -> Path:
    """Write the report of one or more runs as a single HTML file that loads nothing from elsewhere.

    Args:
        runs: evaluation folders, or folders with an ``evaluation`` folder inside.
        out: the HTML file.

    Returns:
        `out`.

    Raises:
        RunError: no run was given, a run's files are missing or damaged, or `out` is a file that is
            no page.
    """
    if not runs:
        raise RunError("A report needs at least one run; give an evaluation folder.")
    _require_page(out)
    numbers = itertools.count(1)
    sections = [_section(folder, numbers) for folder in runs]
    try:
        page = page_environment().get_template("report.html.j2")
        objectives = {name: rule.description for name, rule in OBJECTIVES.items()}
        text = page.render(sections=sections, objectives=objectives)
    except jinja2.UndefinedError as error:
        names = ", ".join(map(str, runs))
        raise RunError(
            f"Not all of {names} have an evaluation's form ({error}); evaluate again."
        ) from error
    with atomic_file(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return out


def _require_page(out: Path) -> None:
    """Refuse to write over what is no HTML: a table, by a slip of the hand."""
    if out.is_file():
        with out.open("rb") as stream:
            start = stream.read(200).lstrip().lower()
        if start and not start.startswith((b"<!doctype html", b"<html")):
            raise RunError(f"{out} is no page and would be replaced; choose another file.")


def page_environment() -> jinja2.Environment:
    """Where the pages' templates, their style (``style.css``) and their filters are found."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("reccocktail.evaluation"),
        autoescape=True,  # titles and names are data, never markup
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["duration"] = duration
    environment.filters["size"] = size
    environment.filters["signed"] = signed
    return environment


def _evaluation_folder(run: Path) -> Path:
    for folder in (run, run / "evaluation"):
        if (folder / METRICS_FILE).is_file():
            return folder
    raise RunError(f"{run} holds no {METRICS_FILE}; give the folder that `evaluate` wrote.")


def _optional(path: Path) -> list[dict[str, Any]]:
    return list(read_json(path)) if path.is_file() else []


def _section(run: Path, numbers: Iterator[int]) -> dict[str, Any]:
    """Everything the template shows of one run; `numbers` gives drawings their names."""
    folder = _evaluation_folder(run)
    metrics, facts = read_metrics(folder), read_json(folder / RUN_FILE)
    cocktails = _optional(folder / COCKTAILS_FILE)
    try:
        for cocktail in cocktails:
            cocktail["also_scored"] = _also_scored(folder, cocktail)
        return _content(run, metrics, facts, cocktails, _optional(folder / EXAMPLES_FILE), numbers)
    except (
        KeyError,
        TypeError,
        IndexError,
        AttributeError,
        ValueError,
        pl.exceptions.PolarsError,
    ) as error:
        raise RunError(
            f"{folder} does not have an evaluation's form ({type(error).__name__}: {error});"
            " evaluate again."
        ) from error


def _also_scored(folder: Path, cocktail: Mapping[str, Any]) -> int | None:
    """How many of the users the search looked at are also scored, None where that is not known."""
    users = (cocktail.get("adaptation") or {}).get("user_ids")
    if users is None or not (folder / PREDICTIONS_FILE).is_file():
        return None
    rows = pl.scan_parquet(folder / PREDICTIONS_FILE, glob=False)
    scored = rows.filter(scenario=cocktail["scenario"]).select("user_id").unique().collect()
    return len(set(users) & set(scored["user_id"].to_list()))


def _content(
    run: Path,
    metrics: dict[str, Any],
    facts: dict[str, Any],
    cocktails: list[dict[str, Any]],
    examples: list[dict[str, Any]],
    numbers: Iterator[int],
) -> dict[str, Any]:
    kinds = {name: entry.get("kind", "") for name, entry in facts.get("models", {}).items()}
    known = {cocktail["name"] for cocktail in cocktails}
    mixed = [m for m in metrics["models"] if kinds.get(m) == "cocktail" or m in known]
    scenarios = scenarios_of(metrics)
    full = metrics.get("full_catalogue") or {}
    full_metrics = {"models": full.get("models", full)}
    name = run.resolve()
    first = cocktails[0] if cocktails else {}
    return {
        "name": name.parent.name if name.name == "evaluation" else name.name,
        "data": facts.get("data", {}).get("name") or first.get("data", {}).get("name"),
        "backbone": first.get("backbone", {}).get("name") or _backbone(facts, kinds),
        "facts": facts,
        "recipe": json.dumps(facts.get("recipe", {}), indent=2, ensure_ascii=False),
        "verdicts": [
            _verdict_card(metrics, model, scenario)
            for model in mixed
            for scenario in scenarios
            if scenario in metrics["models"][model]
            and paired_entry(metrics, model, scenario, HEADLINE)
        ],
        "tables": [_table(metrics, s, kinds, mixed) for s in scenarios],
        "full_tables": [_table(full_metrics, s, kinds, mixed) for s in scenarios_of(full_metrics)],
        "models_plot": _drawing(
            plots.models_figure(metrics, scenarios, emphasis=mixed), f"models-{next(numbers)}"
        ),
        "cocktails": [_cocktail(cocktail, next(numbers)) for cocktail in cocktails],
        "examples": examples,
        "mixed": mixed,
        "kinds": {model: _KINDS.get(kind, kind) for model, kind in kinds.items()},
    }


def _backbone(facts: Mapping[str, Any], kinds: Mapping[str, str]) -> str | None:
    """The recipe's backbone, where a model was judged that reads with one."""
    found: str | None = facts.get("recipe", {}).get("backbone")
    return found if _READERS.intersection(kinds.values()) else None


def _drawing(figure: Figure, name: str) -> Markup:
    # Matplotlib escapes names in the SVG it writes, so this text is markup and safe.
    return Markup(plots.svg(figure, name))


def _table(
    metrics: Mapping[str, Any], scenario: str, kinds: Mapping[str, str], mixed: list[str]
) -> dict[str, Any]:
    rows = []
    entropies = metrics.get("entropy") or {}
    for model, cells in metrics["models"].items():
        if (cell := cells.get(scenario)) is None:
            continue
        entropy = (entropies.get(model) or {}).get(scenario)
        rows.append(
            {
                "model": model,
                "kind": _KINDS.get(kinds.get(model, ""), kinds.get(model, "")),
                "mixed": model in mixed,
                "n": cell["n"],
                "entropy": entropy if isinstance(entropy, float | int) else None,
                "cells": [
                    {
                        "value": cell[metric],
                        "ci95": cell["ci95"][metric],
                        "mark": mark(metrics, model, scenario, metric),
                    }
                    for metric in TABLE_METRICS
                ],
            }
        )
    return {
        "scenario": scenario,
        "metrics": [metric.upper() for metric in TABLE_METRICS],
        "rows": rows,
        "entropy": any(row["entropy"] is not None for row in rows),
        "reference": (metrics.get("reference") or {}).get(scenario),
    }


def _cocktail(cocktail: dict[str, Any], number: int) -> dict[str, Any]:
    coefficients = cocktail.get("coefficients") or {}
    adapters = [str(adapter["name"]) for adapter in cocktail.get("adapters", [])]
    means = [sum(column) / len(column) for column in zip(*coefficients.values(), strict=True)]
    curve = sorted(cocktail.get("curve") or [], key=_place)
    places = plots.coefficients_figure(cocktail)
    return {
        **cocktail,
        "means": list(zip(adapters, means, strict=False)),
        "single": len(coefficients) == 1,
        "points": curve,
        "plot": _drawing(plots.curve_figure(cocktail), f"curve-{number}")
        if len(curve) > 1 and all(len(point["coefficients"] or ()) == 2 for point in curve)
        else None,
        "places": _drawing(places, f"places-{number}") if places else None,
    }


def _place(point: Mapping[str, Any]) -> tuple[bool, list[float]]:
    """Order of a curve's mixes: by coefficients; last a cocktail whose groups have their own."""
    return point["coefficients"] is None, list(point["coefficients"] or ())


def verdict(entry: Mapping[str, Any]) -> str:
    """``win``, ``loss`` or ``tie``, by where the paired 95% interval lies against 0."""
    low, high = entry["ci95"]
    return "win" if low > 0 else "loss" if high < 0 else "tie"


def verdict_sentence(entry: Mapping[str, Any], comparisons: int) -> str:
    """What one paired comparison shows, in plain words and no more than its interval bears.

    Args:
        entry: one entry of metrics.json's ``paired``.
        comparisons: how many comparisons Holm's correction counted.
    """
    metric, (low, high) = entry["metric"].upper(), entry["ci95"]
    model, against, outcome = entry["model"], entry["against"], verdict(entry)
    interval = f"95% interval {signed(low)} to {signed(high)}, n = {entry['n']:,}"
    if outcome == "tie":
        return (
            f"{model} ties with {against}, the best single adapter: {metric} differs by"
            f" {signed(entry['difference'])}, and the {interval}, includes 0."
            " Neither is shown to be better."
        )
    word, side = ("beats", "higher") if outcome == "win" else ("loses to", "lower")
    text = (
        f"{model} {word} {against}, the best single adapter: {metric} is"
        f" {abs(entry['difference']):.4f} {side} ({interval})."
    )
    if entry["p_holm"] >= 0.05:
        text += (
            f" Counting all {comparisons} comparisons (Holm), p = {entry['p_holm']:.2f}:"
            " take it as a hint, not as settled."
        )
    return text


def _verdict_card(metrics: Mapping[str, Any], model: str, scenario: str) -> dict[str, Any]:
    entry = paired_entry(metrics, model, scenario, HEADLINE)
    assert entry is not None
    comparisons = sum(other["metric"] == HEADLINE for other in metrics["paired"])
    sides = [paired_entry(metrics, model, scenario, metric) for metric in _SIDE_METRICS]
    return {
        "scenario": scenario,
        "outcome": verdict(entry),
        "sentence": verdict_sentence(entry, comparisons),
        "sides": [{**side, "outcome": verdict(side)} for side in sides if side is not None],
    }


def signed(value: float) -> str:
    """A difference with its sign, 4 decimals: ``+0.0123``, or with a true minus sign."""
    text = f"{value:+.4f}"
    return "0.0000" if float(text) == 0 else text.replace("-", "\u2212")


def duration(seconds: float) -> str:
    """Seconds as a person says them: ``0.8 s``, ``42 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(whole / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def size(count: float) -> str:
    """Bytes in binary units: ``512 B``, ``3.2 GiB``."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
