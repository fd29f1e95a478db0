"""Raw tables -> a prepared folder: filter, split, draw candidates, write a manifest."""

import math
from dataclasses import asdict, dataclass
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reccocktail.data.candidates import Touched, draw_candidates, enough_left
from reccocktail.data.columns import as_interactions, as_items, has_column
from reccocktail.data.domain import FORMAT, MANIFEST, TABLES, Domain
from reccocktail.data.filtering import Log, Mask
from reccocktail.data.ingest import encode, keep_usable, require_times, touched_pairs
from reccocktail.data.splitting import (
    TEST_COLD,
    Rows,
    Split,
    choose_cold,
    drop_unknown_targets,
    global_time,
    leave_one_out,
    prefix_index,
)
from reccocktail.data.tables import read_table
from reccocktail.errors import DataError
from reccocktail.progress import say
from reccocktail.schema import (
    CANDIDATES,
    EVALUATION_TABLES,
    HISTORY,
    ITEM,
    ITEM_SPLITS,
    SPLIT,
    TARGET,
    TIME,
    TITLE,
    USER,
)
from reccocktail.storage import atomic_dir, require_replaceable, sha256_file, write_json

_MANIFEST_KEYS = ("format", "name", "rule", "outputs")  # tell it from any other manifest.json
RULES = {
    "leave-one-out": (
        "Each user's last warm item is the warm test target, the last but one the warm validation "
        "target, the "
        "rest is training if it has at least two items. Cold items are a random share of the "
        "catalogue; a cold "
        "target is the user's last one with a warm item before it. Histories hold only warm items "
        "that came "
        "before the target; validation histories leave out the warm test target."
    ),
    "global-time": (
        "Training is what came before t1 if a user has at least two warm items there, validation "
        "targets lie in "
        "[t1, t2) and test targets from t2 on, for all users; a target is a user's last warm or "
        "cold item in the "
        "window. Cold items are those first seen in the window. Histories hold all warm items "
        "before the target."
    ),
}


def prepare(
    interactions: Path,
    items: Path,
    name: str,
    out: Path,
    *,
    min_count: int = 5,
    cold_fraction: float = 0.1,
    split: Literal["leave-one-out", "global-time"] = "leave-one-out",
    negatives: int = 29,
    seed: int = 0,
    min_rating: float | None = None,
    missing_titles: Literal["drop", "id"] = "drop",
    valid_from: float = 0.8,
    test_from: float = 0.9,
    user_column: str | None = None,
    item_column: str | None = None,
    time_column: str | None = None,
    rating_column: str | None = None,
    title_column: str | None = None,
) -> Domain:
    """Turn two raw tables into a prepared folder. The same call writes the same bytes.

    Args:
        interactions: file with users, items and, best, times; without times the file's order
            counts.
        items: file with items and titles.
        name: the domain's name.
        out: folder to write; an older prepared folder there is replaced as a whole.
        min_count: every user and every item keeps at least this many interactions (k-core); 1 keeps
            all.
        cold_fraction: share of the items that are cold, in [0, 0.5]; half for validation, half for
            the test. Not used by the global-time split, where new items are the cold ones.
        split: hold out each user's last items, or cut time at the same moments for all.
        negatives: candidates beside the target, at least 1.
        seed: of cold items and candidates.
        min_rating: least rating of an interaction that counts as positive; None keeps all.
        missing_titles: drop items without a title, or show their id instead.
        valid_from: global-time only: share of the interactions before validation starts.
        test_from: global-time only: share of the interactions before the test starts.
        user_column: column with user ids, if it has no common name.
        item_column: column with item ids, if it has no common name.
        time_column: column with times, if it has no common name.
        rating_column: column with ratings, if it has no common name.
        title_column: column with titles, if it has no common name.

    Raises:
        DataError: a parameter is out of range, a table cannot be used, nothing is left, or `out`
            holds other files.
        RunError: `out` cannot be written.
    """
    settings = _Settings(
        min_count=min_count,
        cold_fraction=cold_fraction,
        split=split,
        negatives=negatives,
        min_rating=min_rating,
        missing_titles=missing_titles,
        valid_from=valid_from,
        test_from=test_from,
    )
    settings.check(name, seed)
    settings.note_unread()
    files = {"interactions": Path(interactions), "items": Path(items)}
    out = Path(out)
    check_out(out, tuple(files.values()))
    tables = {kind: read_table(path) for kind, path in files.items()}
    # Ids may have an uncommon name in one table alone.
    named = {kind: item_column and has_column(table, item_column) for kind, table in tables.items()}
    events = as_interactions(
        tables["interactions"],
        files["interactions"].name,
        user_column=user_column,
        item_column=None if named["items"] and not named["interactions"] else item_column,
        time_column=time_column,
        rating_column=rating_column,
        rated=min_rating is not None,
    )
    if TIME not in events.columns:
        say(
            f"{files['interactions'].name} has no time column that is known by its name (columns: "
            f"{', '.join(tables['interactions'].columns)}), so its order counts; if one of them "
            "holds times, name it with --time-column."
        )
    catalogue = as_items(
        tables["items"],
        files["items"].name,
        item_column=item_column if named["items"] else None,
        title_column=title_column,
    )
    inputs = {
        kind: {"file": path.name, "sha256": sha256_file(path)} for kind, path in files.items()
    }
    counts: list[dict[str, Any]] = []
    title_counts: dict[str, int] = {}
    raw = encode(events, catalogue, missing_titles, counts, title_counts)
    del events, tables
    if split == "global-time":
        require_times(raw)
    log, user_of, item_of = keep_usable(raw, min_rating, min_count, counts)
    parts = settings.parts(log, len(user_of), len(item_of), seed)
    touched = touched_pairs(raw, user_of, item_of)
    _leave_out_heavy(parts, touched, negatives)
    _require_rows(parts, split, cold_fraction)
    kept = raw.items[item_of].with_columns(
        pl.Series(SPLIT, np.array(ITEM_SPLITS)[parts.kind].tolist(), dtype=pl.String)
    )
    title_counts["duplicate titles kept"] = kept.height - kept[TITLE].n_unique()
    with atomic_dir(out) as folder:
        _write(folder, parts, raw.users.gather(user_of), kept, touched, negatives, seed)
        manifest = {
            "format": FORMAT,
            "name": name,
            "seed": seed,
            "settings": settings.card(),
            "rule": RULES[split],
            "inputs": inputs,
            "counts": counts,
            "items": {
                kind: int(np.sum(parts.kind == code)) for code, kind in enumerate(ITEM_SPLITS)
            },
            "rows": {"train": len(parts.train)}
            | {table: len(parts.tables[table]) for table in EVALUATION_TABLES},
            "train_interactions": int(parts.train.length.sum()),
            "skipped": parts.skipped,
            "titles": title_counts,
            "outputs": {file.name: sha256_file(file) for file in sorted(folder.glob("*.parquet"))},
        }
        write_json(folder / MANIFEST, manifest)
    return Domain.load(out)


