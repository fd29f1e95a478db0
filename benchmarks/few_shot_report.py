"""From the cells of `few_shot.py` to means over seeds, intervals, differences and plots."""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from matplotlib import rc_context
from matplotlib.figure import Figure

from cells import read_cell
from provenance import write_result
from reccocktail.evaluation.metrics import FloatArray, in_words, per_user, summarise
from reccocktail.evaluation.plots import ACCENT, COOL, INK, MUTED, STYLE, new_figure, save_png
from reccocktail.schema import USER
from spreads import described

SIMILARITY, BACKBONE, BASE = "text-similarity", "backbone", "base_spirit"
INGREDIENT, SECOND_ROUND, AVERAGE = "ingredient", "second_round", "average"
COCKTAIL, COCKTAIL_VALIDATION = "cocktail", "cocktail_validation"
SECOND_COCKTAIL = "second_cocktail"
SECOND_COCKTAIL_VALIDATION = "second_cocktail_validation"
PARTNERS = {COCKTAIL: INGREDIENT, SECOND_COCKTAIL: SECOND_ROUND}
"""Cocktail -> what the base spirit is mixed with; its own second round makes it WiSE-FT."""
COCKTAILS = (COCKTAIL, COCKTAIL_VALIDATION, SECOND_COCKTAIL, SECOND_COCKTAIL_VALIDATION)
UNTRAINED = (SIMILARITY, BACKBONE, BASE)
"""What no target data has shaped."""
METHODS = (*UNTRAINED, INGREDIENT, SECOND_ROUND, AVERAGE, *COCKTAILS)
OPPONENTS = (SIMILARITY, BASE, INGREDIENT, SECOND_ROUND, AVERAGE)
METRICS = ("ndcg@1", "ndcg@3", "ndcg@10", "hr@1", "mrr")
VIEWS = {"text alone": "rank", "with prior": "rank_with_prior"}

_LINES: dict[str, dict[str, Any]] = {
    SIMILARITY: {"color": MUTED, "linestyle": "-."},
    BACKBONE: {"color": MUTED, "linestyle": ":"},
    BASE: {"color": COOL, "linestyle": "--"},
    INGREDIENT: {"color": INK, "linestyle": "--"},
    SECOND_ROUND: {"color": "#7a5195"},
    AVERAGE: {"color": "#6f8f3a"},
    COCKTAIL: {"color": ACCENT, "linewidth": 2.0},
    COCKTAIL_VALIDATION: {"color": ACCENT, "linestyle": ":"},
    SECOND_COCKTAIL: {"color": "#b37cc7", "linewidth": 2.0},
    SECOND_COCKTAIL_VALIDATION: {"color": "#b37cc7", "linestyle": ":"},
}


def cell_metrics(placed: pl.DataFrame, of: Mapping[str, str] = VIEWS) -> dict[str, Any]:
    """Model -> scenario -> view -> means with intervals over the cell's users.

    Args:
        placed: `model`, `scenario`, `user_id`, and a column of ranks for each view.
        of: view -> column.
    """
    found: dict[str, Any] = {}
    for (model, scenario), rows in placed.group_by("model", "scenario", maintain_order=True):
        views = {view: summarise(_chosen(rows[column].to_numpy())) for view, column in of.items()}
        found.setdefault(str(model), {})[str(scenario)] = views
    return found


def summary(cells: Sequence[tuple[dict[str, Any], pl.DataFrame]]) -> dict[str, Any]:
    """Means over users and seeds of one target, and what trained models gain over the others.

    Args:
        cells: sheet and ranks of each finished cell.
    """
    means: list[dict[str, Any]] = []
    differences: list[dict[str, Any]] = []
    for share in sorted({sheet["share"] for sheet, _ in cells}):
        placed = [ranks for sheet, ranks in cells if sheet["share"] == share]
        for scenario in placed[0]["scenario"].unique(maintain_order=True).to_list():
            for view, column in VIEWS.items():
                values = {
                    model: _stacked(placed, model, scenario, column)
                    for model in METHODS
                    if (placed[0]["model"] == model).any()
                }
                where = {"share": share, "scenario": scenario, "view": view}
                means += [
                    where | {"model": model} | described(found, METRICS)
                    for model, found in values.items()
                ]
                for model in (INGREDIENT, SECOND_ROUND, *COCKTAILS):
                    differences += [
                        where
                        | {"model": model, "against": other}
                        | described(values[model] - values[other], METRICS)
                        for other in OPPONENTS
                        if model in values and other != model
                    ]
    return {"means": means, "differences": differences}


def write_report(
    out: Path, targets: Mapping[str, tuple[dict[str, Any], Sequence[Path]]], more: dict[str, Any]
) -> None:
    """Write few_shot.json and the plots of what is finished.

    Args:
        out: folder.
        targets: name -> what is said of the data, and the folders of the finished cells.
        more: settings and machine.
    """
    found: dict[str, Any] = {}
    for name, (data, folders) in targets.items():
        cells = [read_cell(folder) for folder in folders]
        sheets = [sheet for sheet, _ in cells]
        found[name] = {"data": data, "cells": sheets} | summary(cells)
    write_result(out / "few_shot.json", {"targets": found, **more})
    with rc_context(STYLE):
        save_png(quality_figure(found, "text alone"), out / "few_shot.png")
        save_png(quality_figure(found, "with prior"), out / "few_shot_prior.png")
        save_png(coefficients_figure(found), out / "coefficients.png")


