"""The benchmarks of reasons and of four-bit weights, at pico size."""

import json

import pytest

from reccocktail.backbone import load_backbone
from reccocktail.errors import RunError
from tests import pico
from tests.adapters import pico_recipe, random_adapter, save
from tests.benches import benchmark_modules
from tests.domains import taste_domain
from tests.helpers import one_sentence
from tests.pico import pico_model, pico_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A backbone (rows of 64, see `test_quantization`), a domain, a writer and a dense adapter."""
    place = tmp_path_factory.mktemp("reasons")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(pico.SHAPE, "hidden_size", 64)
        patch.setitem(pico.SHAPE, "intermediate_size", 128)
        pico_model().save_pretrained(place / "backbone")
    pico_tokenizer().save_pretrained(place / "backbone")
    domain = taste_domain(place, users=40)
    backbone = load_backbone(str(place / "backbone"), device="cpu")
    recipe = pico_recipe(str(place / "backbone"))
    save(random_adapter(backbone, domain, "dense", recipe=recipe), place)
    writes = recipe.model_copy(update={"ranker": "generate"})
    save(random_adapter(backbone, domain, "writer", seed=3, recipe=writes), place)
    return place


@pytest.fixture
def bench():
    with benchmark_modules() as find:
        yield find


def test_explanations(folder, bench, tmp_path, capsys):
    program = bench("explanations")
    arguments = [
        "--data", str(folder / "tastes"), "--adapter", str(folder / "writer"),
        "--judge", str(folder / "dense"), "--out", str(tmp_path / "run"), "--users", "6",
    ]  # fmt: skip
    program.main(arguments)
    log = tmp_path / "run" / "reasons.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    found = json.loads((tmp_path / "run" / "explanations.json").read_text())["reasons"]
    assert len(rows) == found["users"] == 6 and len({row["user_id"] for row in rows}) == 6
    assert found["quotes_history_and_item_only"]["share"] == 1
    kept = [row for row in rows if not row["faults"]]
    assert found["own_words_kept"]["share"] == len(kept) / 6
    assert all(row["continuation"] in row["text"] for row in kept)
    low, high = found["own_words_kept"]["ci95"]
    assert low <= len(kept) / 6 <= high
    assert found["cited_is_what_the_score_rests_on_most"]["chance"] == 0.25  # four items are read
    assert {row["of"] for row in rows} == {4} and {row["place"] for row in rows} <= {1, 2, 3, 4}
    # A cut last line is written again, and the rest is taken as it is.
    log.write_text(log.read_text()[:-5])
    program.main(arguments)
    again = [json.loads(line) for line in log.read_text().splitlines()]
    assert again[:5] == rows[:5] and again[5]["text"] == rows[5]["text"]
    with pytest.raises(RunError, match="other settings") as error:
        program.main([*arguments, "--seed", "1"])
    one_sentence(error.value)


@pytest.mark.parametrize(
    ("text", "title", "begins"),
    [("Red Apple", "red apple (1995)", True), ("red", "redder apple", False), ("", "red", False)],
)
def test_the_beginning_of_a_title_is_known(bench, text, title, begins):
    assert bench("explanations").begins(title, text) == begins


def test_quantised_parity(folder, bench, tmp_path, capsys):
    pytest.importorskip("bitsandbytes")
    program = bench("quantised_parity")
    arguments = [
        "--data", str(folder / "tastes"), "--adapter", str(folder / "dense"), "--users", "8",
        "--device", "cpu", "--out", str(tmp_path / "parity.json"),
    ]  # fmt: skip
    program.main(arguments)
    found = json.loads((tmp_path / "parity.json").read_text())
    assert found["agree"] and found["layers"] == 14 and found["users"] == 8
    assert found["live_against_merged"]["largest"] < 1e-3
    assert found["rounded_against_full_precision"]["largest"] > 1e-2
    assert found["ndcg@10"]["live"] == found["ndcg@10"]["merged"]
    with pytest.raises(SystemExit) as stop:
        program.main([*arguments, "--tolerance", "0"])
    assert stop.value.code == 1
