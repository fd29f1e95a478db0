"""Training targets per second: packed `dense` histories against one prompt a target.

    python benchmarks/training_throughput.py --data PREPARED --out results/training_throughput.json

One process, one backbone, one LoRA, one kind of optimiser; the methods take turns, so that whatever
else the machine does hits all of them. All draw from the same targets with the same histories:

- `dense`: the project's training step. Windows of a history are packed, every position but the
  first is a target, the other items of the batch are the negatives.
- `prompt`: supervised fine-tuning with the instruction of the paper. One target is one prompt:
  system line, the history's titles, the task, 30 candidate titles; the answer is the target's
  title. Titles are whole, as in the paper. Made as fast as it can be without changing it: loss and
  logits on the answer's tokens only, prompts of similar length batched together, tokenised before
  the clock starts (while `dense` builds its batches on the clock).
- `prompt-short` (--short): the same with titles cut as `dense` cuts them, which tells how much of
  the ratio is due to the cut.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor

from costs import PeakMemory
from paper_prompt import PromptWriter, ShortTitles, prompt_loss
from program import program
from provenance import environment, write_result
from reccocktail.backbone import Backbone, load_backbone
from reccocktail.data.domain import Domain
from reccocktail.progress import bar
from reccocktail.prompting.encoding import length_batches
from reccocktail.ranking import build
from reccocktail.ranking.dense import DenseRanker
from reccocktail.recipe import Recipe
from reccocktail.training.batches import DomainWindows, TrainingBatches
from reccocktail.training.model import new_peft_model
from spreads import spread


@dataclass
class Count:
    """What a method has done on the clock."""

    targets: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    steps: int = 0
    seconds: float = 0.0
    optimiser_seconds: float = 0.0
    losses: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Step:
    """One batch: its loss, what it holds, and the seconds of its making that count."""

    loss: Callable[[], Tensor]
    preparation: float
    targets: int
    tokens: int
    padded_tokens: int


# -- one prompt a target ----------------------------------------------------------------------


def prompt_steps(
    model: Any,
    writer: PromptWriter,
    windows: DomainWindows,
    batch_tokens: int,
    pool: int,
    seed: int,
) -> Iterator[Step]:
    """Endless steps over random targets, `pool` of them sorted by length at a time."""
    rng = np.random.default_rng(seed)
    ends = np.cumsum([len(window) - 1 for window in windows.windows])  # every target equally likely
    while True:
        prompts = []
        for target in rng.integers(ends[-1], size=pool).tolist():
            number = int(np.searchsorted(ends, target, side="right"))
            window = windows.windows[number]
            position = len(window) - (int(ends[number]) - target)
            known = windows.known[windows.owner[number]]
            prompts.append(writer.write(window[:position], window[position], known))
        lengths = [len(prompt.ids) for prompt in prompts]
        batches = length_batches(lengths, batch_tokens)
        for number in rng.permutation(len(batches)):
            chosen = [prompts[index] for index in batches[number]]
            sizes = [len(prompt.ids) for prompt in chosen]
            yield Step(
                lambda chosen=chosen: prompt_loss(model, chosen),
                0.0,
                len(chosen),
                sum(sizes),
                len(chosen) * max(sizes),
            )


# -- packed histories -------------------------------------------------------------------------


def dense_steps(model: Any, ranker: DenseRanker, batches: TrainingBatches) -> Iterator[Step]:
    """Endless steps of the project's own training."""
    device = next(model.parameters()).device
    for number in range(len(batches)):
        started = time.perf_counter()
        batch = batches[number]
        spent = time.perf_counter() - started
        tokens = int((batch["positions"].max(dim=1).values + 1).sum())
        tokens += int((batch["item_positions"] + 1).sum())
        on_device = {name: tensor.to(device) for name, tensor in batch.items()}
        yield Step(
            lambda batch=on_device: ranker.loss(model, batch),
            spent,
            int((batch["targets"] >= 0).sum()),
            tokens,
            batch["history_ids"].numel() + batch["item_ids"].numel(),
        )


# -- the clock --------------------------------------------------------------------------------


class Method:
    """One way to train, with its own optimiser over the shared LoRA."""

    def __init__(self, name: str, model: PeftModel, steps: Iterator[Step], recipe: Recipe) -> None:
        self.name = name
        self.rounds: list[dict[str, Any]] = []
        self._model = model
        self._steps = steps
        self._limit = recipe.training.max_gradient_norm
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._start = [p.detach().clone() for p in self._parameters]
        self._settings = {
            "lr": recipe.training.learning_rate,
            "weight_decay": recipe.training.weight_decay,
        }

    def run(self, seconds: float, least_steps: int = 1) -> Count:
        """Train from the LoRA's start for `seconds`, whole steps only, and count."""
        with torch.no_grad():
            for parameter, start in zip(self._parameters, self._start, strict=True):
                parameter.copy_(start)
        optimiser = torch.optim.AdamW(self._parameters, **self._settings)
        count = Count()
        while count.seconds < seconds or count.steps < least_steps:
            step = next(self._steps)
            started = time.perf_counter() - step.preparation
            loss = step.loss()
            optimiser.zero_grad()
            loss.backward()
            count.losses.append(float(loss.detach()))  # waits for the device
            before_update = time.perf_counter()
            torch.nn.utils.clip_grad_norm_(self._parameters, self._limit)
            optimiser.step()
            if loss.device.type == "cuda":
                torch.cuda.synchronize(loss.device)
            ended = time.perf_counter()
            count.seconds += ended - started
            count.optimiser_seconds += ended - before_update
            count.steps += 1
            count.targets += step.targets
            count.tokens += step.tokens
            count.padded_tokens += step.padded_tokens
        return count

    def record(self, count: Count, peak: int | None) -> None:
        """Keep a round."""
        self.rounds.append(
            {
                "targets": count.targets,
                "steps": count.steps,
                "seconds": count.seconds,
                "tokens_per_target": count.tokens / count.targets,
                "tokens_per_second": count.tokens / count.seconds,
                "targets_per_second": count.targets / count.seconds,
                "padding": 1 - count.tokens / count.padded_tokens,
                "optimiser_share": count.optimiser_seconds / count.seconds,
                "first_loss": count.losses[0],
                "last_loss": count.losses[-1],
                "peak_memory_bytes": peak,
            }
        )

    def summary(self) -> dict[str, Any]:
        """Spreads over rounds."""
        keys = ("tokens_per_target", "tokens_per_second", "targets_per_second")
        peaks = [r["peak_memory_bytes"] for r in self.rounds if r["peak_memory_bytes"] is not None]
        return {key: spread([r[key] for r in self.rounds]) for key in keys} | {
            "peak_memory_bytes": max(peaks, default=None),
            "rounds": self.rounds,
        }


