"""How models are judged: what every model of one evaluation shares."""

from dataclasses import dataclass

from reccocktail.errors import RecipeError


@dataclass(frozen=True)
class EvaluationSettings:
    """How models are judged.

    Attributes:
        users: at most so many test users a scenario, drawn with `seed`; None takes all.
        validation_users: users a scenario on which the weights of the next three are chosen.
        prior: add a popularity prior (see `ranking.prior`); False ranks by text alone.
        words: let the words that titles share count too (see `ranking.lexical`).
        collaborative: let count who chose what in training (see `ranking.collaborative`).
        full_catalogue: rank the whole catalogue too, beside the candidates, where a model can.
        seed: draws users and bootstrap resamples.
        as_served: rank as `recommend`, `batch` and `serve` do: popularity, words and who chose what
            in the weights that are served, whatever the scenario, and new items on the level of
            known ones; of the settings above `words`, `collaborative` and `validation_users` are
            not looked at.
    """

    users: int | None = None
    validation_users: int = 200
    prior: bool = True
    words: bool = False
    collaborative: bool = False
    full_catalogue: bool = True
    seed: int = 0
    as_served: bool = False

    @property
    def parts(self) -> dict[str, bool]:
        """What counts beside a model."""
        asked = {"prior": self.prior, "words": self.words, "collaborative": self.collaborative}
        return {name: self.as_served or wanted for name, wanted in asked.items()}

    @property
    def needs_whole(self) -> bool:
        """Whether scores of the whole catalogue are made."""
        return self.full_catalogue or self.as_served

    @property
    def chosen_on(self) -> int:
        """Validation users that are looked at."""
        weighs = self.prior or self.words or self.collaborative
        return self.validation_users if weighs else 0

    def check(self) -> None:
        """Refuse numbers of users that no drawing can give, and what is not served.

        Raises:
            RecipeError: a number is out of range, or the prior is off in `as_served`.
        """
        if self.as_served and not self.prior:
            raise RecipeError(
                "Popularity is part of what is served; leave --no-prior out, or --as-served."
            )
        if self.users is not None and self.users < 1:
            raise RecipeError(f"At least one user must be scored, not {self.users}; raise --users.")
        if min(self.validation_users, self.seed) < 0:
            raise RecipeError("The number of validation users and the seed must not be negative.")
        if self.seed >= 2**31:
            raise RecipeError(f"The seed {self.seed} is too large; give one below 2,147,483,648.")
