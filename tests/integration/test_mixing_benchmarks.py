"""The benchmarks of mixing at pico size."""

import argparse
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from reccocktail.backbone import load_backbone
from reccocktail.data.domain import Domain
from reccocktail.errors import RunError
from reccocktail.mixing.entropy import fit_temperature
from reccocktail.mixing.measure import MixSettings
from reccocktail.training.adapter import Adapter
from tests.adapters import random_adapter, save
from tests.benches import benchmark_modules
from tests.domains import taste_domain
from tests.helpers import one_sentence
from tests.pico import pico_model, pico_tokenizer

SMALL = "--unlabelled 12 --valid 15 --test 30 --grid 0 0.5 1 --scales 2".split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("mixing")
    pico_model().save_pretrained(place / "backbone")
    pico_tokenizer().save_pretrained(place / "backbone")
    domain = taste_domain(place, users=80)
    backbone = load_backbone(str(place / "backbone"), device="cpu")
    for seed, (name, role) in enumerate((("base", "base"), ("own", "ingredient"))):
        save(random_adapter(backbone, domain, name, role, seed=seed), place)
    return place


@pytest.fixture
def bench():
    with benchmark_modules() as find:
        yield find


def arguments(folder, out):
    return [
        "--data", str(folder / "tastes"), "--base", str(folder / "base"),
        "--ingredient", str(folder / "own"), "--backbone", str(folder / "backbone"),
        "--out", str(out),
    ]  # fmt: skip


def dense(adapter):
    """All updates of an adapter as one long vector."""
    return torch.cat([(m.scaling * m.b @ m.a).flatten() for m in adapter.lora.values()])


def test_updates_are_compared_as_whole_matrices(folder, bench, tmp_path):
    out = tmp_path / "updates.json"
    given = [f"base={folder / 'base'}", f"own={folder / 'own'}", f"again={folder / 'own'}"]
    words = [word for entry in given for word in ("--adapter", entry)]
    bench("updates").main([*words, "--out", str(out)])
    found = json.loads(out.read_text())
    assert str(folder) not in out.read_text()
    base, own = (dense(Adapter.load(folder / name)) for name in ("base", "own"))
    assert found["adapters"]["base"]["norm"] == pytest.approx(base.norm().item(), rel=1e-4)
    pairs = {tuple(pair["of"]): pair for pair in found["pairs"]}
    assert list(pairs) == [("base", "own"), ("base", "again"), ("own", "again")]
    cosine = (base @ own / base.norm() / own.norm()).item()
    assert pairs["base", "own"]["cosine"] == pytest.approx(cosine, abs=1e-5)
    kept = ((base + own).norm() / (base.norm() + own.norm())).item()
    assert pairs["base", "own"]["kept_by_average"] == pytest.approx(kept, rel=1e-4)
    assert pairs["own", "again"]["cosine"] == pytest.approx(1)
    assert pairs["own", "again"]["kept_by_average"] == pytest.approx(1)
    with pytest.raises(RunError, match="at least twice"):
        bench("updates").main([*words[:2], "--out", str(out)])
    with pytest.raises(RunError, match="Two adapters are called 'base'"):
        bench("updates").main([*words, *words[:2], "--out", str(out)])


@pytest.fixture
def remedied(folder, bench, tmp_path):
    out = tmp_path / "run"
    bench("remedies").main([*arguments(folder, out), *SMALL])
    return out, json.loads((out / "remedies.json").read_text())


