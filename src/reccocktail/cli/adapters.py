"""Make adapters: list, train, mix, export."""

from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from reccocktail.cli.shared import (
    LoadIn,
    Loading,
    MaybeWhole,
    Tracker,
    Whole,
    app,
    output,
    quantization_of,
)
from reccocktail.errors import AdapterError, RecipeError
from reccocktail.launcher import is_first
from reccocktail.progress import say
from reccocktail.schema import (
    Granularity,
    Method,
    Objective,
    Precision,
    RankerName,
    Scenario,
    Search,
)


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
    output.print(table if table.row_count else "This installation ships no base spirit.")


@app.command
def train(
    *,
    role: Literal["base", "ingredient"],
    data: list[Path],
    out: Path,
    backbone: str | None = None,
    ranker: RankerName | None = None,
    minutes: float | None = None,
    steps: MaybeWhole = None,
    resume: bool = False,
    init: Path | None = None,
    beside: Path | None = None,
    recipe: Path | None = None,
    exclude_titles_of: list[Path] | None = None,
    device: str | None = None,
    dtype: str | None = None,
    precision: Precision = "float32",
    load_in: LoadIn | None = None,
    report_to: list[Tracker] | None = None,
) -> None:
    """Fine-tune one LoRA: a base spirit on many domains, or an ingredient on one.

    Args:
        role: what the adapter is for.
        data: prepared folders.
        out: adapter folder to write; log and checkpoints lie beside it in OUT.training.
        backbone: hub id, folder, GGUF file or smollm2-135m; overrides the recipe.
        ranker: overrides the recipe.
        minutes: length by the clock (training time only). Without a length it is three passes over
            the histories, at most 300 steps.
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
        precision: of products with float32 weights: a GPU trains in bfloat16 with auto; a CPU
            trains in float32 and validates in it.
        load_in: 4bit trains on the backbone's weights in NF4 (QLoRA); CUDA only.
        report_to: tell a tracker too what the log is told.
    """
    from reccocktail.backbone import choose_device, load_backbone
    from reccocktail.data.domain import Domain
    from reccocktail.data.overlap import overlapping_items
    from reccocktail.processes import first_here, start, stop
    from reccocktail.recipe import Recipe
    from reccocktail.spirits import resolve
    from reccocktail.training.adapter import Adapter
    from reccocktail.training.schedule import PASSES, Length, usual_steps
    from reccocktail.training.trainer import train as run

    domains = [Domain.load(path) for path in data]
    if len({domain.path.resolve() for domain in domains}) < len(domains):
        raise RecipeError("One folder is given twice as --data; give each once.")
    if role == "ingredient" and len(domains) != 1:
        raise RecipeError("An ingredient has one domain; give --data once, or use --role base.")
    settings = Recipe.load(recipe) if recipe else Recipe()
    given = {"backbone": backbone, "ranker": ranker, "quantization": quantization_of(load_in)}
    changes = {key: value for key, value in given.items() if value}
    settings = settings.model_copy(update=changes)
    if steps is None and minutes is None:
        steps = usual_steps(domains, settings)
        say(
            f"No length was given: {steps} steps, {PASSES} passes over the histories at most. "
            "Give --steps or --minutes for another."
        )
    length = Length(steps=steps, minutes=minutes)
    targets = [Domain.load(path) for path in exclude_titles_of or ()]
    start(choose_device(device))
    with first_here():
        model = load_backbone(
            settings.backbone,
            device=device,
            dtype=dtype,
            quantization=settings.quantization,
            packed=True,
            precision=precision,
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
        report_to=report_to or (),
    )
    if is_first():
        output.print(f"Adapter: {out}", soft_wrap=True)
    stop()


