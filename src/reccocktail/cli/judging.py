"""Judge adapters: quickstart, evaluation, report."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from reccocktail.baselines import BASELINES
from reccocktail.cli.shared import (
    Loading,
    MaybeWhole,
    Whole,
    app,
    output,
    print_metrics,
)
from reccocktail.errors import RecipeError
from reccocktail.schema import SCENARIOS, Scenario

BASELINE_NAMES = f"{', '.join(BASELINES)}; sentence-encoder=MODEL takes a hub id or a folder."


@app.command
def quickstart(
    *, out: Path | None = None, minutes: float | None = None, domain: str = "films"
) -> None:
    """From a domain's two tables to a cocktail, its evaluation and a report.

    The base spirit that ships with the package is mixed with an ingredient trained on the domain;
    where none ships, one is trained first.

    Args:
        out: folder of the run, runs/quickstart if left out; the same command goes on where it
            stopped.
        minutes: about how long the whole takes, after the downloads; 12 for films and 8 for other
            domains on 2 cores with AVX-512, up to 1.75 times that on slower machines.
        domain: films (MovieLens-1M), groceries (Complete Journey), or a folder of your own: a
            prepared one, or one that holds two tables, interactions.* and items.*.
    """
    from reccocktail.quickstart import default_out, page_command
    from reccocktail.quickstart import quickstart as run

    folder = out or default_out(domain)
    metrics = run(folder, minutes, domain=domain)
    print_metrics(metrics)
    output.print(f"Report: {folder / 'report.html'}", soft_wrap=True)
    output.print(f"To try it in a browser: {page_command(folder, domain)}", soft_wrap=True)


@app.command
def evaluate(
    *,
    data: Path,
    out: Path,
    adapter: list[Path] | None = None,
    baseline: Annotated[
        list[str] | None, Parameter(help=f"Names of baselines: {BASELINE_NAMES}")
    ] = None,
    control: list[str] | None = None,
    scenario: list[Scenario] | None = None,
    users: MaybeWhole = None,
    validation_users: Whole = 200,
    prior: bool = True,
    words: bool = False,
    collaborative: bool = False,
    as_served: bool = False,
    full_catalogue: bool = True,
    seed: Whole = 0,
    loading: Loading = Loading(),  # noqa: B008
) -> None:
    """Judge adapters, the bare backbone and baselines on a domain's test users.

    Without adapters, --backbone is judged alone.

    Args:
        data: prepared folder.
        out: evaluation folder to write.
        adapter: adapter folders, or names of shipped base spirits.
        baseline: names of baselines.
        control: average, validation, oracle (chosen by test labels, and marked so), random,
            ensemble, linear, ties or dare: made of the base spirit and the ingredient among the
            adapters.
        scenario: warm, cold, or both if left out.
        users: at most so many users a scenario; all if left out.
        validation_users: users on which the weights of what stands beside a model are chosen.
        prior: add a popularity prior to each score.
        words: also score candidates by the words that their titles share with the history's.
        collaborative: also score candidates by what training users chose after the history's items.
        as_served: rank as recommend, batch and serve do: with all three, in the weights that are
            served, and new items brought to the level of known ones.
        full_catalogue: rank the whole catalogue too.
        seed: draws users and resamples.
        loading: of the backbone.
    """
    from reccocktail.data.domain import Domain
    from reccocktail.evaluation.evaluate import check_request
    from reccocktail.evaluation.evaluate import evaluate as run
    from reccocktail.evaluation.settings import EvaluationSettings
    from reccocktail.spirits import resolve
    from reccocktail.training.adapter import Adapter

    domain = Domain.load(data)
    folders = [resolve(path) for path in adapter or ()]
    adapters = [(Adapter.load(folder), folder) for folder in folders]
    if not adapters and not baseline and not loading.backbone:
        raise RecipeError("Nothing to evaluate; give --adapter, --baseline or --backbone.")
    settings = EvaluationSettings(
        users=users,
        validation_users=validation_users,
        prior=prior,
        words=words,
        collaborative=collaborative,
        full_catalogue=full_catalogue,
        seed=seed,
        as_served=as_served,
    )
    loaded = [adapter for adapter, _ in adapters]
    name = loading.backbone or (loaded[0].card.recipe.backbone if loaded else None)
    # Before a backbone is loaded for it.
    check_request(loaded, out, baseline or (), control or (), settings, backbone=bool(name))
    metrics = run(
        domain,
        adapters,
        loading.load(name, loaded) if name else None,
        out,
        baselines=baseline or (),
        controls=control or (),
        scenarios=scenario or SCENARIOS,
        settings=settings,
    )
    print_metrics(metrics)


@app.command
def report(*runs: Path, out: Path) -> None:
    """Write one HTML file from evaluation folders.

    Args:
        runs: evaluation folders, or folders that hold one as evaluation/.
        out: HTML file to write.
    """
    from reccocktail.evaluation.report import report as write

    if not runs:
        raise RecipeError("Give at least one evaluation folder.")
    output.print(f"Report: {write(list(runs), out)}", soft_wrap=True)
