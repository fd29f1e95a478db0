"""Use adapters: one user, many users, a service."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from rich.table import Table
from rich.text import Text as Letters

from reccocktail.cli.shared import (
    Loading,
    MaybeWhole,
    Place,
    Text,
    Texts,
    Whole,
    app,
    output,
)
from reccocktail.errors import RecipeError
from reccocktail.schema import RankerName


@app.command
def recommend(
    *,
    adapter: Path,
    data: Path,
    user: Text = None,
    history: Text = None,
    latest: Annotated[bool, Parameter(negative=())] = False,
    k: Annotated[Whole, Parameter(name=["-k", "--k"])] = 10,
    new_item: Texts = None,
    ranker: RankerName | None = None,
    retrieve: Literal["dense"] = "dense",
    retriever: Path | None = None,
    explain: Annotated[bool, Parameter(negative=())] = False,
    json: Annotated[bool, Parameter(negative=())] = False,
    loading: Loading = Loading(),  # noqa: B008
) -> None:
    """Recommend from the whole catalogue to a user, or to titles typed by hand.

    An adapter of ranker generate or choice ranks the 30 items that dense vectors retrieve.

    Args:
        adapter: adapter folder, or the name of a shipped base spirit.
        data: prepared folder.
        user: a user id of the domain; read is what came before the held-out test item.
        latest: read the held-out items of the user too: what a shop wants, and no experiment.
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
        loading: of the backbone.
    """
    from reccocktail.data.domain import Domain
    from reccocktail.progress import say
    from reccocktail.serving.answer import as_json, explanation_lines
    from reccocktail.serving.lookup import TitleLookup
    from reccocktail.serving.recommend import Recommender, history_of, require_k
    from reccocktail.spirits import resolve
    from reccocktail.training.adapter import Adapter

    if (user is None) == (history is None):
        raise RecipeError("Give --user or --history, one of the two.")
    if latest and user is None:
        raise RecipeError("--latest is for --user; a --history is read as it is given.")
    loaded = Adapter.load(resolve(adapter))
    if ranker and ranker != loaded.card.recipe.ranker:
        raise RecipeError(
            f"'{loaded.name}' was trained for ranker {loaded.card.recipe.ranker}, not {ranker}; "
            "give another adapter, or leave --ranker out."
        )
    domain = Domain.load(data)
    finder = Adapter.load(resolve(retriever)) if retriever else None
    # The question first: a backbone may take minutes to load.
    require_k(k)
    lookup = TitleLookup.of(domain)
    matches = [] if history is None else lookup.match(lookup.split(history))
    items = [match.item_id for match in matches] or history_of(domain, str(user), latest)
    model = loading.load(loaded.card.recipe.backbone, [loaded])
    recommender = Recommender(domain, loaded, model, new_item or (), finder)
    if not json:
        for match in matches:
            output.print(f"{match.typed} -> {match.title} ({match.similarity:.0f} %)")
    places = recommender.recommend(items, k)
    if explain and not recommender.writes:
        say(
            f"'{loaded.name}' is of ranker {loaded.card.recipe.ranker} and does not write: what "
            "scores rest on is shown, and a reason in words needs an adapter of ranker generate."
        )
    reasons = recommender.explain(items, places) if explain else None
    if json:
        output.print_json(data=as_json(recommender, items, places, reasons), ensure_ascii=False)
        return
    table = Table("#", "title", "score", "item", "")
    for place in places:
        row = (place.title, f"{place.score:.3f}", place.item_id, "new" if place.new else "")
        table.add_row(str(place.rank), *map(Letters, row))
    output.print(table)
    for place, reason in zip(places, reasons or (), strict=False):
        for line in explanation_lines(place, reason):
            output.print(line, highlight=False, soft_wrap=True)


@app.command
def batch(
    *,
    data: Path,
    adapter: Path,
    users: Path,
    out: Path,
    k: Annotated[Whole, Parameter(name=["-k", "--k"])] = 10,
    engine: Literal["local", "ray"] = "local",
    chunk: Whole = 4096,
    latest: Annotated[bool, Parameter(negative=())] = False,
    address: str | None = None,
    workers: MaybeWhole = None,
    place: Place = Place(),  # noqa: B008
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
        latest: read the held-out items of the users too, where the table has no histories: what a
            shop wants, and no experiment.
        address: of a Ray cluster; RAY_ADDRESS or a Ray of this machine if left out.
        workers: processes of Ray; one a GPU, or one a machine, if left out.
        place: of the backbone.
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
        latest=latest,
        **asdict(place),
    )
    done = run(job, engine, address=address, workers=workers)
    output.print(f"{done['users']:,} users in {done['chunks']:,} files: {out}", soft_wrap=True)


@app.command
def serve(
    *,
    domain: list[str] | None = None,
    host: str = "127.0.0.1",
    port: Whole = 8000,
    state: Path | None = None,
    root: Path | None = None,
    api_key_file: Path | None = None,
    admin_key_file: Path | None = None,
    queue: Whole = 256,
    batch: Whole = 32,
    timeout: float = 10.0,
    place: Place = Place(),  # noqa: B008
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
        api_key_file: file with the key that every request under /v1 must bring; or
            RECCOCKTAIL_API_KEY.
        admin_key_file: file with the key that changes need; or RECCOCKTAIL_ADMIN_KEY. Without
            a key, changes are off.
        queue: requests under way at most; more are answered 429.
        batch: requests that share a pass of the model.
        timeout: seconds a request may take.
        place: of the backbone.
    """
    from reccocktail import spirits
    from reccocktail.recipe import Recipe
    from reccocktail.serving.keys import Keys, read_key
    from reccocktail.serving.limits import Limits
    from reccocktail.serving.run import Serving, parse_domains
    from reccocktail.serving.run import serve as run
    from reccocktail.training.adapter import Adapter

    domains = {
        name: (data, spirits.place(adapter))
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
    first = Adapter.first_of(adapter for _, adapter in domains.values())
    model = place.load(first.card.recipe.backbone if first else Recipe().backbone)
    run(model, domains, settings)