_UNREAD = {"leave-one-out": ("valid_from", "test_from"), "global-time": ("cold_fraction",)}
"""Settings that a split does not read."""


@dataclass(frozen=True)
class _Settings:
    """What decides a prepared folder beside its tables and the seed; see `prepare`."""

    min_count: int
    cold_fraction: float
    split: str
    negatives: int
    min_rating: float | None
    missing_titles: str
    valid_from: float
    test_from: float

    def check(self, name: str, seed: int) -> None:
        """Refuse what is out of range.

        Raises:
            DataError: names the setting, its value and its range.
        """
        wrong = [
            (
                not name.strip() or "/" in name or "\\" in name,
                f"name '{name}' must be a word without slashes",
            ),
            (self.min_count < 1, f"min-count is {self.min_count} and must be at least 1"),
            (
                not 0 <= self.cold_fraction <= 0.5,
                f"cold-fraction is {self.cold_fraction} and must be between 0 and 0.5",
            ),
            (
                self.min_rating is not None and not math.isfinite(self.min_rating),
                f"min-rating is {self.min_rating} and must be a number",
            ),
            (self.split not in RULES, f"split is '{self.split}' and must be {' or '.join(RULES)}"),
            (self.negatives < 1, f"negatives is {self.negatives} and must be at least 1"),
            (seed < 0, f"seed is {seed} and must not be negative"),
            (
                self.missing_titles not in ("drop", "id"),
                f"missing-titles is '{self.missing_titles}' and must be drop or id",
            ),
            (
                not 0 < self.valid_from < self.test_from < 1,
                f"valid-from {self.valid_from} and test-from {self.test_from} must satisfy "
                "0 < valid-from < test-from < 1",
            ),
        ]
        for broken, message in wrong:
            if broken:
                raise DataError(f"{message[0].upper()}{message[1:]}.")

    def parts(self, log: Log, users: int, items: int, seed: int) -> Split:
        """Training and evaluation rows of a filtered log."""
        if self.split == "global-time":
            return global_time(log, users, items, self.valid_from, self.test_from)
        rng = np.random.default_rng([seed, 0])
        return leave_one_out(log, users, choose_cold(items, self.cold_fraction, rng))

    def card(self) -> dict[str, Any]:
        """As the manifest has them; None for what the split does not read."""
        return asdict(self) | dict.fromkeys(_UNREAD[self.split])

    def note_unread(self) -> None:
        """Say of what was asked for that the split does not read it."""
        usual = signature(prepare).parameters
        for name in _UNREAD[self.split]:
            if getattr(self, name) != usual[name].default:
                say(f"--{name.replace('_', '-')} means nothing for the {self.split} split.")


