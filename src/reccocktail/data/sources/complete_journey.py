"""Complete Journey (84.51°): a year of purchases by 2,469 households, as three domains.

Products have no names. A title is composed from the product's type, category, brand and package
size; products with the same composition are one item, because nothing tells them apart.
"""

import re
from pathlib import Path

import polars as pl

from reccocktail.data.titles import clean_title
from reccocktail.errors import DataError
from reccocktail.schema import CATEGORIES, ITEM, TIME, TITLE, USER

DEPARTMENTS: dict[str, tuple[str, ...]] = {
    "grocery": ("GROCERY", "FROZEN GROCERY"),
    "drug_gm": ("DRUG GM", "COSMETICS"),
    "fresh": (
        "PRODUCE",
        "MEAT",
        "MEAT-PCKGD",
        "DELI",
        "SEAFOOD",
        "SEAFOOD-PCKGD",
        "PASTRY",
        "SALAD BAR",
    ),
}
"""The departments of each domain."""

_PURCHASE_COLUMNS = ("household_id", "product_id", "transaction_timestamp")
_PRODUCT_COLUMNS = (
    "product_id",
    "department",
    "brand",
    "product_category",
    "product_type",
    "package_size",
)
_BRANDS = {"National": "national brand", "Private": "store brand"}
_WORDS = {
    "frzn": "Frozen",
    "frz": "Frozen",
    "refrgratd": "Refrigerated",
    "flvrd": "Flavored",
    "sald": "Salad",
    "drsng": "Dressing",
    "sndwch": "Sandwich",
    "sprd": "Spread",
    "brkfst": "Breakfast",
    "whlsm": "Wholesome",
    "pnt": "Peanut",
    "btr": "Butter",
    "mxs": "Mixes",
    "dnrs": "Dinners",
    "drnk": "Drink",
    "drnks": "Drinks",
    "sft": "Soft",
    "btl": "Bottle",
    "trsh": "Trash",
    "cleang": "Cleaning",
    "wtr": "Water",
    "pwdr": "Powdered",
    "crystl": "Crystal",
    "pkld": "Pickled",
    "bkd": "Baked",
    "misc": "Miscellaneous",
    "cnd": "Canned",
    "fd": "Food",
    "bg": "Bag",
    "bn": "Beans",
    "veg": "Vegetable",
    "ss": "Single Serve",
    "prepack": "Prepacked",
}
_WORD = re.compile(r"[A-Za-z']+")


Domains = dict[str, tuple[pl.DataFrame, pl.DataFrame]]


def read_folder(folder: Path) -> Domains:
    """Read the folder that holds `transactions.parquet` and `products.parquet`."""
    return read_complete_journey(folder / "transactions.parquet", folder / "products.parquet")


def read_complete_journey(transactions: Path, products: Path) -> Domains:
    """Read the purchases of each domain in `DEPARTMENTS`.

    Args:
        transactions: with `household_id, product_id, transaction_timestamp`.
        products: with `product_id, department, brand, product_category, product_type,
            package_size`.

    Returns:
        For each domain the interactions (`user_id, item_id, timestamp` in seconds; a household's
        first purchase of each item, in time order) and the items (`item_id, title, categories`).

    Raises:
        DataError: a file cannot be read or lacks a column.
    """
    goods = _read(products, _PRODUCT_COLUMNS)
    bought = _read(transactions, _PURCHASE_COLUMNS)
    bought = bought.select(
        pl.col("household_id").cast(pl.String).alias(USER),
        "product_id",
        pl.col("transaction_timestamp").dt.epoch("s").alias(TIME),
    ).sort(TIME, maintain_order=True)
    domains = {}
    for name, departments in DEPARTMENTS.items():
        here = goods.filter(
            pl.col("department").is_in(departments)
            & pl.col("product_type").is_not_null()
            & pl.col("product_category").is_not_null()
        ).sort("product_id")
        parts = here.select("product_type", "product_category", "brand", "package_size")
        titles = [product_title(*row) for row in parts.iter_rows()]
        here = here.with_columns(pl.Series(TITLE, titles, dtype=pl.String))
        here = here.with_columns(
            pl.col("product_id").first().over(TITLE).cast(pl.String).alias(ITEM)
        )
        events = (
            bought.join(
                here.select("product_id", ITEM), on="product_id", how="inner", maintain_order="left"
            )
            .unique(subset=[USER, ITEM], keep="first", maintain_order=True)
            .select(USER, ITEM, TIME)
        )
        path = pl.concat_str("department", "product_category", separator=" > ").alias(CATEGORIES)
        items = here.unique(subset=ITEM, keep="first", maintain_order=True).select(
            ITEM, TITLE, path
        )
        domains[name] = (events, items)
    return domains


def product_title(kind: str, category: str, brand: str | None, size: str | None) -> str:
    """Compose a title that a person can read.

    >>> product_title("FRZN FRENCH FRIES", "FRZN POTATOES", "National", "28 OZ")
    'Frozen French Fries (Frozen Potatoes), national brand, 28 oz'
    """
    name, group = _readable(kind), _readable(category)
    title = name if name.casefold() == group.casefold() else f"{name} ({group})"
    parts = [title, _BRANDS.get(brand or ""), size.strip().lower() if size else None]
    return clean_title(", ".join(part for part in parts if part))


def _readable(text: str) -> str:
    """Write an abbreviated name in title case, and close brackets that were cut off."""
    words = _WORD.sub(lambda m: _WORDS.get(m[0].lower(), m[0].capitalize()), text.strip())
    words = re.sub(r"\s+", " ", re.sub(r":(?=\S)", ": ", words))
    return words + ")" * max(0, words.count("(") - words.count(")"))


def _read(path: Path, columns: tuple[str, ...]) -> pl.DataFrame:
    try:
        found = pl.read_parquet_schema(path)
        missing = [column for column in columns if column not in found]
        if missing:
            raise DataError(
                f"{path.name} lacks the column(s) {', '.join(missing)} "
                f"(columns found: {', '.join(found)}); give the file as it is published."
            )
        return pl.read_parquet(path, columns=list(columns), glob=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"{path} cannot be read ({str(error).splitlines()[0]}); fetch it again."
        ) from error
