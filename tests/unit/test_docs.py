"""What the documentation says of the code is so: names import, files exist, examples fit."""

import importlib
import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from reccocktail import errors, schema
from reccocktail.evaluation.evaluate import evaluate
from reccocktail.evaluation.metrics import METRICS
from reccocktail.evaluation.results import PREDICTION_SCHEMA
from reccocktail.evaluation.settings import EvaluationSettings
from reccocktail.mixing.cocktail import mix
from reccocktail.mixing.measure import MixSettings
from reccocktail.training.adapter import Adapter, Card
from tests.adapters import random_adapter, save
from tests.domains import taste_domain
from tests.pico import pico_backbone

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md"))}
NAMES = sorted(
    {name for page in PAGES.values() for name in re.findall(r"reccocktail(?:\.\w+)+", page)}
)
EXAMPLES: dict[str, Any] = {
    name: json.loads(block)
    for name, block in re.findall(
        r"\*\*`([\w.]+)`\*\*\n\n```json\n(.*?)```", PAGES["conventions.md"], re.DOTALL
    )
}
# Objects keyed by what is in the data, of which the page shows a part.
FREE = {
    "skipped",
    "outputs",
    "coefficients",
    "models",
    "popularity",
    "full_catalogue",
    "entropy",
    "ci95",
    "reference",
}


def resolve(name: str) -> Any:
    """The object of a dotted name: the longest module in it, then attributes or model fields."""
    parts = name.split(".")
    for size in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:size]))
        except ModuleNotFoundError as error:
            if not name.startswith(error.name or "?"):
                raise
            continue
        for part in parts[size:]:
            found = getattr(found, part)
        return found
    raise AssertionError(name)


@pytest.mark.parametrize("name", NAMES)
def test_every_cited_name_is_there(name: str) -> None:
    assert resolve(name) is not None


def test_a_name_that_is_not_there_is_noticed() -> None:
    for wrong in ("reccocktail.mixing.arithmetic.combined", "reccocktail.nowhere.combine"):
        with pytest.raises((AttributeError, ModuleNotFoundError)):
            resolve(wrong)


def test_the_paper_page_cites_enough_to_be_worth_the_check() -> None:
    cited = set(re.findall(r"reccocktail(?:\.\w+)+", PAGES["paper.md"]))
    assert "reccocktail.mixing.arithmetic.combine" in cited and len(cited) > 40
    assert all(f"Eq. {number}" in PAGES["paper.md"] for number in (1, 4, 5, 6, 7, 8, 9))


@pytest.mark.parametrize("page", PAGES)
def test_every_cited_file_of_the_repository_is_there(page: str) -> None:
    for path in re.findall(r"`((?:benchmarks|tests|recipes)/[\w./]+)`", PAGES[page]):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"`((?:\w+/)+\w+\.py)`", PAGES[page]):
        assert (ROOT / path).exists() or (ROOT / "src" / "reccocktail" / path).exists(), path


def test_the_layout_names_what_stands_in_the_package_and_nothing_else() -> None:
    layout = PAGES["conventions.md"].split("    src/reccocktail/\n")[1].split("\n\n")[0]
    rows = [line.strip() for line in layout.splitlines()]
    named = {
        word.rstrip("/")
        for row in rows
        for word in re.split(r"\s{2,}", row)
        if re.fullmatch(r"\w+(/|\.py)", word)
    }
    package = ROOT / "src" / "reccocktail"
    folders = {path.parent.name for path in package.glob("*/__init__.py")}
    modules = {path.name for path in package.glob("*.py")} - {"__init__.py"}
    assert named == folders | modules


def test_every_error_class_is_in_the_table() -> None:
    classes = {
        name
        for name, found in vars(errors).items()
        if isinstance(found, type) and issubclass(found, errors.RecCocktailError)
    }
    rows = set(re.findall(r"^\| `(\w+Error)` \|", PAGES["conventions.md"], re.MULTILINE))
    assert rows == classes - {"RecCocktailError"}


# -- examples of files ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same files as the page's examples, written by the code for a pico model."""
    folder = tmp_path_factory.mktemp("docs")
    backbone, domain = pico_backbone(), taste_domain(folder, users=60)
    pair = [
        random_adapter(backbone, domain, "base_spirit", "base", seed=1),
        random_adapter(backbone, domain, "ingredient", "ingredient", seed=2),
    ]
    paths = [save(adapter, folder) for adapter in pair]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECCOCKTAIL_CACHE", str(folder / "cache"))
        settings = MixSettings(users=6, validation_users=6, refinements=0)
        mix(pair, backbone, domain, "warm", folder / "cocktail", settings)
        paths.append(folder / "cocktail")
        evaluate(
            domain,
            [(Adapter.load(path), path) for path in paths],
            backbone,
            folder / "evaluation",
            baselines=("popularity",),
            settings=EvaluationSettings(users=10, validation_users=6),
        )
    files = {
        "manifest.json": domain.path / "manifest.json",
        "adapter.json": folder / "ingredient" / "adapter.json",
        "cocktail.json": folder / "cocktail" / "cocktail.json",
        "metrics.json": folder / "evaluation" / "metrics.json",
    }
    found: dict[str, Any] = {name: json.loads(path.read_text()) for name, path in files.items()}
    row = pl.read_parquet(domain.path / "test_warm.parquet").row(0, named=True)
    found["test_warm.parquet"] = row
    found["evaluation"] = folder / "evaluation"
    return found


def same_keys(shown: Any, real: Any, where: str) -> None:
    """Compare the keys of an example with those of a file, down to the first element of lists."""
    if isinstance(shown, dict) and isinstance(real, dict):
        if where.rpartition("/")[2] not in FREE:
            assert set(shown) == set(real), where
        for key in set(shown) & set(real):
            same_keys(shown[key], real[key], f"{where}/{key}")
    elif isinstance(shown, list) and isinstance(real, list):
        if shown and real:
            same_keys(shown[0], real[0], f"{where}[]")
    else:
        assert isinstance(shown, dict | list) == isinstance(real, dict | list), where


@pytest.mark.parametrize(
    "name",
    ["test_warm.parquet", "manifest.json", "adapter.json", "cocktail.json", "metrics.json"],
)
def test_an_example_has_the_keys_of_the_file(name: str, written: dict[str, Any]) -> None:
    same_keys(EXAMPLES[name], written[name], name)


def test_the_example_card_is_a_card() -> None:
    card = Card.model_validate(EXAMPLES["adapter.json"])
    assert card.model_dump(mode="json") == EXAMPLES["adapter.json"]


def test_the_example_row_keeps_the_promises_of_its_table() -> None:
    schema.validate(pl.DataFrame([EXAMPLES["test_warm.parquet"]]), "evaluation", "the example")


def test_the_tables_of_columns_and_files_are_whole(written: dict[str, Any]) -> None:
    page = PAGES["conventions.md"]
    folder = page.split("## An evaluation folder")[1]
    listed = set(re.findall(r"^\| `([\w.]+)` \|", folder, re.MULTILINE))
    assert listed == {path.name for path in written["evaluation"].iterdir()}
    row = next(line for line in folder.splitlines() if line.startswith("| `predictions.parquet`"))
    assert re.findall(r"`(\w+)`", row.split("|")[2]) == list(PREDICTION_SCHEMA)
    entry = written["metrics.json"]["paired"][0]
    keys = re.search(r"the keys (.*?)\. Holm", folder, re.DOTALL)
    assert keys and re.findall(r"`(\w+)`", keys[1]) == list(entry)
    assert set(METRICS) <= set(EXAMPLES["metrics.json"]["models"]["popularity"]["warm"])