def gains(result: Mapping[str, Any], metric: str = "ndcg@10") -> str:
    """Markdown: what the cocktail gains over each other way at each share, by text alone."""
    lines = [
        "| target | share | scenario | against | n | seeds | difference, NDCG@10 |",
        "|---|--:|---|---|--:|--:|---|",
    ]
    for name, found in result["targets"].items():
        for entry in found["differences"]:
            if (entry["model"], entry["view"]) != (COCKTAIL, "text alone"):
                continue
            texts = [name, _percent(entry["share"]), entry["scenario"], entry["against"]]
            texts += [f"{entry['n']:,}", str(entry["seeds"])]
            texts += [in_words(entry[metric], entry["ci95"][metric], "+.3f")]
            lines.append("| " + " | ".join(texts).replace("_", "\\_") + " |")
    return "\n".join(lines)


def quality_figure(targets: Mapping[str, Any], view: str, metric: str = "ndcg@10") -> Figure:
    """Quality against the share of the training users: targets by rows, warm and cold beside."""
    figure = new_figure(7.2, 0.7 + 2.4 * len(targets))
    axes = figure.subplots(len(targets), 2, squeeze=False)
    for row, (name, found) in zip(axes, targets.items(), strict=True):
        shares = sorted({entry["share"] for entry in found["means"]})
        for axis, scenario in zip(row, ("warm", "cold"), strict=True):
            axis.set_title(f"{name}, {scenario} ({view})")
            axis.set_xticks(range(len(shares)), [_percent(share) for share in shares])
            axis.set_xlabel("share of the training users")
            axis.set_ylabel(metric.upper())
            for place, model in enumerate(METHODS):
                points = [
                    entry
                    for entry in found["means"]
                    if (entry["model"], entry["scenario"], entry["view"]) == (model, scenario, view)
                ]
                if not points:
                    continue
                # A little apart, so that intervals do not hide one another.
                x = [shares.index(p["share"]) + 0.04 * (place - 3) for p in points]
                y = np.array([p[metric] for p in points])
                bounds = np.array([p["ci95"][metric] for p in points]).T
                error = np.abs(bounds - y)
                style = {"marker": "o", "markersize": 3, "linewidth": 1.2} | _LINES[model]
                label = model.replace("_", " ").replace("-", " ")
                axis.errorbar(x, y, error, elinewidth=0.6, label=label, **style)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def coefficients_figure(targets: Mapping[str, Any]) -> Figure:
    """The base spirit's coefficient against the share: targets by rows, its two partners beside.

    A dot a seed, a line through their means.
    """
    figure = new_figure(7.2, 0.7 + 2.4 * len(targets))
    axes = figure.subplots(len(targets), len(PARTNERS), squeeze=False)
    for row, (name, found) in zip(axes, targets.items(), strict=True):
        shares = sorted({cell["share"] for cell in found["cells"]} - {0.0})
        for axis, (cocktail, partner) in zip(row, PARTNERS.items(), strict=True):
            axis.set_title(f"{name}, with {partner.replace('_', ' ')}")
            axis.set_ylim(-0.05, 1.05)
            axis.set_xticks(range(len(shares)), [_percent(share) for share in shares])
            axis.set_xlabel("share of the training users")
            axis.set_ylabel("coefficient of the base spirit")
            lines = product(
                (("warm", ACCENT), ("cold", COOL)), (("entropy", "-"), ("validation", ":"))
            )
            for number, ((scenario, colour), (chooser, line)) in enumerate(lines):
                points = [
                    (shares.index(cell["share"]), cell["coefficients"][cocktail][scenario])
                    for cell in found["cells"]
                    if scenario in cell.get("coefficients", {}).get(cocktail, {})
                ]
                points = [(x, by[chooser][0]) for x, by in points if by[chooser]]
                if not points:
                    continue
                x, y = np.array(points).T
                y += 0.012 * (number - 1.5)  # a little apart, so that none hides another
                axis.plot(x, y, ".", color=colour, alpha=0.4)
                places = np.unique(x)
                means = [y[x == place].mean() for place in places]
                axis.plot(places, means, line, color=colour, label=f"{scenario}, {chooser}")
    handles, labels = axes[0][0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def _stacked(placed: Sequence[pl.DataFrame], model: str, scenario: str, column: str) -> FloatArray:
    """(users, seeds, metrics) of one model; the users of every cell are the same."""
    parts = [
        ranks.filter((pl.col("model") == model) & (pl.col("scenario") == scenario))
        for ranks in placed
    ]
    assert all(part[USER].equals(parts[0][USER]) for part in parts)
    chosen = [_chosen(part[column].to_numpy()) for part in parts]
    return np.stack([np.column_stack(list(values.values())) for values in chosen], axis=1)


def _chosen(ranks: Any) -> dict[str, FloatArray]:
    values = per_user(ranks)
    return {metric: values[metric] for metric in METRICS}


def _percent(share: float) -> str:
    return f"{100 * share:g} %"
