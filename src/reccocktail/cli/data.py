"""From raw tables to prepared domains."""

from pathlib import Path
from typing import Literal

from rich.table import Column, Table

from reccocktail.cli.shared import Whole, data_app, output
from reccocktail.errors import DataError


@data_app.command(name="list")
def list_sources() -> None:
    """List what `data fetch` can get."""
    from reccocktail.data.fetch import SOURCES

    table = Table(
        Column("name", no_wrap=True, min_width=max(map(len, SOURCES))), "what", "size", "licence"
    )
    for source in SOURCES.values():
        size = "?" if source.bytes is None else f"{source.bytes / 1e6:,.0f} MB"
        table.add_row(source.name, source.description, size, source.licence)
    output.print(table)


@data_app.command(name="fetch")
def fetch_source(name: str, *, out: Path | None = None) -> None:
    """Download a named source, check it, and turn it into tables; a second call does nothing.

    Args:
        name: one of `reccocktail data list`.
        out: folder to make; in the cache folder if left out.
    """
    from reccocktail.data.fetch import fetch

    output.print(str(fetch(name, out)), soft_wrap=True, highlight=False)


@data_app.command(name="prepare")
def prepare_domain(
    *,
    interactions: Path,
    items: Path,
    name: str,
    out: Path,
    min_count: Whole = 5,
    cold_fraction: float = 0.1,
    split: Literal["leave-one-out", "global-time"] = "leave-one-out",
    negatives: Whole = 29,
    seed: Whole = 0,
    min_rating: float | None = None,
    missing_titles: Literal["drop", "id"] = "drop",
    valid_from: float = 0.8,
    test_from: float = 0.9,
    user_column: str | None = None,
    item_column: str | None = None,
    time_column: str | None = None,
    rating_column: str | None = None,
    title_column: str | None = None,
) -> None:
    """Turn a table of interactions and a table of items into a prepared folder.

    Args:
        interactions: Parquet, CSV, TSV or JSON lines (also .gz).
        items: the catalogue with titles, in any of these forms.
        name: the domain's name.
        out: folder to write.
        min_count: least interactions of a user and of an item (k-core).
        cold_fraction: share of the items kept out of training, half for validation, half for test.
        split: each user's last item, or all that comes after a moment.
        negatives: candidates beside the target, never touched by the user.
        seed: same seed, same files.
        min_rating: drop interactions rated lower.
        missing_titles: drop items without a title, or show their id as one.
        valid_from: global-time only: share of the interactions before validation starts.
        test_from: global-time only: share of the interactions before the test starts.
        user_column: name of the user column, if it is not a common one.
        item_column: the same for the item column.
        time_column: the same for the time column.
        rating_column: the same for the rating column.
        title_column: the same for the title column.
    """
    from reccocktail.data.prepare import prepare

    domain = prepare(
        interactions,
        items,
        name,
        out,
        min_count=min_count,
        cold_fraction=cold_fraction,
        split=split,
        negatives=negatives,
        seed=seed,
        min_rating=min_rating,
        missing_titles=missing_titles,
        valid_from=valid_from,
        test_from=test_from,
        user_column=user_column,
        item_column=item_column,
        time_column=time_column,
        rating_column=rating_column,
        title_column=title_column,
    )
    table = Table("table", "rows")
    table.add_row("items", f"{len(domain.item_ids):,}")
    table.add_row("train", f"{domain.train().height:,}")
    for part in ("valid_warm", "valid_cold", "test_warm", "test_cold"):
        table.add_row(part, f"{domain.rows(part).height:,}")
    output.print(table)


@data_app.command
def overlap(*, data: list[Path]) -> None:
    """Count the items whose titles occur in two of the domains.

    Args:
        data: prepared folders, two or more.
    """
    from reccocktail.data.domain import Domain
    from reccocktail.data.overlap import overlap as audit

    if len(data) < 2:
        raise DataError("Titles are compared between domains; give --data twice or more.")
    table = Table("first", "second", "shared titles", "share of first", "share of second")
    for row in audit([Domain.load(path) for path in data]).iter_rows(named=True):
        shares = (f"{100 * row[key]:.2f} %" for key in ("first_share", "second_share"))
        table.add_row(row["first"], row["second"], str(row["shared_titles"]), *shares)
    output.print(table)
