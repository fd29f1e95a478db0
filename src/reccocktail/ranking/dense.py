"""The `dense` ranker: one vector for a history, one for an item, and their cosine.

The states of a history's tokens up to a place are the user at that moment, the states of a title's
tokens are the item: their mean, or the last one. Every position of a packed history is a training
example, and the whole catalogue is ranked with one matrix product.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from reccocktail.processes import gather_rows
from reccocktail.prompting.encoding import DenseEncoder, Encoded, TokenIds, length_batches, pad
from reccocktail.prompting.prefixes import Forest, forests
from reccocktail.prompting.template import DenseTemplate, load
from reccocktail.ranking.base import (
    Batch,
    Model,
    embeddings,
    entropy_of,
    hidden_states,
    pass_tokens,
    tree_states,
    without_dropout,
)
from reccocktail.ranking.contrast import Contrast, against_items, known_items
from reccocktail.ranking.pooling import pool, pool_tree
from reccocktail.ranking.readout import Readout, Side, score_temperature
from reccocktail.recipe import DenseSettings, PromptSettings

_ALL = 2**31  # tokens of one pass, for batches that must stay whole
_TRIAL, _TRIAL_DISTANCE = 8, 0.03  # titles read in trees and one by one, and how alike they must be


class DenseRanker:
    """Cosine of history and item states over a temperature.

    Attributes:
        tree_tokens: tokens of a tree of titles; larger ones share little more.
        tree_titles: fewer titles are read one by one.
    """

    packed = True
    gradient_users = 8
    tree_tokens = 128
    tree_titles: float = 16

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompt: PromptSettings,
        dense: DenseSettings,
        readout: Readout | None = None,
        wording: Mapping[str, str] | None = None,
    ) -> None:
        """Bind the wording, truncation and temperature to a backbone's tokenizer.

        Args:
            tokenizer: the backbone's.
            prompt: wording and truncation.
            dense: depth, pooling and temperature.
            readout: fixed whitening of the states; None reads them as they are.
            wording: see `template.load`.
        """
        self.prompt = prompt
        self.dense = dense
        self.readout = readout
        self.temperature = score_temperature(dense, readout)
        self.template = load(prompt.template, DenseTemplate, wording)
        self.encoder = DenseEncoder(tokenizer, self.template, prompt.title_tokens)
        self._tried: dict[type, bool] = {}  # kind of model -> whether it reads trees

    @property
    def template_sha256(self) -> str:
        """Hash of the wording."""
        return self.template.sha256

    @property
    def readout_sha256(self) -> str | None:
        """Hash of the readout; None where states are read as they are."""
        return self.readout.sha256 if self.readout else None

    @property
    def settings(self) -> dict[str, object]:
        """Depth, pooling, and the temperature in use; what only training reads is left out."""
        own = self.dense
        return {"depth": own.depth, "pooling": own.pooling, "temperature": self.temperature}

    # -- batches ------------------------------------------------------------------------------

    def titles(self, titles: Sequence[str]) -> list[TokenIds]:
        """Token ids of each title, cut at `title_tokens`."""
        return self.encoder.titles(titles)

    def training_batch(
        self,
        windows: Sequence[Sequence[int]],
        known: Sequence[set[int]],
        titles: Sequence[TokenIds],
        log_q: Tensor,
        *,
        pool: Sequence[int] = (),
        negatives: Sequence[int] = (),
        rng: np.random.Generator | None = None,
    ) -> Batch:
        """Turn packed histories into one training batch.

        Args:
            windows: item numbers of each history in time order; position t predicts the item at
                t + 1.
            known: all items each user has touched, which must not serve as negatives.
            titles: token ids of every item of the domain.
            log_q: (items,) log sampling probability of each item of the domain.
            pool: not used; the batch's own targets are the negatives.
            negatives: items that are negatives beside them.
            rng: not used; nothing is drawn.

        Returns:
            history_ids (B, T), positions (B, L), targets (B, L; column of `item_ids`, -1 = none),
            item_ids (U, T'), item_positions (U, 1), known (B, U), log_q (U,), items (U,; item
            numbers), touched (B, longest; `known` as item numbers, padded with -1).
        """
        unique = sorted({item for window in windows for item in window[1:]}.union(negatives))
        column = {item: index for index, item in enumerate(unique)}
        histories = self.encoder.histories_batch(
            [[titles[item] for item in window[:-1]] for window in windows], every=True
        )
        items = self.encoder.items_batch([titles[item] for item in unique])
        return {
            "history_ids": histories.input_ids,
            "positions": histories.positions,
            "targets": pad([[column[item] for item in window[1:]] for window in windows], -1),
            "item_ids": items.input_ids,
            "item_positions": items.positions,
            "known": known_items(column, known),
            "log_q": log_q[torch.tensor(unique)],
            "items": torch.tensor(unique),
            "touched": pad([sorted(touched) for touched in known], -1),
        }

    def ranking_batch(
        self,
        histories: Sequence[Sequence[TokenIds]],
        candidates: Sequence[Sequence[int]],
        titles: Sequence[TokenIds],
    ) -> Batch:
        """One batch for `scores` from users with candidates (item numbers, equally many each)."""
        unique = sorted({item for row in candidates for item in row})
        column = {item: index for index, item in enumerate(unique)}
        users = self.encoder.histories_batch(
            [self.recent(history) for history in histories], every=False
        )
        items = self.encoder.items_batch([titles[item] for item in unique])
        return {
            "history_ids": users.input_ids,
            "positions": users.positions,
            "item_ids": items.input_ids,
            "item_positions": items.positions,
            "candidates": torch.tensor([[column[item] for item in row] for row in candidates]),
        }

    def recent(self, history: Sequence[TokenIds]) -> Sequence[TokenIds]:
        """The part of a history that is read: its last `max_history` items."""
        return history[-self.prompt.max_history :]

    # -- the Ranker protocol ------------------------------------------------------------------

    def loss(self, model: Model, batch: Batch) -> Tensor:
        """Cross-entropy of each next item against the batch's items that its user never touched."""
        return self.contrast(model, batch).loss()

    def contrast(self, model: Model, batch: Batch) -> Contrast:
        """Set each place of a training batch against the batch's items.

        Where `shared` says so (see `training.shares`), its items are encoded by several processes.
        """
        users = self._users(model, batch["history_ids"], batch["positions"])  # (B, L, d)
        items = self._items(model, batch["item_ids"], batch["item_positions"])  # (U, d)
        if "shared" in batch:
            items = gather_rows(items)[: len(batch["items"])]
        return against_items(users, items, batch, self.temperature, self.dense.sampling_correction)

    def scores(self, model: Model, batch: Batch) -> Tensor:
        """Logits (users, candidates): cosine over temperature."""
        users = self._users(model, batch["history_ids"], batch["positions"])[:, 0]  # (B, d)
        items = self._items(model, batch["item_ids"], batch["item_positions"])  # (U, d)
        return self.logits(users, items[batch["candidates"]])

    def entropy(self, model: Model, batch: Batch) -> Tensor:
        """Entropy over the candidates (users,), in nats, in [0, log(candidates)]."""
        return entropy_of(self.scores(model, batch))

    def scores_and_entropy(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
        """Both, from one pass."""
        scores = self.scores(model, batch)
        return scores, entropy_of(scores)

    # -- vectors, for catalogues and many users -----------------------------------------------

    def logits(self, users: Tensor, items: Tensor) -> Tensor:
        """Scores of unit vectors: users (U, d), items (U, C, d) or (N, d) -> (U, C) or (U, N)."""
        if items.ndim == 2:
            return users @ items.T / self.temperature
        return torch.einsum("ud,ucd->uc", users, items) / self.temperature

    @torch.no_grad()
    def item_vectors(
        self,
        model: Model,
        titles: Sequence[TokenIds],
        device: torch.device,
        tick: Callable[[int], object] = int,
    ) -> Tensor:
        """Unit vectors (items, d) of titles; `tick(n)` is told of every n items done.

        Of many titles, the tokens that several begin with are read once, where the model can do so.
        """
        sequences = [self.encoder.item(title) for title in titles]
        if not self._reads_trees(model, sequences, device):

            def run(numbers: Sequence[int]) -> Tensor:
                some = self.encoder.pad_items([sequences[number] for number in numbers])
                return self._one_by_one(model, some, device)

            return self._vectors(model, [len(ids) for ids in sequences], run, tick)
        out = torch.empty(len(sequences), self._width(model), dtype=torch.float32)
        for forest in forests(sequences, self.tree_tokens, pass_tokens(model)):
            out[torch.tensor(forest.sequences)] = self._in_trees(model, forest.to(device)).cpu()
            tick(len(forest.sequences))
        return out

    @torch.no_grad()
    def user_vectors(
        self,
        model: Model,
        histories: Sequence[Sequence[TokenIds]],
        device: torch.device,
        tick: Callable[[int], object] = int,
    ) -> Tensor:
        """Unit vectors (users, d) of histories (at least one item each)."""
        recent = [self.recent(history) for history in histories]

        def run(numbers: Sequence[int]) -> Tensor:
            batch = self.encoder.histories_batch([recent[n] for n in numbers], every=False)
            return self._users(model, batch.input_ids.to(device), batch.positions.to(device))[:, 0]

        lengths = [sum(len(title) + 1 for title in history) + 2 for history in recent]
        return self._vectors(model, lengths, run, tick)

    def _vectors(
        self,
        model: Model,
        lengths: Sequence[int],
        run: Callable[[Sequence[int]], Tensor],
        tick: Callable[[int], object],
    ) -> Tensor:
        """What `run` makes of texts of these lengths, by their numbers, in passes of one length."""
        out: Tensor | None = None
        for numbers in length_batches(lengths, pass_tokens(model)):
            found = run(numbers)
            if out is None:
                out = torch.empty(len(lengths), found.shape[-1], dtype=torch.float32)
            out[torch.tensor(numbers)] = found.cpu()
            tick(len(numbers))
        return out if out is not None else torch.empty(0, self._width(model))

    def _width(self, model: Model) -> int:
        """Numbers in a vector."""
        hidden = int(model.config.hidden_size)
        return hidden if self.readout is None else 2 * hidden

    def _users(self, model: Model, input_ids: Tensor, positions: Tensor) -> Tensor:
        return self._states(model, input_ids, positions, self.encoder.history_start, "users")

    def _items(self, model: Model, input_ids: Tensor, positions: Tensor) -> Tensor:
        """Unit vectors (items, d) of padded items, with gradient; in trees if the model reads them.

        There trees save more than shared beginnings: a batch's items are of all lengths, and in
        trees next to nothing is padding.
        """
        device = input_ids.device
        # First, because to ask a GPU for the ids would have it wait for all that it was given.
        if not self._trees_pay(len(input_ids), device):
            return self._one_by_one(model, Encoded(input_ids, positions), device)
        ends = positions[:, 0].tolist()
        sequences = [ids[: end + 1] for ids, end in zip(input_ids.tolist(), ends, strict=True)]
        if not self._reads_trees(model, sequences, device):
            return self._one_by_one(model, Encoded(input_ids, positions), device)
        (forest,) = forests(sequences, self.tree_tokens, _ALL)
        order = torch.tensor(forest.sequences).argsort().to(device)
        return self._in_trees(model, forest.to(device))[order]

    def _one_by_one(self, model: Model, items: Encoded, device: torch.device) -> Tensor:
        ids, positions = items.input_ids.to(device), items.positions.to(device)
        return self._states(model, ids, positions, self.encoder.item_start, "items")[:, 0]

    def _in_trees(self, model: Model, forest: Forest) -> Tensor:
        """Unit vectors of a forest's items, in the order of its `ends`."""
        start = self.encoder.item_start
        states = tree_states(model, forest, self.dense.depth)
        pooled = pool_tree(states, forest, start, self.dense.pooling)
        words = partial(pool_tree, forest=forest, start=start, pooling="mean")
        return self._read(model, pooled, forest.input_ids, words, "items")

    def _trees_pay(self, titles: int, device: torch.device) -> bool:
        """Whether so many titles may be worth trees.

        Never on a GPU: they are packed on the CPU, and padding is cheap there.
        """
        return titles >= self.tree_titles and device.type != "cuda"

    def _reads_trees(
        self, model: Model, sequences: Sequence[TokenIds], device: torch.device
    ) -> bool:
        """Whether the decoder heeds a mask and positions: a few items must come out the same.

        Tried once for each kind of model.
        """
        if not self._trees_pay(len(sequences), device):
            return False
        kind = type(model)
        if kind not in self._tried:
            some = sequences[:_TRIAL]
            (forest,) = forests(some, _ALL, _ALL)
            with without_dropout(model):  # the trial must draw nothing, and nothing may differ
                plain = self._one_by_one(model, self.encoder.pad_items(some), device)
                try:
                    found = self._in_trees(model, forest.to(device))
                except (TypeError, ValueError, RuntimeError):  # it takes no such mask
                    found = torch.full_like(plain, float("inf"))
            apart = (found - plain[forest.sequences]).norm(dim=-1).max()
            self._tried[kind] = bool(apart < _TRIAL_DISTANCE)
        return self._tried[kind]

    def _states(
        self, model: Model, input_ids: Tensor, positions: Tensor, start: int, side: Side
    ) -> Tensor:
        """Unit vectors (sequences, states, d) in float32 at `positions`; what -1 gives is masked.

        `start` is the end of the prefix. With a readout they are (sequences, states, 2 d).
        """
        states = pool(
            hidden_states(model, input_ids, self.dense.depth), positions, start, self.dense.pooling
        )
        words = partial(pool, positions=positions, start=start, pooling="mean")
        return self._read(model, states, input_ids, words, side)

    def _read(
        self,
        model: Model,
        states: Tensor,
        input_ids: Tensor,
        words: Callable[[Tensor], Tensor],
        side: Side,
    ) -> Tensor:
        """Vectors from pooled states; a readout joins them to the embeddings, pooled by `words`."""
        if self.readout is None:
            return states
        with torch.no_grad():  # no adapter changes the embeddings
            means = words(embeddings(model, input_ids))
        self.readout = self.readout.to(states.device)
        return self.readout(states, means, side)
