"""Put a trained base spirit into the package: float16 tensors, and a card with all that is known.

    python benchmarks/ship.py --adapter RUN/base_spirit --data PREPARED ... \
        --exclude-titles-of PREPARED ... [--figures FILES.json] [--licence NAME=NOTE ...]

The run's log must lie beside the adapter, in RUN/base_spirit.training. `--data` are the domains
that it was trained on and `--exclude-titles-of` the targets, as `train` was given them: hashes are
compared with the adapter's card, and the audit of shared titles is counted anew. FILES.json holds
figures by domain, each the `models` of an evaluation's metrics.json:

    {"office": {"base_spirit": {"warm": {"n": 500, "ndcg@1": 0.2, "ndcg@10": 0.4, "ci95": ...}}}}

The folder is src/reccocktail/spirits/<backbone>/<ranker>/base_spirit, replaced as a whole; the same
inputs write the same bytes. An adapter that went on from the one that ships (`train --init
base_spirit`) is its next round: what is known of the former rounds is kept.
"""

import argparse
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from program import program
from reccocktail import spirits
from reccocktail.data.domain import Domain
from reccocktail.data.overlap import overlapping_items
from reccocktail.data.registry import AMAZON_TERMS, COMPLETE_JOURNEY, GROUPLENS_TERMS
from reccocktail.errors import AdapterError, DataError, RunError
from reccocktail.evaluation.metrics import mean_in_words
from reccocktail.progress import say
from reccocktail.ranking.readout import shipped
from reccocktail.recipe import Recipe
from reccocktail.storage import read_json
from reccocktail.training.adapter import TENSORS_FILE, Adapter, Factors
from reccocktail.training.card import adapter_readme
from reccocktail.training.log import read_log

LIMIT_BYTES = 10_000_000
FACTS_FILE = "spirit.json"
RECIPE_FILE = "recipe.json"  # JSON is YAML: `train --recipe` reads it
SHOWN = ("ndcg@1", "ndcg@3", "ndcg@10", "hr@10", "mrr")

_JOURNEY = COMPLETE_JOURNEY.licence
# Pattern of a domain's name -> on what terms its data may be had. The first that fits counts.
LICENCES = {
    "amazon*": AMAZON_TERMS,
    "beauty": AMAZON_TERMS,
    "books": AMAZON_TERMS,
    "clothing": AMAZON_TERMS,
    "electronics": AMAZON_TERMS,
    "health": AMAZON_TERMS,
    "industrial": AMAZON_TERMS,
    "office": AMAZON_TERMS,
    "pantry": AMAZON_TERMS,
    "completejourney_*": _JOURNEY,
    "*grocery": _JOURNEY,
    "*drug_gm": _JOURNEY,
    "*fresh": _JOURNEY,
    "food*": "Food.com recipes and reviews (Majumder et al., 2019): research use",
    "lastfm": "HetRec 2011 Last.FM (Cantador et al.): research use, not commercial",
    "movielens*": GROUPLENS_TERMS,
    "yelp": "Yelp Open Dataset: academic use, no redistribution",
}


def ship(
    adapter: Path,
    domains: Sequence[Domain],
    targets: Sequence[Domain],
    *,
    figures: Mapping[str, Any] | None = None,
    licences: Mapping[str, str] | None = None,
    root: Path = spirits.ROOT,
) -> Path:
    """Write the base spirit's folder under `root` and give it.

    Raises:
        AdapterError: no base spirit, one that only this machine can use, or too large.
        DataError: domains that the adapter's card does not list, or without a licence note.
        RunError: the run's log is missing.
    """
    source = Adapter.load(adapter)
    _check(source, adapter)
    domains = _in_order(source, domains, adapter)
    log = read_log(adapter.with_name(adapter.name + ".training"))
    if not log:
        raise RunError(f"{adapter}.training holds no log; copy the whole run.")
    lora = {
        module: Factors(a.half(), b.half(), scaling)
        for module, (a, b, scaling) in source.lora.items()
    }
    if not all(torch.isfinite(half).all() for f in lora.values() for half in (f.a, f.b)):
        raise AdapterError(f"A tensor of {adapter} does not fit into float16; train it again.")
    half = Adapter(spirits.NAME, lora, source.card)
    notes = dict(licences or {})
    place = spirits.folder(source.card.backbone.name, source.card.recipe.ranker, root)
    rounds = [
        *_former_rounds(source, adapter, place),
        {
            "sha256": half.sha256,
            "sha256_before_float16": source.sha256,
            "steps": source.card.steps,
            "minutes": round(max(row["seconds"] for row in log) / 60, 1),
            "recipe": source.card.recipe.model_dump(mode="json"),
            "validations": [row for row in log if "ndcg@10" in row],
        },
    ]
    facts = {
        "format": 2,
        "sha256": half.sha256,
        "sha256_before_float16": source.sha256,
        "steps": sum(part["steps"] for part in rounds),
        "minutes": round(sum(part["minutes"] for part in rounds), 1),
        "rounds": rounds,
        "targets": [{"name": t.name, "sha256": t.sha256} for t in targets],
        "data": [
            {
                "name": domain.name,
                "sha256": domain.sha256,
                "users": domain.train().height,
                "items": len(domain.item_ids),
                "left_out": {t.name: len(overlapping_items(domain, [t])) for t in targets},
                "left_out_in_all": len(overlapping_items(domain, targets)),
                "prepared_with": domain.manifest["settings"] | {"seed": domain.manifest["seed"]},
                "licence": _licence(domain.name, notes),
            }
            for domain in domains
        ],
        "figures": dict(figures or {}),
    }
    readme = adapter_readme(
        spirits.NAME, source.card, _body(facts, source, place.relative_to(root))
    )
    recipes = {_recipe_file(n, len(rounds)): part["recipe"] for n, part in enumerate(rounds, 1)}
    extra = {FACTS_FILE: facts} | recipes
    with TemporaryDirectory() as scratch:
        half.save(Path(scratch) / spirits.NAME, readme, extra)
        size = (Path(scratch) / spirits.NAME / TENSORS_FILE).stat().st_size
    if size > LIMIT_BYTES:
        raise AdapterError(
            f"{adapter} takes {size / 1e6:.1f} MB in float16, and {LIMIT_BYTES / 1e6:.0f} MB "
            "may ship; train one of a lower rank."
        )
    half.save(place, readme, extra)
    return place


