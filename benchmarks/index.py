"""Recall and time of the item index: the graph against the exact matrix product.

Usage: python benchmarks/index.py [--items 100000 --items 1000000] [--width 576] [--out FILE]

The vectors are drawn (seeded) as item vectors of a language model lie: all share a direction, two
levels of clusters of unequal sizes stand around it, and queries come from the same clusters. Every
figure is of one thread. A million vectors of width 576 take 2.3 GB, twice while both indexes stand.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from program import program
from provenance import machine, write_result
from reccocktail.serving.index import Index

K = 10
SEEN = 10  # items a query excludes


def clustered(
    items: int, queries: int, width: int, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Unit vectors of items (items, width) and of queries (queries, width)."""
    rng = np.random.default_rng(seed)

    def unit(vectors: NDArray[Any]) -> NDArray[np.float32]:
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return (vectors / lengths).astype(np.float32)

    def noise(rows: int) -> NDArray[np.float32]:
        return rng.standard_normal((rows, width), dtype=np.float32) / np.float32(width**0.5)

    common = unit(noise(1))
    top = unit(noise(50))
    fine = unit(
        top[rng.integers(50, size=max(2, items // 100))] + 0.7 * noise(max(2, items // 100))
    )
    share = 1 / np.arange(1, len(fine) + 1) ** 0.7

    def draw(rows: int) -> NDArray[np.float32]:
        chosen = rng.choice(len(fine), size=rows, p=share / share.sum())
        found = np.empty((rows, width), dtype=np.float32)
        for start in range(0, rows, 50_000):  # little memory beside the result
            part = slice(start, start + 50_000)
            found[part] = unit(fine[chosen[part]] + noise(len(chosen[part])) + 0.8 * common)
        return found

    return draw(items), draw(queries)


def timed(index: Index, queries: NDArray[np.float32], exclude: list[list[int]]) -> dict[str, Any]:
    """Milliseconds a query, one by one and all together, and what was found."""
    started = time.perf_counter()
    ids, _ = index.search(queries, K, exclude)
    together = time.perf_counter() - started
    few = min(len(queries), 100)
    started = time.perf_counter()
    for row in range(few):
        index.search(queries[row : row + 1], K, exclude[row : row + 1])
    alone = time.perf_counter() - started
    return {"ms_batched": 1e3 * together / len(queries), "ms_single": 1e3 * alone / few, "ids": ids}


def measure(items: int, queries: int, width: int) -> dict[str, Any]:
    """Both indexes on the same vectors."""
    vectors, asked = clustered(items, queries, width)
    rng = np.random.default_rng(1)
    exclude = rng.integers(items, size=(queries, SEEN)).tolist()
    exact = timed(Index(vectors, exact=True), asked, exclude)
    started = time.perf_counter()
    index = Index(vectors, exact=False)
    build = time.perf_counter() - started
    graph = timed(index, asked, exclude)
    pairs = zip(exact.pop("ids"), graph.pop("ids"), strict=True)
    recall = np.array([len(set(one) & set(other)) / K for one, other in pairs])
    return {
        "items": items,
        "exact": exact,
        "graph": graph | {"build_seconds": build},
        "recall@10": {"mean": float(recall.mean()), "p5": float(np.quantile(recall, 0.05))},
    }


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print a table, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, action="append")
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    about = machine(torch.device("cpu"))
    rows = [
        measure(items, options.queries, options.width)
        for items in options.items or [100_000, 1_000_000]
    ]
    table = Table("items", "exact ms", "graph ms", "graph built in s", "recall@10")
    for row in rows:
        cells = (
            row["exact"]["ms_single"],
            row["graph"]["ms_single"],
            row["graph"]["build_seconds"],
        )
        table.add_row(
            f"{row['items']:,}", *(f"{c:.2f}" for c in cells), f"{row['recall@10']['mean']:.4f}"
        )
    Console().print(table)
    result = {
        "settings": {"queries": options.queries, "width": options.width, "k": K, "excluded": SEEN},
        "rows": rows,
        **about,
    }
    if options.out:
        write_result(options.out, result)
    return result


if __name__ == "__main__":
    program(main)
