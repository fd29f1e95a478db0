"""The `generate` ranker: the paper's instruction, answered with titles.

A candidate's score is the log-likelihood of its title as the answer, computed for all candidates
under one reading of the prompt. Or titles are decoded greedily along a trie of the candidates, so
that none is invalid and none comes twice, and the rest follows by likelihood.

**What is taught.** The published code teaches five titles, the positive and four random negatives
after it: four fifths of the loss teach an order that means nothing. By default the answer taught
here is the positive's title and the end, and nothing else. Then every place of a ranking is decoded
from the prompt itself among the titles that are left. With `answer: published` the answer is the
published list, and a title is followed by the separator in place of the end.

A title's likelihood is the sum over its tokens and the token behind it: the probability of the
whole answer. So a title that another one begins with does not win by being short, and the scores of
different candidates are those of events that exclude each other. The mean over tokens (`length`)
favours long titles, whose last tokens are all but certain.

A model that was not trained on answers may write a title otherwise than the prompt shows it. With
`forms: several` its variants lead to the same item, and an item's likelihood is the sum over all.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerBase

from reccocktail.prompting.encoding import TokenIds, pad
from reccocktail.ranking.answers import (
    NO_TOKEN,
    Asked,
    answers_batch,
    lengths_of,
    logits_at,
    read_prompts,
    stacked,
)
from reccocktail.ranking.base import Batch, Model, entropy_of
from reccocktail.ranking.continuation import PathReader
from reccocktail.ranking.prompted import Example, PromptRanker
from reccocktail.ranking.trie import Trie, unmistakable
from reccocktail.recipe import GenerateSettings, PromptSettings


class GenerateRanker(PromptRanker):
    """Likelihood of titles, or constrained decoding."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompt: PromptSettings,
        generate: GenerateSettings,
        wording: Mapping[str, str] | None = None,
    ) -> None:
        """Bind wording and truncation to a backbone's tokenizer.

        Raises:
            RecipeError, BackboneError: see `PromptRanker`.
        """
        super().__init__(tokenizer, prompt, generate, wording)
        self.generate = generate
        self.published = generate.answer == "published"
        self.read = PathReader()
        self._behind = self.instruction.separator if self.published else self.instruction.end
        """Tokens behind a title that is scored."""
        endings = [self.instruction.end]
        self._endings = [*endings, self.instruction.separator] if self.published else endings

    # -- batches ------------------------------------------------------------------------------

    def example_batch(self, examples: Sequence[Example]) -> Batch:
        """Ids (B, T) of prompt and answer, padded with -1, and answer_tokens (B,)."""
        rows, answers = [], []
        for example in examples:
            candidates = self.distinct(example.candidates, self._endings)
            answer = self._answer(candidates, example.positive)
            room = self._answer_tokens(candidates)
            rows.append([*self.instruction.prompt(example.history, candidates, room), *answer])
            answers.append(len(answer))
        return {"ids": pad(rows, NO_TOKEN), "answer_tokens": torch.tensor(answers)}

    def ranking_batch(
        self,
        histories: Sequence[Sequence[TokenIds]],
        candidates: Sequence[Sequence[int]],
        titles: Sequence[TokenIds],
    ) -> Batch:
        """What is read and what may be answered, padded with -1.

        Candidates keep their order: that of an evaluation row is random already.

        Returns:
            prompt_ids (B, T); answers (B, P, L), the forms of titles with what stands behind; and
            items (B, P), the place of the candidate that each answer means.
        """
        prompts, answers, items = [], [], []
        for history, row in zip(histories, candidates, strict=True):
            shown = self.distinct([titles[item] for item in row], self._endings)
            room = self._answer_tokens(shown)
            prompts.append(self.instruction.prompt(self.recent(history), shown, room))
            forms = list(enumerate(shown)) + self._variants(shown)
            answers.append([title + self._behind for _, title in forms])
            items.append([item for item, _ in forms])
        return answers_batch(prompts, answers, items)

    def _variants(self, shown: Sequence[TokenIds]) -> list[tuple[int, TokenIds]]:
        """Further forms of the candidates, each with the place of the one that it means."""
        if self.generate.forms == "one":
            return []
        found = unmistakable(shown, [self.instruction.variants(t) for t in shown], self._endings)
        return [(item, form) for item, forms in enumerate(found) for form in forms]

    def _answer(self, candidates: Sequence[TokenIds], positive: int) -> TokenIds:
        """The answer that is taught."""
        titles = [candidates[positive]]
        if self.published:
            others = [title for place, title in enumerate(candidates) if place != positive]
            titles += others[: self.generate.titles - 1]  # drawn and shuffled: a random few
        answer = list(titles[0])
        for title in titles[1:]:
            answer += [*self.instruction.separator, *title]
        return answer + self.instruction.end

    def _answer_tokens(self, candidates: Sequence[TokenIds]) -> int:
        """Tokens that the longest answer takes: the same room in training and in ranking."""
        lengths = sorted((len(title) for title in candidates), reverse=True)
        taken = lengths[: self.generate.titles if self.published else 1]
        between = len(self.instruction.separator) * (len(taken) - 1)
        return sum(taken) + between + len(self.instruction.end)

    # -- the Ranker protocol ------------------------------------------------------------------

    def loss(self, model: Model, batch: Batch) -> Tensor:
        """Mean cross-entropy in nats of the answers' tokens, and of no other (paper, Eq. 1)."""
        ids = batch["ids"]
        lengths = lengths_of(ids)
        column = torch.arange(ids.shape[1], device=ids.device)
        in_answer = (column < lengths[:, None]) & (
            column >= (lengths - batch["answer_tokens"])[:, None]
        )
        rows, columns = in_answer.nonzero(as_tuple=True)
        # The state before a token predicts it.
        return cross_entropy(logits_at(model, ids, rows, columns - 1), ids[rows, columns])

    def scores(self, model: Model, batch: Batch) -> Tensor:
        """Log-likelihoods (users, candidates) in nats; -inf for padding.

        Ranked by decoding, a user's values are dealt out anew: the candidate at place r has the
        r-th highest likelihood, so that scores stay log-likelihoods and only their order changes.
        """
        return stacked([self._user_scores(user) for user in read_prompts(model, batch)])

    def entropy(self, model: Model, batch: Batch) -> Tensor:
        """Entropy (users,) in nats, as the settings ask.

        `tokens` is Eq. 8: the entropy over the whole vocabulary at the first `entropy_tokens` of
        each title that is written, the count starting anew behind each separator; the mean over
        these places. Titles are written greedily along the trie, as many as were taught (one, or
        `titles` of the published answer). `candidates` is the entropy over the candidates' scores.
        """
        if self.generate.entropy == "candidates":
            return entropy_of(self.scores(model, batch))
        return torch.stack([self._token_entropy(user) for user in read_prompts(model, batch)])

    def scores_and_entropy(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
        """Both, from one reading of each prompt."""
        users = read_prompts(model, batch)
        scores = stacked([self._user_scores(user) for user in users])
        if self.generate.entropy == "candidates":
            return scores, entropy_of(scores)
        return scores, torch.stack([self._token_entropy(user) for user in users])

    # -- one user -----------------------------------------------------------------------------

    def _user_scores(self, user: Asked) -> Tensor:
        log_probs = self.read(user.context, user.paths)
        likelihood = self._likelihood(user, log_probs)
        if self.generate.ranking == "likelihood":
            return likelihood
        decoded = self._decode(user, log_probs)
        rest = [c for c in likelihood.argsort(descending=True).tolist() if c not in decoded]
        order = torch.tensor([*decoded, *rest], device=likelihood.device)
        return torch.zeros_like(likelihood).scatter(
            0, order, likelihood.sort(descending=True).values
        )

    def _likelihood(self, user: Asked, log_probs: Sequence[Tensor]) -> Tensor:
        """Score of each candidate (C,): over its forms the likelihoods' sum, or the best mean."""
        total = torch.stack([tokens.sum() for tokens in log_probs])
        if self.generate.length == "mean":
            total = total / torch.tensor([len(path) for path in user.paths]).to(total)
        forms: list[list[int]] = [[] for _ in range(max(user.items) + 1)]
        for path, item in enumerate(user.items):
            forms[item].append(path)
        if self.generate.length == "mean":
            return torch.stack([total[paths].amax() for paths in forms])
        return torch.stack([total[paths].logsumexp(0) for paths in forms])

    def _decode(self, user: Asked, log_probs: Sequence[Tensor]) -> list[int]:
        """The first `titles` candidates of a greedy decoding: valid ones only, none twice.

        Args:
            user: the prompt and its answers.
            log_probs: of the answers' tokens, right after the prompt.
        """
        trie = Trie(user.paths)
        tables = [row.tolist() for row in log_probs]
        chosen: list[int] = []
        written: TokenIds = []

        def from_table(prefix: TokenIds, options: dict[int, int]) -> list[float]:
            return [tables[leaf][len(prefix)] for leaf in options.values()]

        def from_model(prefix: TokenIds, options: dict[int, int]) -> list[float]:
            following = user.context.next([*written, *prefix])
            return [float(following[token]) for token in options]

        while len(trie) and len(chosen) < self.generate.titles:
            path = trie.greedy(from_model if self.published and chosen else from_table)
            chosen.append(_taken(trie, path, user.items))
            written += path
        return chosen

    def _token_entropy(self, user: Asked) -> Tensor:
        """Eq. 8 for one user, (); the choice of tokens carries no gradient, the entropies do."""
        trie = Trie(user.paths)
        first = self.generate.entropy_tokens
        titles = min(self.generate.titles if self.published else 1, len(set(user.items)))
        entropies: list[Tensor] = []
        written: TokenIds = []
        for left in reversed(range(titles)):
            seen: list[Tensor] = []

            def look(prefix: TokenIds, options: dict[int, int], seen: list[Tensor] = seen) -> Any:
                following = user.context.next([*written, *prefix])
                if len(prefix) < first:
                    seen.append(entropy_of(following))
                return [float(following[token].detach()) for token in options]

            path = trie.greedy(look, always=first, most=None if left else first)
            # What stands behind a short title is no token of it.
            title = len(user.paths[trie.leaf(path)]) - len(self._behind)
            entropies += seen[: max(1, title)]
            _taken(trie, path, user.items)
            written.extend(path)
        return torch.stack(entropies).mean()


def _taken(trie: Trie, path: TokenIds, items: Sequence[int]) -> int:
    """The candidate that a path means; all its forms leave the trie."""
    chosen = items[trie.leaf(path)]
    for leaf, item in enumerate(items):
        if item == chosen:
            trie.remove(leaf)
    return chosen
