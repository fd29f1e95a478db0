"""From domains to training batches: windows of histories, grouped by length and drawn at random."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from reccocktail.data.domain import Domain
from reccocktail.errors import RunError
from reccocktail.prompting.encoding import TokenIds
from reccocktail.ranking.base import Batch
from reccocktail.ranking.dense import DenseRanker
from reccocktail.recipe import TrainingSettings
from reccocktail.schema import HISTORY

_DRAWS = 1024  # domains drawn at a time
_POOL = (
    50  # batches sorted by length together: long enough to cut padding, short enough to stay random
)


@dataclass
class DomainWindows:
    """One domain's training histories cut into windows; every place but the first is a target."""

    name: str
    titles: list[TokenIds]
    log_q: Tensor
    """(items,) log of each item's share of the training interactions; at least one count each."""
    windows: list[list[int]]
    owner: list[int]
    known: list[set[int]]
    """Items of each user, by user number."""
    epochs: list[list[int]] = field(default_factory=list)
    """Batches (lists of window numbers) drawn so far, epoch after epoch."""

    @classmethod
    def build(
        cls, domain: Domain, ranker: DenseRanker, exclude: frozenset[str] = frozenset()
    ) -> "DomainWindows":
        """Cut training histories, from their end, into windows of `max_history` + 1 items.

        Neighbouring windows share one item.

        Args:
            domain: a prepared domain.
            ranker: gives the tokens and the window length.
            exclude: item ids to drop from histories (overlap with a target domain).
        """
        width = ranker.prompt.max_history
        windows: list[list[int]] = []
        owner: list[int] = []
        known: list[set[int]] = []
        for history in domain.train()[HISTORY].to_list():
            items = [domain.index[item] for item in history if item not in exclude]
            known.append(set(items))
            for end in range(len(items), 1, -width):
                windows.append(items[max(0, end - width - 1) : end])
                owner.append(len(known) - 1)
        if not windows:
            raise RunError(
                f"Domain '{domain.name}' has no training history of two items; "
                "prepare it with more data."
            )
        counts = np.maximum(domain.train_counts(), 1)
        log_q = torch.from_numpy(np.log(counts / counts.sum())).float()
        return cls(domain.name, ranker.encoder.titles(domain.titles), log_q, windows, owner, known)

    def training_batch(self, ranker: DenseRanker, numbers: Sequence[int]) -> Batch:
        """The training batch of some windows, by number."""
        return ranker.training_batch(
            [self.windows[number] for number in numbers],
            [self.known[self.owner[number]] for number in numbers],
            self.titles,
            self.log_q,
        )

    def batch(self, number: int, targets: int, seed: int) -> list[int]:
        """Window numbers of the domain's batch `number`, counted over all epochs."""
        while number >= len(self.epochs):
            self.epochs.extend(
                self._epoch(np.random.default_rng([seed, len(self.epochs)]), targets)
            )
        return self.epochs[number]

    def _epoch(self, rng: np.random.Generator, targets: int) -> list[list[int]]:
        order = rng.permutation(len(self.windows))
        per_batch = max(1, round(targets / np.mean([len(window) - 1 for window in self.windows])))
        batches: list[list[int]] = []
        for start in range(0, len(order), per_batch * _POOL):
            pool = sorted(order[start : start + per_batch * _POOL], key=self._tokens)
            current: list[int] = []
            size = 0
            for window in pool:
                current.append(int(window))
                size += len(self.windows[window]) - 1
                if size >= targets:
                    batches.append(current)
                    current, size = [], 0
            if size >= max(2, targets / 2) or not batches:
                batches.append(current)
            else:  # a few targets, perhaps of one user alone, have hardly a negative beside them
                batches[-1].extend(current)
        return [batches[index] for index in rng.permutation(len(batches))]

    def _tokens(self, window: int) -> int:
        return sum(len(self.titles[item]) for item in self.windows[window][:-1])


class TrainingBatches(Dataset[Batch]):
    """Batch `step` of a run: a function of data, settings and seed, so a resumed run sees the same.

    A batch holds one domain, drawn with probability proportional to windows ** domain_temperature:
    in-batch negatives of the same catalogue are the ones that teach.
    """

    def __init__(
        self,
        domains: Sequence[DomainWindows],
        ranker: DenseRanker,
        settings: TrainingSettings,
        steps: int,
    ) -> None:
        """Fix the weights of the domains; `steps` is the length of the data set."""
        self._domains = list(domains)
        self._ranker = ranker
        self._settings = settings
        self._steps = steps
        sizes = np.array([len(domain.windows) for domain in domains], dtype=float)
        weights = sizes**settings.domain_temperature
        self.weights = weights / weights.sum()
        self._drawn: list[tuple[int, int]] = []
        self._taken = [0] * len(self._domains)

    def __len__(self) -> int:
        """Number of steps."""
        return self._steps

    def __getitem__(self, step: int) -> Batch:
        """The batch of a step."""
        domain_number, batch_number = self.draw(step)
        domain = self._domains[domain_number]
        windows = domain.batch(
            batch_number, self._settings.targets_per_batch, self._settings.seed + domain_number
        )
        batch = domain.training_batch(self._ranker, windows)
        return batch | {"domain": torch.tensor(domain_number)}

    def draw(self, step: int) -> tuple[int, int]:
        """Domain number of a step, and the number of that batch within its domain."""
        while len(self._drawn) <= step:
            rng = np.random.default_rng([self._settings.seed, 2**20 + len(self._drawn)])
            for number in rng.choice(len(self._domains), size=_DRAWS, p=self.weights).tolist():
                self._drawn.append((number, self._taken[number]))
                self._taken[number] += 1
        return self._drawn[step]
