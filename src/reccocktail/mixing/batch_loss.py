"""What a gradient search descends on: the objective of a few users at a time, with gradient."""

from collections.abc import Sequence

import polars as pl
import torch
from torch import Tensor

from reccocktail.mixing.entropy import fit_temperature
from reccocktail.mixing.functional import FunctionalModel
from reccocktail.mixing.measure import Mixer
from reccocktail.mixing.objectives import distance_from_adapters
from reccocktail.ranking.base import Batch, entropy_of
from reccocktail.ranking.scoring import positive_columns


class BatchLoss:
    """The mixer's objective on the next users of its tables, going round them.

    The temperature of `calibrated` and `validation` is fitted to the latest scores of *all*
    labelled users: those of the two or eight users of one batch say next to nothing about it.
    """

    def __init__(self, mixer: Mixer, alone: Sequence[Tensor]) -> None:
        """Take the tables and the objective.

        Args:
            mixer: checked adapters and drawn users.
            alone: scores of each adapter alone, (unlabelled users, candidates), for the objectives
                that compare with them.
        """
        self._mixer, self._alone = mixer, alone
        self._positive = torch.from_numpy(positive_columns(mixer.labelled))
        self._labelled_scores: Tensor | None = None

    def __call__(self, model: FunctionalModel, number: int) -> Tensor:
        """The objective, a scalar with gradient, of batch `number`: 0, 1, ...; users come again."""
        mixer = self._mixer
        objective = mixer.settings.objective
        if objective == "validation":
            return self._log_loss(model, number)
        if objective == "calibrated":
            # Its users' scores are read for the temperature alone, so they need no gradient.
            with torch.no_grad():
                _, _, temperature = self._labelled(model, number)
            scores = mixer.ranker.scores(model, self._unlabelled(model, number))
            return entropy_of(scores / temperature).mean()
        batch = self._unlabelled(model, number)
        if objective == "entropy":
            return mixer.ranker.entropy(model, batch).mean()
        assert mixer.rule.needs_adapters, f"{objective} has no gradient"
        scores = mixer.ranker.scores(model, batch)
        rows = self._rows(mixer.unlabelled, number)
        return distance_from_adapters(
            objective, scores, [own[rows].to(scores) for own in self._alone]
        )

    def _log_loss(self, model: FunctionalModel, number: int) -> Tensor:
        scores, rows, temperature = self._labelled(model, number)
        positive = self._positive[rows].to(scores.device)
        return torch.nn.functional.cross_entropy(scores / temperature, positive)

    def _labelled(self, model: FunctionalModel, number: int) -> tuple[Tensor, list[int], float]:
        """Scores of a batch of labelled users, their rows, and the temperature of all of them."""
        table = self._mixer.labelled
        if self._labelled_scores is None:
            with torch.no_grad():
                parts = [
                    self._scores(model, table, rows) for rows in self._batches_of_all(table.height)
                ]
            self._labelled_scores = torch.cat([part.cpu().double() for part in parts])
        rows = self._rows(table, number)
        scores = self._scores(model, table, rows)
        self._labelled_scores[rows] = scores.detach().cpu().double()
        return scores, rows, fit_temperature(self._labelled_scores, self._positive)

    def _unlabelled(self, model: FunctionalModel, number: int) -> Batch:
        table = self._mixer.unlabelled
        return self._batch(model, table, self._rows(table, number))

    def _scores(self, model: FunctionalModel, table: pl.DataFrame, rows: list[int]) -> Tensor:
        return self._mixer.ranker.scores(model, self._batch(model, table, rows))

    def _batch(self, model: FunctionalModel, table: pl.DataFrame, rows: list[int]) -> Batch:
        catalogue, part = self._mixer.catalogue, table[rows]
        batch = self._mixer.ranker.ranking_batch(
            catalogue.histories(part), catalogue.candidates(part), catalogue.tokens
        )
        device = next(model.parameters()).device
        return {name: tensor.to(device) for name, tensor in batch.items()}

    def _batches_of_all(self, height: int) -> list[list[int]]:
        every, size = list(range(height)), self._mixer.ranker.gradient_users
        return [every[start : start + size] for start in range(0, height, size)]

    def _rows(self, table: pl.DataFrame, number: int) -> list[int]:
        size = self._mixer.ranker.gradient_users
        return [(number * size + i) % table.height for i in range(min(size, table.height))]
