"""An adapter or cocktail gives the same scores with stock PEFT and none of this project's code.

    python benchmarks/stock_peft.py --adapter COCKTAIL --data PREPARED [--readout FILE] \
        [--out results/stock_peft.json]

FILE is the fixed readout that the adapter was trained with, if it was. The first half of this file
is all that a stranger needs: transformers, peft, and the words of the prompt. It runs first, and
the script makes sure that nothing of the project was imported until it is done. The second half
scores the same rows with the project's own code (weights merged, users and items in padded batches)
and compares. Prints the greatest absolute difference; fails above 1e-4.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from program import program

TOLERANCE = 1e-4

# -- with stock libraries ---------------------------------------------------------------------

# The words of prompting/templates/titles.yaml; the state at the last token is the
# vector, or half of it beside the mean of the token embeddings.
HISTORY, AFTER_TITLE, ITEM, AFTER_ITEM = "History:\n", "\n", "Item: ", "\n"


@torch.no_grad()
def stock_scores(
    adapter: Path,
    data: Path,
    backbone: str,
    readout: Path | None,
    tables: Sequence[str],
    users: int,
) -> dict[tuple[str, str], list[float]]:
    """Scores of the candidates of the tables' first users: (table, user id) -> (candidates,)."""
    card = json.loads((adapter / "adapter.json").read_text(encoding="utf-8"))
    recipe, prompt = card["recipe"], card["recipe"]["prompt"]
    parts, facts = {}, {"temperature": 0.05}
    if card["readout_sha256"]:
        if readout is None:
            raise SystemExit("The adapter was trained with a fixed readout; give --readout.")
        with safe_open(readout, framework="pt") as file:
            parts = {name: file.get_tensor(name).float() for name in file.keys()}
            facts = json.loads(file.metadata()["readout"])
    temperature = recipe["dense"]["temperature"] or facts["temperature"]
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    model = AutoModelForCausalLM.from_pretrained(backbone, dtype=torch.float32)
    decoder = PeftModel.from_pretrained(model, str(adapter)).eval().get_base_model().get_decoder()

    def tokens(text: str) -> list[int]:
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return list(ids)

    def title(item: str) -> list[int]:
        return tokens(titles[item])[: prompt["title_tokens"]]

    def unit(vectors: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(vectors, dim=-1)

    def vector(ids: list[int], prefix: str, side: str) -> torch.Tensor:
        state = unit(decoder(input_ids=torch.tensor([ids])).last_hidden_state[0, -1])
        if not parts:
            return state
        embedded = decoder.get_input_embeddings()(torch.tensor(ids[len(tokens(prefix)) :]))
        found = {"states": state, "words": unit(unit(embedded).sum(dim=0))}
        states, words = (
            unit((found[part] - parts[f"{part}.{side}"]) @ parts[f"{part}.matrix"])
            for part in ("states", "words")
        )
        return unit(torch.cat([states, facts["weight"] * words]))

    items = pl.read_parquet(data / "items.parquet")
    titles = dict(zip(items["item_id"], items["title"], strict=True))
    scores = {}
    for table in tables:
        for row in pl.read_parquet(data / f"{table}.parquet").head(users).iter_rows(named=True):
            ids = tokens(HISTORY)
            for item in row["history"][-prompt["max_history"] :]:
                ids += title(item) + tokens(AFTER_TITLE)
            candidates = [
                vector(tokens(ITEM) + title(item) + tokens(AFTER_ITEM), ITEM, "items")
                for item in row["candidates"]
            ]
            found = torch.stack(candidates) @ vector(ids, HISTORY, "users") / temperature
            scores[table, row["user_id"]] = found.tolist()
    return scores


# -- with this project ------------------------------------------------------------------------


def project_scores(
    adapter: Path, data: Path, backbone: str, tables: Sequence[str], users: int
) -> dict[tuple[str, str], list[float]]:
    """The same from the path that `evaluate`, `mix` and `recommend` take."""
    from reccocktail.backbone import load_backbone
    from reccocktail.data.domain import Domain
    from reccocktail.ranking import build
    from reccocktail.ranking.scoring import Catalogue, ItemVectors, encode
    from reccocktail.training.adapter import Adapter
    from reccocktail.training.model import merged

    loaded = Adapter.load(adapter)
    bare = load_backbone(backbone, device="cpu", dtype="float32")
    loaded.card.backbone.require_match(bare.fingerprint, loaded.name)
    recipe = loaded.card.recipe
    if recipe.prompt.template != "titles":
        raise SystemExit(f"This script writes 'titles' prompts, not '{recipe.prompt.template}'.")
    ranker = build(bare, recipe)
    catalogue = Catalogue.of(Domain.load(data), ranker)
    rows = [catalogue.domain.rows(table).head(users) for table in tables]
    with merged(bare.model, loaded.lora) as model:
        vectors = encode(model, ItemVectors(catalogue), catalogue, rows, "Scoring")
    scores = {}
    for table, frame, found in zip(tables, rows, vectors, strict=True):
        values = found.scores(ranker, catalogue.candidates(frame))
        for user, row in zip(frame["user_id"], values, strict=True):
            scores[table, user] = row.tolist()
    return scores


def folder_of(backbone: str) -> str:
    """Folder of a backbone that the project converts from GGUF, in a process of its own."""
    if backbone != "smollm2-135m":
        return backbone
    code = (
        "from reccocktail.backbone import SMOLLM2, SMOLLM2_FILE\n"
        "from reccocktail.data.fetch import fetch\n"
        "from reccocktail.gguf import converted_folder\n"
        "print(converted_folder(fetch(SMOLLM2) / SMOLLM2_FILE)[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout.strip().splitlines()[-1]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--adapter", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="prepared domain")
    parser.add_argument("--backbone", default="smollm2-135m", help="or a folder, or a hub id")
    parser.add_argument("--readout", type=Path, help="that the adapter was trained with")
    parser.add_argument("--table", action="append", help="test_warm and test_cold if left out")
    parser.add_argument("--users", type=int, default=20, help="of each table")
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    args = parser.parse_args(arguments)
    tables = args.table or ["test_warm", "test_cold"]
    place = folder_of(args.backbone)
    stock = stock_scores(args.adapter, args.data, place, args.readout, tables, args.users)
    ours = sorted(name for name in sys.modules if name.partition(".")[0] == "reccocktail")
    if ours:
        raise SystemExit(f"Not a stock run: {ours[0]} was imported before the scores were there.")
    project = project_scores(args.adapter, args.data, args.backbone, tables, args.users)
    found = compare(stock, project)
    print(sentence(found))
    if args.out:
        from provenance import machine, write_result  # not before, see above
        from reccocktail.data.domain import Domain
        from reccocktail.training.adapter import Adapter

        loaded, domain = Adapter.load(args.adapter), Domain.load(args.data)
        about = {
            "adapter": {"name": loaded.name, "sha256": loaded.sha256},
            "data": {"name": domain.name, "sha256": domain.sha256},
        }
        write_result(args.out, {**found, **about, **machine(torch.device("cpu"))})
    if not found["same"]:
        print("FAILED: stock PEFT does not give the project's scores.", file=sys.stderr)
    return 0 if found["same"] else 1


def compare(
    stock: dict[tuple[str, str], list[float]], project: dict[tuple[str, str], list[float]]
) -> dict[str, Any]:
    """How far the two sides' scores are apart; `same` if all are within `TOLERANCE`."""
    if not stock or stock.keys() != project.keys():
        return {"same": False, "users": 0}
    pairs = [pair for key in stock for pair in zip(stock[key], project[key], strict=True)]
    return {
        # Not max(): it would pass over a NaN.
        "same": all(abs(a - b) <= TOLERANCE for a, b in pairs),
        "users": len(stock),
        "scores": len(pairs),
        "largest_score": max(abs(b) for _, b in pairs),
        "largest_difference": max(abs(a - b) for a, b in pairs),
        "users_with_the_same_order": sum(order(stock[key]) == order(project[key]) for key in stock),
    }


def sentence(found: dict[str, Any]) -> str:
    """The comparison in words."""
    if not found["users"]:
        return "The two sides scored different users, or none."
    return (
        f"{found['users']} users, {found['scores']} scores up to {found['largest_score']:.2f}: "
        f"greatest absolute difference {found['largest_difference']:.2e} "
        f"(allowed {TOLERANCE:.0e}), same order of candidates for "
        f"{found['users_with_the_same_order']} of {found['users']} users."
    )


def order(scores: Sequence[float]) -> list[int]:
    """Places of the candidates, best first."""
    return sorted(range(len(scores)), key=lambda place: -scores[place])


if __name__ == "__main__":
    program(lambda: sys.exit(main()))
