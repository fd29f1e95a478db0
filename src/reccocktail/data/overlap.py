"""Do two domains sell the same things? An audit by title, because ids differ between sources.

An item that a base spirit saw in one domain and that returns as a cold item in another is not new
to the model. The audit counts such items and names them, so that they can be left out.
"""

from collections.abc import Sequence
from itertools import combinations

import polars as pl

from reccocktail.data.domain import Domain
from reccocktail.data.titles import title_key


def overlap(domains: Sequence[Domain]) -> pl.DataFrame:
    """Count the items of each pair of domains whose titles agree (see `title_key`).

    Returns:
        One row a pair: `first`, `second` (names), `first_items`, `second_items` (how many items of
        each have their title in the other), `first_share`, `second_share` (of its catalogue, in [0,
        1]), `shared_titles` (distinct titles in both).
    """
    keys = [[title_key(title) for title in domain.titles] for domain in domains]
    rows = []
    for one, two in combinations(range(len(domains)), 2):
        shared = set(keys[one]) & set(keys[two])
        counts = [sum(key in shared for key in keys[place]) for place in (one, two)]
        rows.append(
            {
                "first": domains[one].name,
                "second": domains[two].name,
                "first_items": counts[0],
                "second_items": counts[1],
                "first_share": counts[0] / max(len(keys[one]), 1),
                "second_share": counts[1] / max(len(keys[two]), 1),
                "shared_titles": len(shared),
            }
        )
    schema = {
        "first": pl.String,
        "second": pl.String,
        "first_items": pl.Int64,
        "second_items": pl.Int64,
        "first_share": pl.Float64,
        "second_share": pl.Float64,
        "shared_titles": pl.Int64,
    }
    return pl.DataFrame(rows, schema=schema)


def overlapping_items(domain: Domain, others: Sequence[Domain]) -> list[str]:
    """Ids of the items of `domain` whose title occurs in another domain, in catalogue order."""
    taken = {title_key(title) for other in others for title in other.titles}
    return [
        item
        for item, title in zip(domain.item_ids, domain.titles, strict=True)
        if title_key(title) in taken
    ]
