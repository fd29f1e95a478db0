"""The main job on data and a language model that any machine can get: from nothing to a report."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reccocktail import spirits
from reccocktail.backbone import SMOLLM2, Backbone, load_backbone
from reccocktail.budget import (
    MINUTES_OF_FILMS,
    MINUTES_WITH_SPIRIT,
    MINUTES_WITHOUT,
    SHARE_WITH_SPIRIT,
    SHARE_WITHOUT,
    Share,
    Texts,
    sizes,
    stretched,
    tokens,
)
from reccocktail.data.domain import MANIFEST, Domain
from reccocktail.data.fetch import SOURCES, fetch
from reccocktail.data.prepare import prepare
from reccocktail.errors import DataError, RecipeError, RunError
from reccocktail.pace import tokens_per_second
from reccocktail.pipeline import Plan, run_pipeline
from reccocktail.progress import say
from reccocktail.ranking.dense import DenseRanker
from reccocktail.ranking.scoring import Catalogue
from reccocktail.recipe import Recipe
from reccocktail.serving.schemas import usable_name
from reccocktail.storage import read_object, require_unmarked, sha256_file, write_json
from reccocktail.training.adapter import Adapter

PACE = "pace.json"
PRECISION = "auto"

DEPARTMENTS = ("grocery", "drug_gm", "fresh")
# Domain -> what `fetch` calls its source, and the folder in it.
RAW = {"movielens-1m": ("movielens-1m", "")} | {
    name: ("complete-journey", name) for name in DEPARTMENTS
}


@dataclass(frozen=True)
class Target:
    """A domain that the quickstart knows by name.

    Attributes:
        name: the domain, a key of `RAW`.
        what: the word for it in messages.
        sources: domains of the base spirit that is trained where none is shipped.
        min_count: k-core; groceries are cut to those that many households buy, because the titles
            of a large catalogue cost the most time.
    """

    name: str
    what: str
    sources: tuple[str, ...]
    min_count: int = 5
    minutes: float = MINUTES_WITH_SPIRIT


TARGETS = {
    "films": Target("movielens-1m", "films", DEPARTMENTS, minutes=MINUTES_OF_FILMS),
    "groceries": Target("grocery", "groceries", ("movielens-1m",), min_count=20),
}


def quickstart(
    out: Path,
    minutes: float | None = None,
    share: Share | None = None,
    *,
    domain: str = "films",
    root: Path = spirits.ROOT,
) -> dict[str, Any]:
    """Fetch, prepare, train an ingredient beside the shipped base spirit, mix, evaluate, report.

    Where no base spirit is shipped for SmolLM2-135M, one is trained first, on other domains.

    Args:
        out: folder of the run; a second call goes on where the first one stopped.
        minutes: what the whole should take after the downloads, at least 2; if None, 12 for films
            and without a shipped base spirit, 8 for other domains with one, and on a machine that
            reads slowly up to 1.75 times as long.
        share: how the minutes are divided.
        domain: `films`, `groceries`, or a folder: a prepared one, or one with two tables,
            `interactions.*` and `items.*`.
        root: folder of the shipped base spirits.

    Returns:
        The content of metrics.json.

    Raises:
        RecipeError: too few minutes.
        RunError: `out` is a folder of another kind, or holds a run of other settings.
        DataError: no such domain, or a folder without its two tables.
        FetchError: a download failed.
    """
    if minutes is not None and not 2 <= minutes < float("inf"):
        raise RecipeError(
            f"The quickstart needs at least 2 minutes, not {minutes:g}; raise --minutes."
        )
    require_unmarked(out, "a quickstart")
    spirit = spirits.default(root)
    known = TARGETS.get(domain)
    share = share or (SHARE_WITH_SPIRIT if spirit else SHARE_WITHOUT)
    tables = None if known else _tables(Path(domain))
    sources = () if spirit else (known.sources if known else DEPARTMENTS)
    _introduce(known.what if known else Path(domain).resolve().name, known, spirit, sources)
    if known:
        target = _prepared(known.name, out, known.min_count)
    else:
        target = _own(Path(domain), tables, out)
    base: Path | Sequence[Domain] = spirit or [_prepared(name, out) for name in sources]
    backbone = load_backbone(SMOLLM2, precision=PRECISION)
    recipe = Recipe.model_validate(
        {
            "prompt": {"max_history": 6},
            "training": {"validation_users": 8, "validations": 1, "checkpoint_minutes": 1.0},
        }
    )
    prompt = Adapter.load(spirit).card.recipe.prompt if spirit else recipe.prompt
    reading = Catalogue.of(target, DenseRanker(backbone.tokenizer, prompt, recipe.dense))
    usual = (known.minutes if known else MINUTES_WITH_SPIRIT) if spirit else MINUTES_WITHOUT
    plan = _plan(minutes, usual, share, _pace(out, backbone, reading), Texts.of(reading))
    return run_pipeline(base, target, backbone, recipe, plan, out)


def default_out(domain: str) -> Path:
    """Where a quickstart goes if it is not told: one folder a domain."""
    name = "quickstart" if domain == "films" else f"quickstart-{Path(domain).resolve().name}"
    return Path("runs") / name


def page_command(out: Path, domain: str) -> str:
    """The command that puts a finished quickstart's cocktail behind the service's page."""
    known = TARGETS.get(domain)
    data = out / "data" / (known.name if known else Path(domain).resolve().name)
    if not known and _is_prepared(Path(domain)):
        data = Path(domain).resolve()
    name = domain if known else data.name
    # In the run's precision, whose item vectors are kept.
    place = f"{usable_name(name)}={data}:{out / 'cocktail_warm'}"
    return f"reccocktail serve --precision {PRECISION} --domain {shlex.quote(place)}"


def _plan(minutes: float | None, usual: float, share: Share, pace: float, texts: Texts) -> Plan:
    """The sizes of a run of `minutes`, or of as many as its machine takes for the `usual` ones."""
    minutes = minutes or stretched(usual, pace)
    say(f"This machine reads {pace:,.0f} tokens a second: about {minutes:.0f} minutes in all.")
    mixing, evaluation = sizes(tokens(minutes, share, pace), texts)
    return Plan(
        base={"minutes": share.base * minutes} if share.base else {},
        ingredient={"minutes": share.ingredient * minutes},
        mix=mixing,
        evaluation=evaluation,
    )


def _pace(out: Path, backbone: Backbone, reading: Catalogue[DenseRanker]) -> float:
    """Tokens a second, measured once a run: what is gone on with must keep its sizes."""
    file = out / PACE
    if not file.exists():
        write_json(file, {"tokens_per_second": tokens_per_second(backbone, reading)})
    way_out = f"delete it, and {out} too if the run is to start anew"
    found = read_object(file, ("tokens_per_second",), way_out)["tokens_per_second"]
    if not isinstance(found, int | float) or not found > 0:
        raise RunError(f"{file} holds no pace; {way_out}.")
    return float(found)


def _introduce(
    what: str, known: Target | None, spirit: Path | None, sources: Sequence[str]
) -> None:
    names = ([known.name] if known else []) + list(sources)
    needed = [*dict.fromkeys(RAW[name][0] for name in names), SMOLLM2]
    size = sum(SOURCES[name].bytes or 0 for name in needed)
    base = (
        "the base spirit that ships with the package"
        if spirit
        else "a base spirit from " + ", ".join(sources)
    )
    say(
        f"Quickstart: {base}, an ingredient from {what}, and their cocktail, on SmolLM2-135M.\n"
        f"It downloads about {round(size / 1e7) * 10} MB once. "
        f"Interrupt it at any time; the same command goes on."
    )
    for name in needed:
        say(f"{name}: {SOURCES[name].description} ({SOURCES[name].licence})")


def _is_prepared(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


def _own(folder: Path, tables: tuple[Path, Path] | None, out: Path) -> Domain:
    """A user's own domain: prepared, or made of its tables with the usual settings."""
    if tables is None:
        return Domain.load(folder)
    try:
        return _prepared_tables(*tables, folder.resolve().name, out)
    except DataError as error:
        raise DataError(
            f"{str(error).rstrip('.')}; options are those of `reccocktail data prepare`, whose "
            "folder --domain takes too."
        ) from error


