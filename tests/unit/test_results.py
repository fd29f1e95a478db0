"""The evaluation folder: contract, determinism, refusal of bad rows, and its tables."""

import errno
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from reccocktail.errors import RunError
from reccocktail.evaluation.results import (
    PREDICTION_SCHEMA,
    mark,
    metrics_table,
    prediction_ranks,
    read_metrics,
    require_evaluation_dir,
    scenarios_of,
    terminal_table,
    write_evaluation,
)
from reccocktail.evaluation.significance import holm

REFERENCE = {"warm": "ingredient", "cold": "ingredient"}
FAST: dict[str, Any] = {"resamples": 100, "paired_resamples": 500}


def predictions(n: int = 60, candidates: int = 12) -> pl.DataFrame:
    """Three models of rising quality on the same users; coarse scores, so that ties occur."""
    rng = np.random.default_rng(0)
    rows = []
    for scenario in ("warm", "cold"):
        for user in range(n):
            ids = [f"i{j}" for j in rng.permutation(100)[:candidates]]
            place = int(rng.integers(candidates))
            for model, gain in (("popularity", 0.0), ("ingredient", 1.0), ("cock|tail_x", 3.0)):
                scores = np.round(rng.normal(size=candidates), 1)
                scores[place] += gain
                row = (model, scenario, f"u{user}", ids[place], ids, scores.tolist())
                rows.append(row)
    return pl.DataFrame(rows, schema=PREDICTION_SCHEMA, orient="row")


def evaluate(out: Path, table: pl.DataFrame | None = None, **options: Any) -> dict[str, Any]:
    options = {"reference": REFERENCE, **FAST, **options}
    return write_evaluation(
        out, predictions() if table is None else table, {"command": "x"}, **options
    )


def test_metrics_can_be_recomputed_from_the_predictions(tmp_path: Path) -> None:
    """The contract's own arithmetic, in plain Python, on the files that were written."""
    evaluate(tmp_path / "e")
    table = pl.read_parquet(tmp_path / "e" / "predictions.parquet")
    stated = json.loads((tmp_path / "e" / "metrics.json").read_text())["models"]
    assert dict(table.schema) == dict(PREDICTION_SCHEMA)
    for (model, scenario), group in table.group_by("model", "scenario"):
        places = []
        for target, ids, scores in group.select("target", "candidates", "scores").rows():
            own = scores[ids.index(target)]
            places.append(sum(s >= own for s in scores) - 1)
        cell = stated[model][scenario]
        assert cell["n"] == len(places) == 60
        assert cell["mrr"] == pytest.approx(np.mean([1 / (r + 1) for r in places]), abs=1e-9)
        for k in (1, 3, 5, 10):
            hits = [r < k for r in places]
            gains = [1 / math.log2(r + 2) if r < k else 0.0 for r in places]
            assert cell[f"hr@{k}"] == pytest.approx(np.mean(hits), abs=1e-9)
            assert cell[f"ndcg@{k}"] == pytest.approx(np.mean(gains), abs=1e-9)
            assert cell["ci95"][f"ndcg@{k}"][0] <= cell[f"ndcg@{k}"] <= cell["ci95"][f"ndcg@{k}"][1]


def test_same_input_same_bytes_and_other_files_stay(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "examples.json").write_text("[]")
    evaluate(tmp_path / "a")
    evaluate(tmp_path / "b")
    evaluate(tmp_path / "a")  # and over itself
    for name in ("predictions.parquet", "metrics.json", "run.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [
        "examples.json",
        "metrics.json",
        "predictions.parquet",
        "run.json",
    ]


def test_every_model_is_compared_with_the_reference(tmp_path: Path) -> None:
    metrics = evaluate(tmp_path)
    entry = metrics["paired"][0]
    assert set(entry) == {
        *("scenario", "model", "against", "metric", "difference", "ci95", "p", "p_holm", "n"),
    }
    compared = {(e["model"], e["scenario"]) for e in metrics["paired"] if e["metric"] == "ndcg@3"}
    assert compared == {(m, s) for m in ("popularity", "cock|tail_x") for s in ("warm", "cold")}
    for entry in metrics["paired"]:
        assert entry["n"] == 60
        assert entry["p"] <= entry["p_holm"] <= 1
        cells = metrics["models"]
        ours = cells[entry["model"]][entry["scenario"]][entry["metric"]]
        theirs = cells["ingredient"][entry["scenario"]][entry["metric"]]
        assert entry["difference"] == pytest.approx(ours - theirs, abs=1e-9)
    assert mark(metrics, "cock|tail_x", "warm", "ndcg@3") == "↑*"
    assert mark(metrics, "popularity", "warm", "ndcg@3") == "↓*"
    assert mark(metrics, "ingredient", "warm", "ndcg@3") == ""


