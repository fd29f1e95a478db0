"""One training loop for base spirits and ingredients, on `transformers.Trainer`."""

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import SAFE_WEIGHTS_NAME

from reccocktail.backbone import Backbone, quiet_transformers
from reccocktail.data.domain import Domain
from reccocktail.errors import AdapterError, RunError
from reccocktail.progress import Advance, bar, say
from reccocktail.ranking.base import Ranker, first_layers
from reccocktail.ranking.dense import DenseRanker
from reccocktail.ranking.scoring import Catalogue
from reccocktail.recipe import Recipe
from reccocktail.storage import read_json, sha256_json, write_json
from reccocktail.training.adapter import (
    Adapter,
    Card,
    DataCard,
    Role,
    base_model,
    new_peft_model,
    require_adapter_dir,
    tensors_of,
)
from reccocktail.training.bank import ItemBank
from reccocktail.training.batches import DomainWindows, TrainingBatches
from reccocktail.training.card import adapter_readme
from reccocktail.training.log import RunLog, read_log
from reccocktail.training.schedule import Length, cosine_with_warmup
from reccocktail.training.speed import fast_layers
from reccocktail.training.validation import Validation

_UNBOUNDED = 10**7  # steps of a run whose end the clock decides
_CLOCK_FILE = "clock.json"
_RUN_FILE = "run.json"
_BANK_FILE = "bank.safetensors"


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
) -> Adapter:
    """Fine-tune a LoRA on the domains' training histories (paper, Eq. 4 and 5); write it to `out`.

    The run's log and checkpoints lie beside it in `<out>.training`; a finished run keeps only the
    log.

    Args:
        role: `base` for a base spirit, `ingredient` for a target domain's adapter.
        domains: prepared domains.
        backbone: frozen language model; it is given back as it was.
        recipe: all settings.
        out: adapter folder to write.
        length: steps or minutes.
        resume: go on from the last checkpoint; a finished run with the same settings is taken as it
            is.
        exclude: domain name -> item ids left out of its histories (titles that a target shares).
        initial: adapter whose tensors are the start, such as a base spirit in a second round of
            fine-tuning; it keeps its rank, alpha and modules. None starts afresh.

    Raises:
        RunError: an unfinished run stands there and `resume` is off, or its settings differ.
        AdapterError: `out` holds something that is not an adapter, or `initial` does not fit the
            backbone or the recipe.
    """
    require_adapter_dir(out)
    run_folder = out.with_name(out.name + ".training")
    ranker = DenseRanker(backbone.tokenizer, recipe.prompt, recipe.dense)
    card = Card(
        role=role,
        backbone=backbone.fingerprint,
        recipe=recipe,
        template_sha256=ranker.template.sha256,
        data=tuple(
            DataCard(name=d.name, sha256=d.sha256, users=d.train().height, items=len(d.item_ids))
            for d in domains
        ),
    )
    if initial is not None:
        _check_initial(initial, card)
    left_out = {name: sorted(items) for name, items in sorted((exclude or {}).items())}
    settings_card = card.model_dump(mode="json", exclude={"initial_sha256"})
    start = [initial.sha256] if initial else []  # runs from before there was a choice stay theirs
    identity = sha256_json([settings_card, length.steps, length.minutes, left_out, *start])
    checkpoint = _checkpoint(run_folder, out, identity, resume)
    if checkpoint == "finished":
        say(f"{out.name}: finished before, taken as it is.")
        return Adapter.load(out)
    windows = [DomainWindows.build(d, ranker, frozenset(left_out.get(d.name, ()))) for d in domains]
    catalogues = [
        Catalogue(domain, ranker, w.titles) for domain, w in zip(domains, windows, strict=True)
    ]
    settings = recipe.training
    batches = TrainingBatches(windows, ranker, settings, length.steps or _UNBOUNDED)
    bank = ItemBank(settings.bank) if settings.bank else None
    module = RankerModule(new_peft_model(backbone, recipe, initial), ranker, bank)
    step = int(Path(checkpoint).name.rpartition("-")[2]) if checkpoint else 0
    log = RunLog(run_folder, step)
    if checkpoint:
        length.start(float(read_json(Path(checkpoint) / _CLOCK_FILE)["seconds"]))
        length.pause()
        if bank is not None:
            bank.restore(load_file(Path(checkpoint) / _BANK_FILE), backbone.device)
        say(f"{out.name}: going on from step {step}.")
    write_json(run_folder / _RUN_FILE, {"identity": identity, "finished": False})
    try:
        with bar(f"Training {out.name}", 100) as advance, quiet_transformers():
            trainer = _AdapterTrainer(
                length=length,
                warmup=settings.warmup,
                model=module,
                args=_arguments(run_folder, recipe, batches, backbone),
                train_dataset=batches,
                data_collator=lambda examples: examples[0],
                callbacks=[
                    _Run(
                        length,
                        log,
                        advance,
                        Validation(catalogues, settings.validation_users, settings.seed),
                        module,
                        recipe,
                    )
                ],
            )
            trainer.remove_callback(PrinterCallback)  # the bar and the log say it better
            whole = base_model(module.model).get_decoder()  # type: ignore[no-untyped-call]
            decoder = first_layers(whole, recipe.dense.depth)
            with fast_layers(decoder, settings, backbone.device):
                trainer.train(resume_from_checkpoint=checkpoint)
        lora = tensors_of(module.model)
    finally:  # an interrupted run gives the backbone back as well
        log.close()
        module.model.unload()
        backbone.model.requires_grad_(False).train(False)
    done = {
        "steps": trainer.state.global_step,
        "initial_sha256": initial.sha256 if initial else None,
    }
    adapter = Adapter(out.name, lora, card.model_copy(update=done))
    adapter.save(out, adapter_readme(out.name, adapter.card))
    seconds = length.elapsed
    write_json(run_folder / _RUN_FILE, {"identity": identity, "finished": True, "seconds": seconds})
    for folder in run_folder.glob("checkpoint-*"):
        shutil.rmtree(folder)
    last = [row for row in read_log(run_folder) if "loss" in row][-1]
    say(
        f"{out.name}: {trainer.state.global_step} steps in {seconds / 60:.1f} minutes, "
        f"last loss {last['loss']:.3f}."
    )
    return adapter