def _former_rounds(adapter: Adapter, path: Path, place: Path) -> list[dict[str, Any]]:
    """The rounds of training that the adapter went on from, the first first."""
    start = adapter.card.initial_sha256
    if start is None:
        return []
    file = place / FACTS_FILE
    rounds: list[dict[str, Any]] = read_json(file)["rounds"] if file.exists() else []
    hashes = [part["sha256"] for part in rounds]
    if start not in hashes:
        raise AdapterError(
            f"{path} went on from the adapter {start[:16]}, which does not ship; ship that one "
            "first, or train with --init base_spirit."
        )
    return rounds[: hashes.index(start) + 1]


def _recipe_file(number: int, rounds: int) -> str:
    """The last round's recipe has the plain name."""
    return RECIPE_FILE if number == rounds else f"recipe_{number}.json"


def _check(adapter: Adapter, path: Path) -> None:
    card = adapter.card
    if card.role != "base":
        raise AdapterError(f"{path} is of the role '{card.role}'; only a base spirit ships.")
    if card.backbone.source not in ("wheel", "hub"):
        raise AdapterError(
            f"{path} was trained on the backbone {card.backbone.summary()} out of a "
            f"{card.backbone.source}, which others do not have; train on a hub id or the default."
        )
    if card.recipe.prompt.template != Recipe().prompt.template:
        raise AdapterError(
            f"{path} reads the template '{card.recipe.prompt.template}', which does not ship."
        )
    readout = shipped(card.backbone.sha256)
    if card.readout_sha256 != (readout.sha256 if readout else None):
        raise AdapterError(
            f"{path} was not trained with the readout that ships for {card.backbone.name}; "
            "train it with dense.readout: auto."
        )


def _in_order(adapter: Adapter, domains: Sequence[Domain], path: Path) -> list[Domain]:
    """The domains in the card's order, on which the order of the batches depends."""
    ours = {(d.name, d.sha256): d for d in domains}
    theirs = [(d.name, d.sha256) for d in adapter.card.data]
    if set(ours) != set(theirs):
        named = ", ".join(name for name, _ in theirs)
        odd = ", ".join(sorted({name for name, _ in set(ours) ^ set(theirs)}))
        raise DataError(
            f"{path} was trained on {named}, and the folders of --data differ in {odd}; "
            "give the prepared folders that it was trained on."
        )
    return [ours[key] for key in theirs]


def _licence(name: str, notes: Mapping[str, str]) -> str:
    fitting = (note for pattern, note in LICENCES.items() if fnmatch(name, pattern))
    found = notes.get(name) or next(fitting, None)
    if found is None:
        raise DataError(f"No licence note is known for '{name}'; give --licence '{name}=NOTE'.")
    return found