def test_remedies(folder, bench, remedied, monkeypatch):
    out, found = remedied
    updates = found["updates"]
    own, base = updates["norms"]["ingredient"], updates["norms"]["base"]
    even = (own**2 + base**2 + 2 * updates["cosine"] * own * base) ** 0.5 / 2
    assert updates["norm_of_average"] == pytest.approx(even, rel=1e-3)
    for scenario in ("warm", "cold"):
        result = found["scenarios"][scenario]
        mixes = result["mixes"]
        assert {name.split()[0] for name in mixes} == {
            "simplex", "norm-matched", "off-simplex", "per-layer",
        }  # fmt: skip
        for row in result["rows"]:
            assert row["ndcg@10"] == mixes[row["chosen"]]["ndcg@10"]
            inside = [mixes[m] for m in mixes if row["space"] in ("all", m.split()[0])]
            alone = ("entropy", "divergence", "distillation")
            if row["rule"] in alone and row["space"] == "simplex":
                key = row["rule"]
                assert mixes[row["chosen"]][key] == min(m[key] for m in inside)
            regret = row["regret"]["ndcg@10"]["difference"]
            assert regret >= -1e-12
            if row["rule"].startswith("oracle"):
                assert regret == 0
        best = max(mixes[f"simplex {x}"]["ndcg@10"] for x in ("0.00/1.00", "1.00/0.00"))
        assert mixes[result["better_adapter"]]["ndcg@10"] == best
    assert "| simplex | entropy |" in (out / "remedies.md").read_text()
    # Measured mixes are taken as they are; other settings are refused.
    grid = bench("mix_grid")
    monkeypatch.setattr(grid, "score", lambda *a, **k: pytest.fail("measured again"))
    bench("remedies").main([*arguments(folder, out), *SMALL])
    assert json.loads((out / "remedies.json").read_text())["scenarios"] == found["scenarios"]
    with pytest.raises(RunError, match="other settings") as error:
        bench("remedies").main([*arguments(folder, out), *SMALL, "--test", "20"])
    one_sentence(error.value)


def test_the_grid_scores_nobody_it_adapted_to(folder, bench, tmp_path):
    grid = bench("mix_grid")
    from reccocktail.backbone import load_backbone
    from reccocktail.training.adapter import Adapter

    pair = [Adapter.load(folder / name) for name in ("base", "own")]
    backbone = load_backbone(str(folder / "backbone"), device="cpu")
    made = grid.Grid(pair, backbone, Domain.load(folder / "tastes"), "warm",
                     grid.Sizes(12, 15, 30), tmp_path)  # fmt: skip
    users = {name: set(rows["user_id"]) for name, rows in made.rows.items()}
    assert not users["unlabelled"] & users["test"] and len(users["unlabelled"]) == 12
    cell = made._cell("simplex", [0.5, 0.5])
    point = made.mixer.measure_pair(0.5)  # the grid's figures are those of a search
    np.testing.assert_allclose(cell.scores["unlabelled"], point.scores.numpy(), atol=1e-5)
    assert cell.information == pytest.approx(point.mutual_information, abs=1e-6)
    assert cell.entropy["unlabelled"].mean() == pytest.approx(point.entropy, abs=1e-5)
    fine = grid.Grid(pair, backbone, Domain.load(folder / "tastes"), "warm",
                     grid.Sizes(12, 15, 30, grid=(0.0, 0.004, 1.0)), tmp_path)  # fmt: skip
    with pytest.raises(RunError, match="two decimals") as error:
        fine.cells()
    one_sentence(error.value)


def test_adaptation_uses_the_same_grid(folder, bench, remedied, monkeypatch):
    out, remedies = remedied
    monkeypatch.setattr(bench("mix_grid"), "score", lambda *a, **k: pytest.fail("measured again"))
    more = ["--users", "4", "12", "30", "99", "--draws", "3"]
    bench("adaptation").main([*arguments(folder, out), *SMALL, *more])
    found = json.loads((out / "adaptation.json").read_text())["scenarios"]
    assert (out / "adaptation.png").read_bytes().startswith(b"\x89PNG")
    for scenario in ("warm", "cold"):
        rows, scored = found[scenario]["rows"], found[scenario]["scored_users"]
        mixes = remedies["scenarios"][scenario]["mixes"]
        simplex = {m: v for m, v in mixes.items() if m.startswith("simplex")}
        best = max(v["ndcg@10"] for v in simplex.values())
        assert found[scenario]["references"]["oracle_ndcg@10"] == pytest.approx(best)
        counts = {way: {r["users"] for r in rows if r["way"] == way}
                  for way in ("disjoint", "transductive", "labelled")}  # fmt: skip
        assert counts["disjoint"] == {4, 12}
        assert counts["transductive"] == {n for n in (4, 12, 30) if n <= scored}
        # Labelled users are drawn for whoever looks at labels, and each objective is judged.
        assert counts["labelled"] and counts["labelled"] <= {4, 12, 30}
        judged = {r["objective"] for r in rows if r["way"] == "labelled"}
        assert judged == {"calibrated", "adapter-calibrated", "validation"}
        for row in rows:
            assert row["regret"] >= 0 and 0 <= row["lambda_1"] <= 1
        # All unlabelled users together choose what the remedies' table says.
        whole = next(r for r in rows if (r["way"], r["users"], r["objective"])
                     == ("disjoint", 12, "entropy"))  # fmt: skip
        chosen = min(simplex.values(), key=lambda v: v["entropy"])
        assert whole["draws"] == 1
        assert whole["regret"] == pytest.approx(best - chosen["ndcg@10"])


