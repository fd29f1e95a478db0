"""The service over HTTP: routes, keys, bounds, errors, overload; no 5xx whatever is sent."""

import asyncio
import gc
import io
import json
import logging
import re
import threading
import time
import types
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, seed, settings, strategies
from prometheus_client.parser import text_string_to_metric_families
from schemathesis.specs.openapi.checks import response_schema_conformance

from reccocktail.errors import RunError
from reccocktail.serving import admin_schemas, errors, schemas, user_schemas
from reccocktail.serving import answering as module
from reccocktail.serving.app import PAGE, create_app
from reccocktail.serving.changing import Changing
from reccocktail.serving.keys import Keys, read_key
from reccocktail.serving.limits import Limits
from reccocktail.serving.logs import LOGGER, JsonFormatter
from tests.helpers import one_sentence

ADMIN, USER = "a-key-for-changes-0123", "a-key-for-users-45678"
AS_ADMIN = {"X-API-Key": ADMIN}


@pytest.fixture
def client(service):
    with TestClient(create_app(service, Keys(admin=ADMIN))) as client:
        yield client


def ask(client, body=None, name="tastes", route="recommend", **rest):
    return client.post(f"/v1/domains/{name}/{route}", json=body or {"history": ["i1"]}, **rest)


def sentence(response, status):
    """The one sentence of an error answer."""
    assert response.status_code == status, response.text
    assert set(response.json()) == {"detail"}
    return one_sentence(response.json()["detail"])


def put_items(client, *items, **rest):
    body = {"items": list(items)}
    return client.put("/v1/domains/tastes/items", json=body, headers=AS_ADMIN, **rest)


# -- asking -----------------------------------------------------------------------------------


def test_recommend(client, here):
    history = here.tastes.rows("test_warm")["history"][0].to_list()
    found = ask(client, {"history": history, "k": 3}).json()
    assert found["domain"] == "tastes" and found["adapter"] == "one"
    assert [item["rank"] for item in found["items"]] == [1, 2, 3]
    assert not {item["item_id"] for item in found["items"]} & set(history)
    for item in found["items"]:
        number = here.tastes.index[item["item_id"]]
        assert item["title"] == here.tastes.titles[number]
    typed = ask(client, {"history_titles": ["blak tea"], "categories": ["food"]}).json()
    assert typed["matches"][0]["title"] == "black tea" and len(typed["items"]) == 10


def test_rank(client, here):
    chosen = here.tastes.item_ids[:3]
    body = {"history": chosen[:1], "candidates": chosen}
    items = ask(client, body, route="rank").json()["items"]
    assert {item["item_id"] for item in items} == set(chosen)
    assert [i["score"] for i in items] == sorted((i["score"] for i in items), reverse=True)


def test_domains_are_listed_with_their_cocktails(client, here):
    listed = client.get("/v1/domains").json()
    (domain,) = listed["domains"]
    assert domain["name"] == "tastes" and domain["items"] == len(here.tastes.item_ids)
    assert domain["categories"] == 5 and domain["role"] == "ingredient"
    assert listed["loading"] == [] and listed["failed"] == {}
    alone = {"cocktail": None, "positions": []}
    assert client.get("/v1/domains/tastes").json() == domain | alone
    assert sentence(client.get("/v1/domains/none"), 404)


def test_titles_are_searched(client):
    found = client.get("/v1/domains/tastes/items", params={"q": "red ap", "limit": 3}).json()
    assert found["items"][0]["title"] == "red apple"
    assert sentence(client.get("/v1/domains/tastes/items", params={"q": ""}), 422)
    assert sentence(client.get("/v1/domains/tastes/items", params={"limit": 5}), 422)


def test_items_are_found_by_their_ids(client, here):
    route = "/v1/domains/tastes/items"
    chosen = here.tastes.item_ids[2::-1]
    found = client.get(route, params={"id": [*chosen, "nope"]}).json()["items"]
    assert [item["item_id"] for item in found] == chosen
    assert all(
        item["title"] == here.tastes.titles[here.tastes.index[item["item_id"]]] for item in found
    )
    assert "one of the two" in sentence(client.get(route, params={"id": "i1", "q": "red"}), 422)
    sentence(client.get(route, params={"id": ["i1"] * (user_schemas.MAX_IDS + 1)}), 422)