def test_p_values_are_corrected_over_models_and_scenarios(tmp_path: Path) -> None:
    paired = evaluate(tmp_path)["paired"]
    for metric in ("ndcg@3", "mrr"):
        family = [entry for entry in paired if entry["metric"] == metric]
        assert len(family) == 4
        assert [e["p_holm"] for e in family] == holm([e["p"] for e in family])
    assert any(entry["p_holm"] > entry["p"] for entry in paired)


def test_pairs_are_matched_by_user_whatever_the_order(tmp_path: Path) -> None:
    table = predictions()
    other = pl.concat([table.filter(pl.col("model") == m) for m in ("ingredient", "popularity")])
    turned = pl.concat(
        [
            other.filter(pl.col("model") == "ingredient"),
            other.filter(pl.col("model") == "popularity").reverse(),
        ]
    )
    assert evaluate(tmp_path / "a", other)["paired"] == evaluate(tmp_path / "b", turned)["paired"]


def test_users_only_one_model_has_are_left_out_of_the_pairs(tmp_path: Path) -> None:
    table = predictions().filter(
        (pl.col("model") != "popularity") | ~pl.col("user_id").is_in(["u0", "u1"])
    )
    metrics = evaluate(tmp_path, table)
    sizes = {e["model"]: e["n"] for e in metrics["paired"]}
    assert sizes == {"popularity": 58, "cock|tail_x": 60}


def test_extra_keys_are_kept_and_may_not_hide_the_contract(tmp_path: Path) -> None:
    metrics = evaluate(tmp_path, extra={"entropy": {"ingredient": {"warm": 3.0}}})
    assert read_metrics(tmp_path) == metrics
    assert metrics["entropy"]["ingredient"]["warm"] == 3.0
    with pytest.raises(RunError, match="models"):
        evaluate(tmp_path, extra={"models": {}})


def test_rows_of_different_lengths(tmp_path: Path) -> None:
    table = pl.DataFrame(
        [
            ("m", "warm", "u0", "a", ["a", "b", "c"], [1.0, 2.0, 0.0]),
            ("m", "warm", "u1", "b", ["c", "b"], [1.0, 2.0]),
            ("m", "warm", "u2", "z", ["z"], [0.0]),
        ],
        schema=PREDICTION_SCHEMA,
        orient="row",
    )
    assert prediction_ranks(table).tolist() == [1, 0, 0]
    assert evaluate(tmp_path, table, reference=None)["models"]["m"]["warm"]["n"] == 3


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("target", "absent", "the target is not among the candidates"),
        ("scores", [1.0, 2.0], "candidates and scores differ in length"),
        ("scores", [float("nan")] * 12, "a score is not finite"),
        ("scores", [float("inf")] + [0.0] * 11, "a score is not finite"),
        ("scores", [None] + [0.0] * 11, "a score is not finite"),
        ("scores", None, "a value is missing"),
        ("user_id", "u1", "the row occurs twice"),
    ],
)
def test_bad_predictions_are_named(
    tmp_path: Path, column: str, value: object, message: str
) -> None:
    rows = predictions(2).filter(model="ingredient", scenario="warm").to_dicts()
    rows[0][column] = value
    if column == "user_id":
        rows[0] = dict(rows[1])
    table = pl.DataFrame(rows, schema=PREDICTION_SCHEMA)
    with pytest.raises(RunError, match=rf"row 0 \(model 'ingredient', warm, user .*{message}"):
        evaluate(tmp_path, table)
    assert not (tmp_path / "metrics.json").exists()


def test_a_repeated_candidate_is_refused(tmp_path: Path) -> None:
    rows = predictions(1).to_dicts()
    rows[2]["candidates"][0] = rows[2]["candidates"][1]
    with pytest.raises(RunError, match=r"row 2 .*an item stands twice"):
        evaluate(tmp_path, pl.DataFrame(rows, schema=PREDICTION_SCHEMA))


def test_missing_columns_and_models_are_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="scores"):
        evaluate(tmp_path, predictions(1).drop("scores"))
    with pytest.raises(RunError, match="no predictions to evaluate"):
        evaluate(tmp_path, predictions(1).clear())
    with pytest.raises(RunError, match="'nobody' has no predictions for scenario 'warm'"):
        evaluate(tmp_path, reference={"warm": "nobody"})


