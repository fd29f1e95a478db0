"""How many users does mixing need, and does minimum entropy pick good coefficients?

    python benchmarks/adaptation.py --data PREPARED --base ADAPTER --ingredient ADAPTER --out RUN

Takes the grid of mixes of `remedies.py` (same --out and sizes: nothing is measured twice). Draws
10, 25, 50, 100 and 200 users again and again, lets each unlabelled objective choose lambda on them,
and reports the regret: NDCG@10 lost on the test users against the best lambda of the grid, which
test labels tell. Disjoint: users who are not scored. Transductive: scored users. Labelled: so many
validation users, for the objectives that look at labels, beside all unlabelled ones. Writes
adaptation.json and adaptation.png into RUN.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from rich.console import Console
from rich.table import Table

from mix_grid import Grid
from program import program
from provenance import write_result
from reccocktail.mixing.objectives import OBJECTIVES
from reccocktail.schema import Objective
from reccocktail.storage import atomic_file
from remedies import grid_arguments, grids_of

matplotlib.use("agg")

USERS = (10, 25, 50, 100, 200)
# What can be computed on any few users; information needs scores of shared items.
CHOOSERS: tuple[Objective, ...] = ("entropy", "calibrated", "adapter-calibrated", "divergence")
WITH_LABELS = tuple(name for name, rule in OBJECTIVES.items() if rule.needs_labels)
WAYS = {"disjoint": "unlabelled", "transductive": "test", "labelled": "valid"}
COLOURS = {name: f"C{place}" for place, name in enumerate(dict.fromkeys(CHOOSERS + WITH_LABELS))}
DASHES = {"disjoint": "-", "transductive": "--", "labelled": ":"}


def study(grid: Grid, users: Sequence[int], draws: int) -> list[dict[str, Any]]:
    """Regret of every objective for every number of users, in both ways."""
    cells = [cell for cell in grid.cells() if cell.space == "simplex"]
    quality = np.array([grid.quality(cell)["ndcg@10"].mean() for cell in cells])
    first = np.array([cell.coefficients[0] for cell in cells if cell.coefficients])
    rows = []
    for way, table in WAYS.items():
        choosers = WITH_LABELS if way == "labelled" else CHOOSERS
        height = grid.rows[table].height
        for count in users:
            if count > height:
                continue
            # As many draws as asked, unless there is but one way to draw.
            repeats = 1 if count == height else draws
            chosen: dict[Objective, list[int]] = {name: [] for name in choosers}
            for number in range(repeats):
                rng = np.random.default_rng([grid.sizes.seed, number])
                drawn = np.sort(rng.choice(height, size=count, replace=False))
                if way == "labelled":
                    points = grid.points(cells, labelled=drawn)
                else:
                    points = grid.points(cells, drawn, table)
                for name in choosers:
                    values = [OBJECTIVES[name].value_of(point) for point in points]
                    chosen[name].append(int(np.argmin(np.array(values, dtype=float))))
            for name, places in chosen.items():
                regret = quality.max() - quality[places]
                rows.append(
                    {
                        "way": way,
                        "users": count,
                        "objective": name,
                        "draws": repeats,
                        "regret": float(regret.mean()),
                        "regret_range": [float(q) for q in np.quantile(regret, [0.025, 0.975])],
                        "lambda_1": float(first[places].mean()),
                        "lambda_1_sd": float(first[places].std()),
                    }
                )
    return rows


def references(grid: Grid) -> dict[str, Any]:
    """The oracle, and the regret of choices that look at no user."""
    cells = [cell for cell in grid.cells() if cell.space == "simplex"]
    quality = [float(grid.quality(cell)["ndcg@10"].mean()) for cell in cells]
    by_lambda = {
        cell.coefficients[0]: value
        for cell, value in zip(cells, quality, strict=True)
        if cell.coefficients
    }
    best = max(quality)
    return {
        "oracle_lambda_1": max(by_lambda, key=lambda first: by_lambda[first]),
        "oracle_ndcg@10": best,
        "ndcg@10": by_lambda,
        "regret": {
            "fixed average": best - by_lambda[0.5],
            "base spirit alone": best - by_lambda[1.0],
            "ingredient alone": best - by_lambda[0.0],
        },
    }


def figure(results: dict[str, Any], file: Any) -> None:
    """Regret against the number of users; a panel a scenario, dashes for transductive."""
    import matplotlib.pyplot as plt

    drawing, panels = plt.subplots(
        1, len(results), figsize=(5 * len(results), 3.6), sharey=True, squeeze=False
    )
    for panel, (scenario, found) in zip(panels[0], results.items(), strict=True):
        for name, way in dict.fromkeys((r["objective"], r["way"]) for r in found["rows"]):
            rows = [r for r in found["rows"] if (r["objective"], r["way"]) == (name, way)]
            panel.plot(
                [r["users"] for r in rows],
                [r["regret"] for r in rows],
                DASHES[way],
                marker="o",
                color=COLOURS[name],
                label=f"{name}, {way}",
            )
        average = found["references"]["regret"]["fixed average"]
        panel.axhline(average, color="grey", linewidth=1, label="fixed average")
        panel.set(title=scenario, xlabel="users looked at", xscale="log")
    panels[0][0].set_ylabel("regret, NDCG@10")
    panels[0][0].legend(fontsize=6)
    drawing.tight_layout()
    drawing.savefig(file, format="png", dpi=150)
    plt.close(drawing)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    grid_arguments(parser)
    parser.add_argument("--users", type=int, nargs="+", default=USERS)
    parser.add_argument("--draws", type=int, default=50)
    args = parser.parse_args(arguments)
    grids, said = grids_of(args)
    results = {
        grid.scenario: {
            "rows": study(grid, args.users, args.draws),
            "references": references(grid),
            "scored_users": grid.rows["test"].height,
        }
        for grid in grids
    }
    write_result(args.out / "adaptation.json", {"scenarios": results, **said})
    with atomic_file(args.out / "adaptation.png") as temporary, open(temporary, "wb") as stream:
        figure(results, stream)
    table = Table("scenario", "way", "users", "objective", "regret", "lambda_1")
    for scenario, found in results.items():
        for row in found["rows"]:
            table.add_row(
                scenario, row["way"], str(row["users"]), row["objective"],
                f"{row['regret']:.4f}", f"{row['lambda_1']:.2f} ± {row['lambda_1_sd']:.2f}",
            )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    program(main)