def test_categories_come_as_they_are_written(client):
    put_items(client, {"item_id": "n1", "title": "red moon", "categories": ["Sky", "SKY", "A; b"]})
    (found,) = client.get("/v1/domains/tastes/items", params={"id": "n1"}).json()["items"]
    assert found == {
        "item_id": "n1",
        "title": "red moon",
        "new": True,
        "categories": ["Sky", "A; b"],
    }
    ranked = ask(client, {"history": ["i1"], "categories": ["sky"], "k": 200}).json()["items"]
    assert {tuple(item["categories"]) for item in ranked} == {("All", "Sky"), ("Sky", "A; b")}


def test_an_uploaded_category_keeps_its_commas(client):
    lamp = {"item_id": "n1", "title": "red moon", "categories": ["Home, Garden & Pets"]}
    put_items(client, lamp)
    asked = {"history": ["i1"], "categories": lamp["categories"]}
    assert [item["item_id"] for item in ask(client, asked).json()["items"]] == ["n1"]


@pytest.mark.parametrize(
    ("body", "status", "what"),
    [
        ({}, 422, "one of the two"),
        ({"history": [], "history_titles": []}, 422, "one of the two"),
        ({"history": ["i1"], "history_titles": ["red apple"]}, 422, "one of the two"),
        ({"history": ["i1"], "surprise": 1}, 422, "surprise"),
        ({"history": ["i1"], "k": 0}, 422, "k"),
        ({"history": ["i1"], "k": user_schemas.MAX_K + 1}, 422, "k"),
        ({"history": ["i1"], "k": "5"}, 422, "k"),
        ({"history": ["x"] * (user_schemas.MAX_HISTORY + 1)}, 422, "history"),
        ({"history": ["x" * (schemas.MAX_ID + 1)]}, 422, "history.0"),
        ({"history": [""]}, 422, "history.0"),
        ({"history": ["i1"], "candidates": []}, 422, "candidates"),
        ({"history": ["nope"]}, 422, "no item 'nope'"),
        ({"history": ["i1"], "categories": ["nope"]}, 422, "no category 'nope'"),
        ({"history_titles": ["zxqv wkjh"]}, 422, "resembles"),
        ({"history": [None]}, 422, "history.0"),
        ([], 422, "one JSON object"),
    ],
)
def test_bad_bodies_get_one_sentence(client, body, status, what):
    response = client.post("/v1/domains/tastes/recommend", json=body)
    assert what in sentence(response, status)


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"{", 400),
        (b"", 422),
        (b"\xff\xfe", 400),
        (b'{"history": ["\\ud800"]}', 422),
        (b'{"\\ud800": 1, "history": ["i1"]}', 422),
        (b'{"history": [NaN]}', 422),
        (b'{"history": ["i1"], "k": 1e999}', 422),
        (b"[" * 100_000, 400),
    ],
)
def test_bodies_that_are_no_json_are_refused(client, content, status):
    headers = {"Content-Type": "application/json"}
    response = client.post("/v1/domains/tastes/recommend", content=content, headers=headers)
    sentence(response, status)


def test_large_bodies_are_refused_with_and_without_a_length(service):
    with TestClient(create_app(service, max_body=1000)) as client:
        assert ask(client).status_code == 200
        assert "1,000 bytes" in sentence(ask(client, {"history": ["x" * 100] * 20}), 413)
        chunks = (b" " * 100 for _ in range(20))
        response = client.post("/v1/domains/tastes/recommend", content=chunks)
        assert "1,000 bytes" in sentence(response, 413)


