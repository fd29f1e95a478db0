"""Train a base spirit or an ingredient, from domains to an adapter folder; resumable."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from pydantic import ValidationError
from transformers import PrinterCallback

from reccocktail.backbone import Backbone, quiet_transformers
from reccocktail.data.domain import Domain
from reccocktail.errors import AdapterError, RecipeError, RunError
from reccocktail.launcher import is_first, processes
from reccocktail.precision import in_precision, training_precision
from reccocktail.processes import from_first, start, together
from reccocktail.progress import bar, say
from reccocktail.prompting.template import is_shipped
from reccocktail.ranking import build
from reccocktail.ranking.base import Ranker, first_layers
from reccocktail.ranking.scoring import Catalogue
from reccocktail.recipe import Recipe
from reccocktail.storage import read_json, sha256_json, writing
from reccocktail.training.adapter import (
    CARD_FILE,
    Adapter,
    Card,
    DataCard,
    Lora,
    Role,
    note_cocktail,
    require_adapter_dir,
)
from reccocktail.training.bank import ItemBank
from reccocktail.training.batches import DomainWindows, TrainingBatches
from reccocktail.training.card import adapter_readme
from reccocktail.training.interrupt import Interrupt, interruptible
from reccocktail.training.log import RunLog, read_log, require_trackers
from reccocktail.training.loop import (
    AdapterTrainer,
    RankerModule,
    RunCallback,
    arguments,
    only,
    require_finite,
    restore,
)
from reccocktail.training.model import base_model, merged, new_peft_model, tensors_of
from reccocktail.training.run_folder import (
    FINISHED,
    hold,
    remove_checkpoints,
    require_written,
    starting_point,
    write_record,
)
from reccocktail.training.schedule import UNBOUNDED, Clock, Length
from reccocktail.training.speed import fast_layers
from reccocktail.training.validation import Validation

_TRAINS_LIKE = "0.1.0"
"""The first version whose trainings are those of this one: what it began can be gone on with."""


def train(
    role: Role,
    domains: Sequence[Domain],
    backbone: Backbone,
    recipe: Recipe,
    out: Path,
    length: Length,
    *,
    resume: bool = False,
    exclude: Mapping[str, frozenset[str]] | None = None,
    initial: Adapter | None = None,
    beside: Adapter | None = None,
    report_to: Sequence[str] = (),
) -> Adapter:
    """Fine-tune a LoRA on the domains' training histories (paper, Eq. 4 and 5); write it to `out`.

    The run's log and checkpoints lie beside it in `<out>.training`; a finished run keeps only the
    log.

    An interrupt ends it after the step at work, which is kept; a second one ends it at once.

    Several processes that a launcher started train it together, see `processes`: all of them call
    this function with the same arguments, and the first one writes.

    Args:
        role: `base` for a base spirit, `ingredient` for a target domain's adapter.
        domains: prepared domains.
        backbone: frozen language model; it is given back as it was.
        recipe: all settings.
        out: adapter folder to write.
        length: steps or minutes.
        resume: go on from the last checkpoint; a finished run with the same settings is taken as it
            is.
        exclude: domain name -> item ids left out of its histories (titles that a target shares);
            names must differ then.
        initial: adapter whose tensors are the start, such as a base spirit in a second round of
            fine-tuning; it keeps its rank, alpha and modules. None starts afresh.
        beside: adapter that is at work, frozen, while the new one is trained, such as a base spirit
            (WeaveRec); the new one is then meant to be added to it, with the coefficients 1 and 1.
        report_to: which of `log.TRACKERS` are told what the log is told.

    Raises:
        RunError: an unfinished run stands there and `resume` is off, its settings differ,
            another training is at work there, another process of this run is gone, or the file
            system refuses a write; whole checkpoints stay. Or items are left out and two domains
            have one name, or a tracker's package is missing.
        AdapterError: `out` holds something that is not an adapter, or `initial` or `beside` does
            not fit the backbone or the recipe.
        RecipeError: the backbone is not in the recipe's quantization, or it is packed and there is
            an adapter beside.
        KeyboardInterrupt: an interrupt came; the step at work is kept.
    """
    require_trackers(report_to)
    start(backbone.device)
    from_first(lambda: require_adapter_dir(out))
    _check_quantization(recipe, backbone, beside)
    ranker = build(backbone, recipe)
    card = _card(role, domains, backbone, recipe, ranker)
    for other in (initial, beside):
        if other is not None:
            _check_other(other, card)
    _check_names(domains, exclude)
    left_out = {name: sorted(items) for name, items in sorted((exclude or {}).items())}
    identity = _identity(card, backbone, length, left_out, initial, beside)
    run = _Run(out, identity, recipe, length, initial, beside, tuple(report_to))
    with ExitStack() as stack:
        from_first(lambda: stack.enter_context(hold(run.folder)))
        stack.enter_context(writing(run.folder, run.folder))  # by Trainer and its libraries too
        checkpoint = from_first(lambda: starting_point(run.folder, out, identity, resume))
        if checkpoint == FINISHED:
            adapter = Adapter.load(out)
            require_written(run.folder, adapter, out)
            say(f"{out.name}: finished before, taken as it is.")
            return adapter
        _note_replaced(out, card)
        hard = recipe.training.hard_negatives
        windows = [
            DomainWindows.build(d, ranker, frozenset(left_out.get(d.name, ())), hard)
            for d in domains
        ]
        lora, steps, seconds, interrupt = _fit(run, domains, windows, backbone, ranker, checkpoint)
        done = {
            "steps": steps,
            "initial_sha256": initial.sha256 if initial else None,
            "beside_sha256": beside.sha256 if beside else None,
        }
        adapter = Adapter(out.name, lora, card.model_copy(update=done))
        from_first(lambda: _finish(adapter, run, seconds))
        if interrupt.asked:  # too late for this run, but not for what was to follow
            raise KeyboardInterrupt
        return adapter


def _note_replaced(out: Path, card: Card) -> None:
    """Say which adapter of another kind or other data the new one will replace."""
    try:
        former = Card.model_validate(read_json(out / CARD_FILE))
    except (RunError, ValidationError):  # none there, or no adapter of ours
        return
    if (former.role, former.data) != (card.role, card.data):
        names = ", ".join(data.name for data in former.data)
        say(f"{out} holds the {former.role} adapter of {names}; it is replaced at the end.")


@dataclass(frozen=True)
class _Run:
    """Where a training is kept and told of, and what decides it beside its data."""

    out: Path
    identity: str
    recipe: Recipe
    length: Length
    initial: Adapter | None
    beside: Adapter | None
    report_to: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Of log and checkpoints."""
        return self.out.with_name(self.out.name + ".training")

    def record(self, *, finished: bool) -> dict[str, Any]:
        """What the run's folder says of it."""
        return {"identity": self.identity, "finished": finished, "processes": processes()}


