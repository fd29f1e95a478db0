"""What if the cocktail does not beat the better adapter: rules and spaces, measured side by side.

    python benchmarks/remedies.py --data PREPARED --base ADAPTER --ingredient ADAPTER --out RUN

Measures a grid of mixes once a scenario (points on the simplex, off it, norm-matched ones, and a
search by layer) on unlabelled, validation and test users, and reports for every rule of choice and
every space what it chooses, its NDCG on the test users by text alone, the paired difference from
the better single adapter and the regret against the oracle. Resumable: measured mixes
(RUN/SCENARIO) are taken as they are. Writes remedies.json and remedies.md into RUN.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from arguments import precision_argument
from mix_grid import SPACES, Cell, Grid, Sizes, cell_at
from program import program
from provenance import environment, write_result
from reccocktail.backbone import load_backbone
from reccocktail.data.domain import Domain
from reccocktail.errors import RunError
from reccocktail.evaluation.significance import paired_bootstrap
from reccocktail.mixing.arithmetic import combine, update_cosine, update_norm
from reccocktail.mixing.objectives import OBJECTIVES
from reccocktail.schema import SCENARIOS, TARGET
from reccocktail.spirits import resolve
from reccocktail.storage import atomic_file
from reccocktail.training.adapter import Adapter
from spreads import gap_in_words

SHOWN = ("ndcg@1", "ndcg@3", "ndcg@10")
ORACLE = "oracle (uses test labels)"
EVERYWHERE = "all"


def compare(grid: Grid) -> dict[str, Any]:
    """Every rule in every space, for one scenario."""
    cells = grid.cells()
    values = {cell.name: grid.quality(cell) for cell in cells}
    known = {c.name: p for c, p in zip(cells, grid.points(cells), strict=True)}

    def of(cell: Cell) -> float:
        return float(values[cell.name]["ndcg@10"].mean())

    items = grid.rows["test"][TARGET].to_list()
    ends = [cell_at(cells, unit) for unit in ([1.0, 0.0], [0.0, 1.0])]
    better = max(ends, key=of)
    rows: list[dict[str, Any]] = []

    def add(space: str, rule: str, chosen: Cell, best: Cell) -> None:
        mine = values[chosen.name]
        rows.append(
            {
                "space": space,
                "rule": rule,
                "chosen": chosen.name,
                "coefficients": chosen.coefficients,
                **{m: float(mine[m].mean()) for m in SHOWN},
                "minus_better_adapter": _paired(mine, values[better.name], items),
                "regret": _paired(values[best.name], mine, items),
            }
        )

    layers = [c for c in cells if c.space == "per-layer"]
    measured = [space for space in SPACES[:3] if any(c.space == space for c in cells)]
    together = [EVERYWHERE] if len({c.space for c in cells}) > 1 else []
    for space in (*measured, *together):
        inside = [c for c in cells if space == EVERYWHERE or c.space == space]
        if space == "norm-matched":
            inside += ends  # a lone adapter has its own norm
        best = max(inside, key=of)
        for name, rule in OBJECTIVES.items():
            value = {c.name: rule.value_of(known[c.name]) for c in inside}
            able = [c for c in inside if value[c.name] is not None]
            add(space, name, min(able, key=lambda c, value=value: value[c.name]), best)
        if space == "simplex":
            add(space, "fixed average", cell_at(cells, [0.5, 0.5]), best)
        add(space, ORACLE, best, best)
    for cell in layers:
        add("per-layer", "entropy, by gradient", cell, max(cells, key=of))
    return {
        "users": {name: rows.height for name, rows in grid.rows.items()},
        "better_adapter": better.name,
        "adapters": {c.name: {m: float(values[c.name][m].mean()) for m in SHOWN} for c in ends},
        "rows": rows,
        "mixes": {
            c.name: {
                **{m: float(values[c.name][m].mean()) for m in SHOWN},
                **{name: rule.value_of(known[c.name]) for name, rule in OBJECTIVES.items()},
                "minus_better_adapter": _paired(values[c.name], values[better.name], items),
            }
            for c in cells
        },
    }


def _paired(one: Any, other: Any, items: Sequence[str]) -> dict[str, Any]:
    """Differences with intervals over users, and over the target items that they share."""
    found = paired_bootstrap(one, other)
    shared = paired_bootstrap(one, other, groups=items)
    return {
        m: {k: found[m][k] for k in ("difference", "ci95")} | {"ci95_items": shared[m]["ci95"]}
        for m in SHOWN
    }


def relation(pair: Sequence[Adapter]) -> dict[str, Any]:
    """How large the two updates are, and how far they go the same way."""
    loras = [adapter.lora for adapter in pair]
    norms = {a.card.role: update_norm(a.lora) for a in pair}
    even = update_norm(combine(loras, torch.tensor([0.5, 0.5])))
    return {"norms": norms, "cosine": update_cosine(*loras), "norm_of_average": even}


def markdown(updates: dict[str, Any], results: dict[str, Any]) -> str:
    """The tables."""
    norms = ", ".join(f"{role} {value:.2f}" for role, value in updates["norms"].items())
    blocks = [
        f"Norms of the updates: {norms}; of their average {updates['norm_of_average']:.2f}. "
        f"Cosine of the two: {updates['cosine']:.3f}."
    ]
    for scenario, found in results.items():
        lines = [
            f"## {scenario}, n = {found['users']['test']:,}",
            "",
            f"Differences are from {found['better_adapter']}, the better single adapter here, with"
            " paired 95 % intervals, over users and over target items; regret is NDCG@10 lost"
            " against the best mix of the space.",
            "",
            "| space | rule | chosen | NDCG@1 | NDCG@3 | NDCG@10 | difference, NDCG@10 "
            "| over items | regret |",
            "|---|---|---|--:|--:|--:|---|---|--:|",
        ]
        for row in found["rows"]:
            gap = row["minus_better_adapter"]["ndcg@10"]
            from_items, to_items = gap["ci95_items"]
            figures = " | ".join(f"{row[m]:.4f}" for m in SHOWN)
            lines.append(
                f"| {row['space']} | {row['rule']} | {row['chosen']} | {figures} | "
                f"{gap_in_words(gap, '+.4f')} | "
                f"[{from_items:+.4f}, {to_items:+.4f}] | "
                f"{row['regret']['ndcg@10']['difference']:.4f} |"
            )
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def grid_arguments(parser: argparse.ArgumentParser) -> None:
    """What every benchmark on a grid of mixes takes."""
    sizes = Sizes()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--ingredient", type=Path, required=True)
    parser.add_argument("--scenario", choices=SCENARIOS, action="append")
    parser.add_argument("--unlabelled", type=int, default=sizes.unlabelled, help="users")
    parser.add_argument("--valid", type=int, default=sizes.valid, help="users")
    parser.add_argument("--test", type=int, default=sizes.test, help="users")
    parser.add_argument("--grid", type=float, nargs="+", default=sizes.grid)
    parser.add_argument("--scales", type=float, nargs="+", default=sizes.scales)
    parser.add_argument("--spaces", choices=SPACES, nargs="+", default=SPACES,
                        help="of mixes; the simplex always")  # fmt: skip
    parser.add_argument("--backbone")
    precision_argument(parser)
    parser.add_argument("--out", type=Path, required=True)


def grids_of(args: argparse.Namespace) -> tuple[list[Grid], dict[str, Any]]:
    """One grid a scenario, and what a result must say of itself."""
    points = tuple(sorted(set(args.grid)))
    if not {0.0, 0.5, 1.0} <= set(points) or not 0 <= points[0] <= points[-1] <= 1:
        raise RunError("The grid needs 0, 0.5 and 1, and nothing beyond; change --grid.")
    spaces = tuple(space for space in SPACES if space in {SPACES[0], *args.spaces})
    sizes = Sizes(args.unlabelled, args.valid, args.test, points, tuple(args.scales), spaces)
    pair = [Adapter.load(resolve(path)) for path in (args.base, args.ingredient)]
    name = args.backbone or pair[0].card.recipe.backbone
    backbone = load_backbone(name, precision=args.precision)
    domain = Domain.load(args.data)
    said = {
        "sizes": asdict(sizes),
        "adapters": {a.card.role: a.sha256 for a in pair},
        **environment(backbone, domain),
    }
    scenarios = args.scenario or SCENARIOS
    return [Grid(pair, backbone, domain, s, sizes, args.out / s) for s in scenarios], said


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    grid_arguments(parser)
    args = parser.parse_args(arguments)
    grids, said = grids_of(args)
    results = {grid.scenario: compare(grid) for grid in grids}
    updates = relation(grids[0].pair)
    write_result(args.out / "remedies.json", {"updates": updates, "scenarios": results, **said})
    text = markdown(updates, results)
    with atomic_file(args.out / "remedies.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    Console().print(text, markup=False)


if __name__ == "__main__":
    program(main)