def test_names_that_are_none_are_refused(client):
    for name in ("..%2F..%2Fetc", "-x", "a" * 65, "a%00b", "%F0%9F%8D%B8", "a%0Ab"):
        response = client.put(
            f"/v1/domains/{name}", json={"data": "x", "adapter": "y"}, headers=AS_ADMIN
        )
        assert response.status_code in (404, 405, 422), name


# -- keys -------------------------------------------------------------------------------------

CHANGES = [
    ("PUT", "/v1/domains/x", {"data": "tastes", "adapter": "one"}),
    ("DELETE", "/v1/domains/tastes", None),
    ("PUT", "/v1/domains/tastes/items", {"items": [{"item_id": "n", "title": "red moon"}]}),
    ("POST", "/v1/domains/tastes/mix", {"adapters": ["one", "two"]}),
    ("POST", "/v1/domains/tastes/mix/revert", None),
]


@pytest.mark.parametrize(("method", "path", "body"), CHANGES)
def test_changes_need_the_admin_key_and_are_off_without(service, method, path, body):
    with TestClient(create_app(service)) as client:
        assert "admin key" in sentence(client.request(method, path, json=body), 403)
    with TestClient(create_app(service, Keys(user=USER, admin=ADMIN))) as client:
        for headers in ({}, {"X-API-Key": USER}, {"Authorization": "Bearer nonsense"}):
            response = client.request(method, path, json=body, headers=headers)
            sentence(response, 401)
            assert response.headers["WWW-Authenticate"] == "Bearer"
    assert service.answering.domain("tastes").added.height == 0


def test_users_need_a_key_where_one_is_set(service):
    with TestClient(create_app(service, Keys(user=USER, admin=ADMIN))) as client:
        for headers in ({}, {"X-API-Key": USER[:-1]}, {"X-API-Key": ""}, {"X-API-Key": "\u00e9"}):
            sentence(ask(client, headers={k: v.encode() for k, v in headers.items()}), 401)
        for key in (USER, ADMIN):
            assert ask(client, headers={"X-API-Key": key}).status_code == 200
            assert ask(client, headers={"Authorization": f"Bearer {key}"}).status_code == 200
        assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200


def test_keys_are_read_from_files_and_variables(tmp_path):
    file = tmp_path / "key"
    file.write_text(f"  {ADMIN}\n")
    assert read_key(file, "another-key-0123456789", "admin") == ADMIN
    assert read_key(None, ADMIN, "admin") == ADMIN
    assert read_key(None, None, "admin") is read_key(None, "", "admin") is None
    file.write_text(ADMIN, encoding="utf-8-sig")  # as Windows writes it
    assert read_key(file, None, "admin") == ADMIN
    file.write_text("\n")
    for bad in ((file, None), (tmp_path / "none", None), (None, "short"), (None, "x y" * 10)):
        with pytest.raises(RunError) as error:
            read_key(*bad, "admin")
        one_sentence(error.value)


def test_load_balancers_ask_with_head(client):
    for path in ("/healthz", "/readyz"):
        found = client.head(path)
        assert found.status_code == 200 and not found.content


def test_a_body_without_its_type_is_said(client):
    content = {"content": '{"history": ["i1"]}', "headers": {"Content-Type": "text/plain"}}
    found = client.post("/v1/domains/tastes/recommend", **content)
    assert "Content-Type: application/json" in sentence(found, 422)


# -- changing ---------------------------------------------------------------------------------


def test_changes_that_wait_leave_the_threads_that_answer(client, service):
    """More uploads than there are threads wait for the domain; whoever asks is answered."""
    with ThreadPoolExecutor(60) as pool:
        with service.changing._change("tastes"):  # another change is at work
            item = {"item_id": "n9", "title": "red moon"}
            waiting = [pool.submit(put_items, client, item) for _ in range(50)]
            time.sleep(0.5)
            assert ask(client).status_code == 200
            assert not any(upload.done() for upload in waiting)
        assert all(upload.result().status_code == 200 for upload in waiting)