def _fit(
    run: _Run,
    domains: Sequence[Domain],
    windows: Sequence[DomainWindows],
    backbone: Backbone,
    ranker: Ranker,
    checkpoint: str | None,
) -> tuple[Lora, int, float, Interrupt]:
    """Train from a checkpoint, or from the start, to the end of the run's length.

    Returns:
        The tensors, the steps and the seconds in all, and whether an interrupt came after the last
        step.

    Raises:
        KeyboardInterrupt: one came before; the step that it found at work is kept.
    """
    name, recipe, settings = run.out.name, run.recipe, run.recipe.training
    catalogues = [
        Catalogue(domain, ranker, w.titles) for domain, w in zip(domains, windows, strict=True)
    ]
    batches = TrainingBatches(windows, ranker, settings, run.length.steps or UNBOUNDED, processes())
    bank = ItemBank(settings.bank) if settings.bank else None
    step = int(Path(checkpoint).name.rpartition("-")[2]) if checkpoint else 0
    clock = Clock(run.length)
    if checkpoint:
        restore(Path(checkpoint), clock, bank, backbone.device)
        say(f"{name}: going on from step {step}.")
    with ExitStack() as stack:  # an interrupted run gives the backbone back as well
        stack.enter_context(merged(backbone.model, run.beside.lora if run.beside else None))
        peft_model = new_peft_model(backbone, recipe, run.initial)
        stack.callback(_take_off, peft_model, backbone)
        stack.enter_context(in_precision(base_model(peft_model), _products(backbone)))
        module = RankerModule(peft_model, ranker, bank)
        log = None
        if is_first():
            log = RunLog(run.folder, step)
            stack.callback(log.close)
            write_record(run.folder, run.record(finished=False))
        advance = stack.enter_context(bar(f"Training {name}", 100))
        stack.enter_context(quiet_transformers())
        interrupt = stack.enter_context(interruptible(name))
        validation = Validation(catalogues, settings.validation_users, settings.seed)
        callback = RunCallback(clock, log, advance, validation, module, recipe, interrupt)
        trainer = AdapterTrainer(
            clock=clock,
            warmup=settings.warmup,
            model=module,
            args=arguments(run.folder, recipe, batches, backbone, run.report_to),
            train_dataset=batches,
            data_collator=only,
            callbacks=[callback],
        )
        callback.report = trainer.log
        trainer.remove_callback(PrinterCallback)  # the bar and the log say it better
        decoder = base_model(peft_model).get_decoder()  # type: ignore[no-untyped-call]
        layers = first_layers(decoder, recipe.dense.depth)
        with fast_layers(layers, settings, backbone.device), together():
            trainer.train(resume_from_checkpoint=checkpoint)
        if interrupt.obeyed:
            say(f"{name}: step {trainer.state.global_step} is kept.")
            raise KeyboardInterrupt
        require_finite(peft_model, trainer.state.global_step)
        return tensors_of(peft_model), trainer.state.global_step, clock.elapsed, interrupt