def test_few_labelled_users_are_all_that_a_point_knows(folder, bench, remedied):
    out, _ = remedied
    remedies = bench("remedies")
    parser = argparse.ArgumentParser()
    remedies.grid_arguments(parser)
    grids, _ = remedies.grids_of(parser.parse_args([*arguments(folder, out), *SMALL]))
    cells = [cell for cell in grids[0].cells() if cell.space == "simplex"]
    few = np.arange(5)
    for whole, some, cell in zip(
        grids[0].points(cells), grids[0].points(cells, labelled=few), cells, strict=True
    ):
        scores = torch.from_numpy(cell.scores["valid"][few])
        positive = torch.from_numpy(grids[0].positive["valid"][few])
        assert some.temperature == pytest.approx(fit_temperature(scores, positive))
        assert some.entropy == whole.entropy  # the unlabelled users are all there


COST = "--users 6 --labelled 9 --test 20 --steps 2 --rates 0.5 2 --scenario warm".split()


def test_published_cost(folder, bench, tmp_path, monkeypatch, capsys):
    cost, more = bench("published_cost"), [*COST, "--part", "search"]
    file = tmp_path / "run" / "published_cost.json"
    # Out of time: ours is measured, what is missing is said, and the same command goes on.
    cost.main([*arguments(folder, tmp_path / "run"), *more, "--minutes", "0"])
    part = json.loads(file.read_text())["scenarios"]["warm"]
    assert [r["search"] for r in part["runs"]] == ["ours"] and not part["complete"]
    assert "times_cheaper" not in part and "goes on" in capsys.readouterr().out
    cost.main([*arguments(folder, tmp_path / "run"), *more])
    found = json.loads(file.read_text())["scenarios"]["warm"]
    ours, *theirs, calibrated = found["runs"]
    assert found["complete"] and ours == part["runs"][0]
    assert [r["objective"] for r in found["runs"]] == ["entropy"] * 3 + ["calibrated"]
    assert calibrated["search"] == "ours, calibrated" and calibrated["learning_rate"] is None
    assert ours["search"] == "ours" and [r["learning_rate"] for r in theirs] == [0.5, 2]
    assert {r["n"] for r in found["runs"]} == {20}
    assert {r["adapted_users"] for r in found["runs"]} == {6}
    spent = sum(r["seconds"] for r in theirs)
    assert found["times_cheaper"] == pytest.approx(spent / ours["seconds"])
    best = max(r["ndcg@10"] for r in theirs)
    gap = found["ours_minus_published"]["rate chosen by test labels"]["ndcg@10"]["difference"]
    assert gap == pytest.approx(ours["ndcg@10"] - best)
    assert found["times_cheaper_calibrated"] == pytest.approx(spent / calibrated["seconds"])
    gap = found["ours_calibrated_minus_published"]["rate chosen by test labels"]["ndcg@10"]
    assert gap["difference"] == pytest.approx(calibrated["ndcg@10"] - best)
    low, high = (np.ptp(r["lambda_1_range"]) for r in theirs)
    assert high > low > 0  # a higher rate went further
    assert ours["lambda_1_range"][0] == ours["lambda_1_range"][1]
    # What is finished is not run again; other settings are refused.
    monkeypatch.setattr(cost, "find", lambda *a, **k: pytest.fail("searched again"))
    cost.main([*arguments(folder, tmp_path / "run"), *more])
    assert json.loads(file.read_text())["scenarios"]["warm"] == found
    with pytest.raises(RunError, match="other settings"):
        cost.main([*arguments(folder, tmp_path / "run"), *more, "--test", "10"])


