"""An evaluation folder (predictions.parquet, metrics.json, run.json) and tables drawn from it."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from rich.table import Table
from rich.text import Text

from reccocktail.errors import RunError
from reccocktail.evaluation.metrics import (
    METRICS,
    FloatArray,
    IntArray,
    mean_in_words,
    per_user,
    ranks,
    summarise,
)
from reccocktail.evaluation.significance import holm, paired_bootstrap
from reccocktail.schema import CANDIDATES, TARGET, USER
from reccocktail.storage import atomic_file, json_bytes, read_json, require_unmarked

PREDICTIONS_FILE = "predictions.parquet"
METRICS_FILE = "metrics.json"
RUN_FILE = "run.json"

PREDICTION_SCHEMA = pl.Schema(
    {
        "model": pl.String(),
        "scenario": pl.String(),
        "user_id": pl.String(),
        "target": pl.String(),
        "candidates": pl.List(pl.String()),
        "scores": pl.List(pl.Float64()),
    }
)
TABLE_METRICS = ("ndcg@1", "ndcg@3", "ndcg@10", "hr@10", "mrr")
# What the terminal's table has room for at 80 columns; a longer name goes on in the next line.
_WIDEST_WORD, _WIDEST_NAME = len("[0.123,"), 18

Row = tuple[str, str]  # (user_id, target): the unit that is paired and resampled


def prediction_rows(
    model: str, scenario: str, rows: pl.DataFrame, scores: Sequence[npt.NDArray[np.float64]]
) -> pl.DataFrame:
    """What a model gave to an evaluation table's rows, in the columns of `PREDICTION_SCHEMA`.

    Args:
        model: its name.
        scenario: `warm` or `cold`.
        rows: the table.
        scores: one array a row, in the candidates' order.
    """
    return pl.DataFrame(
        {
            "model": [model] * rows.height,
            "scenario": [scenario] * rows.height,
            "user_id": rows[USER],
            "target": rows[TARGET],
            "candidates": rows[CANDIDATES],
            "scores": [row.tolist() for row in scores],
        },
        schema=PREDICTION_SCHEMA,
    )


def write_evaluation(
    out: Path,
    predictions: pl.DataFrame,
    run: Mapping[str, Any],
    *,
    beside: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
    reference: Mapping[str, str] | None = None,
    uses_test_labels: Sequence[str] = (),
    resamples: int = 1000,
    paired_resamples: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """Write an evaluation folder and return the content of its metrics.json.

    metrics.json is written last, so a folder that has one is whole. It depends on the predictions,
    `extra`, `reference` and the seed alone: the same input gives the same bytes.

    Args:
        out: the folder; other files in it stay.
        predictions: columns of `PREDICTION_SCHEMA`, one row a model, scenario, user and target.
        run: content of run.json (recipe, versions, commit, hardware, wall times, peak memory).
        beside: further JSON files by name (examples.json, cocktails.json).
        extra: more top-level keys for metrics.json, for example ``full_catalogue`` or ``entropy``.
        reference: scenario -> the model every other one is compared with (the best single adapter).
        uses_test_labels: models that do, and are marked so and compared with nobody.
        resamples: bootstrap resamples of each interval.
        paired_resamples: bootstrap resamples of each paired difference.
        seed: of the resampling.

    Raises:
        RunError: the predictions are malformed, or a reference model has no predictions.
    """
    extra = dict(extra or {})
    reference = dict(reference or {})
    if clash := {"models", "paired", "reference"} & extra.keys():
        raise RunError(f"extra may not hold {sorted(clash)}: these keys are computed here.")
    table = check_predictions(predictions)
    measured = {
        (str(model), str(scenario)): _per_row(group)
        for (model, scenario), group in table.group_by("model", "scenario", maintain_order=True)
    }
    models: dict[str, dict[str, Any]] = {}
    for (model, scenario), (_, values) in measured.items():
        models.setdefault(model, {})[scenario] = summarise(values, resamples=resamples, seed=seed)
        if model in uses_test_labels:
            models[model][scenario]["uses_test_labels"] = True
    honest = {key: found for key, found in measured.items() if key[0] not in uses_test_labels}
    metrics: dict[str, Any] = {
        "models": models,
        "paired": _paired(honest, reference, resamples=paired_resamples, seed=seed),
        "reference": reference,
        **extra,
    }
    # All is written before anything takes its place, so that a full disk leaves the old evaluation
    # whole; metrics.json, entered first, takes its place last.
    files = {METRICS_FILE: metrics, RUN_FILE: dict(run), **(beside or {})}
    with ExitStack() as places:
        for name, content in files.items():
            places.enter_context(atomic_file(out / name)).write_bytes(json_bytes(content))
        table.write_parquet(places.enter_context(atomic_file(out / PREDICTIONS_FILE)))
        # An old metrics.json must not vouch for new files if the last step is interrupted.
        (out / METRICS_FILE).unlink(missing_ok=True)
    return metrics


def require_evaluation_dir(out: Path) -> None:
    """Refuse a folder to write, before any work: what is somebody else's is not written over.

    Raises:
        RunError: `out` is an adapter or a prepared folder, holds metrics, a record of a run or
            predictions that are not an evaluation's, or the file system refuses it.
    """
    require_unmarked(out, "an evaluation")
    for name, key in ((METRICS_FILE, "paired"), (RUN_FILE, "models")):
        if (out / name).exists():
            try:
                found = read_json(out / name)
            except RunError:
                found = None
            if not isinstance(found, dict) or key not in found:
                raise _not_ours(out / name)
    table = out / PREDICTIONS_FILE
    if table.exists() and not (out / RUN_FILE).exists() and not _holds_predictions(table):
        raise _not_ours(table)


def _not_ours(file: Path) -> RunError:
    return RunError(f"{file} is not an evaluation's and would be replaced; choose another folder.")


def _holds_predictions(file: Path) -> bool:
    """Whether a table has an evaluation's columns; one that was interrupted may lie there alone."""
    try:
        return set(PREDICTION_SCHEMA) <= set(pl.read_parquet_schema(file))
    except (OSError, pl.exceptions.PolarsError):
        return False


