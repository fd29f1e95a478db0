"""The users of a batch: a table of ids, with histories of its own or those of the domain."""

import json
from pathlib import Path
from typing import Any

import polars as pl

from reccocktail.data.columns import find_column
from reccocktail.data.domain import Domain
from reccocktail.data.tables import read_table
from reccocktail.errors import DataError
from reccocktail.schema import HISTORY, ITEM, USER

_CHECKED_AT_ONCE = 500_000  # rows
_LIST = pl.List(pl.String())


class UserTable:
    """Rows `user_id`, `history` by number, read a slice at a time where the file is Parquet."""

    def __init__(self, path: Path, domain: Domain, latest: bool = False) -> None:
        """Open a table; nothing is checked but its columns.

        Args:
            path: Parquet, or any text format of `read_table`, with a user column and perhaps a
                column `history`: lists of item ids, oldest first. In CSV and TSV a list is a JSON
                array, or ids between semicolons.
            domain: whose users have their own histories where the table has none: all that comes
                before the held-out test item.
            latest: the domain's histories with the held-out items in them.

        Raises:
            DataError: the file cannot be read, or has no user column, or has histories of its own
                where the domain's latest are asked for.
        """
        self._path, self._domain, self._latest = path, domain, latest
        parquet = path.is_file() and path.suffix.lower() == ".parquet"
        try:
            self._rows = pl.scan_parquet(path, glob=False) if parquet else read_table(path).lazy()
            head = self._rows.head(0).collect()
            self.height: int = self._rows.select(pl.len()).collect().item()
        except (OSError, pl.exceptions.PolarsError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"{path.name} cannot be read ({reason[:200]}); check it.") from error
        user = find_column(head, USER, None, path.name)
        if user is None:
            found = ", ".join(head.columns)
            raise DataError(
                f"{path.name} has no user column (columns found: {found}); name one 'user_id'."
            )
        self._user = user
        self._history = find_column(head, HISTORY, None, path.name)
        if self._history is not None:
            if latest:
                raise DataError(
                    f"{path.name} has histories of its own, and whole ones; leave --latest out."
                )
            kind = head.schema[self._history]
            if kind != pl.String and not isinstance(kind, pl.List):
                raise DataError(
                    f"The column '{self._history}' of {path.name} is {kind}; "
                    "give lists of item ids."
                )
        self._own: pl.DataFrame | None = None

    def rows(self, start: int, count: int) -> pl.DataFrame:
        """`user_id` and `history` (null for an unknown user) of some rows, in the file's order.

        Raises:
            DataError: ids are neither text nor numbers.
        """
        try:
            return self._read(start, count)
        except pl.exceptions.PolarsError as error:
            raise DataError(
                f"{self._path.name} has ids that are neither text nor numbers; give user_id as one "
                "of these, and history as lists of them."
            ) from error

    def _read(self, start: int, count: int) -> pl.DataFrame:
        columns = [pl.col(self._user).alias(USER)]
        if self._history is not None:
            columns.append(pl.col(self._history).alias(HISTORY))
        part = self._rows.slice(start, count).select(columns).collect()
        users = self._histories()[USER] if self._history is None else pl.Series(dtype=pl.String)
        part = part.with_columns(self._text(pl.col(USER), part[USER], users))
        if self._history is None:
            return part.join(self._histories(), on=USER, how="left", maintain_order="left")
        if part.schema[HISTORY] == pl.String:
            lists = [self._parsed(text, start + row) for row, text in enumerate(part[HISTORY], 1)]
            return part.with_columns(pl.Series(HISTORY, lists, dtype=_LIST))
        item = self._text(pl.element(), part[HISTORY].explode(), self._domain.items[ITEM])
        return part.with_columns(pl.col(HISTORY).list.eval(item).cast(_LIST))

    def check(self) -> None:
        """Look at every row before any work is done for one.

        Raises:
            DataError: a row has no user id, an unknown one, no history, or an unknown item in it;
                rows are counted from 1 without a header.
        """
        for start in range(0, self.height, _CHECKED_AT_ONCE):
            part = self.rows(start, _CHECKED_AT_ONCE).with_row_index("row", offset=start + 1)
            name, items = self._domain.name, self._domain.items.select(pl.col(ITEM).alias(HISTORY))
            few = pl.col(HISTORY).is_null() | (pl.col(HISTORY).list.len() == 0)
            unknown = part.explode(HISTORY).join(items, on=HISTORY, how="anti").sort("row")
            item = str(unknown[HISTORY].first())
            faults = [(part.filter(pl.col(USER).is_null()), "has no user id; give one")]
            if self._history is None:
                stranger = f"is no user of {name}; add a column 'history'"
                faults.append((part.filter(pl.col(HISTORY).is_null()), stranger))
            faults.append((part.filter(few), "has an empty history; give at least one item"))
            faults.append((unknown, f"has the item '{item}', which {name} has not"))
            firsts = [(rows.row(0, named=True), what) for rows, what in faults if rows.height]
            if firsts:  # of one row, the fault that comes first here
                row, what = min(firsts, key=lambda fault: int(fault[0]["row"]))
                user = f" (user '{row[USER]}')" if row[USER] is not None else ""
                raise DataError(f"Row {row['row']} of {self._path.name}{user} {what}.")

    def _histories(self) -> pl.DataFrame:
        """The domain's own histories, (user_id, history), each user once."""
        if self._own is None:
            domain = self._domain
            self._own = domain.latest_histories() if self._latest else domain.histories()
        return self._own

    def _text(self, column: pl.Expr, ids: pl.Series, known: pl.Series) -> pl.Expr:
        """A column of `ids` as the domain spells those that it has (`known`), others in one way.

        `prepare` writes whole numbers as such, but as 1.0 where one id of a column is not whole,
        which a table of some users need not hold.
        """
        if not ids.dtype.is_float():
            return column.cast(pl.String)
        values = ids.fill_nan(None).drop_nulls().unique()
        whole = values.set(values != values.round(), None).cast(pl.Int64, strict=False)
        spelled = pl.DataFrame({"whole": whole, "own": values}).cast(pl.String)
        of_domain = [pl.when(pl.col(c).is_in(known.implode())).then(c) for c in spelled.columns]
        text = spelled.select(pl.coalesce(*of_domain, *spelled.columns)).to_series()
        return column.replace_strict(values, text, default=None, return_dtype=pl.String)

    def _parsed(self, text: str | None, row: int) -> list[str] | None:
        if text is None:
            return None
        if not text.strip().startswith("["):
            return [part.strip() for part in text.split(";") if part.strip()]
        try:
            found: Any = json.loads(text)
        except ValueError as error:
            raise DataError(
                f"Row {row} of {self._path.name} has a history that is no JSON array ({error})."
            ) from error
        return [str(item) for item in found]