def _body(facts: Mapping[str, Any], adapter: Adapter, place: Path) -> str:
    """The card's sections, in Markdown."""
    card = adapter.card
    targets = [target["name"] for target in facts["targets"]]
    kept = " ".join(f"--exclude-titles-of {name}" for name in targets)
    data = " ".join(f"--data {domain['name']}" for domain in facts["data"])
    rounds = facts["rounds"]
    start = f"a fresh LoRA, in {len(rounds)} rounds" if len(rounds) > 1 else "a fresh LoRA"
    left_out = sum(domain["left_out_in_all"] for domain in facts["data"])
    audit = (
        "Items that share their title with an item of a target were left out of the training "
        f"({left_out:,} in all), so that a cold item of a target is new to this adapter. Titles "
        "are compared without case, accents and punctuation."
        if targets
        else "No target was audited: items of any target may have been seen in training."
    )
    sections = [
        "## Training\n\n"
        f"{facts['steps']:,} steps in {facts['minutes']:g} minutes of training, from {start}, by "
        f"the loss of the `{card.recipe.ranker}` ranker (see `{RECIPE_FILE}`). Stored in float16: "
        f"SHA-256 of the update `{facts['sha256']}`; before rounding "
        f"`{facts['sha256_before_float16']}`. Backbone: SHA-256 `{card.backbone.sha256}`, "
        f"{card.backbone.revision}.",
        "## Data, audit and licences\n\n"
        + _table(
            ["domain", "training users", "items", *(f"shared with {t}" for t in targets), "terms"],
            [
                [
                    domain["name"],
                    f"{domain['users']:,}",
                    f"{domain['items']:,}",
                    *(f"{domain['left_out'][target]:,}" for target in targets),
                    domain["licence"],
                ]
                for domain in facts["data"]
            ],
        ),
        audit,
        "The adapter holds weights, no titles and no users. The data's terms bind whoever uses the "
        "data; whether they reach weights that were trained on it is not settled, so look into it "
        "before commercial use.",
    ]
    if any(part["validations"] for part in rounds):
        sections.append(_validation(rounds))
    if facts["figures"]:
        sections.append(_figures(facts["figures"]))
    commands = [
        f"reccocktail train --role base --recipe {_recipe_file(n, len(rounds))} {data} {kept} "
        f"--steps {part['steps']}{f' --init round_{n - 1}' if n > 1 else ''} "
        f"--out {'base_spirit' if n == len(rounds) else f'round_{n}'}\n"
        for n, part in enumerate(rounds, 1)
    ]
    between = " Each round but the last was rounded to float16 before the next." * (len(rounds) > 1)
    sections.append(
        "## To make it again\n\n"
        f"Prepare the domains under these names with the settings in `{FACTS_FILE}` "
        "(`prepared_with`), then\n\n"
        f"```bash\n{''.join(commands)}```\n\n"
        "A run by the clock (`--minutes`) and one by steps differ a little in their learning "
        f"rates.{between} It is known to RecCocktail as `{place.parent.as_posix()}`."
    )
    return "\n" + "\n\n".join(sections) + "\n"


def _validation(rounds: Sequence[Mapping[str, Any]]) -> str:
    """NDCG@10 by domain at the end of each round, and at the best step of the last."""
    columns: dict[int, Mapping[str, Any]] = {}
    before = 0
    for part in rounds:
        rows = part["validations"]
        shown = [max(rows, key=lambda row: row["ndcg@10"]), rows[-1]] if rows else []
        columns |= {before + row["step"]: row for row in shown}
        before += part["steps"]
    users = rounds[-1]["recipe"]["training"]["validation_users"]
    names = [key for key in next(reversed(columns.values())) if key.startswith("ndcg@10/")]
    table = _table(
        ["domain", *(f"step {step:,}" for step in columns)],
        [
            [key.partition("/")[2] or "mean", *(f"{row[key]:.3f}" for row in columns.values())]
            for key in [*names, "ndcg@10"]
        ],
    )
    return (
        "## Validation while training\n\n"
        f"NDCG@10 of warm validation users, at most {users} a domain: the best and the last "
        f"validation of each round. All of them are in `{FACTS_FILE}`.\n\n{table}"
    )


def _figures(figures: Mapping[str, Any]) -> str:
    rows = []
    for domain, models in figures.items():
        for model, scenarios in models.items():
            for scenario, cell in scenarios.items():
                found = [_with_interval(cell, metric) for metric in SHOWN]
                rows.append([domain, model, scenario, f"{cell['n']:,}", *found])
    return "## Figures\n\nOn test users, 95 % intervals.\n\n" + _table(
        ["domain", "model", "scenario", "n", *(metric.upper() for metric in SHOWN)], rows
    )


def _with_interval(cell: Mapping[str, Any], metric: str) -> str:
    if metric not in cell:
        return ""
    known = metric in (cell.get("ci95") or {})
    return mean_in_words(cell, metric) if known else f"{cell[metric]:.3f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--adapter", type=Path, required=True)
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--exclude-titles-of", type=Path, action="append", default=[])
    parser.add_argument("--figures", type=Path)
    parser.add_argument("--licence", action="append", default=[], metavar="NAME=NOTE")
    args = parser.parse_args()
    out = ship(
        args.adapter,
        [Domain.load(path) for path in args.data],
        [Domain.load(path) for path in args.exclude_titles_of],
        figures=read_json(args.figures) if args.figures else None,
        licences=dict(pair.split("=", 1) for pair in args.licence),
    )
    say(f"Shipped: {out}")


if __name__ == "__main__":
    program(main)