def check_predictions(predictions: pl.DataFrame) -> pl.DataFrame:
    """The predictions with the contract's columns and dtypes, in the order given.

    Raises:
        RunError: a column is missing, a list's length is off, the target is not exactly once
            among its candidates, a score is not finite, or a row occurs twice.
    """
    if missing := [name for name in PREDICTION_SCHEMA if name not in predictions.columns]:
        raise RunError(
            f"predictions lack the columns {missing}; they need {list(PREDICTION_SCHEMA)}."
        )
    try:
        table = predictions.select(list(PREDICTION_SCHEMA)).cast(dict(PREDICTION_SCHEMA.items()))
    except pl.exceptions.PolarsError as error:
        raise RunError(f"predictions have a column of the wrong type ({error}).") from error
    if table.is_empty():
        raise RunError(
            "There are no predictions to evaluate; check the scenarios and the data folder."
        )
    flaws = {
        "a value is missing": pl.any_horizontal(pl.all().is_null()),
        "candidates and scores differ in length": pl.col("candidates").list.len()
        != pl.col("scores").list.len(),
        "an item stands twice among the candidates": pl.col("candidates").list.n_unique()
        != pl.col("candidates").list.len(),
        "the target is not among the candidates": ~pl.col("candidates").list.contains(
            pl.col("target")
        ),
        "a score is not finite": ~pl.col("scores").list.eval(pl.element().is_finite()).list.all()
        | pl.col("scores").list.eval(pl.element().is_null()).list.any(),
        "the row occurs twice": pl.struct("model", "scenario", "user_id", "target").is_duplicated(),
    }
    for flaw, expression in flaws.items():
        bad = table.with_row_index("row").filter(expression).head(1)
        if len(bad):
            row = bad.row(0, named=True)
            where = f"model {row['model']!r}, {row['scenario']}, user {row['user_id']!r}"
            raise RunError(f"predictions, row {row['row']} ({where}): {flaw}.")
    return table


