"""What makes learning per minute better? Trials of a base spirit's settings, on held-out users.

    python benchmarks/learning.py --data PREPARED [--data PREPARED ...] --minutes 4 \
        --trial reference --trial "long titles: prompt.title_tokens=20" --out RUN

A trial is a name and, after a colon, settings of the recipe that differ from --recipe (or from the
default). Each trains an adapter for the same minutes, or the same --steps on the same batches, on
98 % of the training users of each domain. The others' packed histories judge it, in batches of one
domain: each next item is ranked among the batch's items that its user never touched. Evaluation
tables are never read. All trials are judged on the same places, so each is compared with the first
in pairs. Resumable: the same command goes on, and takes what others wrote into --out meanwhile.
Writes learning.json into --out.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
import yaml
from rich.console import Console
from rich.table import Table
from torch.nn.functional import cross_entropy

from cells import require_alike
from program import program
from provenance import backbone_of, environment, write_result
from reccocktail.backbone import Backbone, load_backbone
from reccocktail.data.domain import Domain
from reccocktail.data.subset import subset
from reccocktail.evaluation.metrics import FloatArray, mean_in_words, per_user, ranks, summarise
from reccocktail.evaluation.significance import paired_bootstrap
from reccocktail.progress import bar
from reccocktail.ranking import build
from reccocktail.ranking.dense import DenseRanker
from reccocktail.recipe import Recipe
from reccocktail.schema import USER
from reccocktail.storage import atomic_file, read_json
from reccocktail.training.batches import DomainWindows
from reccocktail.training.log import read_log
from reccocktail.training.model import merged
from reccocktail.training.schedule import Length
from reccocktail.training.trainer import train
from spreads import gap_in_words
from windows import windows_of

SHARE = 0.98
TARGETS = 96  # in one judging batch
MEASURES = ("loss", "mrr", "ndcg@10")
TARGET = "target"


def settings_of(base: Recipe, changes: str) -> Recipe:
    """A recipe with dotted settings changed: `dense.temperature=0.1 lora.rank=8`."""
    values = base.model_dump(mode="json")
    for change in changes.split():
        name, _, value = change.partition("=")
        *folders, last = name.split(".")
        place = values
        for folder in folders:
            place = place[folder]
        place[last] = yaml.safe_load(value)
    return Recipe.model_validate(values)


def part_of(domain: Domain, folder: Path) -> Domain:
    """The training users of all trials; drawn anew where the folder's are of other data."""
    wanted = {"of": domain.sha256, "fraction": SHARE, "seed": 0}
    if folder.exists():
        kept = Domain.load(folder)
        if kept.manifest.get("subset") == wanted:
            return kept
    return subset(domain, SHARE, folder)


def shared(result: Mapping[str, Any]) -> dict[str, Any]:
    """What all trials of a file have in common, as far as the file says it."""
    found = {name: result[name] for name in ("data", "batches") if name in result}
    return found | backbone_of(result)


def held_out(domain: Domain, training: Domain, ranker: DenseRanker) -> DomainWindows:
    """Packed histories of the training users that `training` leaves out."""
    windows = DomainWindows.build(domain, ranker)
    taken = set(training.train()[USER].to_list())
    users = domain.train()[USER].to_list()
    kept = [i for i, owner in enumerate(windows.owner) if users[owner] not in taken]
    windows.windows = [windows.windows[i] for i in kept]
    windows.owner = [windows.owner[i] for i in kept]
    return windows


def places_of(trial: Path) -> Path:
    """File of what a trial measured at every place."""
    return trial.with_name(f"{trial.name}.parquet")


def trains(trial: Mapping[str, Any]) -> bool:
    """Whether a trial is more than the bare backbone."""
    return bool(trial.get("minutes") or trial.get("steps"))


