"""From the cells of `paper_table.py` to means, intervals, marks, costs and Markdown tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from reccocktail.evaluation.metrics import FloatArray, per_user
from reccocktail.evaluation.report import duration, size
from reccocktail.evaluation.significance import Drawn, holm, with_interval
from spreads import RESAMPLES, described, gap_in_words, over_seeds
from table_rows import BY_NAME, ROWS
from table_target import COLD, COLD_ONLY, TABLES, VIEWS, WARM, WEIGHTS

SHOWN = ("ndcg@1", "ndcg@3", "ndcg@10", "mrr")
HEADLINE = "ndcg@10"
SINGLE, BASELINE = "better single adapter", "best baseline"
LETTERS = {SINGLE: "a", BASELINE: "b"}
AVERAGE, NOISE = "average", "random_average"
PAPER_FILE = Path(__file__).with_name("paper_figures.yaml")
TITLES = {
    WARM: "warm",
    COLD: "cold, negatives of the whole catalogue (as in the paper)",
    COLD_ONLY: "cold, negatives that are cold too",
}
SHORT = {WARM: "warm", COLD: "cold", COLD_ONLY: "cold among cold"}

Cells = Mapping[str, Sequence[tuple[dict[str, Any], pl.DataFrame]]]
"""Row -> sheet and ranks of each seed that is finished."""


def summary(cells: Cells, targets: Sequence[str]) -> dict[str, Any]:
    """One table of one target: means and intervals, comparisons, costs.

    Args:
        cells: finished cells of the table, in any order of rows.
        targets: each user's target item, in the order of the cells.
    """
    ordered = {row.name: cells[row.name] for row in ROWS if cells.get(row.name)}
    views = {view: _view(ordered, column, targets) for view, column in VIEWS.items()}
    sheets = {name: [sheet for sheet, _ in found] for name, found in ordered.items()}
    first = next(iter(sheets.values()))[0]
    return {
        "users": first["users"],
        "target_items": len(set(targets)),
        "candidates": first["candidates"],
        "views": views,
        "costs": {name: _costs(found) for name, found in sheets.items()},
        "cells": {name: [_public(sheet) for sheet in found] for name, found in sheets.items()},
    }


def _view(cells: Cells, column: str, targets: Sequence[str]) -> dict[str, Any]:
    values = {name: _values(found, column) for name, found in cells.items()}
    rows = {name: described(found, SHOWN) for name, found in values.items()}
    references = {
        kind: best
        for kind, names in (
            (SINGLE, [n for n in rows if BY_NAME[n].kind == "single"]),
            (BASELINE, [n for n in rows if BY_NAME[n].kind == "baseline"]),
        )
        if (best := max(names, key=lambda n: rows[n][HEADLINE], default=None))
    }
    seeds = {name: [sheet["seed"] for sheet, _ in found] for name, found in cells.items()}
    paired = [
        entry
        for kind, against in references.items()
        for entry in compare(values, seeds, against, kind, targets)
    ]
    found = {"references": references, "rows": rows, "best": best_of(rows), "paired": paired}
    if AVERAGE in rows:
        found["against_average"] = compare(values, seeds, AVERAGE, AVERAGE, targets)
    return found


def differences(
    cells: Cells, targets: Sequence[str], pair: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """View -> the headline metric of one row less another's: difference and both intervals."""
    _, against = pair
    seeds = {name: [sheet["seed"] for sheet, _ in cells[name]] for name in pair}
    found = {}
    for view, column in VIEWS.items():
        values = {name: _values(cells[name], column) for name in pair}
        (entry,) = compare(values, seeds, against, "row", targets)
        kept = ("difference", "ci95", "ci95_items")
        found[view] = {"n": entry["n"], **{key: entry[HEADLINE][key] for key in kept}}
    return found


def difference_in_words(found: Mapping[str, Any]) -> str:
    """One view of `differences` in words."""
    least, most = found["ci95_items"]
    return f"{gap_in_words(found)} (over items [{least:+.3f}, {most:+.3f}])"