def _tables(folder: Path) -> tuple[Path, Path] | None:
    """The two tables of a user's own folder; None if it is prepared."""
    if _is_prepared(folder):
        return None
    if not folder.is_dir():
        raise DataError(
            f"'{folder}' is neither {' nor '.join(TARGETS)} nor a folder; "
            "give --domain a prepared folder, or one with interactions.* and items.*."
        )
    found = []
    for name in ("interactions", "items"):
        files = [path for path in sorted(folder.glob(f"{name}.*")) if path.is_file()]
        if len(files) != 1:
            raise DataError(
                f"{folder} must hold one file {name}.* (Parquet, CSV, TSV or JSON lines) and holds "
                f"{len(files)}; put the domain's two tables there."
            )
        found.append(files[0])
    return found[0], found[1]


def _prepared(name: str, out: Path, min_count: int = 5) -> Domain:
    source, part = RAW[name]
    raw = fetch(source) / part
    return _prepared_tables(
        raw / "interactions.parquet", raw / "items.parquet", name, out, min_count
    )


def _prepared_tables(
    interactions: Path, items: Path, name: str, out: Path, min_count: int = 5
) -> Domain:
    folder = out / "data" / name
    if (folder / MANIFEST).exists():
        way_out = f"delete {folder}; it is prepared again"
        inputs = read_object(folder / MANIFEST, ("inputs",), way_out)["inputs"]
        made_of = {one["sha256"] for one in inputs.values()}
        if made_of != {sha256_file(interactions), sha256_file(items)}:
            raise RunError(
                f"{out} holds a run on other tables than {interactions.parent}; "
                "give another --out, or delete it."
            )
        return Domain.load(folder)
    say(f"Preparing {name} ...")
    return prepare(interactions, items, name, folder, min_count=min_count)