def against_first(trials: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Each trial less the first that trained, place by place, where both are kept in `out`.

    Loss is left out: of another temperature or batch it is another thing.
    """
    files = {
        name: places_of(out / name.replace(" ", "_"))
        for name, found in trials.items()
        if trains(found)
    }
    tables = {name: pl.read_parquet(file) for name, file in files.items() if file.exists()}
    if not tables:
        return {}
    first, reference = next(iter(tables.items()))

    def metrics(table: pl.DataFrame) -> dict[str, FloatArray]:
        return {m: table[m].to_numpy() for m in MEASURES if m != "loss"}

    return {
        "first": first,
        "differences": {
            name: paired_bootstrap(metrics(table), metrics(reference))
            for name, table in tables.items()
            if name != first and table[TARGET].equals(reference[TARGET])
        },
    }


@torch.no_grad()
def judge(
    model: Any, ranker: DenseRanker, windows: DomainWindows, batches: int
) -> dict[str, np.ndarray]:
    """Loss, ranking metrics and item number of each target in some batches of one domain."""
    order = np.random.default_rng(0).permutation(len(windows.windows)).tolist()
    found: dict[str, list[np.ndarray]] = {}
    for _ in range(batches):
        chosen = windows_of(windows, order, TARGETS)
        if len(chosen) < 2:
            break
        logits, wanted, _ = ranker.contrast(model, windows.training_batch(ranker, chosen))
        values = per_user(ranks(logits.double().numpy(), wanted.numpy()))
        values["loss"] = cross_entropy(logits, wanted, reduction="none").double().numpy()
        values[TARGET] = np.concatenate([windows.windows[w][1:] for w in chosen])
        for measure in (*MEASURES, TARGET):
            found.setdefault(measure, []).append(values[measure])
    return {measure: np.concatenate(values) for measure, values in found.items()}


def kept_in(file: Path) -> dict[str, Any]:
    """What a file of trials holds, or would without any."""
    found: dict[str, Any] = read_json(file) if file.exists() else {"trials": {}}
    return found


def keep(
    file: Path, trials: Mapping[str, Any], about: Mapping[str, Any], names: Sequence[str]
) -> dict[str, Any]:
    """Add trials to a file, those of `names` in front in their order; gives what it holds now."""
    former = kept_in(file)
    known = former["trials"] | dict(trials)
    ordered = {name: known[name] for name in [*names, *known] if name in known}
    compared = against_first(ordered, file.parent)
    found = {"trials": ordered, "against_first": compared}
    new = any(former.get(what) != value for what, value in found.items())
    if new or list(ordered) != list(former["trials"]):
        write_result(file, former | about | found)
    return kept_in(file)


def run_trial(
    backbone: Backbone,
    domains: list[Domain],
    training: list[Domain],
    recipe: Recipe,
    out: Path,
    length: Length | None,
    batches: int,
) -> dict[str, Any]:
    """Train for some length (none: the bare backbone) and judge."""
    trained: dict[str, Any] = {}
    lora = None
    if length is not None:
        adapter = train("base", training, backbone, recipe, out, length, resume=True)
        log = [row for row in read_log(out.with_name(out.name + ".training")) if "loss" in row]
        clock = [row["seconds"] for row in log]
        trained = {
            "steps": adapter.card.steps,
            # The median: of a step without compiling, and but for what disturbs a few of them.
            "seconds_a_step": float(np.median(np.diff(clock))) if len(clock) > 1 else None,
            "curve": [
                [row["step"], round(row["seconds"], 1), round(row["loss"], 4)] for row in log
            ],
        }
        lora = adapter.lora
    ranker = build(backbone, recipe)
    judged = {}
    with (
        merged(backbone.model, lora) as model,
        bar(f"Judging {out.name}", len(domains)) as advance,
    ):
        for whole, part in zip(domains, training, strict=True):
            judged[whole.name] = judge(model, ranker, held_out(whole, part, ranker), batches)
            advance(1)
    columns = (*MEASURES, TARGET)
    every = {m: np.concatenate([values[m] for values in judged.values()]) for m in columns}
    with atomic_file(places_of(out)) as temporary:
        pl.DataFrame(every).write_parquet(temporary)

    def means(values: Mapping[str, FloatArray]) -> dict[str, Any]:
        return summarise({measure: values[measure] for measure in MEASURES})

    return {
        **means(every),
        "domains": {name: means(values) for name, values in judged.items()},
        "recipe_sha256": recipe.sha256,
        **trained,
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--trial", action="append", required=True)
    length_of = parser.add_mutually_exclusive_group()
    length_of.add_argument("--minutes", type=float, default=4.0)
    length_of.add_argument("--steps", type=int, help="in place of minutes: equal batches")
    parser.add_argument("--batches", type=int, default=2, help="judging batches a domain")
    parser.add_argument("--backbone", default="smollm2-135m")
    parser.add_argument("--recipe", type=Path)
    args = parser.parse_args(arguments)
    base = Recipe.load(args.recipe) if args.recipe else Recipe()
    base = settings_of(base, f"backbone={args.backbone} training.validations=0")
    domains = [Domain.load(path) for path in args.data]
    backbone = load_backbone(args.backbone)
    about = environment(backbone, domains[0]) | {
        "data": [{"name": d.name, "sha256": d.sha256} for d in domains],
        "batches": args.batches,
    }
    file = args.out / "learning.json"
    require_alike(file, shared(kept_in(file)), shared(about))
    training = [part_of(domain, args.out / "data" / domain.name) for domain in domains]
    names = []
    for trial in args.trial:
        name, _, changes = (part.strip() for part in trial.partition(":"))
        names.append(name)
        recipe = settings_of(base, changes)
        extent: dict[str, Any] = {"minutes": args.minutes}
        if args.steps is not None:
            extent = {"steps": args.steps}
        if name == "backbone":
            extent = {"minutes": 0.0}
        wanted = {"recipe_sha256": recipe.sha256, **extent}
        former = kept_in(file)["trials"].get(name, {})
        if any(former.get(what) != value for what, value in wanted.items()):
            folder = args.out / name.replace(" ", "_")
            length = None if name == "backbone" else Length(**extent)
            found = run_trial(backbone, domains, training, recipe, folder, length, args.batches)
            keep(file, {name: {"changes": changes, **extent, **found}}, about, names)
    result = keep(file, {}, about, names)
    compared = result.get("against_first", {}).get("differences", {})
    table = Table("trial", "changes", "steps", "loss", "MRR", "NDCG@10", "NDCG@10 less the first's")
    for name, found in result["trials"].items():
        cells = [mean_in_words(found, m) for m in MEASURES]
        gap = compared.get(name, {}).get("ndcg@10")
        said = gap_in_words(gap) if gap else ""
        table.add_row(name, found["changes"], str(found.get("steps", 0)), *cells, said)
    Console(width=170).print(table)


if __name__ == "__main__":
    program(main)
