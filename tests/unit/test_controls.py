"""Controls: made of the same two adapters, scored as all models are, and honest about labels."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch

from reccocktail.errors import RunError
from reccocktail.evaluation.controls import (
    CONTROLS,
    GRID,
    Controls,
    check_controls,
    random_like,
)
from reccocktail.evaluation.evaluate import evaluate
from reccocktail.evaluation.metrics import per_user, ranks
from reccocktail.evaluation.results import metrics_table, terminal_table
from reccocktail.evaluation.settings import EvaluationSettings
from reccocktail.mixing.arithmetic import MergeOptions, combine, update_norm
from reccocktail.mixing.cocktail import mix
from reccocktail.mixing.measure import MixSettings
from reccocktail.ranking.lexical import Words
from reccocktail.ranking.prior import popularity_prior
from reccocktail.ranking.scoring import positive_columns
from reccocktail.training.adapter import Adapter
from tests.adapters import pico_recipe, random_adapter, random_lora, save
from tests.domains import taste_domain
from tests.helpers import changed, one_sentence, other_targets
from tests.pico import pico_backbone

SMALL = EvaluationSettings(validation_users=20, words=True)
ASIDE = EvaluationSettings(validation_users=20, words=True, full_catalogue=False)


@pytest.fixture(scope="module")
def backbone():
    return pico_backbone()


@pytest.fixture(scope="module")
def domain(tmp_path_factory):
    return taste_domain(tmp_path_factory.mktemp("domain"), users=60)


@pytest.fixture(scope="module")
def adapters(backbone, domain, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    pair = [
        random_adapter(backbone, domain, "spirit", "base", seed=1),
        random_adapter(backbone, domain, "own", "ingredient", seed=2),
    ]
    paths = [save(adapter, folder) for adapter in pair]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECCOCKTAIL_CACHE", str(folder / "cache"))
        settings = MixSettings(users=6, validation_users=6, refinements=0, grid=(0.0, 0.25, 1.0))
        mix(pair, backbone, domain, "warm", folder / "cocktail", settings)
    paths.append(folder / "cocktail")
    return [(Adapter.load(path), path) for path in paths]


@pytest.fixture(scope="module")
def done(domain, backbone, adapters, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluation") / "evaluation"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECCOCKTAIL_CACHE", str(out.with_name("cache")))
        evaluate(domain, adapters, backbone, out, controls=CONTROLS, settings=SMALL)
    return out


def content(out, name="metrics.json"):
    return json.loads((out / name).read_text())


def quality(out, model, scenario):
    rows = pl.read_parquet(out / "predictions.parquet").filter(
        (pl.col("model") == model) & (pl.col("scenario") == scenario)
    )
    found = ranks([np.array(row) for row in rows["scores"].to_list()], positive_columns(rows))
    return float(per_user(found)["ndcg@10"].mean())


def scores_of_the_model(out, model, scenario, domain):
    """Scores with popularity and words taken off again."""
    rows = pl.read_parquet(out / "predictions.parquet").filter(
        (pl.col("model") == model) & (pl.col("scenario") == scenario)
    )
    found = content(out, "run.json")["models"][model]
    prior = found["prior_weight"][scenario] * popularity_prior(domain.train_counts())
    histories = domain.rows(f"test_{scenario}").join(
        rows.select("user_id"), on="user_id", how="semi", maintain_order="left"
    )
    numbers = [[domain.index[item] for item in row] for row in histories["history"].to_list()]
    candidates = [[domain.index[item] for item in row] for row in rows["candidates"].to_list()]
    words = Words(domain.titles, pico_recipe().prompt.max_history).scores(numbers, candidates)
    weight = found["words_weight"][scenario]
    parts = zip(rows["scores"].to_list(), candidates, words, strict=True)
    return np.stack([np.array(s) - prior[c] - weight * w for s, c, w in parts])


def test_every_control_is_scored_on_the_rows_of_all(done):
    table = pl.read_parquet(done / "predictions.parquet")
    counts = table.group_by("scenario", "model").len()
    for scenario in ("warm", "cold"):
        of = counts.filter(pl.col("scenario") == scenario)
        assert set(of["model"]) >= set(CONTROLS) and of["len"].n_unique() == 1
    assert set(content(done)["full_catalogue"]) >= set(CONTROLS)
    kinds = {m: v["kind"] for m, v in content(done, "run.json")["models"].items()}
    assert kinds["oracle"] == "control that uses test labels"
    assert {kinds[name] for name in CONTROLS if name != "oracle"} == {"control"}


@pytest.mark.parametrize("scenario", ["warm", "cold"])
def test_the_oracle_is_the_best_of_the_grid(done, domain, backbone, adapters, tmp_path, scenario):
    """Against evaluations of the same mixes as ordinary adapters."""
    pair = [a for a, _ in adapters[:2]]
    made = list(adapters)
    for first in GRID[1:-1]:
        path = tmp_path / f"mix{first}"
        mix(pair, backbone, domain, scenario, path, MixSettings(users=6), (first, 1 - first))
        made.append((Adapter.load(path), path))
    out = tmp_path / "e"
    evaluate(domain, made, backbone, out, settings=ASIDE, scenarios=[scenario])
    names = {0.0: "own", 1.0: "spirit"} | {f: f"mix{f}" for f in GRID[1:-1]}
    found = {first: quality(out, name, scenario) for first, name in names.items()}
    chosen = content(done, "run.json")["models"]["oracle"]["chosen"][scenario][0]
    assert found[chosen] == pytest.approx(max(found.values()))
    assert quality(done, "oracle", scenario) == pytest.approx(max(found.values()))


def test_only_the_oracle_looks_at_test_labels(done, domain, backbone, adapters, tmp_path):
    """With other targets the oracle may choose differently; no other control's scores move."""
    other = changed(domain, tmp_path / "other", test_warm=other_targets)
    again = [(a, p) for a, p in adapters[:2]]
    for name, where in (("one", domain), ("two", other)):
        evaluate(where, again, backbone, tmp_path / name, controls=CONTROLS, settings=ASIDE,
                 scenarios=["warm"])  # fmt: skip
    tables = [
        pl.read_parquet(tmp_path / n / "predictions.parquet").filter(pl.col("model") != "oracle")
        for n in ("one", "two")
    ]
    assert tables[0]["scores"].to_list() == tables[1]["scores"].to_list()
    assert tables[0]["target"].to_list() != tables[1]["target"].to_list()