def test_a_domain_is_plugged_in_replaced_and_removed(client):
    body = {"data": "small", "adapter": "two"}
    plugged = client.put("/v1/domains/second", json=body, headers=AS_ADMIN)
    assert plugged.status_code == 200 and plugged.json()["status"] == "ready"
    assert plugged.json()["domain"]["adapter"] == "two"
    body["adapter"] = "base_spirit"
    replaced = client.put("/v1/domains/second", json=body, headers=AS_ADMIN).json()
    assert replaced["domain"]["adapter"] == "one"
    names = [d["name"] for d in client.get("/v1/domains").json()["domains"]]
    assert names == ["second", "tastes"]
    assert client.delete("/v1/domains/second", headers=AS_ADMIN).status_code == 204
    sentence(ask(client, name="second"), 404)
    sentence(client.delete("/v1/domains/second", headers=AS_ADMIN), 404)


def test_a_plug_in_that_takes_long_goes_on(client, service, monkeypatch):
    real, held = Changing.plug, threading.Event()
    monkeypatch.setattr(Changing, "plug", lambda *a: (held.wait(10), real(*a))[1])
    body = {"data": "small", "adapter": "two"}
    put = {"url": "/v1/domains/second", "json": body, "headers": AS_ADMIN}
    response = client.put(**put, params={"wait": 0.05})
    assert response.status_code == 202
    assert response.json() == {"status": "loading", "domain": None}
    assert client.get("/v1/domains").json()["loading"] == ["second"]
    assert "being plugged in" in sentence(client.put(**put), 409)
    assert ask(client).status_code == 200  # the others are served meanwhile
    held.set()
    for _ in range(200):
        if not client.get("/v1/domains").json()["loading"]:
            break
        time.sleep(0.02)
    assert client.get("/v1/domains/second").status_code == 200
    monkeypatch.setattr(Changing, "plug", real)
    bad = {"data": "small", "adapter": "small"}
    sentence(client.put("/v1/domains/third", json=bad, headers=AS_ADMIN), 422)
    assert "adapter" in client.get("/v1/domains").json()["failed"]["third"]
    # What failed is listed until it is removed, and what was never there cannot be.
    assert client.delete("/v1/domains/third", headers=AS_ADMIN).status_code == 204
    assert client.get("/v1/domains").json()["failed"] == {}
    sentence(client.delete("/v1/domains/third", headers=AS_ADMIN), 404)


def test_a_plug_in_that_fails_after_the_wait_is_told_once(client, caplog):
    put = {"url": "/v1/domains/third", "json": {"data": "small", "adapter": "small"}}
    for _ in range(3):  # what nobody fetched is logged when it is forgotten
        assert client.put(**put, headers=AS_ADMIN, params={"wait": 0}).status_code in (202, 422)
        for _ in range(200):
            if not client.get("/v1/domains").json()["loading"]:
                break
            time.sleep(0.02)
    gc.collect()
    assert "adapter" in client.get("/v1/domains").json()["failed"]["third"]
    assert not [record for record in caplog.records if record.name == "asyncio"]


def test_plug_ins_stay_below_the_root(client, service, here):
    for data in ("../", "/etc", "tastes/../.."):
        body = {"data": data, "adapter": "one"}
        sentence(client.put("/v1/domains/x", json=body, headers=AS_ADMIN), 403)
    body = {"data": "tastes", "adapter": "one\u0000"}
    sentence(client.put("/v1/domains/x", json=body, headers=AS_ADMIN), 422)
    service.allowed = None
    body = {"data": "tastes", "adapter": "one"}
    assert "--root" in sentence(client.put("/v1/domains/x", json=body, headers=AS_ADMIN), 403)


def test_items_are_added(client):
    added = put_items(client, {"item_id": "n1", "title": "red moon", "categories": ["Sky", "New"]})
    assert added.json() == {"added": 1, "items": client.get("/v1/domains/tastes").json()["items"]}
    found = ask(client, {"history": ["i1"], "categories": ["new"]}).json()["items"]
    assert [(i["item_id"], i["new"]) for i in found] == [("n1", True)]
    again = put_items(client, {"item_id": "n1", "title": "blue moon"})
    assert "another title" in sentence(again, 409)
    sentence(put_items(client, {"item_id": "n2", "title": "x" * (schemas.MAX_TITLE + 1)}), 422)
    many = [{"item_id": f"m{n}", "title": "red moon"} for n in range(admin_schemas.MAX_ITEMS + 1)]
    sentence(put_items(client, *many), 422)


