"""One training run of a sequence model: it can stop, be judged and go on."""

import copy
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from reccocktail.baselines.base import Numbers
from reccocktail.baselines.sequence_models import AttentionModel, RecurrentModel
from reccocktail.progress import Advance
from reccocktail.prompting.encoding import length_batches, pad

_WARMUP = 100  # steps


@dataclass(frozen=True)
class SequenceSettings:
    """One network and how it is trained.

    Attributes:
        dimension: of items and states; even.
        dropout: of embeddings, attention and feed-forward layers.
        learning_rate: of Adam, after a warm-up of 100 steps.
        layers: blocks of attention, or layers of the GRU.
        max_history: items read; longer training histories are cut into pieces of this length.
        batch_targets: next items in a batch, padding included.
    """

    dimension: int
    dropout: float
    learning_rate: float
    layers: int = 2
    max_history: int = 50
    batch_targets: int = 512


class Run:
    """A model in training with the best state that validation users saw.

    Attributes:
        model: the network as it is now.
        settings: how it is trained.
        steps: taken so far.
        best: highest quality noted, after `best_step` steps.
        looks_since_best: qualities noted since then.
    """

    def __init__(
        self,
        network: type[AttentionModel] | type[RecurrentModel],
        sequences: Sequence[Numbers],
        items: int,
        settings: SequenceSettings,
        seed: int,
    ) -> None:
        """Make a seeded model of `items` items; the global seed of torch is left alone."""
        self.settings = settings
        self.steps = self.best_step = self.looks_since_best = 0
        self.best = -1.0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = network(
                items,
                settings.dimension,
                settings.dropout,
                settings.layers,
                settings.max_history,
            )
            self._random = torch.get_rng_state()
        self._optimizer = torch.optim.Adam(
            self.model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.98)
        )
        self._windows = windows(sequences, settings.max_history)
        self._rng = np.random.default_rng(seed)
        self.steps_per_epoch = max(1, len(self._epoch()))
        self._batches = self._endless()
        self._best_state = copy.deepcopy(self.model.state_dict())

    def _epoch(self) -> list[list[int]]:
        """Batches of one pass: windows of like lengths together, everything else by chance."""
        order = self._rng.permutation(len(self._windows))
        lengths = [len(self._windows[row]) - 1 for row in order]
        batches = [
            [int(order[place]) for place in places]
            for places in length_batches(lengths, self.settings.batch_targets)
        ]
        self._rng.shuffle(batches)
        return batches

    def _endless(self) -> Iterator[list[int]]:
        while True:
            yield from self._epoch()

    def train(self, steps: int, deadline: float | None, advance: Advance) -> None:
        """Take `steps` steps, fewer if the clock (`time.monotonic`) passes `deadline`."""
        self.model.train()
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self._random)
            for _ in range(steps if self._windows else 0):
                if deadline is not None and time.monotonic() >= deadline:
                    break
                rate = self.settings.learning_rate * min(1.0, (self.steps + 1) / _WARMUP)
                for group in self._optimizer.param_groups:
                    group["lr"] = rate
                loss = self._loss([self._windows[row] for row in next(self._batches)])
                self._optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                self._optimizer.step()
                self.steps += 1
                advance(1)
            self._random = torch.get_rng_state()

    def _loss(self, batch: Sequence[Numbers]) -> Tensor:
        """Mean cross-entropy of every next item over the whole catalogue, in nats."""
        padding = self.model.padding
        states = self.model(pad([window[:-1] for window in batch], padding))
        targets = pad([window[1:] for window in batch], padding)
        real = targets != padding
        return cross_entropy(states[real] @ self.model.catalogue.T, targets[real])

    def note(self, quality: float) -> None:
        """Remember the state as it is if no other was better."""
        if quality > self.best:
            self.best, self.best_step, self.looks_since_best = quality, self.steps, 0
            self._best_state = copy.deepcopy(self.model.state_dict())
        else:
            self.looks_since_best += 1

    def restore(self) -> None:
        """Go back to the best state."""
        self.model.load_state_dict(self._best_state)


def windows(sequences: Sequence[Numbers], max_history: int) -> list[Numbers]:
    """Pieces of at most ``max_history + 1`` items in which each next item is met once.

    Neighbouring pieces share one item, the last one read and the first of the next piece; the
    latest piece is whole, a shorter rest stands at the beginning.
    """
    found: list[Numbers] = []
    for sequence in sequences:
        stop = len(sequence)
        while stop > 1:
            start = max(0, stop - max_history - 1)
            found.append(sequence[start:stop])
            stop = start + 1
    return found