def test_the_oracle_is_marked_and_compared_with_nobody(done):
    metrics = content(done)
    for scenario in ("warm", "cold"):
        assert metrics["models"]["oracle"][scenario]["uses_test_labels"] is True
        assert metrics["reference"][scenario] in ("spirit", "own")
    others = [m for m in metrics["models"] if m != "oracle"]
    assert all("uses_test_labels" not in metrics["models"][m]["warm"] for m in others)
    assert "oracle" not in {entry["model"] for entry in metrics["paired"]}
    assert {"average", "random"} <= {entry["model"] for entry in metrics["paired"]}
    lines = [line for line in metrics_table(metrics, ["warm"]).splitlines() if "|" in line]
    assert "oracle (uses test labels)" in lines[-1]
    assert "uses test labels" in str(list(terminal_table(metrics, "warm").columns[0].cells)[-1])


def test_the_ensemble_averages_scores_and_states_its_cost(done, domain):
    one, other, both = (
        scores_of_the_model(done, model, "warm", domain) for model in ("spirit", "own", "ensemble")
    )
    np.testing.assert_allclose(both, (one + other) / 2, atol=1e-5)
    assert "two passes" in content(done, "run.json")["models"]["ensemble"]["chosen"]["cost"]


def test_dare_drops_by_the_seed(domain, backbone, adapters, tmp_path):
    for seed in (0, 1):
        settings = EvaluationSettings(prior=False, full_catalogue=False, seed=seed)
        evaluate(domain, adapters[:2], backbone, tmp_path / str(seed), controls=["dare", "ties"],
                 settings=settings, scenarios=["warm"])  # fmt: skip
    of = [quality(tmp_path / str(seed), "dare", "warm") for seed in (0, 1)]
    assert of[0] != of[1]
    same = [quality(tmp_path / str(seed), "ties", "warm") for seed in (0, 1)]
    assert same[0] == same[1]


def test_average_is_the_half_and_half_mix(done, domain, backbone, adapters, tmp_path):
    pair = [a for a, _ in adapters[:2]]
    mix(pair, backbone, domain, "warm", tmp_path / "half", MixSettings(users=6), (0.5, 0.5))
    half = (Adapter.load(tmp_path / "half"), tmp_path / "half")
    evaluate(domain, [*adapters, half], backbone, tmp_path / "e", settings=ASIDE)
    for scenario in ("warm", "cold"):
        assert quality(done, "average", scenario) == quality(tmp_path / "e", "half", scenario)


def test_random_takes_the_cocktails_coefficients(done, adapters):
    sheet = json.loads((adapters[2][1] / "cocktail.json").read_text())
    chosen = content(done, "run.json")["models"]["random"]["chosen"]
    assert chosen["warm"] == {"coefficients": sheet["coefficients"]["all"], "of": "cocktail"}
    assert chosen["cold"] == {"coefficients": [0.5, 0.5]}


def test_random_is_merged_as_its_cocktail_was(domain, backbone, adapters, tmp_path):
    """Options of the merge too, or their norms could not be compared."""
    pair = [adapter for adapter, _ in adapters[:2]]
    settings = MixSettings(users=6, validation_users=6, options=MergeOptions(norm_matched=True))
    mix(pair, backbone, domain, "warm", tmp_path / "matched", settings, (0.5, 0.5))
    sheet = json.loads((tmp_path / "matched" / "cocktail.json").read_text())
    making = Controls(*pair, None, [sheet | {"objective": "entropy"}], whole=False, seed=0)
    lora, said = making._random("warm")
    assert said["of"] == "matched"
    assert update_norm(lora) == pytest.approx(update_norm(pair[1].lora), rel=0.05)


