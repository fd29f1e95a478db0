"""What reasons in words are worth, as far as a machine can tell.

    python benchmarks/explanations.py --data PREPARED --users 100 --out RUN
    python benchmarks/explanations.py --data PREPARED --users 100 --adapter COCKTAIL --out RUN

A reason for the item that each test user did take next, by an adapter of ranker `generate` or by
the bare backbone. Counted are faults of form, sentences that come again, and citations: what the
model would cite if it were free to (a title, or its beginning), and whether the title that it cites
is one that the scores of `--judge`, a dense adapter, rest on. Reasons are kept in
RUN/reasons.jsonl as they come, the same command goes on, and RUN/explanations.json holds the shares
with Wilson intervals.
"""

import argparse
import json
import re
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from scipy.stats import binomtest

from cells import require_alike
from program import program
from provenance import environment, write_result
from reccocktail.backbone import Backbone, load_backbone
from reccocktail.data.domain import Domain, sample_rows
from reccocktail.data.titles import title_key
from reccocktail.errors import RunError
from reccocktail.progress import track
from reccocktail.ranking.base import Model
from reccocktail.ranking.continuation import Context
from reccocktail.ranking.dense import DenseRanker
from reccocktail.ranking.explanation import Explainer
from reccocktail.ranking.faithful import FAULTS, QUOTES, Titles, one_line
from reccocktail.recipe import Recipe
from reccocktail.serving.explain import leave_one_out
from reccocktail.spirits import resolve
from reccocktail.storage import read_json, write_json
from reccocktail.training.adapter import Adapter
from reccocktail.training.model import merged, ranker_of
from spreads import spread

CITED_TOKENS = 32  # of a citation that nothing constrains


@torch.no_grad()
def free_citation(explainer: Explainer, model: Model, history: Sequence[str], item: str) -> str:
    """What the model writes behind the opening, up to a quotation mark or a line's end."""
    instruction = explainer.instruction
    *titles, own = instruction.titles([*history, item])
    prompt = instruction.prompt(titles, [own], CITED_TOKENS) + explainer.opening
    context = Context(model, torch.tensor(prompt, device=next(model.parameters()).device))
    tokens: list[int] = []
    text = ""
    while len(tokens) < CITED_TOKENS:
        tokens.append(int(context.next(tokens).argmax()))
        text = explainer.tokenizer.decode(tokens, skip_special_tokens=True)
        if tokens[-1] == instruction.end[0] or any(c in text for c in f"{QUOTES}\n"):
            break
    return re.split(f"[{QUOTES}\n]", text)[0].strip()


class Judge:
    """The places of cited titles among what a dense adapter's scores rest on."""

    def __init__(self, adapter: Adapter, backbone: Backbone, domain: Domain) -> None:
        ranker = ranker_of(adapter.card, backbone)
        if not isinstance(ranker, DenseRanker):
            raise RunError(
                f"The adapter '{adapter.name}' ranks by {adapter.card.recipe.ranker}; "
                "give a dense one as --judge."
            )
        self._ranker, self._lora, self._backbone = ranker, adapter.lora, backbone
        self._tokens = ranker.titles(domain.titles)

    def place(self, history: Sequence[int], item: int, cited: int) -> tuple[int | None, int]:
        """Place (1 is the most influential) of the cited item, and the items left out in turn."""
        device = self._backbone.device
        with merged(self._backbone.model, self._lora) as model:

            def score(histories: Sequence[Sequence[int]], items: Sequence[int]) -> Any:
                rows = [[self._tokens[i] for i in history] for history in histories]
                users = self._ranker.user_vectors(model, rows, device)
                vectors = self._ranker.item_vectors(model, [self._tokens[i] for i in items], device)
                return (users @ vectors.T).double().numpy() / self._ranker.temperature

            kinds, changes = leave_one_out(history, [item], score, self._ranker.prompt.max_history)
        if cited not in kinds:
            return None, len(kinds)
        return 1 + int((changes[:, 0] > changes[kinds.index(cited), 0]).sum()), len(kinds)


def begins(title: str, text: str) -> bool:
    """Whether a text is a title, or the first words of one (such as a title without its year)."""
    words = title_key(text)
    return bool(words) and f"{title_key(title)} ".startswith(f"{words} ")