def _values(cells: Sequence[tuple[dict[str, Any], pl.DataFrame]], column: str) -> FloatArray:
    """(users, seeds, metrics) of one row."""
    return np.stack([_metrics(ranks[column].to_numpy()) for _, ranks in cells], axis=1)


def _metrics(ranks: Any) -> FloatArray:
    found = per_user(ranks)
    return np.column_stack([found[metric] for metric in SHOWN])


def best_of(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Rows with the highest mean of each metric; what uses test labels is never among them."""
    honest = {name: row for name, row in rows.items() if BY_NAME[name].kind != "oracle"}
    best = {m: max((row[m] for row in honest.values()), default=0.0) for m in SHOWN}
    return {
        m: [name for name, row in honest.items() if row[m] >= best[m] - 1e-12 and best[m] > 0]
        for m in SHOWN
    }


def compare(
    values: Mapping[str, FloatArray],
    seeds: Mapping[str, Sequence[int | None]],
    against: str,
    kind: str,
    targets: Sequence[str],
) -> list[dict[str, Any]]:
    """Every row's paired difference from one reference, p-values corrected over the rows (Holm).

    Users and seeds are drawn anew, each on their own, and in a second bootstrap target items and
    seeds (`ci95_items`), because many users share the few cold items. What two rows made of the
    same seeds moves together. `p_holm` is of the larger p of the two.

    Args:
        values: row -> (users, seeds, metrics); the same users in all rows.
        seeds: row -> which seeds these are, None where one serves for all.
        against: the reference row.
        kind: what the reference is.
        targets: (users,) target items.
    """
    others = [n for n in values if n != against and BY_NAME[n].kind != "oracle"]
    if not others:
        return []
    users, items = (Drawn.of(of, RESAMPLES) for of in (range(len(targets)), targets))
    entries = []
    for name in others:
        kept, alike = _same_ingredients(seeds, name, against)
        pair = [values[row][:, places] for row, places in zip((name, against), kept, strict=True)]
        found, of_items = (_difference(pair, drawn, alike) for drawn in (users, items))
        for metric in SHOWN:
            found[metric] |= {"ci95_items": of_items[metric]["ci95"]}
            found[metric] |= {"p_items": of_items[metric]["p"]}
        entries.append({"row": name, "against": against, "kind": kind, "n": len(targets)} | found)
    for metric in SHOWN:
        adjusted = holm([max(entry[metric]["p"], entry[metric]["p_items"]) for entry in entries])
        for entry, p in zip(entries, adjusted, strict=True):
            entry[metric] |= {"p_holm": p}
    return entries


def _difference(pair: Sequence[FloatArray], drawn: Drawn, alike: bool) -> dict[str, Any]:
    """One row less another, each (users, seeds, metrics); `alike` seeds are drawn as pairs."""
    means = [
        over_seeds(values, drawn, 1 if alike else 1 + number) for number, values in enumerate(pair)
    ]
    observed = pair[0].mean(axis=(0, 1)) - pair[1].mean(axis=(0, 1))
    return with_interval(SHOWN, observed, means[0] - means[1])


def _same_ingredients(
    seeds: Mapping[str, Sequence[int | None]], row: str, against: str
) -> tuple[tuple[list[int], list[int]], bool]:
    """Places of the seeds that two rows are compared over, and whether they are pairs.

    What is made of the ingredient of one seed is compared with what is made of the same one; a
    baseline's seeds have nothing to do with it, and all of them count.
    """
    shared = set(seeds[row]) & set(seeds[against]) - {None}
    alike = bool(shared) and "baseline" not in (BY_NAME[row].kind, BY_NAME[against].kind)
    if not alike:
        shared = {*seeds[row], *seeds[against]}
    first, second = (
        [place for place, seed in enumerate(seeds[name]) if seed in shared]
        for name in (row, against)
    )
    return (first, second), alike


def _costs(sheets: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over seeds, and the highest peak."""
    costs = [sheet["cost"] for sheet in sheets]
    peaks = [c["peak_memory_bytes"] for c in costs if c["peak_memory_bytes"]]
    names = ("train_seconds", "mix_seconds", "users_per_second")
    means = {name: float(np.mean([c[name] for c in costs])) for name in names}
    return means | {"peak_memory_bytes": max(peaks, default=None)}


def _public(sheet: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("seed", "chosen", "cost", *WEIGHTS, "metrics", "commit")
    return {key: sheet[key] for key in keys}


def paper_figures(target: str, table: str) -> tuple[str, dict[str, tuple[float, float]]] | None:
    """The paper's name of a target, and its row -> NDCG@1, NDCG@3; None where it has none."""
    paper = yaml.safe_load(PAPER_FILE.read_text(encoding="utf-8"))
    name = paper["targets"].get(target)
    if name is None or table not in paper["figures"]:
        return None
    ours = {theirs: row for row, theirs in paper["rows"].items()}
    found = {ours.get(row, row): f[name] for row, f in paper["figures"][table].items()}
    return name, {row: (float(a), float(b)) for row, (a, b) in found.items()}


# -- Markdown ---------------------------------------------------------------------------------


def marks(view: Mapping[str, Any], row: str, metric: str) -> str:
    """``↑a``/``↓a`` above or below the better single adapter, ``↑b``/``↓b`` the best baseline.

    Only where Holm's p over the table's rows is below 0.05.
    """
    found = []
    for entry in view["paired"]:
        if entry["row"] == row and entry[metric]["p_holm"] < 0.05:
            arrow = "↑" if entry[metric]["difference"] > 0 else "↓"
            found.append(arrow + LETTERS[entry["kind"]])
    return " ".join(found)


def cells_of(
    view: Mapping[str, Any], paper: Mapping[str, tuple[float, float]]
) -> list[dict[str, Any]]:
    """What each line of a table shows: ours first, then the paper's rows that we do not have."""
    lines = []
    for name, row in view["rows"].items():
        lines.append({"row": name, "says": BY_NAME[name].says, "seeds": row["seeds"],
                      "oracle": BY_NAME[name].kind == "oracle",
                      "cells": [_cell(view, name, metric) for metric in SHOWN],
                      "paper": paper.get(name)})  # fmt: skip
    for name, figures in paper.items():
        if name not in BY_NAME:
            lines.append({"row": name, "says": "the paper's alone", "seeds": None,
                          "oracle": False, "cells": None, "paper": figures})  # fmt: skip
    return lines


def _cell(view: Mapping[str, Any], row: str, metric: str) -> dict[str, Any]:
    return {
        "value": view["rows"][row][metric],
        "ci95": view["rows"][row]["ci95"][metric],
        "mark": marks(view, row, metric),
        "best": row in view["best"][metric],
    }


def _in_markdown(cell: Mapping[str, Any]) -> str:
    low, high = cell["ci95"]
    value = f"**{cell['value']:.3f}**" if cell["best"] else f"{cell['value']:.3f}"
    return f"{value} [{low:.3f}, {high:.3f}] {cell['mark']}".rstrip()


def _label(row: str) -> str:
    """A row's name in Markdown; the paper's own rows are none of ours."""
    oracle = row in BY_NAME and BY_NAME[row].kind == "oracle"
    return (f"{row} (uses test labels)" if oracle else row).replace("_", "\\_")


def markdown_table(target: str, table: str, view: Mapping[str, Any]) -> str:
    """One table; bold is the best of a column."""
    paper = paper_figures(target, table)
    heads = ["row", "seeds", *(m.upper() for m in SHOWN)]
    heads += ["paper NDCG@1", "paper NDCG@3"] if paper else []
    lines = ["| " + " | ".join(heads) + " |", "|---|--:|" + "---|" * (len(heads) - 2)]
    for line in cells_of(view, paper[1] if paper else {}):
        texts = [_label(line["row"]), str(line["seeds"] or "")]
        texts += [_in_markdown(cell) for cell in line["cells"] or []]
        texts += [""] * (2 + len(SHOWN) - len(texts))
        if paper:
            texts += [f"{v:.3f}" for v in line["paper"]] if line["paper"] else ["", ""]
        lines.append("| " + " | ".join(texts) + " |")
    return "\n".join(lines)


def overview(
    targets: Mapping[str, Any], tables: Sequence[str], view: str, rows: Sequence[str]
) -> str:
    """One Markdown table of all targets: `HEADLINE` of some of their tables side by side."""
    columns = {
        f"{name}, {SHORT[table]}": target["tables"][table]["views"][view]
        for name, target in targets.items()
        for table in tables
        if table in target["tables"]
    }
    lines = [
        "| " + " | ".join([f"{HEADLINE.upper()} of", *columns]) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for row in rows:
        cells = [
            _in_markdown(_cell(found, row, HEADLINE)) if row in found["rows"] else ""
            for found in columns.values()
        ]
        if any(cells):
            lines.append("| " + " | ".join([_label(row), *cells]) + " |")
    return "\n".join(lines)


def note(found: Mapping[str, Any], view: Mapping[str, Any], target: str, table: str) -> str:
    """What stands in a table, in plain words."""
    parts = [
        f"n = {found['users']:,} users with {found['target_items']:,} different targets, "
        f"{found['candidates']} candidates each; brackets are 95 % intervals over users and seeds; "
        "bold is the highest mean of a column."
    ]
    parts += [
        f"↑{LETTERS[kind]} ↓{LETTERS[kind]}: above or below {row}, the {kind} by NDCG@10 here "
        "(paired bootstrap over users and over target items, Holm over the rows, both p < 0.05)."
        for kind, row in view["references"].items()
    ]
    parts += [
        f"What the base spirit knows, against noise in its place: {NOISE} less {AVERAGE} has "
        f"NDCG@10 {_gap(entry[HEADLINE])}."
        for entry in view.get("against_average", ())
        if entry["row"] == NOISE
    ]
    if table != WARM:
        parts.append(
            "A model of interactions knows nothing of a cold item and is 0 by construction."
        )
    if paper := paper_figures(target, table):
        parts.append(
            f"The paper's columns are its {paper[0]} figures: Qwen2-7B, another split and other "
            "users, so no difference from them is a result."
        )
    return " ".join(parts)


def _gap(found: Mapping[str, Any]) -> str:
    least, most = found["ci95_items"]
    return f"{gap_in_words(found)}, over target items [{least:+.3f}, {most:+.3f}]"


def costs_table(tables: Mapping[str, Any]) -> str:
    """Markdown: what each row cost, means over seeds."""
    lines = [
        "| row | lambda_1 of each seed, warm / cold | training | mixing, a scenario "
        "| users a second | peak memory |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for row in ROWS:
        found = [t["costs"][row.name] for t in tables.values() if row.name in t["costs"]]
        if not found:
            continue
        mixing = sum(c["mix_seconds"] for c in found[:2]) / len(found[:2])
        peak = max((c["peak_memory_bytes"] or 0 for c in found), default=0)
        texts = [
            row.name.replace("_", "\\_"),
            _coefficients(row.name, tables),
            duration(found[0]["train_seconds"]) if found[0]["train_seconds"] else "",
            duration(mixing) if mixing else "",
            f"{found[0]['users_per_second']:,.1f}",
            size(peak) if peak else "",
        ]
        lines.append("| " + " | ".join(texts) + " |")
    return "\n".join(lines)


def _coefficients(row: str, tables: Mapping[str, Any]) -> str:
    """The base spirit's coefficient (the mean over layers) in each seed, warm and cold."""
    parts = []
    for table in (WARM, COLD):
        cells = tables.get(table, {"cells": {}})["cells"].get(row, [])
        found = [cell["chosen"].get("coefficients") for cell in cells]
        parts.append(", ".join(f"{pair[0]:.2f}" for pair in found if pair))
    return " / ".join(parts) if any(parts) else ""


def tables_of(target: Mapping[str, Any]) -> list[str]:
    """The tables that a target has, in their order."""
    return [name for name in TABLES if name in target["tables"]]
