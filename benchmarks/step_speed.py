"""How much faster is a training step in int8, and compiled?

    python benchmarks/step_speed.py --data PREPARED [--rounds 3] [--targets 64] \
        [--out results/step_speed.json]

Variants of one training, plain, int8, and int8 with compiled layers (on a GPU plain and compiled),
each with its own LoRA from the same start, take the same batches in turns: in every round each
variant makes `--steps` steps. Before the clock starts each has made `--warm-up` steps, which for
`compile` is the compilation; their seconds are told too.
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

from arguments import asked_backbone, backbone_arguments
from program import program
from provenance import environment, write_result
from reccocktail.backbone import Backbone
from reccocktail.data.domain import Domain
from reccocktail.precision import in_precision, training_precision
from reccocktail.progress import bar
from reccocktail.ranking import build
from reccocktail.ranking.base import Batch
from reccocktail.recipe import Recipe
from reccocktail.training.batches import DomainWindows, TrainingBatches
from reccocktail.training.model import base_model, new_peft_model
from reccocktail.training.speed import fast_layers
from spreads import range_text, spread

VARIANTS = {
    "float32": {"int8": False, "compile": False},
    "int8": {"int8": True, "compile": False},
    "int8, compiled": {"int8": True, "compile": True},
    "compiled": {"int8": False, "compile": True},
}
ON_CPU, ON_GPU = ("float32", "int8", "int8, compiled"), ("float32", "compiled")


def measure(
    backbone: Backbone,
    domain: Domain,
    recipe: Recipe,
    names: Sequence[str],
    steps: int,
    rounds: int,
    warm_up: int,
) -> dict[str, Any]:
    """Seconds of each variant's rounds, and its losses."""
    device = backbone.device
    products = training_precision(device, backbone.model.dtype, backbone.autocast)
    ranker = build(backbone, recipe)
    windows = DomainWindows.build(domain, ranker)
    total = warm_up + rounds * steps
    batches = TrainingBatches([windows], ranker, recipe.training, total)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    losses: dict[str, list[float]] = {name: [] for name in names}
    warming: dict[str, float] = {}
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
                with (
                    in_precision(model, products),
                    fast_layers(model.get_decoder(), settings, device),
                ):
                    if number:  # compiled code is found again, which is not a step
                        ranker.loss(model, _on(device, batches[start - 1])).backward()
                        optimiser.zero_grad()
                    spent = 0.0
                    for step in range(start, end):
                        batch = _on(device, batches[step])
                        began = time.perf_counter()
                        loss = ranker.loss(model, batch)
                        loss.backward()
                        torch.nn.utils.clip_grad_norm_(
                            parameters.values(), settings.max_gradient_norm
                        )
                        optimiser.step()
                        optimiser.zero_grad()
                        losses[name].append(float(loss.detach()))  # waits for a GPU
                        spent += time.perf_counter() - began
                        if number and name == names[0]:
                            tokens += batch["history_ids"].numel() + batch["item_ids"].numel()
                if number:
                    seconds[name].append(spent)
                else:
                    warming[name] = spent
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
                "warm_up_seconds": warming[name],
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


def _on(device: torch.device, batch: Batch) -> Batch:
    return {name: tensor.to(device) for name, tensor in batch.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    backbone_arguments(parser)
    parser.add_argument("--variant", action="append", choices=list(VARIANTS))
    parser.add_argument("--steps", type=int, default=5, help="of a variant in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warm-up", type=int, default=3)
    parser.add_argument("--targets", type=int, help="of a step, if not as in the default recipe")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(arguments)
    recipe = Recipe()
    if args.targets:
        training = recipe.training.model_copy(update={"targets_per_batch": args.targets})
        recipe = recipe.model_copy(update={"training": training})
    backbone = asked_backbone(args, recipe)
    domain = Domain.load(args.data)
    names = args.variant or (ON_CPU if backbone.device.type == "cpu" else ON_GPU)
    result = measure(backbone, domain, recipe, names, args.steps, args.rounds, args.warm_up)
    result |= environment(backbone, domain)
    first = f"first {result['warm_up']} steps"
    table = Table("variant", first, "tokens a second", "times faster", "mean loss")
    for name, found in result["variants"].items():
        table.add_row(
            name,
            f"{found['warm_up_seconds']:.0f} s",
            f"{found['tokens_per_second']:.0f}",
            range_text(found["times_faster"]),
            f"{found['mean_loss']:.3f}",
        )
    Console().print(table)
    if args.out:
        write_result(args.out, result)


if __name__ == "__main__":
    program(main)