def test_a_mix_is_made_and_undone(client, here):
    for history in here.tastes.rows("test_warm")["history"].to_list()[:30]:
        assert ask(client, {"history": history}).status_code == 200
    assert client.get("/v1/domains/tastes/mix").json()["status"] == "idle"
    body = {"adapters": ["one", "two"], "coefficients": [0.5, 0.5]}
    started = client.post("/v1/domains/tastes/mix", json=body, headers=AS_ADMIN)
    assert started.status_code == 202 and started.json()["status"] == "running"
    for _ in range(400):
        status = client.get("/v1/domains/tastes/mix").json()
        if status["status"] != "running":
            break
        assert ask(client).status_code == 200
        time.sleep(0.02)
    assert status["status"] == "done" and status["adapter"] == "mix-0001"
    assert ask(client).json()["adapter"] == "mix-0001"
    sheet = client.get("/v1/domains/tastes").json()["cocktail"]
    assert sheet["coefficients"] == {"all": [0.5, 0.5]} and "user_ids" not in sheet["adaptation"]
    reverted = client.post("/v1/domains/tastes/mix/revert", headers=AS_ADMIN)
    assert reverted.json()["adapter"] == "one"
    sentence(client.post("/v1/domains/tastes/mix/revert", headers=AS_ADMIN), 409)
    outside = {"adapters": ["one", "../two"]}
    sentence(client.post("/v1/domains/tastes/mix", json=outside, headers=AS_ADMIN), 403)


# -- overload, time, the end ------------------------------------------------------------------


def test_overload_is_answered_429_with_a_time_to_come_back(here, monkeypatch):
    service = here.service(queue=4, batch=1, linger=0.0)
    held = threading.Event()
    real = module.rank
    monkeypatch.setattr(module, "rank", lambda *a: (held.wait(10), real(*a))[1])
    waited, pause = [], asyncio.sleep
    monkeypatch.setattr(errors.asyncio, "sleep", lambda s: (waited.append(s), pause(0))[1])
    with TestClient(create_app(service)) as client, ThreadPoolExecutor(16) as threads:
        asked = [threads.submit(ask, client) for _ in range(16)]
        while sum(one.done() for one in asked) < 12:
            time.sleep(0.01)
        held.set()
        answers = [one.result() for one in asked]
        assert sorted(a.status_code for a in answers) == [200] * 4 + [429] * 12
        for answer in answers:
            if answer.status_code == 429:
                sentence(answer, 429)
                assert 1 <= int(answer.headers["Retry-After"]) <= 60
        assert waited.count(errors.REFUSAL_SECONDS) == 12  # held back, each of them
        assert ask(client).status_code == 200


def test_an_answer_that_takes_too_long_is_504(here, monkeypatch):
    service = here.service(timeout=0.2)
    held = threading.Event()
    real = module.rank
    monkeypatch.setattr(module, "rank", lambda *a: (held.wait(5), real(*a))[1])
    with TestClient(create_app(service)) as client:
        sentence(ask(client), 504)
        held.set()
        time.sleep(0.1)
        assert ask(client).status_code == 200


@contextmanager
def one_behind_another(service, monkeypatch, matching=0.0):
    """The answer to come of a request in the queue, and what lets the one before it finish.

    `matching` is how long its titles are matched before it is queued, seconds.
    """
    held, begun, real, resolve = threading.Event(), threading.Event(), module.rank, module.resolve

    def slow(*arguments):
        begun.set()
        held.wait(10)
        return real(*arguments)

    def second(*arguments):
        time.sleep(matching)
        return resolve(*arguments)

    monkeypatch.setattr(module, "rank", slow)
    with TestClient(create_app(service)) as client, ThreadPoolExecutor(2) as threads:
        threads.submit(ask, client)
        assert begun.wait(10)
        monkeypatch.setattr(module, "resolve", second)
        answer = threads.submit(ask, client)
        while not service.answering.waiting:
            time.sleep(0.001)
        try:
            yield answer, held
        finally:
            held.set()