def _per_row(group: pl.DataFrame) -> tuple[list[Row], dict[str, FloatArray]]:
    """Keys and metrics of one model's rows in one scenario."""
    keys = [(str(user), str(target)) for user, target in group.select("user_id", "target").rows()]
    return keys, per_user(prediction_ranks(group))


def prediction_ranks(table: pl.DataFrame) -> IntArray:
    """0-based rank of each row's target among its candidates, ties broken against it, (rows,)."""
    lengths = table["candidates"].list.len().to_numpy().astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    owner = np.repeat(np.arange(len(table)), lengths)  # row of every candidate
    flat = table["candidates"].explode()
    hits = np.flatnonzero((flat == table["target"].gather(owner)).to_numpy())
    positive = hits - starts[owner[hits]]
    scores = table["scores"].explode().to_numpy()
    if (lengths == lengths[0]).all():
        return ranks(scores.reshape(len(table), -1), positive)
    return ranks(np.split(scores, starts[1:]), positive)


def _paired(
    measured: Mapping[tuple[str, str], tuple[list[Row], dict[str, FloatArray]]],
    reference: Mapping[str, str],
    *,
    resamples: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Every model against its scenario's reference, over the rows both have.

    Holm's correction takes all comparisons of one metric, over models and scenarios, as its family.
    """
    entries: list[dict[str, Any]] = []
    for scenario, against in reference.items():
        if (against, scenario) not in measured:
            raise RunError(
                f"The reference {against!r} has no predictions for scenario {scenario!r}."
            )
        base_keys, base = measured[against, scenario]
        place = {key: i for i, key in enumerate(base_keys)}
        for (model, other), (keys, values) in measured.items():
            if other != scenario or model == against:
                continue
            ours = [i for i, key in enumerate(keys) if key in place]
            theirs = [place[keys[i]] for i in ours]
            if not ours:
                raise RunError(f"{model!r} and {against!r} share no user in scenario {scenario!r}.")
            outcome = paired_bootstrap(
                {name: column[ours] for name, column in values.items()},
                {name: column[theirs] for name, column in base.items()},
                resamples=resamples,
                seed=seed,
            )
            for metric, result in outcome.items():
                head = {"scenario": scenario, "model": model, "against": against, "metric": metric}
                entries.append({**head, **result, "n": len(ours)})
    for metric in METRICS:
        family = [entry for entry in entries if entry["metric"] == metric]
        for entry, adjusted in zip(family, holm([e["p"] for e in family]), strict=True):
            entry["p_holm"] = adjusted
    return entries


def read_metrics(folder: Path) -> dict[str, Any]:
    """Content of an evaluation folder's metrics.json.

    Raises:
        RunError: the file is missing, not JSON, or not an evaluation's.
    """
    metrics = read_json(folder / METRICS_FILE)
    if not isinstance(metrics, dict) or not isinstance(metrics.get("models"), dict):
        raise RunError(f"{folder / METRICS_FILE} is not an evaluation's metrics; evaluate again.")
    return metrics


def scenarios_of(metrics: Mapping[str, Any]) -> list[str]:
    """Scenarios that occur in the metrics, warm before cold, others after."""
    found = {scenario for cells in metrics["models"].values() for scenario in cells}
    usual = ("warm", "cold")
    return [name for name in usual if name in found] + sorted(found - set(usual))


def paired_entry(
    metrics: Mapping[str, Any], model: str, scenario: str, metric: str
) -> dict[str, Any] | None:
    """The comparison of `model` with the scenario's reference, None where there is none."""
    for entry in metrics.get("paired", []):
        if (entry["model"], entry["scenario"], entry["metric"]) == (model, scenario, metric):
            return dict(entry)
    return None


def mark(metrics: Mapping[str, Any], model: str, scenario: str, metric: str) -> str:
    """``↑*`` or ``↓*`` where the paired 95% interval lies above or below 0, else empty."""
    entry = paired_entry(metrics, model, scenario, metric)
    if entry is None:
        return ""
    low, high = entry["ci95"]
    return "↑*" if low > 0 else "↓*" if high < 0 else ""


def note(metrics: Mapping[str, Any], scenario: str) -> str:
    """What the marks of one scenario's table mean, in one sentence."""
    text = "Brackets: 95% bootstrap interval."
    if against := metrics.get("reference", {}).get(scenario):
        text += (
            f" ↑* or ↓*: the paired 95% interval of the difference to {against},"
            " the best single adapter by NDCG@10 here, lies above or below 0."
        )
    return text


def metrics_table(metrics: Mapping[str, Any], scenarios: list[str] | None = None) -> str:
    """Markdown tables, one a scenario, one row a model, intervals and marks in the cells."""
    blocks = []
    for scenario in scenarios or scenarios_of(metrics):
        names = [metric.upper() for metric in TABLE_METRICS]
        lines = [
            f"| {scenario} | n | " + " | ".join(names) + " |",
            "|---|--:|" + "---|" * len(names),
        ]
        for model, cells in _in_order(metrics):
            if (cell := cells.get(scenario)) is None:
                continue
            parts = [
                _plain_cell(metrics, model, scenario, m).replace("*", "\\*") for m in TABLE_METRICS
            ]
            lines.append(
                f"| {_markdown(_named(model, cell))} | {cell['n']:,} | " + " | ".join(parts) + " |"
            )
        explained = _markdown(note(metrics, scenario))
        blocks.append("\n".join(lines) + f"\n\n{explained}\n")
    return "\n".join(blocks)


def terminal_table(metrics: Mapping[str, Any], scenario: str, columns: int = 80) -> Table:
    """The same table for a terminal of so many columns.

    Where rows do not fit, figures stand in several lines: none loses a digit.
    """
    table = Table(title=scenario, caption=note(metrics, scenario), title_justify="left")
    rows = [
        [
            _named(model, cells[scenario]),
            f"{cells[scenario]['n']:,}",
            *(_plain_cell(metrics, model, scenario, metric) for metric in TABLE_METRICS),
        ]
        for model, cells in _in_order(metrics)
        if scenario in cells
    ]
    longest = [max(map(len, column)) for column in zip(*rows, strict=True)]
    whole = sum(longest) + 3 * len(longest) + 1 <= columns  # with the lines between
    table.add_column("model", overflow="fold", min_width=min(longest[0], _WIDEST_NAME))
    table.add_column("n", justify="right", no_wrap=True)
    for metric in TABLE_METRICS:
        table.add_column(metric.upper(), width=None if whole else _WIDEST_WORD)
    for row in rows:
        table.add_row(*map(Text, row))  # as it is: brackets are no markup
    return table


def _in_order(metrics: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Models with their cells; those that use test labels come last."""

    def looks(cells: dict[str, Any]) -> bool:
        return any(cell.get("uses_test_labels", False) for cell in cells.values())

    return sorted(metrics["models"].items(), key=lambda item: looks(item[1]))


def _named(model: str, cell: Mapping[str, Any]) -> str:
    return f"{model} (uses test labels)" if cell.get("uses_test_labels") else model


def _plain_cell(metrics: Mapping[str, Any], model: str, scenario: str, metric: str) -> str:
    cell = metrics["models"][model][scenario]
    return f"{mean_in_words(cell, metric)} {mark(metrics, model, scenario, metric)}".rstrip()


def _markdown(text: str) -> str:
    r"""Escape what would break a table's row or be read as markup, ``|`` first of all."""
    for sign in "\\|*_<`[":
        text = text.replace(sign, "\\" + sign)
    return " ".join(text.split())