class RankerModule(nn.Module):
    """Backbone with LoRA and ranker as one module whose output is the loss.

    It is what `Trainer` and DDP expect.
    """

    _keys_to_ignore_on_save: list[str] | None = None  # read by Trainer when a checkpoint is loaded

    def __init__(self, model: PeftModel, ranker: Ranker, bank: ItemBank | None = None) -> None:
        """Wrap; only the LoRA tensors are trainable. A `bank` lends each batch more negatives."""
        super().__init__()
        self.model = model
        self.ranker = ranker
        self.bank = bank

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        """Loss of one batch, as `Trainer` reads it."""
        if self.bank is None:
            return {"loss": self.ranker.loss(base_model(self.model), batch)}
        batch |= self.bank.negatives(batch)
        loss = self.ranker.loss(base_model(self.model), batch)
        self.bank.put(batch)
        return {"loss": loss}


class _AdapterTrainer(Trainer):
    """`Trainer` with our schedule, and checkpoints of LoRA tensors alone."""

    def __init__(self, *, length: Length, warmup: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._length = length
        self._warmup = warmup

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> LambdaLR:
        optimizer = optimizer or self.optimizer
        assert optimizer is not None
        self.lr_scheduler = LambdaLR(
            optimizer, lambda _: cosine_with_warmup(self._length.progress, self._warmup)
        )
        return self.lr_scheduler

    def _save(
        self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None
    ) -> None:
        folder = Path(output_dir or self.args.output_dir or ".")
        folder.mkdir(parents=True, exist_ok=True)
        assert self.model is not None
        trainable = {
            n: p.detach().cpu().contiguous()
            for n, p in self.model.named_parameters()
            if p.requires_grad
        }
        save_file(trainable, folder / SAFE_WEIGHTS_NAME, metadata={"format": "pt"})
        bank = self.model.bank
        if isinstance(bank, ItemBank):
            save_file(bank.state(), folder / _BANK_FILE)
        write_json(folder / _CLOCK_FILE, {"seconds": self._length.elapsed})

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """The backbone's tensors are missing from a checkpoint by design."""


class _Run(TrainerCallback):
    """Clock, log, bar, validation and checkpoints of one run."""

    def __init__(
        self,
        length: Length,
        log: RunLog,
        advance: Advance,
        validation: Validation,
        module: RankerModule,
        recipe: Recipe,
    ) -> None:
        self._length = length
        self._log = log
        self._advance = advance
        self._validation = validation
        self._module = module
        self._validations = recipe.training.validations
        self._checkpoint_seconds = 60 * recipe.training.checkpoint_minutes
        self._saved_at = time.monotonic()
        self._shown = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._length.done_steps = state.global_step
        self._shown = self._length.progress  # what was validated before a resumption stays so
        self._advance(100 * self._shown)
        self._length.start()

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        # The schedule moves right after this, before the trainer counts the step.
        self._length.done_steps = state.global_step + 1

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._length.done_steps = state.global_step
        progress = self._length.progress
        if int(progress * self._validations) > int(self._shown * self._validations):
            self._validate(state.global_step)
        if progress >= 1.0:
            control.should_training_stop = True
        elif time.monotonic() - self._saved_at > self._checkpoint_seconds:
            control.should_save = True
            self._length.pause()
        self._advance(100 * (progress - self._shown))
        self._shown = progress

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._saved_at = time.monotonic()
        self._length.start()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if logs and "loss" in logs:
            names: tuple[str, ...] = ("loss", "learning_rate", "grad_norm")
            kept = {name: float(logs[name]) for name in names if name in logs}
            self._log.write(state.global_step, {"seconds": round(self._length.elapsed, 3), **kept})

    def _validate(self, step: int) -> None:
        self._length.pause()
        model = self._module.model
        model.eval()
        found = self._validation(base_model(model))
        model.train()
        if found:
            self._log.write(step, {"seconds": round(self._length.elapsed, 3), **found})
            self._advance(0)
        self._length.start()


def _check_initial(initial: Adapter, card: Card) -> None:
    """Refuse to go on from an adapter that learned to read other prompts."""
    card.backbone.require_match(initial.card.backbone, initial.name)
    for what, ours, theirs in (
        ("ranker", card.recipe.ranker, initial.card.recipe.ranker),
        ("prompt template", card.template_sha256, initial.card.template_sha256),
        ("prompt settings", card.recipe.prompt, initial.card.recipe.prompt),
        ("depth", card.recipe.dense.depth, initial.card.recipe.dense.depth),
        ("pooling", card.recipe.dense.pooling, initial.card.recipe.dense.pooling),
    ):
        if ours != theirs:
            raise AdapterError(
                f"'{initial.name}' has another {what} than the recipe; "
                "train with the recipe that it was made with."
            )


def _checkpoint(run_folder: Path, out: Path, identity: str, resume: bool) -> str | None:
    """The checkpoint to go on from, 'finished' for a run that needs nothing more, or None."""
    if not (run_folder / _RUN_FILE).exists():
        return None
    former = read_json(run_folder / _RUN_FILE)
    if former["finished"] and (not resume or not out.exists()):
        return None
    if not resume:
        raise RunError(
            f"An unfinished run lies in {run_folder}; "
            "add --resume to go on with it, or delete the folder."
        )
    if former["identity"] != identity:
        raise RunError(
            f"The run in {run_folder} was made with other settings or data; "
            f"give the same ones, or delete the folder to start anew."
        )
    return "finished" if former["finished"] else _last_whole_checkpoint(run_folder)


def _last_whole_checkpoint(run_folder: Path) -> str | None:
    """The last checkpoint that was written to its end; what follows it is deleted."""
    while True:
        last = get_last_checkpoint(str(run_folder))  # type: ignore[no-untyped-call]
        # The state is the file that Trainer writes last.
        if last is None or (Path(last) / TRAINER_STATE_NAME).is_file():
            return None if last is None else str(last)
        shutil.rmtree(last)


def _arguments(
    run_folder: Path, recipe: Recipe, batches: TrainingBatches, backbone: Backbone
) -> TrainingArguments:
    settings = recipe.training
    return TrainingArguments(
        output_dir=str(run_folder),
        max_steps=len(batches),
        per_device_train_batch_size=1,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_gradient_norm,
        optim="adamw_torch",
        seed=settings.seed,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        label_names=[],
        logging_steps=1,
        save_strategy="no",
        save_total_limit=2,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
        use_cpu=backbone.device.type == "cpu",
    )
