"""The loop itself: `transformers.Trainer` with our loss, clock, schedule and checkpoints."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import (
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import SAFE_WEIGHTS_NAME

from reccocktail.backbone import Backbone
from reccocktail.errors import RunError
from reccocktail.launcher import rank
from reccocktail.processes import agree
from reccocktail.progress import Advance
from reccocktail.ranking.base import Batch, Ranker
from reccocktail.ranking.dense import DenseRanker
from reccocktail.recipe import Recipe
from reccocktail.training.bank import ItemBank
from reccocktail.training.batches import TrainingBatches
from reccocktail.training.interrupt import Interrupt
from reccocktail.training.log import RunLog
from reccocktail.training.model import base_model
from reccocktail.training.run_folder import read_seconds, seal, write_seconds
from reccocktail.training.schedule import Clock, cosine_with_warmup
from reccocktail.training.validation import Validation

GPU_WORKERS = 2  # that make batches while a GPU trains

_BANK_FILE = "bank.safetensors"


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
        """Loss of one batch, as `Trainer` reads it; `weight` is a factor on it, if given."""
        weight = batch.pop("weight", None)
        model = base_model(self.model)
        if self.bank is None:
            loss = self.ranker.loss(model, batch)
        else:
            assert isinstance(self.ranker, DenseRanker)  # a recipe gives no other a bank
            contrast = self.ranker.contrast(model, batch | self.bank.negatives(batch))
            self.bank.put(batch, contrast.items)
            loss = contrast.loss()
        return {"loss": loss if weight is None else weight * loss}


class AdapterTrainer(Trainer):
    """`Trainer` with our schedule, and checkpoints of LoRA tensors alone."""

    def __init__(self, *, clock: Clock, warmup: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._clock = clock
        self._warmup = warmup

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> LambdaLR:
        """The cosine of the run's own progress, which the clock may decide."""
        optimizer = optimizer or self.optimizer
        assert optimizer is not None
        self.lr_scheduler = LambdaLR(
            optimizer, lambda _: cosine_with_warmup(agree(self._clock.progress), self._warmup)
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
        write_seconds(folder, self._clock.elapsed)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()  # each process leaves its random state there
        if self.is_world_process_zero():
            folder = Path(self.args.output_dir or ".")
            seal(folder / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """The backbone's tensors are missing from a checkpoint by design."""


class RunCallback(TrainerCallback):
    """Clock, log, bar, validation and checkpoints of one run.

    Of several processes, the first one's clock counts, and it alone validates and logs.
    """

    def __init__(
        self,
        clock: Clock,
        log: RunLog | None,
        advance: Advance,
        validation: Validation,
        module: RankerModule,
        recipe: Recipe,
        interrupt: Interrupt,
    ) -> None:
        self._interrupt = interrupt
        self._clock = clock
        self._log = log
        self._advance = advance
        self._validation = validation
        self._module = module
        self._validations = recipe.training.validations
        self._checkpoint_seconds = 60 * recipe.training.checkpoint_minutes
        self._saved_at = time.monotonic()
        self._shown = 0.0
        self.report: Callable[[dict[str, float]], None] | None = None  # of what validation says

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Start the clock and the bar where the run stands."""
        self._clock.done_steps = state.global_step
        self._shown = agree(self._clock.progress)  # what was validated before a resumption stays so
        self._advance(100 * self._shown)
        self._clock.start()

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Count the step for the schedule."""
        # The schedule moves right after this, before the trainer counts the step.
        self._clock.done_steps = state.global_step + 1

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Validate, save or stop, as the progress asks."""
        self._clock.done_steps = state.global_step
        progress = agree(self._clock.progress)
        if int(progress * self._validations) > int(self._shown * self._validations):
            logging = control.should_log
            require_finite(self._module.model, state.global_step)
            self._validate(state.global_step)
            control.should_log = logging  # a report of validation must not pass for the step's own
        asked = self._interrupt.asked
        if progress >= 1.0:
            control.should_training_stop = True
        elif asked or agree(time.monotonic() - self._saved_at) > self._checkpoint_seconds:
            control.should_save = True
            control.should_training_stop = self._interrupt.obeyed = asked
            self._clock.pause()
        self._advance(100 * (progress - self._shown))
        self._shown = progress

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Go on with the clock."""
        self._saved_at = time.monotonic()
        self._clock.start()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Write a step's loss to the run's log.

        Raises:
            RunError: it is no number.
        """
        if logs and not math.isfinite(float(logs.get("loss", 0.0))):
            raise _diverged(f"The loss of step {state.global_step}")
        if self._log is not None and logs and "loss" in logs:
            names: tuple[str, ...] = ("loss", "learning_rate", "grad_norm")
            kept = {name: float(logs[name]) for name in names if name in logs}
            self._log.write(state.global_step, {"seconds": round(self._clock.elapsed, 3), **kept})

    def _validate(self, step: int) -> None:
        if self._log is None:
            return
        self._clock.pause()
        model = self._module.model
        model.eval()
        found = self._validation(base_model(model))
        model.train()
        if found:
            self._log.write(step, {"seconds": round(self._clock.elapsed, 3), **found})
            if self.report is not None:
                self.report(found)
            self._advance(0)
        self._clock.start()


def require_finite(model: nn.Module, step: int) -> None:
    """Refuse LoRA tensors with an entry that is no number.

    A step's loss is that of the weights before it, so the last step's weights are in no loss.

    Raises:
        RunError: there is one.
    """
    if not all(p.isfinite().all() for p in model.parameters() if p.requires_grad):
        raise _diverged(f"An entry of the adapter after step {step}")


def _diverged(what: str) -> RunError:
    return RunError(
        f"{what} is no number: the training has diverged; lower training.learning_rate and train "
        "anew."
    )


def only(examples: Sequence[Batch]) -> Batch:
    """The data set's examples are batches already."""
    return examples[0]


def restore(checkpoint: Path, clock: Clock, bank: ItemBank | None, device: torch.device) -> None:
    """Set the clock and the bank to where a checkpoint left them; the clock stands still.

    Raises:
        RunError: the bank is missing, which a checkpoint without a seal does not tell before.
    """
    clock.start(read_seconds(checkpoint))
    clock.pause()
    if bank is not None:
        file = checkpoint / _BANK_FILE
        if not file.exists():
            raise RunError(
                f"{checkpoint} lacks {file.name}; delete it to go on from the one before."
            )
        bank.restore(load_file(file), device)


def arguments(
    run_folder: Path,
    recipe: Recipe,
    batches: TrainingBatches,
    backbone: Backbone,
    report_to: Sequence[str] = (),
) -> TrainingArguments:
    """What the recipe asks of `Trainer`; the schedule, the log and the end of a run are ours."""
    settings = recipe.training
    found = TrainingArguments(
        output_dir=str(run_folder),
        max_steps=batches.steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=batches.rounds,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_gradient_norm,
        optim="adamw_torch",
        seed=settings.seed + rank(),  # each process draws its own dropout
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        label_names=[],
        logging_steps=1,
        logging_nan_inf_filter=False,  # a loss that is no number must be seen
        save_strategy="no",
        save_total_limit=2,
        report_to=list(report_to),
        run_name=run_folder.stem,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        # A GPU need not wait while the next batch is made.
        dataloader_num_workers=GPU_WORKERS if backbone.device.type == "cuda" else 0,
        use_cpu=backbone.device.type == "cpu",
        # A recipe may put LoRA on layers that its ranker never runs, such as the vocabulary head.
        ddp_find_unused_parameters=recipe.lora.target_modules != "all-linear",
    )
    if found.n_gpu > 1:  # one process trains on one GPU; more take more processes
        found._n_gpu = 1
    return found
