"""A prepared domain: one catalogue, its users' histories, and the rows that choose and judge."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from reccocktail.errors import DataError, RunError
from reccocktail.schema import (
    EVALUATION_TABLES,
    HISTORY,
    ITEM,
    SCENARIOS,
    TARGET,
    TITLE,
    USER,
    Kind,
    validate,
)
from reccocktail.storage import read_json, sha256_file, sha256_json

FORMAT = 1
MANIFEST = "manifest.json"
TABLES = ("items", "train", *EVALUATION_TABLES)
_LONGEST = pl.col(HISTORY).get(pl.col(HISTORY).list.len().arg_max())  # of a user's histories


@dataclass(frozen=True, eq=False)
class Domain:
    """A prepared folder in memory.

    Attributes:
        name: the domain's name.
        path: its folder.
        items: the catalogue: `item_id`, `title`, perhaps `categories`, and `split` (`warm`,
            `valid_cold` or `test_cold`).
        manifest: the content of `manifest.json`.
    """

    name: str
    path: Path
    items: pl.DataFrame
    manifest: dict[str, Any]

    @classmethod
    def load(cls, path: Path) -> "Domain":
        """Open a folder that `reccocktail data prepare` wrote.

        Raises:
            DataError: the folder is missing, incomplete, of another format, or its files changed or
                cannot be read.
        """
        try:
            return cls._load(Path(path))
        except PermissionError as error:
            raise DataError(f"{error.filename} cannot be read; check who may read it.") from error

    @classmethod
    def _load(cls, path: Path) -> "Domain":
        again = "make it with `reccocktail data prepare`"
        if not (path / MANIFEST).is_file():
            what = "has no manifest.json and is not a prepared folder"
            if not path.is_dir():
                what = "is a file, not a prepared folder" if path.exists() else "does not exist"
            raise DataError(f"{path} {what}; {again}.")
        try:
            manifest = read_json(path / MANIFEST)
            version, name, outputs = manifest["format"], manifest["name"], dict(manifest["outputs"])
            if not isinstance(name, str):
                raise TypeError
        except (RunError, KeyError, TypeError, ValueError) as error:
            if isinstance(error.__cause__, PermissionError):
                raise error.__cause__ from None
            raise DataError(
                f"{path / MANIFEST} is damaged; delete the folder and {again} again."
            ) from error
        if version != FORMAT:
            raise DataError(
                f"{path} has format {version} and this version reads format {FORMAT}; {again} "
                "again."
            )
        for table in TABLES:
            file = path / f"{table}.parquet"
            if not file.is_file():
                raise DataError(f"{path} lacks {file.name}; {again} again.")
            if sha256_file(file) != outputs.get(file.name):
                raise DataError(
                    f"{file} is not the file that its manifest describes; {again} again."
                )
        domain = cls(name, path, _read(path / "items.parquet"), manifest)
        validate(domain.items, "catalogue", str(path / "items.parquet"))
        return domain

    @cached_property
    def item_ids(self) -> list[str]:
        """Item ids in the order of the catalogue."""
        return self.items[ITEM].to_list()

    @cached_property
    def titles(self) -> list[str]:
        """Titles in the order of the catalogue."""
        return self.items[TITLE].to_list()

    @cached_property
    def index(self) -> dict[str, int]:
        """Row of each item id in the catalogue."""
        return {item: row for row, item in enumerate(self.item_ids)}

    def train(self) -> pl.DataFrame:
        """Training table: `user_id`, `history` (at least two items, oldest first).

        Raises:
            DataError: it does not keep the promises of its kind, see `schema.validate`, or the
                folder was prepared again since it was loaded.
        """
        return self._table("train", "train")

    def rows(self, table: str) -> pl.DataFrame:
        """One of `EVALUATION_TABLES`: `user_id`, `history`, `target`, `candidates`.

        Raises:
            DataError: there is no table of that name, it does not keep the promises of its kind
                (`schema.validate`), or the folder was prepared again since it was loaded.
        """
        if table not in EVALUATION_TABLES:
            raise DataError(
                f"There is no table '{table}'; choose one of {', '.join(EVALUATION_TABLES)}."
            )
        return self._table(table, "evaluation")

    def _table(self, table: str, kind: Kind) -> pl.DataFrame:
        self._require_same()
        file = self.path / f"{table}.parquet"
        return validate(_read(file), kind, str(file))

    def _require_same(self) -> None:
        """Refuse tables of a folder that was prepared again: their items may be others."""
        try:
            same = read_json(self.path / MANIFEST)["outputs"] == self.manifest["outputs"]
        except (RunError, KeyError, TypeError):
            same = False
        if not same:
            raise DataError(
                f"{self.path} is not the folder that was opened any more; open it again (restart "
                "the command, or plug the domain into the service again)."
            )

    def numbers(self, rows: pl.DataFrame, column: str) -> list[list[int]]:
        """Catalogue rows of each list of item ids, such as a table's histories or candidates."""
        index = self.index
        return [[index[item] for item in row] for row in rows[column].to_list()]

    def histories(self) -> pl.DataFrame:
        """Each user once with all that is known before a held-out test item, (user_id, history).

        That of the warm test row, else of the cold one, neither of which holds what the test asks
        for; of users without one the longest of validation history with its target, and training.
        """
        tests = [self.rows(f"test_{s}").select(USER, HISTORY) for s in ("warm", "cold")]
        others = [_with_target(self.rows(f"valid_{s}")) for s in SCENARIOS]
        rest = pl.concat([*others, self.train().select(USER, HISTORY)])
        rest = rest.group_by(USER, maintain_order=True).agg(_LONGEST)
        return pl.concat([*tests, rest]).unique(USER, keep="first", maintain_order=True)

    def latest_histories(self) -> pl.DataFrame:
        """Each user once with all that the tables say the user chose, (user_id, history).

        In the order of choice, held-out items among it: for those who are recommended to, never for
        an experiment. Of cold items each user's last of either kind is known, `prepare` keeps no
        other; that of validation stands before the last warm item at the latest, and before that
        of the test where no warm item lies between these two.
        """
        cold = [self.rows(f"{part}_cold") for part in ("valid", "test")]
        warm = [_with_target(self.rows(f"{part}_warm")) for part in ("valid", "test")]
        every = [*(t.select(USER, HISTORY) for t in (self.train(), *cold)), *warm]
        # A history is a beginning of its user's warm items: the longest is all of them, and the
        # length of a cold item's history says how many of them came before it.
        known = pl.concat(every).group_by(USER, maintain_order=True).agg(_LONGEST)
        place = pl.int_range(1, pl.len() + 1).over(USER)
        placed = [known.explode(HISTORY).select(USER, HISTORY, place.alias("after"))]
        for rows in cold:
            after = pl.col(HISTORY).list.len().cast(pl.Int64).alias("after")
            placed.append(rows.select(USER, pl.col(TARGET).alias(HISTORY), after))
        together = pl.concat(placed).sort("after", maintain_order=True)
        found = together.group_by(USER).agg(HISTORY)
        return known.select(USER).join(found, on=USER, how="left", maintain_order="left")

    @cached_property
    def touched(self) -> pl.DataFrame:
        """Every user with every item that the tables say the user chose, (user_id, item_id)."""
        pairs = []
        for table in (self.train(), *map(self.rows, EVALUATION_TABLES)):
            pairs.append(table.select(USER, pl.col(HISTORY).alias(ITEM)).explode(ITEM))
            if TARGET in table.columns:
                pairs.append(table.select(USER, pl.col(TARGET).alias(ITEM)))
        return pl.concat(pairs).unique(maintain_order=True)

    def train_counts(self) -> npt.NDArray[np.int64]:
        """Training interactions of each item, shape (items,), read only; 0 for cold items."""
        return self._train_counts

    def untouched(self) -> npt.NDArray[np.bool_]:
        """Whether an item is new, shape (items,): nobody chose it in training."""
        new: npt.NDArray[np.bool_] = self._train_counts == 0
        return new

    @cached_property
    def _train_counts(self) -> npt.NDArray[np.int64]:
        found = (
            self.train().select(pl.col(HISTORY).explode().alias(ITEM)).group_by(ITEM).len("count")
        )
        counts = self.items.select(ITEM).join(found, on=ITEM, how="left", maintain_order="left")[
            "count"
        ]
        numbers = counts.fill_null(0).cast(pl.Int64).to_numpy().copy()
        numbers.flags.writeable = False
        return numbers

    @property
    def sha256(self) -> str:
        """One hash over all prepared tables, from the manifest."""
        return sha256_json(self.manifest["outputs"])


def _read(file: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(file, glob=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"{file} cannot be read; make it with `reccocktail data prepare` again."
        ) from error


def _with_target(rows: pl.DataFrame) -> pl.DataFrame:
    """(user_id, history) of evaluation rows, the target last in the history."""
    return rows.select(USER, pl.concat_list(HISTORY, TARGET).alias(HISTORY))


def sample_rows(rows: pl.DataFrame, users: int, seed: int) -> pl.DataFrame:
    """At most `users` rows, drawn without replacement, in the table's order."""
    if rows.height <= users:
        return rows
    chosen = np.sort(np.random.default_rng(seed).choice(rows.height, size=users, replace=False))
    return rows.select(pl.all().gather(chosen))
