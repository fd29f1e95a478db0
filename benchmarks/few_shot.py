"""How much target data does each way of using a base spirit need?

    python benchmarks/few_shot.py --target PREPARED [--target ...] --base ADAPTER \
        --minutes 10 --out RUN

For each target, seed and share of the target's training users: an ingredient, a second round of
fine-tuning of the base spirit (the same steps on the same data), the plain average of base spirit
and ingredient, and cocktails of the base spirit with either, by entropy and by labelled validation
users; beside them the base spirit alone, the bare backbone and text similarity. To mix a model with
its own fine-tuning is WiSE-FT (Wortsman et al. 2022). Warm and cold, candidates ranked by text
alone and with the popularity prior of the share's own counts.

A cell is a target, seed and share, in RUN/TARGET/SEED/SHARE; finished cells are taken as they are,
and a cell that was stopped goes on. With `--published results/few_shot` so do those of another
machine, if `--steps` and not the clock says how long is trained; with `--any-precision` those of a
machine that multiplies in another precision too: the models of one cell, which are compared in
pairs, always share theirs. After every cell, few_shot.json, few_shot.png, few_shot_prior.png and
coefficients.png in RUN tell of all that are finished.
"""

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from arguments import asked_backbone, backbone_arguments, recipe_argument, study_parser
from cells import SHEET_FILE, published_cells, take_cells
from few_shot_report import (
    AVERAGE,
    BACKBONE,
    BASE,
    INGREDIENT,
    PARTNERS,
    SECOND_ROUND,
    SIMILARITY,
    write_report,
)
from few_shot_target import Cell, Scores, Sizes, Target, keep_cell, read_scores
from program import program
from provenance import environment
from reccocktail.data.domain import Domain
from reccocktail.data.subset import subset
from reccocktail.evaluation.results import PREDICTIONS_FILE
from reccocktail.mixing.arithmetic import combine
from reccocktail.mixing.measure import MixSettings
from reccocktail.progress import bar
from reccocktail.schema import USER, Scenario
from reccocktail.spirits import resolve
from reccocktail.storage import read_json, write_json
from reccocktail.training.adapter import Adapter, Lora, lora_sha256
from reccocktail.training.batches import DomainWindows
from reccocktail.training.log import read_log
from reccocktail.training.schedule import Length
from reccocktail.training.trainer import train
from study import best_of_curve, kept_sheet, target_recipe, without_validation

ZERO: Cell = (0.0, None)
"""The cell of the models that see no target data."""

_CLOCK_STEPS = 6


def place(out: Path, cell: Cell) -> Path:
    """Folder of a cell of the target whose folder is `out`."""
    share, seed = cell
    return out / "zero" if share == 0 else out / f"seed-{seed}" / f"{share:g}"


def published(
    target: Target, file: Path, out: Path
) -> Iterator[tuple[Path, dict[str, Any], pl.DataFrame]]:
    """Folder, sheet and ranks of the published cells that were made with these settings."""
    for sheet, ranks in published_cells(file):
        cell = sheet["share"], sheet.get("seed")
        precision = sheet["precision"] if target.any_precision else None
        if sheet["identity"] == target.identity(cell, precision):
            yield place(out, cell), sheet, target.with_users(ranks)


def zero_cell(target: Target, out: Path, beside: Path) -> dict[str, Scores]:
    """Scores of the models that see no target data: computed once, kept, used by every cell.

    A cell in `out` that came without scores, or with those of another precision, stays; what other
    cells need is then kept in `beside`.
    """
    models = {BACKBONE: None, BASE: target.base.lora}
    if target.is_finished(out, ZERO) and not _has_scores(target, out):
        out = beside
    if not target.is_finished(out, ZERO):
        scores = {
            name: target.scores(lora, target.scenarios, name) for name, lora in models.items()
        }
        scores[SIMILARITY] = target.similarity()
        # Nobody has bought anything yet, so the prior is 0 for every item.
        counts = np.zeros(len(target.domain.item_ids), dtype=np.int64)
        keep_cell(target, out, scores, counts, {"identity": target.identity(ZERO), "share": 0.0})
    return {name: read_scores(out, name) for name in (SIMILARITY, *models)}


def _has_scores(target: Target, out: Path) -> bool:
    precision = read_json(out / SHEET_FILE)["precision"]
    return precision == target.backbone.precision and (out / PREDICTIONS_FILE).exists()


