"""The report: one page, self-contained, escaped, and no claim beyond its intervals."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from reccocktail.errors import RunError
from reccocktail.evaluation.metrics import per_user, ranks, summarise
from reccocktail.evaluation.plots import (
    coefficients_figure,
    curve_figure,
    models_figure,
    save_png,
    svg,
)
from reccocktail.evaluation.report import (
    duration,
    report,
    signed,
    size,
    verdict,
    verdict_sentence,
)
from reccocktail.evaluation.results import PREDICTION_SCHEMA, write_evaluation
from reccocktail.mixing.objectives import OBJECTIVES
from reccocktail.schema import Objective
from reccocktail.storage import write_json
from tests.helpers import one_sentence

EVIL = '<script>alert("x")</script> & "Salt | Pepper" $5_off$'
N_CANDIDATES = 30
MODELS = ("popularity", "backbone", "base-household", "movies", "average", "cocktail-warm")


def _scores(rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    """Scores of six models whose positive is candidate 0: two adapters share a signal and mix."""
    positive = np.zeros((n, N_CANDIDATES))
    positive[:, 0] = 1.0
    shared = rng.normal(size=(n, N_CANDIDATES))
    base = 0.9 * positive + shared + 0.9 * rng.normal(size=shared.shape)
    ingredient = 1.3 * positive + shared + 0.7 * rng.normal(size=shared.shape)
    return {
        "popularity": np.floor(0.5 * positive + 2 * rng.normal(size=shared.shape)),
        "backbone": 0.3 * positive + rng.normal(size=shared.shape),
        "base-household": base,
        "movies": ingredient,
        "average": (base + ingredient) / 2,
        "cocktail-warm": 0.3 * base + 0.7 * ingredient,
    }


def _entropy(scores: np.ndarray) -> float:
    logits = scores - scores.max(axis=1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return float(-(np.exp(log_p) * log_p).sum(axis=1).mean())


def _cocktail(rng: np.random.Generator, n: int, **changes: Any) -> dict[str, Any]:
    """A cocktail.json whose curve is measured on mixed scores."""
    table = _scores(rng, n)
    curve = []
    for l1 in np.linspace(0, 1, 9):
        mixed = l1 * table["base-household"] + (1 - l1) * table["movies"]
        summary = summarise(per_user(ranks(mixed, np.zeros(n, dtype=int))), resamples=20)
        temperature = float(mixed.std())
        curve.append(
            {
                "coefficients": [float(l1), float(1 - l1)],
                "entropy": _entropy(mixed),
                "calibrated_entropy": _entropy(mixed / temperature),
                "temperature": temperature,
                "validation": {k: v for k, v in summary.items() if k != "ci95"},
            }
        )
    chosen = min(curve, key=lambda point: point["entropy"])["coefficients"]
    return {
        "format": 1,
        "name": "cocktail-warm",
        "method": "delta",
        "granularity": "global",
        "objective": "entropy",
        "scenario": "warm",
        "adapters": [
            {"name": "base-household", "role": "base", "sha256": "0" * 64},
            {"name": "movies", "role": "ingredient", "sha256": "1" * 64},
        ],
        "coefficients": {"all": chosen},
        "curve": curve,
        "adaptation": {
            "table": "test_warm",
            "users": 50,
            "user_ids": [f"a{i}" for i in range(50)],
            "transductive": False,
        },
        "collapse": {"collapsed": False, "reason": ""},
        "agreement": "Entropy and validation NDCG@10 choose different mixes.",
        "seconds": 48.2,
        "backbone": {"name": "smollm2-135m"},
        "data": {"name": "movielens-1m", "sha256": "2" * 64},
        **changes,
    }


def make_run(folder: Path, *, sizes: dict[str, int] | None = None, seed: int = 0) -> Path:
    """An evaluation folder written by `write_evaluation` from synthetic scores."""
    rng = np.random.default_rng(seed)
    rows = []
    for scenario, n in (sizes or {"warm": 1200, "cold": 300}).items():
        for model, scores in _scores(rng, n).items():
            for user, line in enumerate(scores):
                ids = [f"{scenario}-{user}-{j}" for j in range(N_CANDIDATES)]
                rows.append((model, scenario, f"u{user}", ids[0], ids, line.tolist()))
    kinds = ("popularity", "backbone", "base", "ingredient", "average", "cocktail")
    run = {
        "recipe": {"ranker": "dense", "rank": 16, "seed": 0, "note": EVIL},
        "versions": {"reccocktail": "0.1.0", "torch": "2.13.0"},
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "hardware": {"cpu_cores": 2, "memory": "8 GiB", "device": "cpu"},
        "seconds": {"fetch": 12.0, "prepare": 4.2, "train base": 240.0, "train movies": 238.0},
        "peak_memory_bytes": 3_400_000_000,
        "command": "reccocktail quickstart --out runs/quickstart",
        "models": {
            model: {"kind": kind, "seconds": 20.5, "prior_weight": {"warm": 0.4, "cold": 0.0}}
            for model, kind in zip(MODELS, kinds, strict=True)
        },
    }
    frame = pl.DataFrame(rows, schema=PREDICTION_SCHEMA, orient="row")
    present = frame["scenario"].unique(maintain_order=True).to_list()
    write_evaluation(
        folder,
        frame,
        run,
        reference=dict.fromkeys(present, "movies"),
        resamples=200,
        paired_resamples=1000,
    )
    write_json(folder / "cocktails.json", [_cocktail(rng, 400)])
    picks = [
        {"title": "Toy Story (1995)", "score": 4.31, "new": False},
        {"title": EVIL, "score": 3.9, "new": True},
        {"title": "A Grand Day Out (1992)", "score": 3.77, "new": False},
        {"title": "Chicken Run (2000)", "score": 3.5, "new": False},
        {"title": "Wrong Trousers, The (1993)", "score": 3.41, "new": False},
    ]
    example = {
        "user_id": "4958",
        "scenario": "warm",
        "history": [f"Film number {i} ({1980 + i})" for i in range(11)] + [EVIL],
        "target": "Chicken Run (2000)",
        "models": {m: picks[i % 2 :] for i, m in enumerate(MODELS[2:])},
    }
    write_json(folder / "examples.json", [example, {**example, "user_id": "12", "target": None}])
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "quickstart"
    make_run(folder / "evaluation")
    return folder


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    return report([run], run.parent / "report.html").read_text(encoding="utf-8")


class _Tags(HTMLParser):
    """Start tags with attributes, text outside style, and whether every tag is closed."""

    VOID = frozenset({"meta", "br", "img", "link", "hr", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def parse(page: str) -> _Tags:
    parser = _Tags()
    parser.feed(page)
    parser.close()
    assert not parser.open
    return parser


def test_the_page_is_well_formed_and_loads_nothing(page: str) -> None:
    tags = parse(page).tags
    assert not {name for name, _ in tags} & {"script", "link", "img", "iframe", "object", "base"}
    for _, attributes in tags:
        for key in ("src", "href", "xlink:href", "data", "action"):
            assert (attributes.get(key) or "#").startswith("#"), attributes
        assert not any(key.startswith("on") for key in attributes)
    assert not re.search(r"@import|url\((?!#)", page)


def test_inner_references_are_unique_and_resolve(page: str) -> None:
    tags = parse(page).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {a["href"] for _, a in tags if a.get("href")} | {
        a["xlink:href"] for _, a in tags if a.get("xlink:href")
    }
    links |= set(re.findall(r"url\((#[^)]+)\)", page))
    assert {str(link).removeprefix("#") for link in links} <= set(ids)


def test_titles_are_data(page: str) -> None:
    assert "<script" not in page
    assert "&lt;script&gt;alert(" in page
    assert parse(page).text.count("Salt | Pepper") >= 8


def test_the_page_shows_the_measured_figures_with_n_and_interval(run: Path, page: str) -> None:
    text = parse(page).text
    metrics = json.loads((run / "evaluation" / "metrics.json").read_text())
    for cells in metrics["models"].values():
        for cell in cells.values():
            low, high = cell["ci95"]["ndcg@10"]
            assert f"{cell['ndcg@10']:.3f}" in text
            assert f"{low:.3f}–{high:.3f}" in text  # noqa: RUF001
            assert f"{cell['n']:,}" in text
    assert "n = 1,200" in text
    assert "n = 300" in text
    assert "n = 400" in text  # the curve's validation users
    assert "8 min 14 s" in text
    assert "3.2 GiB" in text


def test_the_verdicts_are_the_paired_intervals(run: Path, page: str) -> None:
    metrics = json.loads((run / "evaluation" / "metrics.json").read_text())
    ours = [
        entry
        for entry in metrics["paired"]
        if entry["model"] == "cocktail-warm" and entry["metric"] == "ndcg@10"
    ]
    assert len(ours) == 2
    text = parse(page).text
    outcomes = [verdict(entry) for entry in ours]
    for entry in ours:
        assert verdict_sentence(entry, comparisons=10) in text
    assert (
        f"{outcomes.count('win')} won, {outcomes.count('tie')} tied, {outcomes.count('loss')} lost"
    ) in text


def test_new_and_true_items_are_badged(page: str) -> None:
    lists = page[page.index("Recommendations for 2 users") :]
    assert lists.count('<span class="badge">new</span>') == 1 + 2 * 4
    # The second user has no known next item, so only the first one's lists mark it.
    assert lists.count('<span class="badge hit">true next</span>') == 1 + 4


def test_same_run_same_bytes(run: Path, page: str, tmp_path: Path) -> None:
    again = report([run / "evaluation"], tmp_path / "again.html").read_text(encoding="utf-8")
    assert again == page


def test_what_is_no_page_is_not_written_over(run: Path, tmp_path: Path) -> None:
    table = tmp_path / "items.csv"
    table.write_text("item_id,title\n1,Tea\n")
    with pytest.raises(RunError, match="is no page") as refused:
        report([run], table)
    one_sentence(refused.value)
    assert table.read_text() == "item_id,title\n1,Tea\n"
    page = report([run], tmp_path / "r.html")
    assert report([run], page) == page  # a page may be made again


def test_several_runs_and_a_run_without_cocktails(run: Path, tmp_path: Path) -> None:
    plain = make_run(tmp_path / "plain", sizes={"cold": 40}, seed=1)
    facts = json.loads((plain / "run.json").read_text())
    write_json(plain / "run.json", {"command": "x", "models": {}})
    (plain / "cocktails.json").unlink()
    (plain / "examples.json").unlink()
    assert facts["models"]
    page = report([run, plain, run], tmp_path / "new" / "r.html").read_text(encoding="utf-8")
    tags = parse(page)
    ids = [attributes["id"] for _, attributes in tags.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert 'href="#run-3"' in page
    assert "This run holds no paired comparison of a cocktail" in tags.text


def test_the_page_checks_who_is_scored_and_does_not_trust_the_label(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "e", sizes={"warm": 40})
    rng = np.random.default_rng(0)
    users = [f"u{i}" for i in range(3)] + ["elsewhere"]
    seen = {"table": "test_warm", "users": 4, "user_ids": users, "transductive": False}
    collapse = {"collapsed": True, "reason": "entropy fell to 0.1 of its start"}
    write_json(folder / "cocktails.json", [_cocktail(rng, 60, adaptation=seen, collapse=collapse)])
    text = parse(report([folder], tmp_path / "r.html").read_text(encoding="utf-8")).text
    assert "looked at 4 users of test_warm ; 3 of them are among the users scored" in text
    assert "Collapse guard: entropy fell to 0.1 of its start" in text


def test_a_cocktail_by_layer_stands_behind_its_adapters(tmp_path: Path) -> None:
    """Its curve, as `mix` writes it: the adapters alone, and a mix without one pair of its own."""
    folder = make_run(tmp_path / "e", sizes={"warm": 40})
    cocktail = _cocktail(np.random.default_rng(0), 60, granularity="layer",
                         coefficients={"0": [0.2, 0.8], "1": [0.4, 0.6]})  # fmt: skip
    first, *_, last = cocktail["curve"]
    cocktail["curve"] = [last, first, first | {"coefficients": None, "entropy": 1.2345}]
    write_json(folder / "cocktails.json", [cocktail])
    text = parse(report([folder], tmp_path / "r.html").read_text(encoding="utf-8")).text
    assert "the cocktail 1.2345" in text


def test_diluted_mixes_are_listed_and_not_drawn(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "e", sizes={"warm": 40})
    cocktail = _cocktail(np.random.default_rng(0), 60)
    diluted = [
        point | {"coefficients": [c / 2 for c in point["coefficients"]], "entropy": 0.001}
        for point in cocktail["curve"]
    ]
    plain = [line.get_xydata().tolist() for a in curve_figure(cocktail).axes for line in a.lines]
    cocktail["curve"] += diluted
    both = [line.get_xydata().tolist() for a in curve_figure(cocktail).axes for line in a.lines]
    assert both == plain
    write_json(folder / "cocktails.json", [cocktail])
    text = parse(report([folder], tmp_path / "r.html").read_text(encoding="utf-8")).text
    assert "0.250, 0.250 0.0010" in text


def test_coefficients_that_were_given_were_chosen_by_nothing(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "e", sizes={"warm": 40})
    cocktail = _cocktail(np.random.default_rng(0), 60)
    pages = []
    for objective in ("distillation", "fixed"):
        write_json(folder / "cocktails.json", [cocktail | {"objective": objective}])
        pages.append(parse(report([folder], tmp_path / "r.html").read_text(encoding="utf-8")).text)
    assert "by distilling its adapters, without labels" in pages[0] and "It looked at" in pages[0]
    assert not any(text in pages[1] for text in ("chosen in", "chosen by", "It looked at"))


@pytest.mark.parametrize("pair", [[1.0, 1.0], [0.25, 0.25]])
def test_a_cocktail_off_the_line_is_not_marked_on_it(pair: list[float]) -> None:
    cocktail = _cocktail(np.random.default_rng(0), 60)
    marked = curve_figure(cocktail).axes[1].texts
    assert len(marked) == 1 and "chosen" in marked[0].get_text()
    cocktail["coefficients"] = {"all": pair}
    assert not any(axis.texts for axis in curve_figure(cocktail).axes)


@pytest.mark.parametrize("objective", ["divergence", "distillation", "information", "validation"])
def test_what_was_minimised_is_drawn_beside_the_entropies(objective: Objective) -> None:
    cocktail = _cocktail(np.random.default_rng(0), 60) | {"objective": objective}
    sign = -1 if objective == "information" else 1
    for place, point in enumerate(cocktail["curve"]):
        point[OBJECTIVES[objective].curve_key] = sign * (0.5 + (place - 3) ** 2)
    upper = curve_figure(cocktail).axes[0]
    lines = {line.get_label(): line.get_ydata() for line in upper.lines}
    (label,) = (name for name in lines if name.startswith(objective))
    least = sign * cocktail["curve"][3][OBJECTIVES[objective].curve_key]
    where = cocktail["curve"][3]["coefficients"][0]
    assert label.endswith(f"lowest {least:.3f} at {where:.2f}") and lines[label].min() == 0
    assert objective in upper.get_title(loc="left")
    cocktail["curve"][0][OBJECTIVES[objective].curve_key] = None  # of before it was measured
    shown = curve_figure(cocktail).axes[0].lines
    assert not any(line.get_label().startswith(objective) for line in shown)


def test_many_coefficients_and_three_adapters(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "e", sizes={"warm": 40})
    rng = np.random.default_rng(0)
    layers = {str(i): [i / 10, 1 - i / 10] for i in range(11)}
    by_layer = _cocktail(rng, 60, granularity="layer", coefficients=layers)
    three = _cocktail(
        rng,
        60,
        name="three",
        adapters=[{"name": n, "role": "base", "sha256": ""} for n in ("a", "b", "c")],
        coefficients={"all": [0.2, 0.3, 0.5]},
        curve=[{"coefficients": [1 / 3, 1 / 3, 1 / 3], "entropy": 3.0}],
    )
    write_json(folder / "cocktails.json", [by_layer, three])
    text = parse(report([folder], tmp_path / "r.html").read_text(encoding="utf-8")).text
    assert "Means over 11 sets of coefficients" in text
    assert "base-household 0.500 movies 0.500" in text
    assert "a 0.200 b 0.300 c 0.500" in text
    assert "chosen, mean λ₁ = 0.500" in text
    assert coefficients_figure(three) is None
    with pytest.raises(RunError, match="no curve over two adapters"):
        curve_figure(three)


def test_full_catalogue_and_entropy_are_shown(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "e", sizes={"warm": 40})
    metrics = json.loads((folder / "metrics.json").read_text())
    summary = summarise(per_user(np.arange(40) * 7), resamples=50)
    metrics["full_catalogue"] = {"movies": {"warm": summary}}
    metrics["entropy"] = {"movies": {"warm": 3.0517}}
    write_json(folder / "metrics.json", metrics)
    text = parse(report([folder], tmp_path / "r.html").read_text(encoding="utf-8")).text
    assert "Warm: whole catalogue" in text
    assert f"{summary['mrr']:.3f}" in text[text.index("Warm: whole catalogue") :]
    assert "Entropy, nats" in text
    assert "3.052" in text


@pytest.mark.parametrize(
    ("interval", "difference", "p_holm", "outcome", "says"),
    [
        ([0.001, 0.02], 0.01, 0.01, "win", "beats movies, the best single adapter: NDCG@10 is"),
        ([0.001, 0.02], 0.01, 0.2, "win", "take it as a hint"),
        ([-0.02, -0.001], -0.01, 0.01, "loss", "0.0100 lower (95% interval \u22120.0200 to"),
        ([-0.004, 0.02], 0.008, 1.0, "tie", "includes 0. Neither is shown to be better."),
        ([0.0, 0.02], 0.01, 0.05, "tie", "ties with movies"),
        ([0.0, 0.0], 0.0, 1.0, "tie", "differs by 0.0000"),
    ],
)
def test_a_sentence_never_says_more_than_its_interval(
    interval: list[float], difference: float, p_holm: float, outcome: str, says: str
) -> None:
    entry = {
        "scenario": "warm",
        "model": "mix",
        "against": "movies",
        "metric": "ndcg@10",
        "difference": difference,
        "ci95": interval,
        "p": p_holm / 5,
        "p_holm": p_holm,
        "n": 1000,
    }
    sentence = verdict_sentence(entry, comparisons=5)
    assert verdict(entry) == outcome
    assert says in sentence
    assert "n = 1,000" in sentence
    words = {"win": "beats", "loss": "loses", "tie": "ties"}
    assert {key for key, word in words.items() if word in sentence} == {outcome}
    assert ("hint" in sentence) == (outcome != "tie" and p_holm >= 0.05)


def test_errors_name_the_folder(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="at least one run"):
        report([], tmp_path / "r.html")
    with pytest.raises(RunError, match=r"holds no metrics\.json"):
        report([tmp_path], tmp_path / "r.html")
    write_json(tmp_path / "metrics.json", {"models": {"a": {"warm": {"n": 3}}}})
    write_json(tmp_path / "run.json", {})
    with pytest.raises(RunError, match="does not have an evaluation's form"):
        report([tmp_path], tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("metrics.json", {"models": {}}),
        ("examples.json", [{"user_id": "a"}]),
        ("cocktails.json", [{"name": "cocktail-warm"}]),
        ("predictions.parquet", None),
    ],
)
def test_damaged_files_are_one_sentence(file: str, content: object, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    if content is None:
        (run / file).write_bytes(b"no table")
    else:
        write_json(run / file, content)
    with pytest.raises(RunError, match="evaluate again") as error:
        report([run], tmp_path / "report.html")
    one_sentence(error.value)
    assert not (tmp_path / "report.html").exists()


def test_plots(tmp_path: Path) -> None:
    cocktail = _cocktail(np.random.default_rng(0), 60)
    moved = {**cocktail, "coefficients": {"all": [0.25, 0.75]}}
    for name, drawn in (("a", cocktail), ("b", cocktail), ("c", moved)):
        save_png(curve_figure(drawn), tmp_path / f"{name}.png")
    first, again, other = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert first.startswith(b"\x89PNG") and again == first and other != first
    drawing = svg(curve_figure(moved), "x")
    assert "chosen λ₁ = 0.250" in drawing
    assert not re.search(r"#(1d1c1a|6b675f|d8d2c6|b4541a|2a6486)", drawing)


def test_names_in_drawings_are_escaped() -> None:
    cell = summarise(per_user(np.array([0, 1, 2])), resamples=20)
    metrics = {"models": {"<b>$x_1$</b>": {"warm": cell}}}
    drawing = svg(models_figure(metrics, ["warm"]), "x")
    assert "&lt;b&gt;$x_1$&lt;/b&gt;" in drawing
    assert "<b>" not in drawing


def test_numbers_for_people() -> None:
    assert [signed(v) for v in (0.01234, -0.004, 0.0, -0.000001)] == [
        *("+0.0123", "\u22120.0040", "0.0000", "0.0000"),
    ]
    assert [duration(s) for s in (0.83, 9.96, 42, 59.7, 200, 3600, 7500)] == [
        *("0.8 s", "10.0 s", "42 s", "1 min 0 s", "3 min 20 s", "1 h 0 min", "2 h 5 min"),
    ]
    assert [size(b) for b in (512, 2048, 3_400_000_000)] == ["512 B", "2 KiB", "3.2 GiB"]
