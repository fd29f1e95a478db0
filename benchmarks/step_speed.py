"""How much faster is a training step in int8, and compiled?

    python benchmarks/step_speed.py --data PREPARED [--rounds 3] [--out results/step_speed.json]

Variants of one training, float32, int8, and int8 with compiled layers, each with its own LoRA from
the same start, take the same batches in turns: in every round each variant makes `--steps` steps.
Before the clock starts each has made `--warm-up` steps, which for `compile` is the compilation.
Ratios are those of a round's seconds, its median and spread over the rounds; the losses of the same
step show what rounding changes.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from common import environment, spread
from reccocktail.backbone import Backbone, load_backbone
from reccocktail.data.domain import Domain
from reccocktail.progress import bar
from reccocktail.ranking import build
from reccocktail.recipe import Recipe
from reccocktail.storage import write_json
from reccocktail.training.batches import DomainWindows, TrainingBatches
from reccocktail.training.model import base_model, new_peft_model
from reccocktail.training.speed import fast_layers

VARIANTS = {
    "float32": {"int8": False, "compile": False},
    "int8": {"int8": True, "compile": False},
    "int8, compiled": {"int8": True, "compile": True},
}


def measure(
    backbone: Backbone, domain: Domain, names: Sequence[str], steps: int, rounds: int, warm_up: int
) -> dict[str, Any]:
    """Seconds of each variant's rounds, and its losses."""
    recipe = Recipe(backbone=backbone.name)
    ranker = build(backbone, recipe)
    windows = DomainWindows.build(domain, ranker)
    total = warm_up + rounds * steps
    batches = TrainingBatches([windows], ranker, recipe.training, total)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    losses: dict[str, list[float]] = {name: [] for name in names}
    tokens = 0
    # One variant stands on the backbone at a time; between its turns its LoRA and its optimiser's
    # state are kept.
    kept: dict[str, tuple[dict[str, torch.Tensor], dict[str, Any]]] = {}
    turns = [(0, warm_up)] + [
        (warm_up + r * steps, warm_up + (r + 1) * steps) for r in range(rounds)
    ]
    with bar("Training in turns", len(turns) * len(names)) as advance:
        for number, (start, end) in enumerate(turns):
            for name in names:
                settings = recipe.training.model_copy(update=VARIANTS[name])
                peft_model = new_peft_model(backbone, recipe)
                parameters = {n: p for n, p in peft_model.named_parameters() if p.requires_grad}
                optimiser = torch.optim.AdamW(parameters.values(), lr=settings.learning_rate)
                if name in kept:
                    for parameter, former in zip(
                        parameters.values(), kept[name][0].values(), strict=True
                    ):
                        parameter.data.copy_(former)
                    optimiser.load_state_dict(kept[name][1])
                model = base_model(peft_model)
                with fast_layers(model.get_decoder(), settings, backbone.device):
                    if number:  # compiled code is found again, which is not a step
                        ranker.loss(model, dict(batches[start - 1])).backward()
                        optimiser.zero_grad()
                    spent = 0.0
                    for step in range(start, end):
                        batch = dict(batches[step])
                        began = time.perf_counter()
                        loss = ranker.loss(model, batch)
                        loss.backward()
                        torch.nn.utils.clip_grad_norm_(
                            parameters.values(), settings.max_gradient_norm
                        )
                        optimiser.step()
                        optimiser.zero_grad()
                        spent += time.perf_counter() - began
                        losses[name].append(float(loss.detach()))
                        if number and name == names[0]:
                            tokens += batch["history_ids"].numel() + batch["item_ids"].numel()
                if number:
                    seconds[name].append(spent)
                kept[name] = (
                    {n: p.detach().clone() for n, p in parameters.items()},
                    optimiser.state_dict(),
                )
                peft_model.unload()
                backbone.model.requires_grad_(False).train(False)
                advance(1)
    reference = names[0]
    return {
        "variants": {
            name: {
                "seconds": seconds[name],
                "tokens_per_second": tokens / sum(seconds[name]),
                "times_faster": spread(
                    [a / b for a, b in zip(seconds[reference], seconds[name], strict=True)]
                ),
                "mean_loss": sum(losses[name]) / len(losses[name]),
                "largest_loss_difference": max(
                    abs(a - b) for a, b in zip(losses[reference], losses[name], strict=True)
                ),
            }
            for name in names
        },
        "steps": steps,
        "rounds": rounds,
        "warm_up": warm_up,
        "targets_per_batch": recipe.training.targets_per_batch,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--backbone", default="smollm2-135m")
    parser.add_argument("--variant", action="append", choices=list(VARIANTS))
    parser.add_argument("--steps", type=int, default=5, help="of a variant in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warm-up", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(arguments)
    backbone = load_backbone(args.backbone)
    domain = Domain.load(args.data)
    names = args.variant or list(VARIANTS)
    result = measure(backbone, domain, names, args.steps, args.rounds, args.warm_up)
    result |= environment(backbone, domain)
    table = Table("variant", "tokens a second", "times faster", "mean loss")
    for name, found in result["variants"].items():
        ratio = found["times_faster"]
        table.add_row(
            name,
            f"{found['tokens_per_second']:.0f}",
            f"{ratio['median']:.2f} [{ratio['min']:.2f}, {ratio['max']:.2f}]",
            f"{found['mean_loss']:.3f}",
        )
    Console().print(table)
    if args.out:
        write_json(args.out, result)


if __name__ == "__main__":
    main()