def share(hits: int, n: int) -> dict[str, Any]:
    """A share with its 95 % Wilson interval."""
    if not n:
        return {"share": None, "n": 0, "ci95": None}
    interval = binomtest(hits, n).proportion_ci(method="wilson")
    return {"share": hits / n, "n": n, "ci95": [float(interval.low), float(interval.high)]}


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Shares over users."""
    n = len(rows)

    def of(test: Any, among: Sequence[dict[str, Any]] = rows) -> dict[str, Any]:
        return share(sum(bool(test(row)) for row in among), len(among))

    judged = [row for row in rows if row["place"] is not None]
    words = Counter(row["continuation"] for row in rows)
    return {
        "users": n,
        "quotes_history_and_item_only": of(lambda r: r["quotes_given_only"]),
        "own_words_kept": of(lambda r: not r["faults"]),
        "faults": {name: of(lambda r, f=name: f in r["faults"]) for name in FAULTS},
        "own_words_name_the_item": of(lambda r: r["names_item"]),
        "own_words_written_to_another_user_too": of(lambda r: words[r["continuation"]] > 1),
        "most_frequent_own_words": dict(words.most_common(5)),
        "free_citation_is_a_title_of_the_history": of(lambda r: r["free_citation_in_history"]),
        "free_citation_is_the_item_itself": of(lambda r: r["free_citation_is_item"]),
        "cites_the_last_item_read": of(lambda r: r["cited_from_the_end"] == 1),
        "cited_is_what_the_score_rests_on_most": of(lambda r: r["place"] == 1, judged)
        | {"chance": float(np.mean([1 / r["of"] for r in judged])) if judged else None},
        "seconds_a_reason": spread([row["seconds"] for row in rows]) if rows else None,
    }


def explain_user(
    row: dict[str, Any], domain: Domain, explainer: Explainer, model: Model, read: int
) -> dict[str, Any]:
    """One user's reason and what is counted of it; the judge's part comes later."""
    titles = [domain.titles[domain.index[item]] for item in row["history"]]
    item = domain.titles[domain.index[row["target"]]]
    started = time.perf_counter()
    reason = explainer.reason(model, titles, item)
    spent = time.perf_counter() - started
    free = free_citation(explainer, model, titles[-read:], item)
    given = {one_line(title, 100) for title in (*titles[-read:], item)}
    return {
        "user_id": row["user_id"],
        "history": titles[-read:],
        "item": item,
        "text": reason.text,
        "continuation": reason.continuation,
        "faults": list(reason.faults),
        "quotes_given_only": set(re.findall(r'"([^"]*)"', reason.text)) <= given,
        "names_item": f" {title_key(item)} " in f" {title_key(reason.continuation)} ",
        "free_citation": free,
        "free_citation_in_history": any(begins(title, free) for title in titles[-read:]),
        "free_citation_is_item": begins(item, free),
        "cited_from_the_end": len(titles) - reason.cited,
        "seconds": spent,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--adapter", type=Path, help="of ranker generate; else the bare backbone")
    parser.add_argument("--judge", type=Path, default=Path("base_spirit"))
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backbone")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(arguments)
    adapter = Adapter.load(resolve(args.adapter)) if args.adapter else None
    judge = Adapter.load(resolve(args.judge))
    recipe = adapter.card.recipe if adapter else Recipe(ranker="generate")
    backbone = load_backbone(args.backbone or (adapter or judge).card.recipe.backbone)
    domain = Domain.load(args.data)
    explainer = Explainer(backbone.tokenizer, recipe.prompt, Titles(domain.titles))
    settings = {
        "adapter_sha256": adapter.sha256 if adapter else None,
        "judge_sha256": judge.sha256,
        "template_sha256": explainer.template_sha256,
        "prompt": recipe.prompt.model_dump(),
        "data_sha256": domain.sha256,
        "users": args.users,
        "seed": args.seed,
    }
    log, marks = args.out / "reasons.jsonl", args.out / "settings.json"
    if marks.exists():
        require_alike(args.out, read_json(marks), settings)
    write_json(marks, settings)
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.exists() else []
    whole = [line for line in lines if line.endswith("\n")]  # a last line may be cut
    log.write_text("".join(whole), encoding="utf-8")
    rows = [json.loads(line) for line in whole]
    table = sample_rows(domain.rows("test_warm"), args.users, args.seed)
    todo = list(table.iter_rows(named=True))[len(rows) :]
    places = Judge(judge, backbone, domain)
    read = recipe.prompt.max_history
    for row in track(todo, "Reasons"):
        with merged(backbone.model, adapter.lora if adapter else None) as model:
            found = explain_user(row, domain, explainer, model, read)
        history = [domain.index[i] for i in row["history"]]
        cited = history[-found["cited_from_the_end"]]
        place, of = places.place(history[-read:], domain.index[row["target"]], cited)
        rows.append(found | {"place": place, "of": of})
        with log.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(rows[-1], ensure_ascii=False) + "\n")
    done = summary(rows)
    write_result(
        args.out / "explanations.json",
        {"settings": settings, "reasons": done, **environment(backbone, domain)},
    )
    Console().print_json(data=done)


if __name__ == "__main__":
    program(main)
