"""Shares of the training users: nested, seeded, with the test as it was."""

from itertools import pairwise

import polars as pl
import pytest

from reccocktail.data.domain import Domain
from reccocktail.data.subset import subset
from reccocktail.errors import DataError
from reccocktail.schema import EVALUATION_TABLES
from tests.unit.test_data_prepare import check_promises, raw_tables, run


@pytest.fixture(scope="module")
def parent(tmp_path_factory) -> tuple[Domain, pl.DataFrame]:
    folder = tmp_path_factory.mktemp("parent")
    events = raw_tables(folder, users=200)
    return run(folder), events


def users(domain: Domain) -> list[str]:
    return domain.train()["user_id"].to_list()


@pytest.mark.parametrize("fraction", [0.01, 0.2, 1.0])
def test_only_the_training_users_are_fewer(parent, tmp_path, fraction):
    domain, events = parent
    part = subset(domain, fraction, tmp_path / "part", seed=3)
    kept = round(fraction * domain.train().height)
    assert part.train().height == kept
    rows = domain.train().filter(pl.col("user_id").is_in(users(part)))
    assert part.train().equals(rows)  # whole histories, in the parent's order
    for table in ("items", *EVALUATION_TABLES):
        file = f"{table}.parquet"
        assert (part.path / file).read_bytes() == (domain.path / file).read_bytes()
    check_promises(part, events, 9)


def test_the_manifest_tells_what_it_is(parent, tmp_path):
    domain, _ = parent
    part = subset(domain, 0.1, tmp_path / "part", seed=5)
    assert part.name == domain.name
    assert part.manifest["subset"] == {"of": domain.sha256, "fraction": 0.1, "seed": 5}
    assert part.manifest["rows"] == domain.manifest["rows"] | {"train": part.train().height}
    assert part.manifest["train_interactions"] == int(part.train_counts().sum())
    changed = {
        file
        for file, sha256 in part.manifest["outputs"].items()
        if sha256 != domain.manifest["outputs"][file]
    }
    assert changed == {"train.parquet"}
    assert part.sha256 != domain.sha256
    assert subset(domain, 1.0, tmp_path / "all").sha256 == domain.sha256


def test_shares_of_a_seed_are_nested_and_repeatable(parent, tmp_path):
    domain, _ = parent
    shares = [0.01, 0.05, 0.2, 1.0]
    drawn = [set(users(subset(domain, f, tmp_path / f"{f}", seed=1))) for f in shares]
    assert all(small < large for small, large in pairwise(drawn))
    again = subset(domain, 0.2, tmp_path / "again", seed=1)
    assert again.sha256 == Domain.load(tmp_path / "0.2").sha256
    other = subset(domain, 0.2, tmp_path / "other", seed=2)
    assert set(users(other)) != drawn[2]


def test_a_tiny_share_keeps_one_user(parent, tmp_path):
    domain, _ = parent
    assert subset(domain, 1e-9, tmp_path / "part").train().height == 1


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01, float("nan")])
def test_a_share_out_of_range_is_refused(parent, tmp_path, fraction):
    with pytest.raises(DataError, match="share of training users"):
        subset(parent[0], fraction, tmp_path / "part")
    assert not (tmp_path / "part").exists()


def test_the_parent_and_foreign_folders_are_never_replaced(parent, tmp_path):
    domain, _ = parent
    with pytest.raises(DataError, match="would be replaced"):
        subset(domain, 0.5, domain.path)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="other files than a prepared folder's"):
        subset(domain, 0.5, tmp_path / "notes")
    with pytest.raises(DataError, match="negative"):
        subset(domain, 0.5, tmp_path / "part", seed=-1)
    assert Domain.load(domain.path).train().height == domain.train().height
