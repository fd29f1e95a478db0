"""The full table of one target domain: models x scenarios, from raw tables to report.html.

    python benchmarks/domain_table.py --target DATA/amazon14_beauty \
        --source DATA/amazon14_clothing ... --minutes 25 --users 1500 --out runs/beauty

DATA folders hold interactions.parquet and items.parquet. Resumable: the same command goes on.
"""

import argparse
from pathlib import Path

from rich.console import Console

from reccocktail.backbone import load_backbone
from reccocktail.data.domain import Domain
from reccocktail.data.prepare import prepare
from reccocktail.evaluation.evaluate import EvaluationSettings
from reccocktail.evaluation.results import metrics_table
from reccocktail.mixing.measure import MixSettings
from reccocktail.pipeline import Plan, run_pipeline
from reccocktail.recipe import Recipe


def prepared(raw: Path, out: Path, seed: int) -> Domain:
    """Prepare a raw folder once."""
    folder = out / "data" / raw.name
    if folder.exists():
        return Domain.load(folder)
    return prepare(raw / "interactions.parquet", raw / "items.parquet", raw.name, folder, seed=seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", type=Path, required=True)
    parser.add_argument("--source", type=Path, action="append", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=25.0, help="training time of each adapter")
    parser.add_argument("--users", type=int, default=1500, help="scored users a scenario")
    parser.add_argument("--validation-users", type=int, default=200)
    parser.add_argument("--refinements", type=int, default=2, help="mixes beyond the grid")
    parser.add_argument("--objective", default="entropy")
    parser.add_argument("--backbone", default="smollm2-135m")
    parser.add_argument("--recipe", type=Path)
    parser.add_argument("--words", action="store_true", help="let words of titles count")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    plan = Plan(
        base={"minutes": args.minutes},
        ingredient={"minutes": args.minutes},
        mix=MixSettings(
            objective=args.objective,
            validation_users=args.validation_users,
            refinements=args.refinements,
            seed=args.seed,
        ),
        evaluation=EvaluationSettings(
            users=args.users,
            validation_users=args.validation_users,
            words=args.words,
            seed=args.seed,
        ),
    )
    metrics = run_pipeline(
        [prepared(raw, args.out, args.seed) for raw in args.source],
        prepared(args.target, args.out, args.seed),
        load_backbone(args.backbone),
        Recipe.load(args.recipe) if args.recipe else Recipe(),
        plan,
        args.out,
    )
    Console().print(metrics_table(metrics), markup=False)


if __name__ == "__main__":
    main()