def test_random_takes_the_base_spirits_place(domain, backbone, adapters, tmp_path):
    pair = [adapter for adapter, _ in adapters[:2]]
    mix(pair, backbone, domain, "warm", tmp_path / "uneven", MixSettings(users=6), (0.25, 0.75))
    sheet = json.loads((tmp_path / "uneven" / "cocktail.json").read_text())
    making = Controls(*pair, None, [sheet | {"objective": "entropy"}], whole=False, seed=0)
    lora, said = making._random("warm")
    assert said["coefficients"] == [0.25, 0.75]
    own = pair[1].lora
    expected = combine([random_like(own, 0), own], torch.tensor([0.25, 0.75]))
    for module, (a, b, scaling) in lora.items():
        other = expected[module]
        torch.testing.assert_close(scaling * b @ a, other.scaling * other.b @ other.a)


def test_validation_looks_at_the_shape_of_scores_and_not_at_their_size(adapters):
    rows = pl.DataFrame({"target": ["0"] * 40, "candidates": [[f"{i}" for i in range(10)]] * 40})
    scorer = SimpleNamespace(valid={"warm": rows})
    making = Controls(*(a for a, _ in adapters[:2]), scorer, [], whole=False, seed=0)
    scores = np.random.default_rng(0).normal(size=(40, 10)) + 2 * np.eye(10)[0]
    losses = [
        making._log_loss("warm", SimpleNamespace(valid=SimpleNamespace(scores=list(scores * size))))
        for size in (1, 3)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_of_equal_mixes_the_one_with_less_of_the_base_spirit_is_chosen(adapters):
    scorer = SimpleNamespace(scored=lambda lora, scenarios, *_, **__: dict.fromkeys(scenarios))
    making = Controls(*(a for a, _ in adapters[:2]), scorer, [], whole=False, seed=0)
    assert making._choose("warm", lambda *_: 1.0) == 0.0


def test_validation_needs_users_of_every_scenario(domain, backbone, adapters, tmp_path):
    bare = changed(domain, tmp_path / "bare", valid_cold=lambda rows: rows.head(0))
    pair = adapters[:2]
    out = tmp_path / "e"
    with pytest.raises(RunError, match="has no valid_cold users") as error:
        evaluate(bare, pair, backbone, out, controls=["validation"], settings=SMALL)
    one_sentence(error.value)
    evaluate(bare, pair, backbone, out, controls=["validation"], scenarios=["warm"], settings=SMALL)
    assert "validation" in content(out)["models"]


def test_noise_has_the_norms_of_the_ingredient(backbone):
    lora = random_lora(backbone, 5)
    noise, again, other = random_like(lora, 0), random_like(lora, 0), random_like(lora, 1)
    for module, factors in lora.items():
        sizes = [update_norm({module: x[module]}) for x in (lora, noise)]
        assert sizes[0] == pytest.approx(sizes[1], rel=1e-4)
        assert noise[module].a.shape == factors.a.shape
        assert torch.equal(noise[module].b, again[module].b)
        assert not torch.equal(noise[module].b, other[module].b)
    half = combine([lora, noise], torch.tensor([0.5, 0.5]))
    # Independent directions: the norm of the average shrinks by about the root of two.
    assert update_norm(half) == pytest.approx(update_norm(lora) / 2**0.5, rel=0.1)


@pytest.mark.parametrize(
    ("names", "count", "users", "what"),
    [
        (["placebo"], 2, 9, "no control 'placebo'"),
        (["average"], 1, 9, "one base spirit and one ingredient"),
        (["average"], 0, 9, "not 0 and 0"),
        (["validation"], 2, 0, "--validation-users"),
    ],
)
def test_refusals(adapters, domain, names, count, users, what):
    with pytest.raises(RunError, match=what) as error:
        check_controls(names, [a for a, _ in adapters[:count]], domain, users)
    one_sentence(error.value)


def test_no_controls_need_nothing(domain):
    assert check_controls([], [], domain, 0) is None


def test_second_rounds_and_joint_training_stand_beside_the_controls(
    adapters, backbone, domain, tmp_path
):
    """They are judged, but controls are made of the paper's two, which all are paired with."""
    other = taste_domain(tmp_path / "o", name="elsewhere", users=40)
    base = random_adapter(backbone, other, "spirit", "base", seed=1)
    own, joint = adapters[1][0], random_adapter(backbone, domain, "joint", "base", seed=4)
    card = own.card.model_copy(update={"initial_sha256": base.sha256})
    second = replace(random_adapter(backbone, domain, "second", seed=3), card=card)
    every = [second, joint, base, own]
    assert check_controls(["average"], every, domain, 9) == (base, own)
    assert check_controls(["average"], [base, second], domain, 9) == (base, second)
    pairs = [(adapter, tmp_path / adapter.name) for adapter in every]
    evaluate(domain, pairs, backbone, tmp_path / "e", controls=["average"], settings=ASIDE)
    found = content(tmp_path / "e")
    assert {"second", "joint", "average"} <= set(found["models"])
    assert set(found["reference"].values()) <= {"spirit", "own"}