def test_an_interrupted_write_leaves_no_metrics_of_older_predictions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate(tmp_path)
    replace, seen = os.replace, []

    def stop(source: Path, place: Path) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(Path(place).name)
        replace(source, place)

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path, predictions(30))
    assert seen == ["predictions.parquet"]
    with pytest.raises(RunError, match="does not exist"):
        read_metrics(tmp_path)


@pytest.mark.parametrize("full", ["predictions.parquet", "run.json", "metrics.json"])
def test_a_full_disk_leaves_the_old_evaluation_whole(
    full: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def refuse(write: Callable[..., Any]) -> Callable[..., Any]:
        def writing(this: Any, *args: Any) -> Any:
            target = this if isinstance(this, Path) else args[0]
            if target.name.startswith(f".{full}."):
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(this, *args)

        return writing

    monkeypatch.setattr(Path, "write_bytes", refuse(Path.write_bytes))
    monkeypatch.setattr(pl.DataFrame, "write_parquet", refuse(pl.DataFrame.write_parquet))
    with pytest.raises(RunError, match=f"{full}: No space left"):
        evaluate(tmp_path, predictions(30))
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_table_of_somebody_else_is_not_replaced(tmp_path: Path) -> None:
    pl.DataFrame({"user": [1]}).write_parquet(tmp_path / "predictions.parquet")
    with pytest.raises(RunError, match=r"predictions.parquet is not an evaluation's"):
        require_evaluation_dir(tmp_path)
    (tmp_path / "predictions.parquet").write_bytes(b"no table")
    with pytest.raises(RunError, match=r"predictions.parquet is not an evaluation's"):
        require_evaluation_dir(tmp_path)
    # What an interrupted evaluation left is its own.
    evaluate(tmp_path)
    for name in ("metrics.json", "run.json"):
        (tmp_path / name).unlink()
    require_evaluation_dir(tmp_path)


def test_read_metrics_refuses_other_json(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("[1]")
    with pytest.raises(RunError, match="not an evaluation's metrics"):
        read_metrics(tmp_path)


def test_markdown_table(tmp_path: Path) -> None:
    metrics = evaluate(tmp_path)
    text = metrics_table(metrics)
    lines = text.splitlines()
    assert lines[0] == "| warm | n | NDCG@1 | NDCG@3 | NDCG@10 | HR@10 | MRR |"
    assert text.index("| warm |") < text.index("| cold |")
    row = next(line for line in lines if line.startswith("| cock"))
    assert row.startswith(r"| cock\|tail\_x | 60 | ")
    cell = metrics["models"]["cock|tail_x"]["warm"]
    low, high = cell["ci95"]["ndcg@3"]
    assert rf"| {cell['ndcg@3']:.3f} [{low:.3f}, {high:.3f}] ↑\* |" in row
    assert row.replace(r"\|", "").count("|") == lines[0].count("|")
    assert "cold" not in metrics_table(metrics, ["warm"])


def test_terminal_table_shows_brackets_and_names_as_they_are(tmp_path: Path) -> None:
    metrics = evaluate(tmp_path)
    console = Console(width=200, force_terminal=False)
    with console.capture() as capture:
        console.print(terminal_table(metrics, "warm", console.width))
    shown = capture.get()
    cell = metrics["models"]["ingredient"]["warm"]
    low, high = cell["ci95"]["mrr"]
    assert f"{cell['mrr']:.3f} [{low:.3f}, {high:.3f}]" in shown
    assert "cock|tail_x" in shown


def test_the_terminal_table_of_a_pipe_keeps_every_digit() -> None:
    metrics_of = ("ndcg@1", "ndcg@3", "ndcg@10", "hr@10", "mrr")
    cell = {"n": 2000, **dict.fromkeys(metrics_of, 0.1234)}
    cell["ci95"] = dict.fromkeys(metrics_of, (0.0234, 0.2345))
    names = ("backbone-similarit", "ingredient_beauty_330", "oracle")
    metrics: dict[str, Any] = {"models": {name: {"warm": cell} for name in names}}
    metrics["models"]["oracle"]["warm"] = cell | {"uses_test_labels": True}
    console = Console(width=80, force_terminal=False)
    with console.capture() as capture:
        console.print(terminal_table(metrics, "warm", console.width))
    shown = capture.get()
    assert "…" not in shown and names[0] in shown and "NDCG@10" in shown
    assert shown.count("[0.023,") == shown.count("0.234]") == 5 * len(names)


def test_scenarios_come_warm_first() -> None:
    cells: dict[str, Any] = {"models": {"a": {"cold": {}, "zero": {}}, "b": {"warm": {}}}}
    assert scenarios_of(cells) == ["warm", "cold", "zero"]