def methods(
    backbone: Backbone, domain: Domain, recipe: Recipe, args: argparse.Namespace
) -> list[Method]:
    """The methods, on one LoRA."""
    ranker = build(backbone, recipe)
    windows = DomainWindows.build(domain, ranker)
    model = new_peft_model(backbone, recipe)
    model.train()
    base = model.get_base_model()
    batches = TrainingBatches([windows], ranker, recipe.training, 10**7)
    found = [Method("dense", model, dense_steps(base, ranker, batches), recipe)]
    tokenizer = backbone.tokenizer
    writers = {"prompt": PromptWriter(tokenizer, domain, args.seed)}
    if args.short:
        writers["prompt-short"] = ShortTitles(
            tokenizer, domain, args.seed, recipe.prompt.title_tokens
        )
    for name, writer in writers.items():
        steps = prompt_steps(base, writer, windows, args.prompt_tokens, args.pool, args.seed)
        found.append(Method(name, model, steps, recipe))
    return found


def measure(
    found: Sequence[Method], rounds: int, seconds: float, warmup: float, device: torch.device
) -> dict[str, Any]:
    """Warm up, then let the methods take turns, each round in the other order."""
    with bar("Training throughput", (rounds + 1) * len(found)) as advance:
        for method in found:
            method.run(warmup, least_steps=2)
            advance()
        for number in range(rounds):
            for method in found if number % 2 == 0 else reversed(found):
                with PeakMemory(device) as memory:
                    count = method.run(seconds)
                method.record(count, memory.bytes)
                advance(1, f"Training throughput, round {number + 1}, {method.name}")
    dense, *others = found
    ratios = {}
    for other in others:
        pairs = list(zip(dense.rounds, other.rounds, strict=True))
        ratios[f"dense/{other.name}"] = {
            "targets_per_second": spread(
                [
                    ours["targets_per_second"] / theirs["targets_per_second"]
                    for ours, theirs in pairs
                ]
            ),
            "tokens_per_target": spread(
                [theirs["tokens_per_target"] / ours["tokens_per_target"] for ours, theirs in pairs]
            ),
        }
    return {"methods": {method.name: method.summary() for method in found}, "ratios": ratios}


def show(result: dict[str, Any]) -> None:
    print("method        tokens/target  tokens/s  targets/s [min, max]     peak memory")
    for name, found in result["methods"].items():
        speed, peak = found["targets_per_second"], found["peak_memory_bytes"]
        print(
            f"{name:<13} {found['tokens_per_target']['median']:>13.1f} "
            f"{found['tokens_per_second']['median']:>9.1f} {speed['median']:>10.3f} "
            f"[{speed['min']:.3f}, {speed['max']:.3f}]"
            + (f" {peak / 2**30:>8.2f} GiB" if peak else "")
        )
    for name, found in result["ratios"].items():
        speed = found["targets_per_second"]
        print(
            f"{name}: {speed['median']:.1f} times the targets per second "
            f"[{speed['min']:.1f}, {speed['max']:.1f} over {speed['n']} rounds]; "
            f"{found['tokens_per_target']['median']:.1f} times fewer tokens a target"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="prepared domain")
    parser.add_argument("--backbone", default="smollm2-135m")
    parser.add_argument("--device", help="cpu, cuda or mps; the best there is if left out")
    parser.add_argument("--recipe", type=Path, help="settings; the defaults if left out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each method in each round")
    parser.add_argument("--warmup", type=float, default=15.0, help="seconds of each method")
    parser.add_argument("--short", action="store_true", help="add the prompt with cut titles")
    parser.add_argument("--prompt-tokens", type=int, default=2048, help="padded, in a prompt batch")
    parser.add_argument("--pool", type=int, default=256, help="prompts sorted by length together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    args = parser.parse_args(arguments)
    recipe = Recipe.load(args.recipe) if args.recipe else Recipe()
    backbone, domain = load_backbone(args.backbone, device=args.device), Domain.load(args.data)
    settings = ("rounds", "seconds", "warmup", "short", "prompt_tokens", "pool", "seed")
    result = {
        "benchmark": "training_throughput",
        "settings": {name: getattr(args, name) for name in settings}
        | {"recipe": recipe.model_dump(mode="json")},
        **environment(backbone, domain),
    }
    result |= measure(
        methods(backbone, domain, recipe, args),
        args.rounds,
        args.seconds,
        args.warmup,
        backbone.device,
    )
    show(result)
    if args.out:
        write_result(args.out, result)


if __name__ == "__main__":
    program(main)