def test_a_request_whose_time_is_over_before_its_turn_is_504(here, monkeypatch):
    """The queue can see it before the route does, whose clock starts later."""
    service = here.service(timeout=0.5, batch=1, linger=0.0)
    with one_behind_another(service, monkeypatch, matching=0.6) as (answer, held):
        held.set()
        sentence(answer.result(10), 504)


def test_a_request_that_still_waits_at_the_end_is_503(here, monkeypatch):
    service = here.service(batch=1, linger=0.0)
    with one_behind_another(service, monkeypatch) as (answer, _):
        service.answering._batcher.close(0.01)
        assert "shutting down" in sentence(answer.result(10), 503)


def test_the_end_is_clean(service):
    with TestClient(create_app(service)) as client:
        assert client.get("/readyz").json() == {"status": "ready"}
        service.close()
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200
        sentence(ask(client), 503)


# -- operation --------------------------------------------------------------------------------


def test_metrics_are_prometheus(client, here):
    ask(client)
    ask(client)
    ask(client, {"history": ["nope"]})
    client.get("/nowhere/at/all")
    text = client.get("/metrics").text
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    route = "/v1/domains/{name}/recommend"
    assert samples["reccocktail_requests_total", "POST", route, "200"] == 2
    assert samples["reccocktail_requests_total", "POST", route, "422"] == 1
    assert samples["reccocktail_requests_total", "GET", "other", "404"] == 1
    assert samples["reccocktail_user_cache_misses_total",] == 1
    assert samples["reccocktail_user_cache_hits_total",] == 1
    assert samples["reccocktail_domains",] == 1
    assert samples["reccocktail_items", "tastes"] == len(here.tastes.item_ids)
    assert "nowhere" not in text


def test_methods_that_clients_make_up_are_one_label(client):
    for method in ("GET", "BREW", "Q" * 1000, "get"):
        client.request(method, "/healthz")
    text = client.get("/metrics").text
    assert 'method="GET",route="/healthz"' in text and "BREW" not in text and "QQQ" not in text
    methods = {
        sample.labels["method"]
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "reccocktail_requests_total"
    }
    assert methods == {"GET", "other"}


def test_no_title_and_no_path_breaks_the_log(client):
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    try:
        put_items(client, {"item_id": "n\n1", "title": 'red\nmoon "} {\u2028<script>'})
        client.get("/x%0A%7B%22level%22:%22error%22%7D%E2%80%A8")
        ask(client, name="a%0Ab")
        ask(client, {"history_titles": ["zxqv\nERROR wkjh"]})
        LOGGER.info("odd \n %s", "\r\x1b[31m")
    finally:
        LOGGER.removeHandler(handler)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 5 and stream.getvalue().isascii()
    assert [json.loads(line)["message"] for line in lines[:4]] == ["request"] * 4
    assert all("\x1b" not in line for line in lines)


def test_answers_are_careful_with_browsers(client):
    headers = ask(client).headers
    assert headers["X-Content-Type-Options"] == "nosniff" and headers["X-Request-ID"]
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "script-src 'self';" in policy


def test_a_page_is_served_where_there_is_one(service, tmp_path):
    (tmp_path / "index.html").write_text("<title>Cocktails</title>")
    with TestClient(create_app(service, page=tmp_path)) as client:
        assert "Cocktails" in client.get("/").text
        assert ask(client).status_code == 200
        for path in ("/../secret", "/%2e%2e/secret", "/none"):
            assert client.get(path).status_code == 404
    with TestClient(create_app(service, page=tmp_path / "none")) as client:
        assert client.get("/").status_code == 404


