"""Sequential models with full cross-entropy over the catalogue, tuned on validation users."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import polars as pl
import torch

from reccocktail.baselines.base import FloatArray, Numbers
from reccocktail.baselines.collaborative import CollaborativeBaseline
from reccocktail.baselines.sequence_models import AttentionModel, RecurrentModel, SequenceModel
from reccocktail.baselines.sequence_training import Run, SequenceSettings
from reccocktail.progress import Advance, bar, say
from reccocktail.prompting.encoding import pad

if TYPE_CHECKING:
    from reccocktail.data.domain import Domain


@dataclass(frozen=True)
class SearchSettings:
    """How learning rate, dropout and dimension are chosen, and when training ends.

    All but the clock is counted in steps, so that one seed gives one model; a run that the clock
    stops says so.

    Attributes:
        grid: the settings to try.
        screening_steps: steps that each gets before the worse half is dropped; the rest then gets
            twice as many, and so on down to one.
        check_steps: steps between two looks at the validation users.
        patience: looks without a better NDCG@10 before the survivor is done.
        max_steps: of the survivor.
        minutes: of the whole, tuning included; None for no limit.
    """

    grid: tuple[SequenceSettings, ...] = tuple(
        SequenceSettings(dimension, dropout, rate)
        for rate, dimension, dropout in (
            *product((0.003,), (64, 128), (0.2, 0.5)),
            *product((0.001,), (64, 128), (0.2,)),
        )
    )
    screening_steps: int = 300
    check_steps: int = 200
    patience: int = 5
    max_steps: int = 20_000
    minutes: float | None = 60.0


class Sequential(CollaborativeBaseline):
    """A network that reads the last items of a history and ranks all known items at once."""

    network: ClassVar[type[AttentionModel] | type[RecurrentModel]]

    def __init__(self, search: SearchSettings | None = None, seed: int = 0) -> None:
        """Make an unfitted model.

        Args:
            search: see `SearchSettings`.
            seed: of weights, order, dropout and the draw of validation users.
        """
        super().__init__(seed)
        self._search = search or SearchSettings()
        if not self._search.grid:
            raise ValueError(f"the grid of {self.name} is empty")
        self._model: SequenceModel | None = None
        self._max_history = 0
        self._column: Numbers = np.zeros(0, dtype=np.intp)

    def _train(self, domain: "Domain", histories: list[Numbers], valid: pl.DataFrame) -> None:
        known = np.flatnonzero(self._known)
        self._column = np.full(len(self._known), -1, dtype=np.intp)
        self._column[known] = np.arange(len(known))
        sequences = [self._column[history] for history in histories]
        search = self._search
        deadline = None if search.minutes is None else time.monotonic() + 60 * search.minutes
        runs = [
            Run(self.network, sequences, len(known), settings, self._seed)
            for settings in search.grid
        ]
        with bar(f"Training {self.name}", None) as advance:
            steps = search.screening_steps
            while len(runs) > 1:
                for run in runs:
                    self._advance(run, run.steps + steps, valid, deadline, advance)
                # Stable: of equals the earlier one in the grid stays.
                runs = sorted(runs, key=lambda run: -run.best)[: len(runs) // 2]
                steps *= 2
            (last,) = runs
            self._advance(last, search.max_steps, valid, deadline, advance)
        if deadline is not None and time.monotonic() >= deadline:
            say(f"{self.name} was stopped by its limit of {search.minutes:g} minutes.")
        last.restore()
        self._use(last)
        self.chosen = {
            **asdict(last.settings),
            "steps": last.best_step,
            "epochs": last.best_step / last.steps_per_epoch,
            "valid_ndcg@10": last.best,
        }

    def _advance(
        self, run: Run, until: int, valid: pl.DataFrame, deadline: float | None, advance: Advance
    ) -> None:
        """Train to step `until`, or until validation stops getting better, or time is up."""
        search = self._search
        while run.steps < until and run.looks_since_best < search.patience:
            run.train(min(search.check_steps, until - run.steps), deadline, advance)
            self._use(run)
            run.note(self._quality(valid))
            settings = run.settings
            advance(
                0,
                f"Training {self.name} (d {settings.dimension}, dropout {settings.dropout:g}, rate "
                f"{settings.learning_rate:g}): NDCG@10 {run.best:.3f} of validation users",
            )
            if deadline is not None and time.monotonic() >= deadline:
                return

    def _use(self, run: Run) -> None:
        self._model, self._max_history = run.model.eval(), run.settings.max_history

    @torch.no_grad()
    def _affinities(self, histories: Sequence[Numbers]) -> FloatArray:
        assert self._model is not None
        sequences = [self._column[history[-self._max_history :]] for history in histories]
        lengths = torch.tensor([len(sequence) for sequence in sequences])
        states = self._model(pad(sequences, self._model.padding))
        last = states[torch.arange(len(sequences)), lengths - 1]
        found = np.zeros((len(histories), len(self._known)))
        found[:, self._known] = (last @ self._model.catalogue.T).double().numpy()
        return found


class SASRec(Sequential):
    """SASRec (Kang & McAuley 2018), trained with full cross-entropy in place of one negative.

    That loss makes it the strong baseline which it is often not in comparisons (Klenitskiy &
    Vasilev 2023). Learning rate, dropout and dimension are tuned on warm validation users.
    """

    name: ClassVar[str] = "sasrec"
    network = AttentionModel


class GRU4Rec(Sequential):
    """GRU4Rec (Hidasi et al. 2016) with the loss and the tuning of `SASRec`."""

    name: ClassVar[str] = "gru4rec"
    network = RecurrentModel
