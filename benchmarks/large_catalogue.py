"""One large domain out of many prepared ones, for measurements of service, batch and index.

    python benchmarks/large_catalogue.py --data PREPARED --data PREPARED ... --out DIR

Users and items of all domains stand side by side, their ids behind the domain's name; of the items
the ones with the shortest titles (in characters) are kept, because reading a catalogue costs by the
token. Everything else is `reccocktail data prepare` without a k-core.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from program import program
from reccocktail.data.domain import Domain
from reccocktail.data.prepare import prepare
from reccocktail.errors import RecipeError
from reccocktail.schema import HISTORY, ITEM, TARGET, TITLE, USER

TIME = "timestamp"


def tables(domains: Sequence[Domain], items: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Interactions (user, item, place in its sequence) and the kept items of all domains.

    Raises:
        RecipeError: the domains have too few items.
    """
    every = pl.concat(
        [
            domain.items.select(pl.format("{}:{}", pl.lit(domain.name), ITEM).alias(ITEM), TITLE)
            for domain in domains
        ]
    )
    if every.height < items:
        raise RecipeError(f"The domains have {every.height:,} items; lower --items from {items:,}.")
    kept = every.sort(pl.col(TITLE).str.len_chars(), ITEM).head(items)
    # The longest sequence of each user: all that comes before the test target, and the target.
    whole = pl.concat_list(HISTORY, TARGET)
    sequences = []
    for domain in domains:
        rows = pl.concat(
            [
                domain.rows(name).select(USER, whole.alias(ITEM))
                for name in ("test_warm", "test_cold")
            ]
            + [domain.train().select(USER, pl.col(HISTORY).alias(ITEM))]
        )
        longest = rows.sort(pl.col(ITEM).list.len(), descending=True).unique(USER, keep="first")
        prefix = pl.lit(domain.name)
        sequences.append(
            longest.with_columns(pl.int_ranges(pl.col(ITEM).list.len()).alias(TIME))
            .explode(ITEM, TIME)
            .with_columns(
                pl.format("{}:{}", prefix, USER).alias(USER),
                pl.format("{}:{}", prefix, ITEM).alias(ITEM),
            )
        )
    return pl.concat(sequences).join(kept, on=ITEM, how="semi").sort(USER, TIME), kept


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    interactions, items = tables([Domain.load(path) for path in options.data], options.items)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / "interactions.parquet", Path(folder) / "items.parquet"]
        interactions.write_parquet(paths[0])
        items.write_parquet(paths[1])
        prepare(*paths, "large", options.out, min_count=1)


if __name__ == "__main__":
    program(main)