def test_the_page_that_ships_is_served_whole_and_never_stale(client):
    files = sorted(PAGE.iterdir())
    assert len(files) > 5
    for file in files:
        response = client.get(f"/{file.name}")
        assert response.status_code == 200 and response.content == file.read_bytes()
        assert response.headers["Cache-Control"] == "no-cache"
        assert "script-src 'self';" in response.headers["Content-Security-Policy"]
        known = {"If-None-Match": response.headers["ETag"]}
        assert client.get(f"/{file.name}", headers=known).status_code == 304
    assert client.get("/").content == (PAGE / "index.html").read_bytes()
    assert client.get("/none.js").json() == {"detail": "Not Found."}


def test_a_wrong_method_is_told_from_a_wrong_path(client):
    """The page stands at `/`, where every path fits."""
    wrong = client.get("/v1/domains/tastes/recommend")
    assert wrong.status_code == 405 and wrong.headers["Allow"] == "POST"
    assert wrong.json() == {"detail": "Method Not Allowed."}
    assert client.post("/v1/nothing").status_code == client.get("/v1/nothing").status_code == 404


@pytest.mark.parametrize("file", sorted(PAGE.iterdir()), ids=lambda file: file.name)
def test_the_page_needs_nothing_from_elsewhere_and_makes_no_markup_of_data(file):
    text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|//[a-z]+\.", text)
    if file.suffix == ".js":
        dangerous = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Function\("
        assert not re.search(dangerous, text)
        for path in re.findall(r'from "([^"]+)"', text):
            assert (PAGE / path).is_file(), path
    if file.suffix == ".html":
        assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]* src=)", text)
        for path in re.findall(r'(?:src|href)="([^"]+)"', text):
            assert (PAGE / path).is_file(), path


def test_every_example_of_the_specification_is_valid():
    modules = (user_schemas, admin_schemas)
    models = [m for module in modules for m in vars(module).values() if isinstance(m, type)]
    examples = 0
    for model in models:
        extra = getattr(model, "model_config", {}).get("json_schema_extra") or {}
        for example in extra.get("examples", ()):
            model.model_validate(example)
            examples += 1
    assert examples >= 5


# -- anything at all --------------------------------------------------------------------------


@asynccontextmanager
async def nullcontext_async():
    yield


@pytest.fixture(scope="module")
def fuzzed(here, tmp_path_factory):
    service = here.service(tmp_path_factory.mktemp("fuzz") / "state", timeout=60.0)
    app = create_app(service, Keys(admin=ADMIN))
    # Each call of schemathesis starts and ends the application, and its end closes the service.
    app.router.lifespan_context = lambda _: nullcontext_async()
    yield schemathesis.openapi.from_asgi("/openapi.json", app)
    service.close()


def operations():
    """Method and path of every route."""
    service = types.SimpleNamespace(limits=Limits(), allowed=None, answering=None, changing=None)
    paths = create_app(service).openapi()["paths"]
    return sorted((method.upper(), path) for path, routes in paths.items() for method in routes)


@pytest.mark.parametrize(("method", "path"), operations())
def test_whatever_is_sent_nothing_breaks(method, path, fuzzed):
    answers = set()

    @settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
    @seed(0)
    @given(case=fuzzed[path][method].as_strategy(), served=strategies.booleans())
    def check(case, served):
        if "name" in (case.path_parameters or {}) and served and method != "DELETE":
            case.path_parameters["name"] = "tastes"  # so that more than the 404 is reached
        response = case.call(headers=AS_ADMIN)
        answers.add(response.status_code)
        assert response.status_code < 500, (response.status_code, response.text)
        case.validate_response(response, checks=[response_schema_conformance])

    check()
    assert answers


def test_the_specification_has_every_route():
    assert {path for _, path in operations()} >= {
        "/v1/domains",
        "/v1/domains/{name}",
        "/v1/domains/{name}/recommend",
        "/v1/domains/{name}/rank",
        "/v1/domains/{name}/items",
        "/v1/domains/{name}/mix",
        "/v1/domains/{name}/mix/revert",
        "/healthz",
        "/readyz",
        "/metrics",
    }
