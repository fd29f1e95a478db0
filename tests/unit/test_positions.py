"""A cocktail at other coefficients: which there are, what they rank, what they cost."""

import shutil
import time

import pytest
from fastapi.testclient import TestClient

from reccocktail.errors import DataError
from reccocktail.mixing.arithmetic import MergeOptions
from reccocktail.mixing.cocktail import mix
from reccocktail.mixing.measure import MixSettings
from reccocktail.serving import positions
from reccocktail.serving.app import create_app
from reccocktail.serving.keys import Keys
from reccocktail.training.adapter import Adapter
from tests.domains import taste_domain
from tests.serving import kitchen

ADMIN = {"X-API-Key": "a-key-for-changes-0123"}


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    here = kitchen(tmp_path_factory.mktemp("kitchen"))
    parents = [Adapter.load(here.adapters[name]) for name in ("one", "two")]
    settings = MixSettings(users=10)
    mix(parents, here.backbone, here.tastes, "warm", here.root / "mixed", settings, (0.3, 0.7))
    return here


@pytest.fixture
def service(here, tmp_path):
    service = here.service(tmp_path / "state")
    service.changing.plug("mixed", here.tastes.path, here.root / "mixed")
    yield service
    service.close()


@pytest.fixture
def client(service):
    with TestClient(create_app(service, Keys(admin=ADMIN["X-API-Key"]))) as client:
        yield client


def ask(client, coefficients=None, name="mixed"):
    """The ranking at a position; waits until it is ready."""
    body = {"history": ["i1", "i2"], "k": 200}
    if coefficients is not None:
        body["coefficients"] = coefficients
    for _ in range(600):
        response = client.post(f"/v1/domains/{name}/recommend", json=body)
        if response.status_code != 202:
            return response
        assert response.headers["Retry-After"] == "1"
        assert "ask again" in response.json()["detail"]
        assert 0 <= response.json()["share"] <= 1
        time.sleep(0.05)
    raise AssertionError("never ready")


def scores(answer):
    return {place["item_id"]: place["score"] for place in answer.json()["items"]}


def test_the_ends_are_the_parents_and_the_chosen_point_is_the_cocktail(client, service, here):
    found = client.get("/v1/domains/mixed").json()
    assert [pair[0] for pair in found["positions"]] == [0, 0.25, 0.3, 0.5, 0.75, 1]
    service.changing.plug("two", here.tastes.path, here.adapters["two"])
    one, two, own = ask(client, None, "tastes"), ask(client, None, "two"), ask(client)
    assert scores(ask(client, [1, 0])) == pytest.approx(scores(one), abs=1e-5)
    assert scores(ask(client, [0, 1])) == pytest.approx(scores(two), abs=1e-5)
    assert scores(ask(client, [0.3, 0.7])) == scores(own) != scores(two)
    assert ask(client, [1, 0]).json()["adapter"] == "one"


def test_a_position_is_merged_with_the_cocktails_options(client, service, here, tmp_path):
    """The cocktail at 0.3 and the one at 0.5 differ in nothing but the coefficients."""
    parents = [Adapter.load(here.adapters[name]) for name in ("one", "two")]
    settings = MixSettings(users=10, options=MergeOptions(norm_matched=True))
    for name, first in (("matched", 0.3), ("half", 0.5)):
        given = (first, 1 - first)
        mix(parents, here.backbone, here.tastes, "warm", here.root / name, settings, given)
        service.changing.plug(name, here.tastes.path, here.root / name)
    own = scores(ask(client, None, "half"))
    assert scores(ask(client, [0.5, 0.5], "matched")) == pytest.approx(own, abs=1e-5)


def test_other_coefficients_are_refused(client, service):
    assert "choose of [0, 1]" in ask(client, [0.1, 0.9]).json()["detail"]
    assert "leave them out" in ask(client, [0, 1], "tastes").json()["detail"]
    assert ask(client, [0.5]).status_code == ask(client, [2, -1]).status_code == 422
    with pytest.raises(DataError):
        service.answering.positions.at(service.answering.domain("mixed"), (0.5, 0.6))


def test_a_cocktail_of_whole_adapters_stands_at_no_position(client, service, here):
    parents = [Adapter.load(here.adapters[name]) for name in ("one", "two")]
    folder = here.root / "whole"
    mix(parents, here.backbone, here.tastes, "warm", folder, MixSettings(users=10), (1.0, 1.0))
    service.changing.plug("whole", here.tastes.path, folder)
    found = client.get("/v1/domains/whole").json()
    assert [pair[0] for pair in found["positions"]] == [0, 0.25, 0.5, 0.75, 1]
    alone = ask(client, [1, 0], "whole")
    assert alone.json()["adapter"] == "one" and scores(alone) != scores(ask(client, None, "whole"))


def test_added_items_are_ranked_at_every_position(client):
    ask(client, [0.5, 0.5])
    body = {"items": [{"item_id": "n1", "title": "red moon"}]}
    assert client.put("/v1/domains/mixed/items", json=body, headers=ADMIN).status_code == 200
    assert "n1" in scores(ask(client, [0.5, 0.5])) and "n1" in scores(ask(client, [1, 0]))


def test_large_catalogues_have_no_positions(client, monkeypatch):
    monkeypatch.setattr(positions, "MOST_ITEMS", 10)
    assert client.get("/v1/domains/mixed").json()["positions"] == []


def test_parents_are_known_by_their_tensors_not_by_their_names(here, tmp_path):
    sheet = {"name": "one", "sha256": "0" * 64}
    assert positions._find(**sheet, near=[here.adapters["two"]]) is None
    true = sheet | {"sha256": Adapter.load(here.adapters["one"]).sha256}
    assert positions._find(**true, near=[here.adapters["two"]]) is not None
    assert positions._find(**(true | {"name": "../one"}), near=[here.adapters["two"]]) is None


def test_what_is_damaged_beside_a_cocktail_is_passed_over(client, service, here, tmp_path):
    damaged = shutil.copytree(here.adapters["one"], tmp_path / "one")
    (damaged / "adapter.json").write_text('{"a": ')
    shop = shutil.copytree(here.root / "mixed", tmp_path / "shop")
    service.changing.plug("shop", here.tastes.path, shop)
    found, others = client.get("/v1/domains/shop"), client.get("/v1/domains/mixed")
    assert found.status_code == 200  # the parents lie beside another domain's adapter too
    assert found.json()["positions"] == others.json()["positions"] != []
    true = Adapter.load(here.adapters["one"]).sha256
    assert positions._find("one", true, near=[shop, here.adapters["two"]]) is not None
    assert positions._find("x" * 300, true, near=[shop]) is None  # no folder can have this name


def test_a_folder_that_was_prepared_again_is_said(client, service, here, tmp_path):
    """What is in memory goes on; a position would read tables of another catalogue."""
    domain = taste_domain(tmp_path, name="again", users=60)
    service.changing.plug("again", domain.path, here.root / "mixed")
    before = scores(ask(client, name="again"))
    taste_domain(tmp_path, name="again", users=60, tastes=5, seed=9)
    found = ask(client, [1, 0], "again")
    assert found.status_code == 422
    assert "not the folder that was opened any more" in found.json()["detail"]
    assert scores(ask(client, name="again")) == before
    service.changing.plug("again", domain.path, here.root / "mixed")
    assert ask(client, [1, 0], "again").status_code == 200
