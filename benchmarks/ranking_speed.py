"""Users a second of every way of ranking, for `published_cost.py`: the same users, one backbone.

An adapter that is merged into the weights costs nothing, so the bare backbone stands for any. Ways
take the users in turns, a few at a time, so that what else the machine does hits all alike.
"""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from transformers import GenerationConfig

from costs import seconds
from reccocktail.backbone import Backbone
from reccocktail.data.domain import Domain, sample_rows
from reccocktail.errors import RecipeError
from reccocktail.evaluation.metrics import FloatArray
from reccocktail.progress import bar
from reccocktail.ranking import build
from reccocktail.ranking.answers import lengths_of
from reccocktail.ranking.dense import DenseRanker
from reccocktail.ranking.generate import GenerateRanker
from reccocktail.ranking.scoring import Catalogue, ItemVectors, score
from reccocktail.recipe import GenerateSettings, PromptSettings, Recipe

TITLES = 5  # that are decoded, as in the published code
WAYS: dict[str, Recipe] = {
    "generate, plain decoding": Recipe(
        ranker="generate", generate=GenerateSettings(answer="published", titles=TITLES)
    ),
    "generate, constrained decoding": Recipe(
        ranker="generate",
        generate=GenerateSettings(answer="published", titles=TITLES, ranking="constrained"),
    ),
    "generate, likelihood": Recipe(ranker="generate"),
    "choice": Recipe(ranker="choice"),
    "dense": Recipe(ranker="dense"),
}
Rank = Callable[[pl.DataFrame], object]


@torch.no_grad()
def decode_plainly(
    backbone: Backbone, catalogue: Catalogue[GenerateRanker], rows: pl.DataFrame
) -> int:
    """Write freely and greedily, user by user; gives the tokens written.

    An adapter that was not trained does not know where to stop, so each user gets as many tokens as
    `TITLES` of its candidates' titles take on average, with separators and the end.
    """
    ranker = catalogue.ranker
    batch = ranker.ranking_batch(
        catalogue.histories(rows), catalogue.candidates(rows), catalogue.tokens
    )
    written = 0
    for ids, answers in zip(batch["prompt_ids"], batch["answers"], strict=True):
        # An answer's tokens hold what stands behind the title: a separator each, or the end.
        taken = lengths_of(answers)
        tokens = round(TITLES * float(taken[taken > 0].float().mean()))
        prompt = ids[: int(lengths_of(ids))][None].to(backbone.device)
        settings = GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            pad_token_id=backbone.tokenizer.pad_token_id,
            eos_token_id=ranker.instruction.end,
        )
        found = backbone.model.generate(
            prompt, attention_mask=torch.ones_like(prompt), generation_config=settings
        )
        written += found.shape[1] - prompt.shape[1]
    return written


def prepare(
    name: str, backbone: Backbone, domain: Domain, prompt: PromptSettings, rows: pl.DataFrame
) -> Rank:
    """A function that ranks some rows' candidates; what is done once a catalogue is done here.

    Raises:
        RecipeError: the backbone cannot rank this way.
    """
    recipe = WAYS[name].model_copy(update={"prompt": prompt})
    ranker = build(backbone, recipe)
    if isinstance(ranker, DenseRanker):
        dense = Catalogue.of(domain, ranker)
        items = ItemVectors(dense)
        needed = items.missing(item for row in dense.candidates(rows) for item in row)
        items.add(backbone.model, needed, backbone.device, int)

        def rank(some: pl.DataFrame) -> object:
            users = ranker.user_vectors(backbone.model, dense.histories(some), backbone.device)
            return [
                ranker.logits(user[None], items.of(row))
                for user, row in zip(users, dense.candidates(some), strict=True)
            ]

        return rank
    if name == "generate, plain decoding":
        assert isinstance(ranker, GenerateRanker)
        written = Catalogue.of(domain, ranker)
        return lambda some: decode_plainly(backbone, written, some)
    catalogue = Catalogue.of(domain, ranker)
    catalogue.ranker.ranking_batch(  # refuses what it cannot read before the clock starts
        catalogue.histories(rows[:1]), catalogue.candidates(rows[:1]), catalogue.tokens
    )
    return lambda some: score(backbone.model, catalogue, [some], name, entropy=False)


def speed(spent: Sequence[tuple[int, float]]) -> dict[str, Any]:
    """Users a second over chunks of (users, seconds), with an interval from resampled chunks."""
    users: FloatArray = np.array([n for n, _ in spent], dtype=np.float64)
    taken: FloatArray = np.array([s for _, s in spent])
    drawn = np.random.default_rng(0).integers(0, len(users), size=(2000, len(users)))
    low, high = np.percentile(users[drawn].sum(1) / taken[drawn].sum(1), [2.5, 97.5])
    return {
        "users": int(users.sum()),
        "chunks": len(users),
        "users_a_second": float(users.sum() / taken.sum()),
        "ci95": [float(low), float(high)],
    }


def measure(
    backbone: Backbone,
    domain: Domain,
    prompt: PromptSettings,
    users: int,
    chunk: int,
    minutes: float | None,
    log: Path,
) -> dict[str, Any]:
    """Measure all ways; what is in `log` (JSON lines, one a way and chunk) is not measured again.

    Args:
        backbone: the model.
        domain: prepared domain; its test_warm users are ranked.
        prompt: truncation of titles and histories.
        users: so many at most.
        chunk: users that a way takes at a time.
        minutes: no chunk is begun later than this; None for no limit.
        log: file of finished chunks.
    """
    rows = sample_rows(domain.rows("test_warm"), users, seed=0)
    chunks = [rows[start : start + chunk] for start in range(0, rows.height, chunk)]
    done = _read(log)
    ranks: dict[str, Rank] = {}
    skipped: dict[str, str] = {}
    started = time.monotonic()
    with bar("Ranking speed", len(WAYS) * len(chunks)) as advance:
        for number, some in enumerate(chunks):
            for name in WAYS:
                late = minutes is not None and time.monotonic() - started > 60 * minutes
                if (name, number) in done or name in skipped or (late and done):
                    advance(1)
                    continue
                try:
                    if name not in ranks:
                        ranks[name] = prepare(name, backbone, domain, prompt, rows)
                        ranks[name](some[:1])  # the first pass pays for what all need
                except RecipeError as error:
                    skipped[name] = str(error)
                    advance(1)
                    continue
                work = ranks[name]
                spent = seconds(lambda w=work, s=some: w(s), backbone.device)
                done[name, number] = some.height, spent
                with log.open("a", encoding="utf-8") as stream:
                    line = {"way": name, "chunk": number, "users": some.height, "seconds": spent}
                    stream.write(json.dumps(line) + "\n")
                advance(1, f"Ranking speed ({name})")
    found = {
        name: speed([value for (way, _), value in sorted(done.items()) if way == name])
        for name in WAYS
        if any(way == name for way, _ in done)
    }
    return {
        "ways": found,
        "skipped": skipped,
        "complete": len(done) == (len(WAYS) - len(skipped)) * len(chunks),
        "adapter": "none: the bare backbone, as fast as with an adapter merged into it",
        "decoded_titles": TITLES,
    }


def _read(log: Path) -> dict[tuple[str, int], tuple[int, float]]:
    if not log.exists():
        return {}
    whole = [line for line in log.read_text("utf-8").splitlines(keepends=True) if line[-1] == "\n"]
    log.write_text("".join(whole), encoding="utf-8")  # a last line may have been cut
    rows = [json.loads(line) for line in whole]
    return {(row["way"], row["chunk"]): (row["users"], row["seconds"]) for row in rows}