def _check_names(domains: Sequence[Domain], exclude: Mapping[str, frozenset[str]] | None) -> None:
    """What one domain leaves out must not be taken for another's of its name."""
    names = [domain.name for domain in domains]
    for name in names:
        if exclude and names.count(name) > 1:
            raise RunError(
                f"Two domains are named '{name}', and titles are left out by name; prepare one of "
                "them under another --name."
            )


def _check_quantization(recipe: Recipe, backbone: Backbone, beside: Adapter | None) -> None:
    if recipe.quantization != backbone.quantization:
        raise RecipeError(
            f"The recipe's quantization is {recipe.quantization}, the backbone's "
            f"{backbone.quantization}; load the backbone as the recipe says."
        )
    if beside is not None and recipe.quantization:
        raise RecipeError(
            "An adapter at work beside the new one is merged into the weights, and four-bit "
            "weights are packed; leave out --beside, or --load-in."
        )


def _card(
    role: Role,
    domains: Sequence[Domain],
    backbone: Backbone,
    recipe: Recipe,
    ranker: Ranker,
) -> Card:
    """What the adapter will say of itself, but for its steps."""
    return Card(
        role=role,
        backbone=backbone.fingerprint,
        recipe=recipe,
        template_sha256=ranker.template_sha256,
        wording=None if is_shipped(recipe.template) else ranker.template.model_dump(),
        readout_sha256=ranker.readout_sha256,
        data=tuple(DataCard.of(domain) for domain in domains),
    )


def _identity(
    card: Card,
    backbone: Backbone,
    length: Length,
    left_out: Mapping[str, Sequence[str]],
    initial: Adapter | None,
    beside: Adapter | None,
) -> str:
    """Hash of all that decides what is trained."""
    elsewhere = {"initial_sha256", "beside_sha256", "wording"}  # below, or known by its hash
    settings_card = card.model_dump(mode="json", exclude=elsewhere)
    settings_card |= {"recipe": card.recipe.relevant(), "version": _TRAINS_LIKE}
    # Added only when used: runs begun before these options existed can still be resumed.
    more = [initial.sha256] if initial else []
    more += ["beside", beside.sha256] if beside else []
    # Since the passes of a step count by their examples.
    more += ["passes"] if card.recipe.ranker != "dense" else []
    products = _products(backbone)
    if products or backbone.model.dtype != torch.float32:
        more += ["dtypes", str(backbone.model.dtype), str(products)]
    return sha256_json([settings_card, length.steps, length.minutes, left_out, *more])


def _products(backbone: Backbone) -> torch.dtype | None:
    return training_precision(backbone.device, backbone.model.dtype, backbone.autocast)


def _finish(adapter: Adapter, run: _Run, seconds: float) -> None:
    """Write the adapter and then the record; the checkpoints are needed no more."""
    adapter.save(run.out, adapter_readme(run.out.name, adapter.card))
    done = {"seconds": seconds, "adapter_sha256": adapter.sha256}
    write_record(run.folder, run.record(finished=True) | done)
    remove_checkpoints(run.folder)
    last = [row for row in read_log(run.folder) if "loss" in row][-1]
    say(
        f"{run.out.name}: {adapter.card.steps} steps in {seconds / 60:.1f} minutes, "
        f"last loss {last['loss']:.3f}."
    )


def _take_off(peft_model: PeftModel, backbone: Backbone) -> None:
    """Give the backbone back as it was."""
    peft_model.unload()
    backbone.model.requires_grad_(False).train(False)


def _check_other(other: Adapter, card: Card) -> None:
    """Refuse to build on an adapter that learned to read other prompts."""
    note_cocktail(other)
    card.backbone.require_match(other.card.backbone, other.name)
    theirs = other.card.reading()
    for what, ours in card.reading().items():
        if ours != theirs[what]:
            raise AdapterError(
                f"'{other.name}' has another {what} than the recipe; "
                "train with the recipe that it was made with."
            )