def cell(target: Target, zero: dict[str, Scores], which: Cell, out: Path) -> bool:
    """Train, mix and judge one share of one seed; False if it was done before."""
    if target.is_finished(out, which):
        return False
    share, seed = which
    assert seed is not None
    seconds: dict[str, float] = {}
    domain = subset(target.domain, share, out / "data", seed)
    steps = _steps(target, domain, out.parents[1] / "clock.json")
    recipe = without_validation(target.recipe, seed)
    trained = {}
    for name, initial in ((INGREDIENT, None), (SECOND_ROUND, target.base)):
        with _timed(seconds, name):
            trained[name] = train(
                "ingredient",
                [domain],
                target.backbone,
                recipe,
                out / name,
                Length(steps=steps),
                resume=True,
                initial=initial,
            )
    loras: dict[str, tuple[Lora, Sequence[Scenario]]] = {
        name: (adapter.lora, target.scenarios) for name, adapter in trained.items()
    }
    loras[AVERAGE] = (_mixed([target.base, trained[INGREDIENT]], [0.5, 0.5]), target.scenarios)
    found: dict[str, dict[str, Any]] = {}
    parts: list[tuple[str, Lora, Scenario]] = []
    for name, partner in PARTNERS.items():
        pair = [target.base, trained[partner]]
        for scenario in target.scenarios:
            with _timed(seconds, f"{name} {scenario}"):
                sheet = _cocktail(target, pair, domain, scenario, out / f"{name}_{scenario}")
            chosen = _coefficients(sheet)
            found.setdefault(name, {})[scenario] = chosen
            for model, by in ((name, "entropy"), (f"{name}_validation", "validation")):
                if chosen[by] is not None:
                    parts.append((model, _mixed(pair, chosen[by]), scenario))
    with _timed(seconds, "judge"):
        # A mix at lambda 0, 1/2 or 1 is a model that was scored already.
        known: dict[str, Scores] = {lora_sha256(target.base.lora): zero[BASE]}
        scores: dict[str, Scores] = dict(zero)
        every = [(name, lora, s) for name, (lora, ss) in loras.items() for s in ss] + parts
        for name, lora, scenario in every:
            memory = known.setdefault(lora_sha256(lora), {})
            if f"test_{scenario}" not in memory:
                memory |= target.scores(lora, [scenario], f"{name} ({scenario})")
            tables = (f"test_{scenario}", f"valid_{scenario}")
            scores.setdefault(name, {}).update({t: memory[t] for t in tables})
    keep_cell(
        target,
        out,
        scores,
        domain.train_counts(),
        {
            "identity": target.identity(which),
            "share": share,
            "seed": seed,
            "training_users": domain.train().height,
            "training_interactions": domain.manifest["train_interactions"],
            "steps": steps,
            "coefficients": found,
            "seconds": {name: round(value, 1) for name, value in seconds.items()},
        },
    )
    return True


def _cocktail(
    target: Target, pair: list[Adapter], domain: Domain, scenario: Scenario, folder: Path
) -> dict[str, Any]:
    """Sheet of one of this cell's cocktails; nobody that it adapted to is scored."""
    sizes = target.sizes
    settings = MixSettings(
        users=sizes.adaptation_users, validation_users=sizes.validation_users, refinements=0
    )
    sheet = kept_sheet(pair, target.backbone, domain, scenario, folder, settings)
    scored = {user for s in target.scenarios for user in target.rows[f"test_{s}"][USER].to_list()}
    assert scored.isdisjoint(sheet["adaptation"]["user_ids"])
    return sheet


def _coefficients(sheet: dict[str, Any]) -> dict[str, Any]:
    """What entropy chose, what labelled validation rows choose of the same mixes, and the curve."""
    return {
        "entropy": sheet["coefficients"]["all"],
        "validation": best_of_curve(sheet, "log_loss"),
        "collapse": sheet["collapse"],
        "curve": sheet["curve"],
    }


def _mixed(pair: Sequence[Adapter], coefficients: Sequence[float]) -> Lora:
    return combine([adapter.lora for adapter in pair], torch.tensor(coefficients))