def _write(
    folder: Path,
    parts: Split,
    users: pl.Series,
    items: pl.DataFrame,
    touched: Touched,
    negatives: int,
    seed: int,
) -> None:
    """Write the catalogue, the training table, and evaluation tables with drawn candidates."""
    write_table(items, folder / "items.parquet")
    write_table(_table(parts, parts.train, users, items[ITEM]), folder / "train.parquet")
    for number, table in enumerate(EVALUATION_TABLES, 1):
        rng = np.random.default_rng([seed, number])
        candidates = _candidates(parts, table, touched, negatives, rng)
        frame = _table(parts, parts.tables[table], users, items[ITEM])
        write_table(
            _with_candidates(frame, parts.tables[table].target, candidates, items[ITEM]),
            folder / f"{table}.parquet",
        )


def _table(split: Split, rows: Rows, users: pl.Series, item_ids: pl.Series) -> pl.DataFrame:
    """User ids and histories of rows, from their warm prefixes."""
    places = split.warm_item[prefix_index(split.offset[rows.user], rows.length)]
    row = np.repeat(np.arange(len(rows)), rows.length)
    flat = pl.DataFrame({"row": row, HISTORY: item_ids.gather(places)})
    history = flat.group_by("row", maintain_order=True).agg(HISTORY)[HISTORY]
    return pl.DataFrame([users.gather(rows.user).alias(USER), history])


def _candidates(
    split: Split,
    table: str,
    touched: Touched,
    negatives: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Item numbers (rows, negatives + 1) of an evaluation table's candidates."""
    rows = split.tables[table]
    return draw_candidates(rows.user, rows.target, _allowed(split, table), touched, negatives, rng)


def _allowed(split: Split, table: str) -> Mask:
    """Which items may be negatives: a test item is part of no validation row, not even so."""
    every = np.full(len(split.kind), True)
    return split.kind != TEST_COLD if table.startswith("valid") else every


def _leave_out_heavy(parts: Split, touched: Touched, negatives: int) -> None:
    """Leave out rows of users who touched nearly all items, unless they are all there are."""
    for table in EVALUATION_TABLES:
        rows = parts.tables[table]
        enough = enough_left(rows.user, _allowed(parts, table), touched, negatives)
        if enough.any() and not enough.all():
            parts.tables[table] = rows.take(enough)
            few = int((~enough).sum())
            parts.skipped[f"{table}: fewer than {negatives} items never touched"] = few
            say(
                f"{table}: {few:,} of {len(rows):,} users are left out, who touched all but fewer "
                f"than {negatives} items; a smaller --negatives keeps them."
            )
    drop_unknown_targets(parts)


def _with_candidates(
    frame: pl.DataFrame,
    targets: NDArray[np.int64],
    candidates: NDArray[np.int64],
    item_ids: pl.Series,
) -> pl.DataFrame:
    """Rows with the ids of their target and of their candidates."""
    lists = pl.Series(CANDIDATES, [], dtype=pl.List(pl.String))
    if len(targets):
        ids = item_ids.gather(candidates.ravel()).reshape(candidates.shape)
        lists = ids.arr.to_list().alias(CANDIDATES)
    return frame.with_columns(item_ids.gather(targets).alias(TARGET), lists)


def write_table(frame: pl.DataFrame, path: Path) -> None:
    """Write one table of a prepared folder; the same table gives the same bytes."""
    frame.write_parquet(
        path, compression="zstd", compression_level=3, statistics=False, row_group_size=250_000
    )


def _require_rows(parts: Split, split: str, cold_fraction: float) -> None:
    way_out = "give more users, or longer histories"
    if split == "global-time":
        way_out += ", or move --valid-from and --test-from"
    elif cold_fraction > 0:
        way_out += ", or lower --cold-fraction"
    if not len(parts.train):
        raise DataError(
            "No user has two items to train on after the split; give longer histories or lower "
            "--min-count."
        )
    for table in ("valid_warm", "test_warm"):
        if not len(parts.tables[table]):
            reasons = [
                f"{count:,} left out: {what}"
                for reason, count in parts.skipped.items()
                for where, _, what in [reason.partition(": ")]
                if where == table and count
            ]
            why = f" ({'; '.join(reasons)})" if reasons else ""
            raise DataError(f"The split leaves no row in {table}{why}; {way_out}.")


def check_out(out: Path, inputs: tuple[Path, ...]) -> None:
    """Refuse a folder that holds other files than a prepared folder's, or the inputs."""
    if any(out.resolve() in path.resolve().parents for path in inputs):
        raise DataError(
            f"{out} holds the input files and would be replaced; choose another folder."
        )
    files = [f"{table}.parquet" for table in TABLES]
    require_replaceable(out, "a prepared folder", MANIFEST, _MANIFEST_KEYS, files, DataError)
