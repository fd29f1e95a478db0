"""From domains to training batches: windows of histories, grouped by length and drawn at random."""

import math
from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from reccocktail.data.domain import Domain
from reccocktail.errors import RecipeError, RunError
from reccocktail.prompting.encoding import TokenIds
from reccocktail.ranking.base import Batch, Ranker
from reccocktail.recipe import TrainingSettings
from reccocktail.schema import HISTORY
from reccocktail.training.negatives import SimilarItems
from reccocktail.training.shares import share_of

_DRAWS = 1024  # domains drawn at a time
_POOL = (
    50  # batches sorted by length together: long enough to cut padding, short enough to stay random
)


@dataclass
class DomainWindows:
    """One domain's training histories cut into windows.

    Every place of a window but the first is a target, or the last place alone (`packed`).
    """

    name: str
    titles: list[TokenIds]
    log_q: Tensor
    """(items,) log of each item's share of the training interactions; at least one count each."""
    windows: list[list[int]]
    owner: list[int]
    known: list[set[int]]
    """Items of each user, by user number."""
    packed: bool = True
    pool: list[int] = field(default_factory=list)
    """Items that some user met in training: what may be drawn as a negative, ascending."""
    similar: SimilarItems | None = None
    hard_negatives: int = 0
    """How many of them each target brings into its batch."""
    epochs: list[list[int]] = field(default_factory=list)
    """Batches (lists of window numbers) drawn so far, epoch after epoch."""

    @classmethod
    def build(
        cls,
        domain: Domain,
        ranker: Ranker,
        exclude: frozenset[str] = frozenset(),
        hard_negatives: int = 0,
    ) -> "DomainWindows":
        """Cut training histories, from their end, into windows of `max_history` + 1 items.

        Neighbouring windows share one item; where only a window's last place is a target, each
        target has a window of its own.

        Args:
            domain: a prepared domain.
            ranker: gives the tokens and the window length.
            exclude: item ids to drop from histories (overlap with a target domain).
            hard_negatives: items alike each target that its batch has as negatives; of packed
                histories.
        """
        width = ranker.prompt.max_history
        windows: list[list[int]] = []
        owner: list[int] = []
        known: list[set[int]] = []
        for history in domain.train()[HISTORY].to_list():
            items = [domain.index[item] for item in history if item not in exclude]
            known.append(set(items))
            for end in range(len(items), 1, -width if ranker.packed else -1):
                windows.append(items[max(0, end - width - 1) : end])
                owner.append(len(known) - 1)
        if not windows:
            raise RunError(
                f"Domain '{domain.name}' has no training history of two items"
                f"{' but of items that are left out' if exclude else ''}; "
                f"{'leave less out' if exclude else 'prepare it with more data'}."
            )
        counts = np.maximum(domain.train_counts(), 1)
        log_q = torch.from_numpy(np.log(counts / counts.sum())).float()
        titles = ranker.titles(domain.titles)
        pool = sorted(set[int]().union(*known))
        similar = None
        if hard_negatives and ranker.packed:
            similar = SimilarItems.of(domain, pool, titles, width)
        return cls(
            domain.name,
            titles,
            log_q,
            windows,
            owner,
            known,
            packed=ranker.packed,
            pool=pool,
            similar=similar,
            hard_negatives=hard_negatives,
        )

    def training_batch(
        self, ranker: Ranker, numbers: Sequence[int], rng: np.random.Generator | None = None
    ) -> Batch:
        """The training batch of some windows, by number; `rng` draws what has to be drawn."""
        windows = [self.windows[number] for number in numbers]
        negatives: list[int] = []
        if self.similar is not None:
            targets = sorted({item for window in windows for item in window[1:]})
            rng = rng if rng is not None else np.random.default_rng(0)
            negatives = self.similar.draw(targets, self.hard_negatives, rng)
        return ranker.training_batch(
            windows,
            [self.known[self.owner[number]] for number in numbers],
            self.titles,
            self.log_q,
            pool=self.pool,
            negatives=negatives,
            rng=rng,
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
        per_batch = max(1, round(targets / np.mean([self._targets(w) for w in order])))
        batches: list[list[int]] = []
        for start in range(0, len(order), per_batch * _POOL):
            pool = sorted(order[start : start + per_batch * _POOL], key=self._tokens)
            current: list[int] = []
            size = 0
            for window in pool:
                current.append(int(window))
                size += self._targets(window)
                if size >= targets:
                    batches.append(current)
                    current, size = [], 0
            if size >= max(2, targets / 2) or not batches or (current and not self.packed):
                batches.append(current)
            else:  # a few targets, perhaps of one user alone, have hardly a negative beside them
                batches[-1].extend(current)
        if self.packed and self.similar is None:
            self._mix_users(batches)
        return [batches[index] for index in rng.permutation(len(batches))]

    def _mix_users(self, batches: list[list[int]]) -> None:
        """Give each batch of one user alone a window of the nearest batch that has another's.

        Sorted by length, the windows of a user with very many fill whole batches, whose items they
        all know: nothing is a negative there. A window is given in return, but by who has just one.
        Other batches stay as they are.
        """
        givers: dict[int, list[int]] = {}
        for place in sorted(range(len(batches)), key=lambda n: len(batches[n]) == 1):
            batch, user = batches[place], self.owner[batches[place][0]]
            if self._strangers(batch, user):
                continue
            if user not in givers:
                givers[user] = [n for n, b in enumerate(batches) if self._strangers(b, user)]
            near = givers[user]
            while near:
                after = bisect(near, place)
                giver = min(near[max(0, after - 1) : after + 1], key=lambda n: abs(n - place))
                strangers = self._strangers(batches[giver], user)
                taken = max(
                    strangers,
                    key=lambda w: len({*self.windows[w][1:]} - self.known[user]),
                )
                # The one in return is of the more similar length.
                given = [] if len(batch) == 1 else [batch[0 if giver < place else -1]]
                left = [window for window in batches[giver] if window != taken] + given
                if len({self.owner[window] for window in left}) > 1:
                    batches[giver] = left
                    batches[place] = [window for window in batch if window not in given] + [taken]
                    break
                near.remove(giver)

    def _strangers(self, batch: list[int], user: int) -> list[int]:
        """Windows of a batch that are of other users."""
        return [window for window in batch if self.owner[window] != user]

    def _targets(self, window: int) -> int:
        return len(self.windows[window]) - 1 if self.packed else 1

    def _tokens(self, window: int) -> int:
        return sum(len(self.titles[item]) for item in self.windows[window][:-1])


def domain_weights(
    names: Sequence[str], windows: Sequence[int], settings: TrainingSettings
) -> NDArray[np.float64]:
    """Probability (domains,) that a batch is of a domain, given their names and windows.

    Domains named in `domain_shares` have these; what is left goes to the others in proportion to
    windows ** domain_temperature.

    Raises:
        RecipeError: `domain_shares` names no domain or several, or leaves nothing to the others, or
            leaves a rest where there are no others.
    """
    shares = settings.domain_shares or {}
    for name in shares:
        if (number := list(names).count(name)) != 1:
            raise RecipeError(
                f"training.domain_shares names '{name}', which is the name of "
                f"{number or 'none'} of the domains ({', '.join(names)}); give it one's own name."
            )
    rest = 1 - sum(shares.values())
    others = [name for name in names if name not in shares]
    if bool(others) != (rest > 1e-9):
        left = f"nothing to '{others[0]}'" if others else f"{rest:g} to no domain"
        raise RecipeError(f"training.domain_shares leaves {left}; change a share.")
    fixed = np.array([shares.get(name, 0.0) for name in names])
    by_size = np.where(
        fixed > 0, 0.0, np.array(windows, dtype=float) ** settings.domain_temperature
    )
    return fixed + rest * by_size / by_size.sum() if others else fixed


class TrainingBatches(Dataset[Batch]):
    """Batches of a run: functions of data, settings and seed, so a resumed run sees the same.

    A step is `passes` batches, whose gradients are added up: as many as `domains_per_step` where
    histories are packed, as many as memory asks for where each target is a prompt.

    Several processes share each step: the windows and the items of each packed batch are dealt out
    among them (see `shares`), or the passes are. Batch `number` of the data set is for process
    `number` modulo their number, as Accelerate deals them out.

    A batch holds one domain: in-batch negatives of the same catalogue are the ones that teach. How
    often it is drawn says `domain_weights`.
    """

    def __init__(
        self,
        domains: Sequence[DomainWindows],
        ranker: Ranker,
        settings: TrainingSettings,
        steps: int,
        processes: int = 1,
    ) -> None:
        """Fix the weights of the domains; `steps` is the length of the run."""
        self._domains = list(domains)
        self._ranker = ranker
        self._settings = settings
        self.steps = steps
        per_batch, per_pass = settings.prompts_per_batch, settings.prompts_per_pass
        self.processes = processes
        self.passes: int
        self.rounds: int
        """Passes of one process in a step."""
        if ranker.packed:
            self.passes = self.rounds = settings.domains_per_step
            self._targets = max(2, round(settings.targets_per_batch / self.passes))
        else:
            self.passes = math.ceil(per_batch / per_pass)
            self.rounds = math.ceil(self.passes / processes)
            self._targets = per_batch
        self.weights = domain_weights(
            [domain.name for domain in domains],
            [len(domain.windows) for domain in domains],
            settings,
        )
        self._drawn: list[tuple[int, int]] = []
        self._taken = [0] * len(self._domains)

    def __len__(self) -> int:
        """Number of batches, of all processes."""
        return self.steps * self.rounds * self.processes

    def __getitem__(self, number: int) -> Batch:
        """Batch number `number`, counted over all steps and processes."""
        step, place = divmod(number, self.rounds * self.processes)
        if self.processes == 1:
            return self._pass(step, place)
        if self._ranker.packed:
            part, process = divmod(place, self.processes)
            return share_of(self._pass(step, part), process, self.processes)
        # Passes may not go round evenly; all processes must take part in each, some for nothing.
        weight = self.rounds * self.processes / self.passes if place < self.passes else 0.0
        batch = self._pass(step, place % self.passes)
        return batch | {"weight": weight * batch.get("weight", torch.tensor(1.0))}

    def _pass(self, step: int, part: int) -> Batch:
        packed = self._ranker.packed
        domain_number, batch_number = self.draw(step * self.passes + part if packed else step)
        domain = self._domains[domain_number]
        mine = domain.batch(batch_number, self._targets, self._settings.seed + domain_number)
        weight = 1.0
        if not packed:
            # A domain of a few windows has some of them twice in a step.
            share = mine[part :: self.passes] or [mine[part % len(mine)]]
            # Each pass takes its mean: uneven ones must not make some examples count for more.
            weight = self.passes * len(share) / max(len(mine), self.passes)
            mine = share
        rng = np.random.default_rng([self._settings.seed, 2**21, step * self.passes + part])
        batch = domain.training_batch(self._ranker, mine, rng)
        found = batch | {"domain": torch.tensor(domain_number)}
        return found if weight == 1 else found | {"weight": torch.tensor(weight)}

    def draw(self, number: int) -> tuple[int, int]:
        """Domain number of a draw, and the number of that batch within its domain."""
        while len(self._drawn) <= number:
            rng = np.random.default_rng([self._settings.seed, 2**20 + len(self._drawn)])
            for drawn in rng.choice(len(self._domains), size=_DRAWS, p=self.weights).tolist():
                self._drawn.append((drawn, self._taken[drawn]))
                self._taken[drawn] += 1
        return self._drawn[number]
