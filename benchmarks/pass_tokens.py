"""How many tokens should one forward pass hold when histories become vectors?

    python benchmarks/pass_tokens.py --data PREPARED [--tokens 6000] [--rounds 3] \
        [--precision float32] [--out results/pass_tokens.json]

The same test users are read in passes of each size, in turns, in an order that is drawn anew each
round. Tokens a second, padding left out; ratios are of a round's seconds, to those of the largest
size. Bare backbone.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from arguments import asked_backbone, backbone_arguments
from costs import seconds
from program import program
from provenance import environment, write_result
from reccocktail.data.domain import Domain
from reccocktail.errors import RunError
from reccocktail.progress import bar
from reccocktail.prompting.encoding import TokenIds
from reccocktail.ranking import build, dense
from reccocktail.ranking.base import pass_tokens
from reccocktail.ranking.dense import DenseRanker
from reccocktail.ranking.scoring import Catalogue
from reccocktail.recipe import Recipe
from reccocktail.training.model import scoring
from spreads import range_text, ratio_in_words, ratio_of_pairs, spread

SIZES = (128, 256, 512, 1024, 2048, 4096)
GPU_SIZES = (1024, 4096, 16384, 65536)


def taken(
    ranker: DenseRanker, histories: Sequence[list[TokenIds]], tokens: int
) -> tuple[list[list[TokenIds]], int]:
    """The first histories that hold so many tokens together, and how many they hold."""
    held, found = 0, []
    for history in histories:
        if held >= tokens:
            break
        held += len(ranker.encoder.history(ranker.recent(history))[0])
        found.append(history)
    return found, held


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=6000, help="of all histories together")
    parser.add_argument("--rounds", type=int, default=3)
    backbone_arguments(parser)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(arguments)
    if args.tokens < 1 or args.rounds < 1:
        raise RunError("--tokens and --rounds must be at least 1; raise them.")
    domain = Domain.load(args.data)
    recipe = Recipe()
    backbone = asked_backbone(args, recipe)
    ranker = build(backbone, recipe)
    assert isinstance(ranker, DenseRanker)
    histories = Catalogue.of(domain, ranker).histories(domain.rows("test_warm"))
    users, tokens = taken(ranker, histories, args.tokens)
    tried = SIZES if backbone.device.type == "cpu" else GPU_SIZES
    spent: dict[int, list[float]] = {size: [] for size in tried}
    order = np.random.default_rng(0)
    with scoring(backbone, None) as model, bar("Passes", args.rounds * len(tried)) as advance:
        ranker.user_vectors(model, users[:8], backbone.device)  # what only the first pass pays for
        own = pass_tokens(model)
        try:
            for _ in range(args.rounds):
                for size in order.permutation(tried).tolist():
                    dense.pass_tokens = lambda _, size=size: size
                    read = partial(ranker.user_vectors, model, users, backbone.device)
                    spent[size].append(seconds(read, backbone.device))
                    advance(1, f"Passes of {size}")
        finally:
            dense.pass_tokens = pass_tokens
    sizes: dict[str, Any] = {
        str(size): {
            "tokens_a_second": spread([tokens / value for value in values]),
            "speedup": ratio_of_pairs(spent[tried[-1]], values),
        }
        for size, values in spent.items()
    }
    table = Table("tokens of a pass", "tokens a second", f"against {tried[-1]}")
    for size, found in sizes.items():
        rate, ratio = found["tokens_a_second"], found["speedup"]
        table.add_row(
            f"{size} (ours)" if int(size) == own else size,
            range_text(rate, 0),
            ratio_in_words(ratio),
        )
    if args.out:
        write_result(
            args.out,
            {
                "benchmark": "pass_tokens",
                "users": len(users),
                "tokens": tokens,
                "rounds": args.rounds,
                "ours": own,
                "sizes": sizes,
                **environment(backbone, domain),
            },
        )
    Console().print(table)


if __name__ == "__main__":
    program(main)
