"""Prompts and what may be written behind them: what `generate` and `title` share.

In a batch, prompts and answers are padded with `NO_TOKEN`; here they are read user by user.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reccocktail.prompting.encoding import TokenIds, pad
from reccocktail.ranking.base import Batch, Model
from reccocktail.ranking.continuation import Context

NO_TOKEN = -1  # pads ids and places; a tokenizer's own padding token may be a real one


@dataclass(frozen=True)
class Asked:
    """One user's prompt, read, and what may be written behind it.

    Attributes:
        context: the prompt.
        paths: answers, token by token, with what stands behind a title.
        items: the candidate that each path means.
    """

    context: Context
    paths: list[TokenIds]
    items: list[int]


def answers_batch(
    prompts: Sequence[TokenIds],
    answers: Sequence[Sequence[TokenIds]],
    items: Sequence[Sequence[int]],
) -> Batch:
    """What each user's prompt may be answered with.

    Args:
        prompts: a prompt a user.
        answers: all that may be written behind it, with what stands behind a title.
        items: the place of the candidate that each answer means.

    Returns:
        prompt_ids (B, T), answers (B, P, L) and items (B, P), padded with `NO_TOKEN`.
    """
    most = max((len(row) for row in answers), default=0)
    flat = pad([path for row in answers for path in [*row, *[[]] * (most - len(row))]], NO_TOKEN)
    return {
        "prompt_ids": pad(prompts, NO_TOKEN),
        "answers": flat.reshape(len(answers), most, flat.shape[1]),
        "items": pad(items, NO_TOKEN),
    }


def read_prompts(model: Model, batch: Batch) -> list[Asked]:
    """Read each prompt of an `answers_batch`."""
    return [Asked(Context(model, prompt), paths, items) for prompt, paths, items in users_of(batch)]


def users_of(batch: Batch) -> list[tuple[Tensor, list[TokenIds], list[int]]]:
    """Prompt (tokens,), answers and the candidate of each answer, of each user of a batch."""
    found = []
    for ids, answers, items in zip(
        batch["prompt_ids"], batch["answers"], batch["items"], strict=True
    ):
        known = items != NO_TOKEN
        sizes = lengths_of(answers[known])
        paths = [
            path[: int(size)].tolist() for path, size in zip(answers[known], sizes, strict=True)
        ]
        found.append((ids[: int(lengths_of(ids))], paths, items[known].tolist()))
    return found


def lengths_of(ids: Tensor) -> Tensor:
    """Tokens of each row of ids padded with `NO_TOKEN`; (..., T) -> (...)."""
    return (ids != NO_TOKEN).sum(-1)


def stacked(rows: Sequence[Tensor]) -> Tensor:
    """Scores (candidates,) of several users as (users, most candidates), padded with -inf."""
    most = max((len(row) for row in rows), default=0)
    return torch.stack(
        [torch.nn.functional.pad(r, (0, most - len(r)), value=float("-inf")) for r in rows]
    )


def logits_at(model: Model, ids: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Logits (places, vocabulary) after the tokens at (`rows`, `columns`) of padded ids (B, T).

    Padding stands to the right, where causal attention never looks. The vocabulary is large, so
    logits are computed only in the columns that are asked for.
    """
    kept, where = torch.unique(columns, return_inverse=True)
    output = model(input_ids=ids.clamp(min=0), use_cache=False, logits_to_keep=kept)
    found: Tensor = output.logits[rows, where].float()
    return found