def test_ranking_speed(folder, bench, tmp_path, monkeypatch):
    cost, speed = bench("published_cost"), bench("ranking_speed")
    more = "--part ranking --ranking-users 5 --chunk 2".split()
    cost.main([*arguments(folder, tmp_path / "run"), *more])
    found = json.loads((tmp_path / "run" / "published_cost.json").read_text())
    assert found["scenarios"] == {} and found["ranking"]["complete"]
    ways, skipped = found["ranking"]["ways"], found["ranking"]["skipped"]
    assert set(skipped) == {"choice"} and set(ways) | set(skipped) == set(speed.WAYS)
    (log,) = (tmp_path / "run").glob("ranking-*.jsonl")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for name, way in ways.items():
        mine = [line for line in lines if line["way"] == name]
        assert [line["users"] for line in mine] == [2, 2, 1] and way["users"] == 5
        rate = 5 / sum(line["seconds"] for line in mine)
        assert way["users_a_second"] == pytest.approx(rate)
        assert way["ci95"][0] <= rate <= way["ci95"][1]
    # A cut line is measured again, the others are not.
    log.write_text(log.read_text()[:-9])
    measured = []
    clock = speed.seconds
    monkeypatch.setattr(speed, "seconds", lambda *a: measured.append(1) or clock(*a))
    cost.main([*arguments(folder, tmp_path / "run"), *more])
    assert len(measured) == 1 and len(log.read_text().splitlines()) == len(lines)


def test_plain_decoding_writes_as_many_tokens_as_titles_take(folder, bench):
    speed = bench("ranking_speed")
    from reccocktail.backbone import load_backbone
    from reccocktail.ranking import build
    from reccocktail.ranking.scoring import Catalogue

    backbone, domain = load_backbone(str(folder / "backbone")), Domain.load(folder / "tastes")
    recipe = speed.WAYS["generate, plain decoding"]
    ranker = build(backbone, recipe)
    rows = domain.rows("test_warm")[:2]
    written = speed.decode_plainly(backbone, Catalogue.of(domain, ranker), rows)
    each = 2 + len(ranker.instruction.separator)  # every title has two words
    assert abs(written - 2 * speed.TITLES * each) <= 4


def test_published_rates(bench):
    rates = bench("published_cost").RATES
    assert len(rates["warm"]) == len(rates["cold"]) == 10
    assert (rates["warm"][0], rates["warm"][-1]) == (0.5, 5.0)
    assert (rates["cold"][0], rates["cold"][-1]) == (0.01, 0.09)


def test_a_kept_sheet_is_that_of_its_adapters_data_and_settings(
    folder, bench, tmp_path, monkeypatch
):
    study = bench("study")
    backbone, domain = (
        load_backbone(str(folder / "backbone"), device="cpu"),
        Domain.load(folder / "tastes"),
    )
    pair = [Adapter.load(folder / name) for name in ("base", "own")]
    settings = MixSettings(users=6, validation_users=5, grid=(0.0, 0.5, 1.0), refinements=0)

    def sheet(*, adapters=pair, domain=domain, scenario="warm", **changed):
        made = replace(settings, **changed)
        return study.kept_sheet(adapters, backbone, domain, scenario, tmp_path / "mix", made)

    first = sheet()
    monkeypatch.setattr(study, "mix", lambda *_: pytest.fail("mixed again"))
    assert sheet() == first
    # There are fewer users than either asks for.
    everyone = domain.rows("valid_warm").height
    kept = tmp_path / "mix.json"
    kept.write_text(
        json.dumps(first | {"identity": first["identity"] | {"validation_users": everyone}})
    )
    sheet(validation_users=everyone + 1)
    other = random_adapter(backbone, domain, "own", "ingredient", seed=9)
    elsewhere = taste_domain(tmp_path, users=70)
    refused = {
        "adapters": {"adapters": [pair[0], other]},
        "users": {"users": 4},
        "validation_users": {"validation_users": 4},
        "seed": {"seed": 1},
        "method": {"method": "factor"},
        "scenario": {"scenario": "cold"},
        "data": {"domain": elsewhere},
    }  # fmt: skip
    # With all that decides it, and as sheets were before that was kept.
    former = {name: value for name, value in first.items() if name != "identity"}
    for found in (first, former):
        kept.write_text(json.dumps(found))
        assert sheet() == found
        for name, change in refused.items():
            with pytest.raises(
                RunError, match=rf"mix.json was made with .*\(.*\b{name}\b.*\)"
            ) as error:
                sheet(**change)
            one_sentence(error.value)
    assert sheet(grid=(0.0, 1.0)) == former  # it does not say its grid
    kept.write_text(json.dumps(first))
    for name, change in {"grid": (0.0, 1.0), "refinements": 1}.items():
        with pytest.raises(RunError, match=rf"\({name}\)"):
            sheet(**{name: change})
