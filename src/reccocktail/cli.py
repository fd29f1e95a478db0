"""The command line: one command, one typed function; no algorithm lives here."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import cyclopts
from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from reccocktail import __version__
from reccocktail.baselines import BASELINES
from reccocktail.errors import FollowedError, RecCocktailError, RecipeError
from reccocktail.launcher import is_first, processes, rank
from reccocktail.schema import SCENARIOS, Scenario

LoadIn = Literal["4bit"]
Precision = Literal["float32", "bfloat16", "auto"]
BAD_INPUT, INTERRUPTED = 2, 130

app = cyclopts.App(
    name="reccocktail",
    help="Recommend with a cocktail of two LoRA adapters on one frozen language model.",
    version=__version__,
    suppress_keyboard_interrupt=False,  # `main` answers it
)
data_app = cyclopts.App(name="data", help="Get and prepare recommendation data.")
app.command(data_app)
_output = Console()
_BASELINES = f"{', '.join(BASELINES)}; sentence-encoder=MODEL takes a hub id or a folder."


def main(arguments: list[str] | None = None) -> None:
    """Run a command; what the user can mend ends with one sentence and exit code 2."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        if processes() > 1 and words[:1] != ["train"]:
            raise RecipeError("Only `train` runs in several processes; start this one alone.")
        app(words, exit_on_error=False, print_error=False)
    except FollowedError:  # the first process tells it
        sys.exit(BAD_INPUT)
    except (RecCocktailError, cyclopts.CycloptsError) as error:
        who = "reccocktail" if is_first() else f"reccocktail (process {rank()})"
        Console(stderr=True, soft_wrap=True).print(f"{who}: {error}", markup=False, highlight=False)
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        if is_first():
            Console(stderr=True).print(
                "Interrupted. Finished steps are kept; run the command again to go on."
            )
        sys.exit(INTERRUPTED)


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
        minutes: about how long the whole takes on 2 cores, after the downloads; 12 for films, 8 for
            other domains.
        domain: films (MovieLens-1M), groceries (Complete Journey), or a folder of your own that
            holds two tables, interactions.* and items.*.
    """
    from reccocktail.quickstart import default_out, page_command
    from reccocktail.quickstart import quickstart as run

    folder = out or default_out(domain)
    metrics = run(folder, minutes, domain=domain)
    _print_metrics(metrics)
    _output.print(f"Report: {folder / 'report.html'}", soft_wrap=True)
    _output.print(f"To try it in a browser: {page_command(folder, domain)}", soft_wrap=True)


@app.command(name="spirits")
def list_spirits() -> None:
    """List the base spirits that come with the package; --adapter takes their names."""
    from reccocktail import spirits

    default = spirits.default()
    table = Table("name", "backbone", "ranker", "size", "steps", "trained on")
    for spirit in spirits.shipped():
        card = spirit.adapter.card
        table.add_row(
            f"{spirit.name} ({spirits.NAME})" if spirit.path == default else spirit.name,
            card.backbone.name,
            card.recipe.ranker,
            f"{spirit.bytes / 1e6:.1f} MB",
            "?" if card.steps is None else f"{card.steps:,}",
            ", ".join(data.name for data in card.data),
        )
    _output.print(table if table.row_count else "This installation ships no base spirit.")


@data_app.command(name="list")
def list_sources() -> None:
    """List what `data fetch` can get."""
    from reccocktail.data.fetch import SOURCES

    table = Table("name", "what", "size", "licence")
    for source in SOURCES.values():
        size = "?" if source.bytes is None else f"{source.bytes / 1e6:,.0f} MB"
        table.add_row(source.name, source.description, size, source.licence)
    _output.print(table)


@data_app.command(name="fetch")
def fetch_source(name: str, *, out: Path | None = None) -> None:
    """Download a named source, check it, and turn it into tables; a second call does nothing.

    Args:
        name: one of `reccocktail data list`.
        out: folder to make; in the cache folder if left out.
    """
    from reccocktail.data.fetch import fetch

    _output.print(str(fetch(name, out)), soft_wrap=True, highlight=False)


@data_app.command(name="prepare")
def prepare_domain(
    *,
    interactions: Path,
    items: Path,
    name: str,
    out: Path,
    min_count: int = 5,
    cold_fraction: float = 0.1,
    split: Literal["leave-one-out", "global-time"] = "leave-one-out",
    negatives: int = 29,
    seed: int = 0,
    min_rating: float | None = None,
    user_column: str | None = None,
    item_column: str | None = None,
    time_column: str | None = None,
    rating_column: str | None = None,
    title_column: str | None = None,
) -> None:
    """Turn a table of interactions and a table of items into a prepared folder.

    Args:
        interactions: Parquet, CSV, TSV or JSON lines (also .gz).
        items: the catalogue with titles, in any of these forms.
        name: the domain's name.
        out: folder to write.
        min_count: least interactions of a user and of an item (k-core).
        cold_fraction: share of the items kept out of training, half for validation, half for test.
        split: each user's last item, or all that comes after a moment.
        negatives: candidates beside the target, never touched by the user.
        seed: same seed, same files.
        min_rating: drop interactions rated lower.
        user_column: name of the user column, if it is not a common one.
        item_column: the same for the item column.
        time_column: the same for the time column.
        rating_column: the same for the rating column.
        title_column: the same for the title column.
    """
    from reccocktail.data.prepare import prepare

    domain = prepare(
        interactions,
        items,
        name,
        out,
        min_count=min_count,
        cold_fraction=cold_fraction,
        split=split,
        negatives=negatives,
        seed=seed,
        min_rating=min_rating,
        user_column=user_column,
        item_column=item_column,
        time_column=time_column,
        rating_column=rating_column,
        title_column=title_column,
    )
    table = Table("table", "rows")
    table.add_row("items", f"{len(domain.item_ids):,}")
    table.add_row("train", f"{domain.train().height:,}")
    for part in ("valid_warm", "valid_cold", "test_warm", "test_cold"):
        table.add_row(part, f"{domain.rows(part).height:,}")
    _output.print(table)


@data_app.command
def overlap(*, data: list[Path]) -> None:
    """Count the items whose titles occur in two of the domains.

    Args:
        data: prepared folders, two or more.
    """
    from reccocktail.data.domain import Domain
    from reccocktail.data.overlap import overlap as audit

    table = Table("first", "second", "shared titles", "share of first", "share of second")
    for row in audit([Domain.load(path) for path in data]).iter_rows(named=True):
        shares = (f"{100 * row[key]:.2f} %" for key in ("first_share", "second_share"))
        table.add_row(row["first"], row["second"], str(row["shared_titles"]), *shares)
    _output.print(table)


@app.command
def train(
    *,
    role: Literal["base", "ingredient"],
    data: list[Path],
    out: Path,
    backbone: str | None = None,
    ranker: Literal["dense", "generate", "choice"] | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    resume: bool = False,
    init: Path | None = None,
    beside: Path | None = None,
    recipe: Path | None = None,
    exclude_titles_of: list[Path] | None = None,
    device: str | None = None,
    dtype: str | None = None,
    load_in: LoadIn | None = None,
) -> None:
    """Fine-tune one LoRA: a base spirit on many domains, or an ingredient on one.

    Args:
        role: what the adapter is for.
        data: prepared folders.
        out: adapter folder to write; log and checkpoints lie beside it in OUT.training.
        backbone: hub id, folder, GGUF file or smollm2-135m; overrides the recipe.
        ranker: overrides the recipe.
        minutes: length by the clock (training time only).
        steps: length in steps; the same steps and seed give the same files.
        resume: go on from the last checkpoint.
        init: adapter folder, or shipped base spirit, to start from in place of a fresh LoRA (a
            second round).
        beside: adapter folder, or shipped base spirit, that is at work, frozen, while the new one
            is trained; mix both with --coefficients 1 --coefficients 1.
        recipe: YAML file with settings.
        exclude_titles_of: prepared target domains whose titles are left out of the training.
        device: cpu, cuda or mps; chosen by hardware if left out.
        dtype: float32, bfloat16 or float16; chosen by hardware if left out.
        load_in: 4bit trains on the backbone's weights in NF4 (QLoRA); CUDA only.
    """
    from reccocktail.backbone import choose_device, load_backbone
    from reccocktail.data.domain import Domain
    from reccocktail.data.overlap import overlapping_items
    from reccocktail.processes import first_here, start, stop
    from reccocktail.recipe import Recipe
    from reccocktail.spirits import resolve
    from reccocktail.training.adapter import Adapter
    from reccocktail.training.schedule import Length
    from reccocktail.training.trainer import train as run

    length = Length(steps=steps, minutes=minutes)
    domains = [Domain.load(path) for path in data]
    if role == "ingredient" and len(domains) != 1:
        raise RecipeError("An ingredient has one domain; give --data once, or use --role base.")
    settings = Recipe.load(recipe) if recipe else Recipe()
    given = {"backbone": backbone, "ranker": ranker, "quantization": _quantization(load_in)}
    changes = {key: value for key, value in given.items() if value}
    settings = settings.model_copy(update=changes)
    targets = [Domain.load(path) for path in exclude_titles_of or ()]
    start(choose_device(device))
    with first_here():
        model = load_backbone(
            settings.backbone,
            device=device,
            dtype=dtype,
            quantization=settings.quantization,
            packed=True,
        )
    run(
        role,
        domains,
        model,
        settings,
        out,
        length,
        resume=resume,
        exclude={d.name: frozenset(overlapping_items(d, targets)) for d in domains}
        if targets
        else None,
        initial=Adapter.load(resolve(init)) if init else None,
        beside=Adapter.load(resolve(beside)) if beside else None,
    )
    if is_first():
        _output.print(f"Adapter: {out}", soft_wrap=True)
    stop()


@app.command
def mix(
    *,
    adapter: list[Path],
    data: Path,
    scenario: Scenario,
    out: Path,
    method: Literal["delta", "factor", "svd", "linear", "ties", "dare"] = "delta",
    granularity: Literal["global", "layer", "module"] = "global",
    objective: Literal[
        "entropy", "calibrated", "adapter-calibrated", "divergence", "information", "validation"
    ] = "entropy",
    search: Literal["auto", "published"] = "auto",
    users: int = 50,
    validation_users: int = 200,
    coefficients: list[float] | None = None,
    density: float = 0.5,
    rank: int | None = None,
    norm_matched: bool = False,
    steps: int | None = None,
    learning_rate: float | None = None,
    softmax_temperature: float | None = None,
    transductive: bool = False,
    seed: int = 0,
    backbone: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    load_in: LoadIn | None = None,
    precision: Precision = "float32",
) -> None:
    """Merge adapters into a cocktail, with coefficients found on unlabelled users.

    Args:
        adapter: adapter folders or names of shipped base spirits, two or more; the base spirit
            first by custom.
        data: the target domain's prepared folder.
        scenario: whose test users lend their histories (never their targets).
        out: cocktail folder to write.
        method: delta is the exact sum, factor the paper's Eq. 7, svd the sum at the old rank;
            linear (PEFT's), ties and dare are baselines.
        granularity: one set of coefficients, one a layer, or one a module.
        objective: the paper's entropy, entropy at a temperature calibrated for the mix or for each
            adapter, divergence from both adapters, mutual information of users and items, or
            labelled validation.
        search: auto, or the published algorithm: a softmax pair a module, Adam on entropy.
        users: unlabelled users to adapt to; they are not scored later.
        validation_users: labelled validation users of the curve.
        coefficients: fixed coefficients in place of a search, one an adapter.
        density: share of the entries that ties and dare keep.
        rank: of svd and ties; the largest among the adapters, or their sum, if left out.
        norm_matched: scale the mix to the mean of the adapters' norms.
        steps: of the gradient search.
        learning_rate: of the gradient search.
        softmax_temperature: of the coefficients in the gradient search.
        transductive: score the adaptation users too.
        seed: draws the users, and what dare drops.
        backbone: where the adapters' backbone is, if not where it was.
        device: cpu, cuda or mps.
        dtype: float32, bfloat16 or float16.
        load_in: 4bit takes the backbone's weights rounded to NF4, on which QLoRA trains; CUDA
            only.
        precision: of the scores on a CPU: bfloat16 is faster on CPUs that multiply it, and near
            float32; auto takes it there. On other devices dtype decides.
    """
    from dataclasses import replace

    from reccocktail.backbone import load_backbone
    from reccocktail.data.domain import Domain
    from reccocktail.mixing.arithmetic import MergeOptions
    from reccocktail.mixing.cocktail import mix as run
    from reccocktail.mixing.measure import MixSettings, default_descent
    from reccocktail.spirits import resolve
    from reccocktail.training.adapter import Adapter
    from reccocktail.training.model import note_quantization

    adapters = [Adapter.load(resolve(path)) for path in adapter]
    domain = Domain.load(data)
    descent: dict[str, Any] = {
        "steps": steps,
        "learning_rate": learning_rate,
        "temperature": softmax_temperature,
    }
    given = {name: value for name, value in descent.items() if value is not None}
    settings = MixSettings(
        method=method,
        options=MergeOptions(density, rank, norm_matched, seed),
        search=search,
        descent=replace(default_descent(search, scenario), **given),
        granularity=granularity,
        objective=objective,
        users=users,
        validation_users=validation_users,
        transductive=transductive,
        seed=seed,
    )
    model = load_backbone(
        backbone or adapters[0].card.recipe.backbone,
        device=device,
        dtype=dtype,
        quantization=_quantization(load_in),
        precision=precision,
    )
    note_quantization(adapters, model)
    run(adapters, model, domain, scenario, out, settings, coefficients)
    _output.print(f"Cocktail: {out}", soft_wrap=True)


@app.command
def evaluate(
    *,
    data: Path,
    out: Path,
    adapter: list[Path] | None = None,
    baseline: Annotated[
        list[str] | None, Parameter(help=f"Names of baselines: {_BASELINES}")
    ] = None,
    control: list[str] | None = None,
    scenario: list[Scenario] | None = None,
    users: int | None = None,
    validation_users: int = 200,
    prior: bool = True,
    full_catalogue: bool = True,
    seed: int = 0,
    backbone: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    load_in: LoadIn | None = None,
    precision: Precision = "float32",
) -> None:
    """Judge adapters, the bare backbone and baselines on a domain's test users.

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
        validation_users: users on which the popularity prior's weight is chosen.
        prior: add the popularity prior.
        full_catalogue: rank the whole catalogue too.
        seed: draws users and resamples.
        backbone: where the adapters' backbone is; without adapters, the backbone to judge alone.
        device: cpu, cuda or mps.
        dtype: float32, bfloat16 or float16.
        load_in: 4bit takes the backbone's weights rounded to NF4, on which QLoRA trains; CUDA
            only.
        precision: of the scores on a CPU: bfloat16 is faster on CPUs that multiply it, and near
            float32; auto takes it there. On other devices dtype decides.
    """
    from reccocktail.backbone import load_backbone
    from reccocktail.data.domain import Domain
    from reccocktail.evaluation.evaluate import EvaluationSettings
    from reccocktail.evaluation.evaluate import evaluate as run
    from reccocktail.spirits import resolve
    from reccocktail.training.adapter import Adapter
    from reccocktail.training.model import note_quantization

    domain = Domain.load(data)
    folders = [resolve(path) for path in adapter or ()]
    adapters = [(Adapter.load(folder), folder) for folder in folders]
    if not adapters and not baseline and not backbone:
        raise RecipeError("Nothing to evaluate; give --adapter, --baseline or --backbone.")
    name = backbone or (adapters[0][0].card.recipe.backbone if adapters else None)
    rounded = _quantization(load_in)
    model = None
    if name:
        model = load_backbone(
            name, device=device, dtype=dtype, quantization=rounded, precision=precision
        )
        note_quantization([loaded for loaded, _ in adapters], model)
    metrics = run(
        domain,
        adapters,
        model,
        out,
        baselines=baseline or (),
        controls=control or (),
        scenarios=scenario or SCENARIOS,
        settings=EvaluationSettings(
            users=users,
            validation_users=validation_users,
            prior=prior,
            full_catalogue=full_catalogue,
            seed=seed,
        ),
    )
    _print_metrics(metrics)


@app.command
def recommend(
    *,
    adapter: Path,
    data: Path,
    user: str | None = None,
    history: str | None = None,
    k: Annotated[int, Parameter(name=["-k", "--k"])] = 10,
    new_item: list[str] | None = None,
    ranker: Literal["dense", "generate", "choice"] | None = None,
    retrieve: Literal["dense"] = "dense",
    retriever: Path | None = None,
    explain: Annotated[bool, Parameter(negative=())] = False,
    json: Annotated[bool, Parameter(negative=())] = False,
    backbone: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    load_in: LoadIn | None = None,
) -> None:
    """Recommend from the whole catalogue to a user, or to titles typed by hand.

    An adapter of ranker generate or choice ranks the 30 items that dense vectors retrieve.

    Args:
        adapter: adapter folder, or the name of a shipped base spirit.
        data: prepared folder.
        user: a user id of the domain.
        history: titles, oldest first, separated by ";"; each is matched to the most similar item.
        k: how many items.
        new_item: title of an item that is not in the catalogue yet; may be given more than once.
        ranker: the adapter's ranker, for a check; an adapter has one.
        retrieve: how candidates are found; dense vectors are the one way there is.
        retriever: adapter of ranker dense that finds them, or a shipped base spirit; the bare
            backbone if left out.
        explain: say what each score rests on, and, with an adapter of ranker generate, give a
            reason in words.
        json: print one JSON object in place of a table.
        backbone: where the adapter's backbone is, if not where it was.
        device: cpu, cuda or mps.
        dtype: float32, bfloat16 or float16.
        load_in: 4bit takes the backbone's weights rounded to NF4, on which QLoRA trains; CUDA
            only.
    """
    from reccocktail.backbone import load_backbone
    from reccocktail.data.domain import Domain
    from reccocktail.progress import say
    from reccocktail.serving.answer import as_json, explanation_lines
    from reccocktail.serving.recommend import Recommender
    from reccocktail.spirits import resolve
    from reccocktail.training.adapter import Adapter
    from reccocktail.training.model import note_quantization

    if (user is None) == (history is None):
        raise RecipeError("Give --user or --history, one of the two.")
    loaded = Adapter.load(resolve(adapter))
    if ranker and ranker != loaded.card.recipe.ranker:
        raise RecipeError(
            f"'{loaded.name}' was trained for ranker {loaded.card.recipe.ranker}, not {ranker}; "
            "give another adapter, or leave --ranker out."
        )
    domain = Domain.load(data)
    model = load_backbone(
        backbone or loaded.card.recipe.backbone,
        device=device,
        dtype=dtype,
        quantization=_quantization(load_in),
    )
    note_quantization([loaded], model)
    finder = Adapter.load(resolve(retriever)) if retriever else None
    recommender = Recommender(domain, loaded, model, new_item or (), finder)
    matches = [] if history is None else recommender.match(history.split(";"))
    items = [match.item_id for match in matches] or recommender.history_of(str(user))
    if not json:
        for match in matches:
            _output.print(
                f"{match.typed} -> {match.title} ({match.similarity:.0f} %)", markup=False
            )
    places = recommender.recommend(items, k)
    if explain and not recommender.writes:
        say(
            f"'{loaded.name}' is of ranker {loaded.card.recipe.ranker} and does not write: what "
            "scores rest on is shown, and a reason in words needs an adapter of ranker generate."
        )
    reasons = recommender.explain(items, places) if explain else None
    if json:
        _output.print_json(data=as_json(recommender, items, places, reasons), ensure_ascii=False)
        return
    table = Table("#", "title", "score", "item", "")
    for place in places:
        row = (place.title, f"{place.score:.3f}", place.item_id, "new" if place.new else "")
        table.add_row(str(place.rank), *(cell.replace("[", r"\[") for cell in row))
    _output.print(table)
    for place, reason in zip(places, reasons or (), strict=False):
        for line in explanation_lines(place, reason):
            _output.print(line, markup=False, highlight=False, soft_wrap=True)


@app.command
def export(
    *,
    adapter: Path,
    format: Literal["peft", "merged", "gguf"],
    out: Path,
    dtype: Literal["float32", "float16", "bfloat16", "q8_0"] | None = None,
    backbone: str | None = None,
    load_in: LoadIn | None = None,
) -> None:
    """Write an adapter for other programs: a PEFT folder, merged weights, or GGUF for llama.cpp.

    Args:
        adapter: adapter folder, or the name of a shipped base spirit.
        format: peft is the LoRA alone, merged the backbone with the update in its weights, gguf the
            same as one file for llama.cpp.
        out: folder to write.
        dtype: of the weights; float32 if left out, float16 for gguf. q8_0 is for gguf alone.
        backbone: where the adapter's backbone is, if not where it was; peft needs none.
        load_in: 4bit takes the backbone's weights rounded to NF4; CUDA only.
    """
    from reccocktail.backbone import load_backbone
    from reccocktail.export.folders import export_gguf, export_merged, export_peft
    from reccocktail.spirits import resolve
    from reccocktail.training.adapter import Adapter
    from reccocktail.training.model import note_quantization

    loaded = Adapter.load(resolve(adapter))
    if format == "peft":
        export_peft(loaded, out, dtype or "float32")
    else:
        name = backbone or loaded.card.recipe.backbone
        rounded = _quantization(load_in)
        # In float32 the sum is rounded once; four bits are made where there is a GPU.
        place = None if rounded else "cpu"
        model = load_backbone(name, device=place, dtype="float32", quantization=rounded)
        model.model.to("cpu")  # type: ignore[arg-type]
        note_quantization([loaded], model)
        if format == "merged":
            export_merged(loaded, model, out, dtype or "float32")
        else:
            export_gguf(loaded, model, out, dtype or "float16")
    _output.print(f"Export: {out}", soft_wrap=True)


@app.command
def batch(
    *,
    data: Path,
    adapter: Path,
    users: Path,
    out: Path,
    k: Annotated[int, Parameter(name=["-k", "--k"])] = 10,
    engine: Literal["local", "ray"] = "local",
    chunk: int = 4096,
    address: str | None = None,
    workers: int | None = None,
    backbone: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    precision: Precision = "float32",
) -> None:
    """Recommend to every user of a table; the same command goes on where it stopped.

    Args:
        data: prepared folder.
        adapter: adapter folder, or the name of a shipped base spirit.
        users: Parquet, CSV, TSV or JSON lines with user_id and perhaps history (lists of item ids);
            without, the users' histories are those of the prepared folder.
        out: folder of the output files.
        k: items a user.
        engine: this process, or Ray Data.
        chunk: users an output file.
        address: of a Ray cluster; RAY_ADDRESS or a Ray of this machine if left out.
        workers: processes of Ray; one a GPU, or one a machine, if left out.
        backbone: where the adapter's backbone is, if not where it was.
        device: cpu, cuda or mps.
        dtype: float32, bfloat16 or float16.
        precision: of the scores on a CPU: bfloat16 is faster on CPUs that multiply it, and near
            float32; auto takes it there. On other devices dtype decides.
    """
    from reccocktail.serving.batch import Job
    from reccocktail.serving.batch import batch as run
    from reccocktail.spirits import resolve

    job = Job(
        data=data.absolute(),
        adapter=resolve(adapter).absolute(),
        users=users.absolute(),
        out=out.absolute(),
        k=k,
        chunk=chunk,
        backbone=backbone,
        device=device,
        dtype=dtype,
        precision=precision,
    )
    done = run(job, engine, address=address, workers=workers)
    _output.print(f"{done['users']:,} users in {done['chunks']:,} files: {out}", soft_wrap=True)


@app.command
def serve(
    *,
    domain: list[str] | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    state: Path | None = None,
    root: Path | None = None,
    api_key_file: Path | None = None,
    admin_key_file: Path | None = None,
    queue: int = 256,
    batch: int = 32,
    timeout: float = 10.0,
    backbone: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
) -> None:
    """Serve recommendations over HTTP, for any number of domains.

    Args:
        domain: NAME=DIR:ADAPTER, a prepared folder and its adapter (a folder, or the name of a
            shipped base spirit); may be given more than once.
        host: address to listen at; this machine alone if left out.
        port: port to listen at.
        state: folder for what changes at run time: items, domains, mixes. Without it nothing can
            be changed.
        root: folder below which domains and adapters named in requests may lie.
        api_key_file: file with the key that every request must bring; or RECCOCKTAIL_API_KEY.
        admin_key_file: file with the key that changes need; or RECCOCKTAIL_ADMIN_KEY. Without
            a key, changes are off.
        queue: requests under way at most; more are answered 429.
        batch: requests that share a pass of the model.
        timeout: seconds a request may take.
        backbone: where the adapters' backbone is, if not where it was.
        device: cpu, cuda or mps.
        dtype: float32, bfloat16 or float16.
    """
    from reccocktail import spirits
    from reccocktail.backbone import load_backbone
    from reccocktail.recipe import Recipe
    from reccocktail.serving.keys import Keys, read_key
    from reccocktail.serving.limits import Limits
    from reccocktail.serving.run import Serving, parse_domains
    from reccocktail.serving.run import serve as run
    from reccocktail.training.adapter import Adapter

    domains = {
        name: (data, spirits.resolve(adapter))
        for name, (data, adapter) in parse_domains(domain or ()).items()
    }
    if not domains and state is None:
        raise RecipeError("Nothing to serve; give --domain NAME=DIR:ADAPTER, or --state.")
    settings = Serving(
        host=host,
        port=port,
        state=state,
        root=root,
        names=spirits.names(),
        keys=Keys(
            read_key(api_key_file, os.environ.get("RECCOCKTAIL_API_KEY"), "user's"),
            read_key(admin_key_file, os.environ.get("RECCOCKTAIL_ADMIN_KEY"), "admin"),
        ),
        limits=Limits(queue=queue, batch=batch, timeout=timeout),
    )
    first = next((Adapter.load(adapter) for _, adapter in domains.values()), None)
    name = backbone or (first.card.recipe.backbone if first else Recipe().backbone)
    run(load_backbone(name, device=device, dtype=dtype), domains, settings)


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
    _output.print(f"Report: {write(list(runs), out)}", soft_wrap=True)


def _quantization(load_in: LoadIn | None) -> Literal["nf4"] | None:
    return "nf4" if load_in else None


def _print_metrics(metrics: dict[str, object]) -> None:
    from reccocktail.evaluation.results import scenarios_of, terminal_table

    for scenario in scenarios_of(metrics):
        _output.print(terminal_table(metrics, scenario))


if __name__ == "__main__":
    main()
