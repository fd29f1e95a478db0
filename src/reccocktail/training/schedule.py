"""How far a run is, by steps or by the clock, and the learning rate that follows from it."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from reccocktail.data.domain import Domain
from reccocktail.errors import RecipeError
from reccocktail.recipe import Recipe

PASSES, MOST_STEPS = 3, 300
"""The length of a run that nobody gave one: the lesser of passes over the histories and steps."""
UNBOUNDED = 10**7
"""Steps of a run whose end the clock decides, and the most that one may have."""


@dataclass(frozen=True, kw_only=True)
class Length:
    """The length of a run: a number of steps, or minutes of training time; give one of the two.

    Only training counts against the minutes, validation and saving do not, and a resumed run goes
    on counting. One length serves any number of runs.

    Attributes:
        steps: 1 to `UNBOUNDED`.
        minutes: above 0.

    Raises:
        RecipeError: none, both, or out of range.
    """

    steps: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise RecipeError(
                "Give the length of the run as --steps or as --minutes, one of the two."
            )
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise RecipeError(f"A run takes a number of minutes above 0, not {self.minutes:g}.")
        if self.steps is not None and not 1 <= self.steps <= UNBOUNDED:
            raise RecipeError(f"A run has 1 to {UNBOUNDED:,} steps, not {self.steps:,}.")


class Clock:
    """How far one run is: the steps that it has done and the seconds that it has trained.

    Attributes:
        done_steps: for its owner to set.
    """

    def __init__(self, length: Length) -> None:
        """Stand still, at the beginning of a run of this length."""
        self.done_steps = 0
        self._length = length
        self._seconds = 0.0
        self._since: float | None = None

    def start(self, seconds: float | None = None) -> None:
        """Start the clock, at `seconds` if given, else where it was paused."""
        self._seconds = self.elapsed if seconds is None else seconds
        self._since = time.monotonic()

    def pause(self) -> None:
        """Stop the clock."""
        self._seconds, self._since = self.elapsed, None

    @property
    def elapsed(self) -> float:
        """Seconds trained so far."""
        return self._seconds + (0.0 if self._since is None else time.monotonic() - self._since)

    @property
    def progress(self) -> float:
        """Share of the run that is done, in [0, 1]."""
        if self._length.steps is not None:
            return min(1.0, self.done_steps / self._length.steps)
        assert self._length.minutes is not None
        return min(1.0, self.elapsed / (60.0 * self._length.minutes))


def usual_steps(domains: Sequence[Domain], recipe: Recipe) -> int:
    """Steps of a run without a length: `PASSES` over the histories, at most `MOST_STEPS`."""
    settings = recipe.training
    dense = recipe.ranker == "dense"
    each = settings.targets_per_batch if dense else settings.prompts_per_batch
    targets = sum(int(d.train_counts().sum()) - d.train().height for d in domains)
    return max(1, min(MOST_STEPS, math.ceil(PASSES * targets / each)))


def cosine_with_warmup(progress: float, warmup: float) -> float:
    """Factor on the peak learning rate at `progress` in [0, 1].

    Linear up over `warmup`, then a cosine down to 0.
    """
    if progress < warmup:
        return max(progress / warmup, 0.02)  # the first step of a run must move too
    return 0.5 * (1.0 + math.cos(math.pi * (progress - warmup) / (1.0 - warmup)))