def _steps(target: Target, domain: Domain, clock: Path) -> int:
    """Steps of a share: `epochs` passes over it, at most what `minutes` or `steps` allow."""
    windows = DomainWindows.build(domain, target.catalogue.ranker)
    targets = sum(len(window) - 1 for window in windows.windows)
    passes = ceil(target.sizes.epochs * targets / target.recipe.training.targets_per_batch)
    if target.sizes.steps is not None:
        return max(1, min(passes, target.sizes.steps))
    assert target.sizes.minutes is not None
    if not clock.exists():
        # Measured once, then kept: a resumed study must not change its lengths.
        folder = clock.with_name("clock")
        recipe = without_validation(target.recipe, 0)
        length = Length(steps=_CLOCK_STEPS)
        train("ingredient", [target.domain], target.backbone, recipe, folder, length, resume=True)
        log = read_log(folder.with_name("clock.training"))
        # The first step pays for what is set up once.
        pace = (log[-1]["seconds"] - log[0]["seconds"]) / (len(log) - 1)
        write_json(clock, {"seconds_per_step": pace})
        shutil.rmtree(folder)
    allowed = 60 * target.sizes.minutes / float(read_json(clock)["seconds_per_step"])
    return max(1, min(passes, round(allowed)))


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    seconds[name] = time.monotonic() - started


def main(arguments: Sequence[str] | None = None) -> None:
    parser = study_parser(__doc__)
    parser.add_argument("--fractions", type=float, nargs="+", default=[0, 0.01, 0.05, 0.2, 1])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=float, default=3.0, help="passes over a share, at most")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float, help="of each training, at most")
    length.add_argument("--steps", type=int, help="of each training, at most; repeats exactly")
    parser.add_argument("--users", type=int, default=500, help="scored users a scenario")
    parser.add_argument("--validation-users", type=int, default=100)
    parser.add_argument("--adaptation-users", type=int, default=50)
    parser.add_argument("--published", type=Path, help="folder of published cells to go on from")
    parser.add_argument(
        "--any-precision", action="store_true", help="take finished cells of another precision too"
    )
    parser.add_argument("--report", action="store_true", help="of what is finished; train nothing")
    recipe_argument(parser)
    backbone_arguments(parser)
    args = parser.parse_args(arguments)
    if not all(0 <= share <= 1 for share in args.fractions):
        parser.error("--fractions must lie in [0, 1]")
    base = Adapter.load(resolve(args.base))
    recipe = target_recipe(base, args.recipe)
    backbone = asked_backbone(args, recipe)
    names = ("epochs", "minutes", "steps", "users", "validation_users", "adaptation_users")
    sizes = Sizes(**{name: getattr(args, name) for name in names})
    machine = environment(backbone, Domain.load(args.target[0]))
    del machine["data"]
    more = {
        "base_spirit": {"sha256": base.sha256, "steps": base.card.steps},
        "settings": asdict(sizes) | {"fractions": args.fractions, "seeds": args.seeds},
        **machine,
    }
    shares = sorted(set(args.fractions) - {0.0})
    work: list[Cell] = [(share, seed) for seed in args.seeds for share in shares]
    asked: list[Target] = []

    def report() -> None:
        """Write what is finished, wherever in the order of the work it stands."""
        done = {}
        for target in asked:
            domain, out = target.domain, args.out / target.domain.name
            data = {"sha256": domain.sha256, "training_users": domain.train().height}
            folders = [place(out, one) for one in (ZERO, *work)
                       if target.is_finished(place(out, one), one)]  # fmt: skip
            done[domain.name] = (data, folders)
        write_report(args.out, done, more)

    with bar("Few-shot cells", len(args.target) * (1 + len(work))) as advance:
        for path in args.target:
            domain = Domain.load(path)
            target = Target(domain, base, backbone, recipe, sizes, args.any_precision)
            asked.append(target)
            out = args.out / domain.name
            if args.published and (file := args.published / f"{domain.name}.parquet").exists():
                take_cells(domain.name, published(target, file, out))
            if args.report:
                continue
            zero = zero_cell(target, place(out, ZERO), args.out / "beside" / domain.name)
            report()  # so that a long study can be looked at while it runs
            advance(1, f"Few-shot cells ({domain.name})")
            for one in work:
                if cell(target, zero, one, place(out, one)):
                    report()
                advance(1)
    report()


if __name__ == "__main__":
    program(main)