@app.command
def mix(
    *,
    adapter: list[Path],
    data: Path,
    scenario: Scenario,
    out: Path,
    method: Method = "delta",
    granularity: Granularity = "global",
    objective: Objective = "entropy",
    search: Search = "auto",
    users: Whole = 50,
    validation_users: Whole = 200,
    coefficients: list[float] | None = None,
    dilute: list[float] | None = None,
    density: float = 0.5,
    rank: MaybeWhole = None,
    norm_matched: bool = False,
    steps: MaybeWhole = None,
    learning_rate: float | None = None,
    softmax_temperature: float | None = None,
    transductive: bool = False,
    seed: Whole = 0,
    loading: Loading = Loading(),  # noqa: B008
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
            adapter, divergence from both adapters, distillation of both, mutual information of
            users and items, or labelled validation.
        search: auto, or the published algorithm: a softmax pair a module, Adam on entropy.
        users: unlabelled users to adapt to; they are not scored later.
        validation_users: labelled validation users of the curve.
        coefficients: fixed coefficients in place of a search, one an adapter.
        dilute: factors below 1; the search tries its mixes times each of them as well, steps
            towards the bare backbone. For calibrated and validation.
        density: share of the entries that ties and dare keep.
        rank: of svd and ties; the largest among the adapters, or their sum, if left out.
        norm_matched: scale the mix to the mean of the adapters' norms.
        steps: of the gradient search.
        learning_rate: of the gradient search.
        softmax_temperature: of the coefficients in the gradient search.
        transductive: score the adaptation users too.
        seed: draws the users, and what dare drops.
        loading: of the backbone.
    """
    from dataclasses import replace

    from reccocktail.data.domain import Domain
    from reccocktail.mixing.arithmetic import MergeOptions
    from reccocktail.mixing.cocktail import check_request
    from reccocktail.mixing.cocktail import mix as run
    from reccocktail.mixing.measure import MixSettings, default_descent
    from reccocktail.spirits import resolve
    from reccocktail.training.adapter import Adapter

    folders = [resolve(path) for path in adapter]
    if out.resolve() in {folder.resolve() for folder in folders}:
        raise AdapterError(
            f"{out} is one of the adapters that are mixed, and would be replaced; choose another "
            "folder."
        )
    adapters = [Adapter.load(folder) for folder in folders]
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
        dilutions=tuple(dilute or ()),
        transductive=transductive,
        seed=seed,
    )
    if given and (coefficients is not None or not settings.by_gradient(len(adapters))):
        raise AdapterError(
            "--steps, --learning-rate and --softmax-temperature are for a gradient search; leave "
            "them out, or give --granularity layer or module, or --search published."
        )
    check_request(adapters, out, settings, coefficients)  # before a backbone is loaded for it
    model = loading.load(adapters[0].card.recipe.backbone, adapters)
    run(adapters, model, domain, scenario, out, settings, coefficients)
    output.print(f"Cocktail: {out}", soft_wrap=True)


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
    from reccocktail.export.folders import (
        export_gguf,
        export_merged,
        export_peft,
        require_export_dir,
    )
    from reccocktail.spirits import resolve
    from reccocktail.training.adapter import Adapter
    from reccocktail.training.model import note_quantization

    folder = resolve(adapter)
    if out.resolve() == folder.resolve():
        raise AdapterError(
            f"{out} is the adapter that is exported, and would be replaced; choose another folder."
        )
    require_export_dir(out)  # before a backbone is loaded for it
    loaded = Adapter.load(folder)
    if format == "peft":
        export_peft(loaded, out, dtype or "float32")
    else:
        name = backbone or loaded.card.recipe.backbone
        rounded = quantization_of(load_in)
        # In float32 the sum is rounded once; four bits are made where there is a GPU.
        place = None if rounded else "cpu"
        model = load_backbone(name, device=place, dtype="float32", quantization=rounded)
        model.model.to("cpu")  # type: ignore[arg-type]
        note_quantization([loaded], model)
        if format == "merged":
            export_merged(loaded, model, out, dtype or "float32")
        else:
            export_gguf(loaded, model, out, dtype or "float16")
    output.print(f"Export: {out}", soft_wrap=True)
