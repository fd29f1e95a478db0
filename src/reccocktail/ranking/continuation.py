"""A prompt that is read once, and the log-probabilities of what may follow it.

What follows, say the titles of all candidates, is read one by one, each behind a copy of the
prompt's keys and values, or along one tree of tokens that stands behind the prompt itself: no copy,
no padding, and what titles share is read once.
"""

import inspect
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from reccocktail.prompting.encoding import TokenIds, pad
from reccocktail.prompting.prefixes import forests
from reccocktail.ranking.base import Model, pass_tokens, without_dropout

CACHED_TOKENS = 16384  # keys and values of so many tokens at once: all candidates of most prompts
_CACHEABLE = {"full_attention", "sliding_attention"}
_TREE_TOKENS = 1024  # of one tree; attention over it grows with the square
_ALIKE = 0.05  # nats; further apart, on average, are trees that a model does not read


class Context:
    """One prompt, read by a model; its keys and values serve all that follows.

    Models with other layers than attention (whose state cannot be copied to many continuations)
    read the prompt again each time: the same numbers, more slowly.
    """

    def __init__(self, model: Model, ids: Tensor) -> None:
        """Read the prompt `ids` (tokens,), which lie on the model's device."""
        self.model, self._ids = model, ids
        kinds = set(getattr(model.config, "layer_types", None) or ["full_attention"])
        self._cached = kinds <= _CACHEABLE
        # Its name changes in transformers, model by model.
        named = "cache" in inspect.signature(model.forward).parameters
        self._cache_name = "cache" if named else "past_key_values"
        self._cache: DynamicCache | None = None
        self._read: TokenIds = []
        self._own: DynamicCache | None = None
        if self._cached:
            self._cache = DynamicCache()
        output = model(
            input_ids=ids[None],
            use_cache=self._cached,
            logits_to_keep=1,
            **{self._cache_name: self._cache},
        )
        self.first: Tensor = output.logits[0, -1].float().log_softmax(-1)
        """Log-probabilities (vocabulary,) of the token right after the prompt."""

    def next(self, tokens: TokenIds) -> Tensor:
        """Log-probabilities (vocabulary,) of the token after the prompt and `tokens`.

        Calls whose tokens go on from the last call's read the new ones only.
        """
        if not tokens:
            return self.first
        done = len(self._read)
        if self._own is None or tokens[:done] != self._read or len(tokens) == done:
            self._own, done = self._copies(1), 0
        fresh = torch.tensor([tokens[done:]], device=self._ids.device)
        if self._cached:
            output = self.model(
                input_ids=fresh,
                use_cache=True,
                logits_to_keep=1,
                **{self._cache_name: self._own},
            )
        else:
            fresh = torch.tensor([tokens], device=self._ids.device)
            whole = torch.cat([self._ids[None], fresh], dim=1)
            output = self.model(input_ids=whole, use_cache=False, logits_to_keep=1)
        self._read = list(tokens)
        found: Tensor = output.logits[0, -1].float().log_softmax(-1)
        return found

    def allows_tree(self, paths: Sequence[TokenIds]) -> bool:
        """Whether `tree` may be worth a try: on a CPU, within what every layer sees."""
        longest = len(self._ids) + max((len(path) for path in paths), default=0)
        return self._cached and _may_pay(self.model, longest, self._ids.device)

    def tree(self, paths: Sequence[TokenIds]) -> list[Tensor]:
        """What `paths` gives, of paths of one token at least, along trees of them.

        The model is given positions and a mask (1, 1, tokens of the tree, tokens in all). Some heed
        neither, or raise TypeError, ValueError or RuntimeError.
        """
        found = [self.first[torch.tensor(path[:1], device=self._ids.device)] for path in paths]
        longer = [number for number, path in enumerate(paths) if len(path) > 1]
        # The last token of a path is predicted, and nothing behind it.
        read = [paths[number][:-1] for number in longer]
        for forest in forests(read, _TREE_TOKENS, tokens=1):
            tree = forest.to(self._ids.device)
            before = len(self._ids)
            sees_prompt = tree.follows.new_ones(1, tree.follows.shape[1], before)
            output = self.model(
                input_ids=tree.input_ids,
                position_ids=before + tree.depths,
                attention_mask=torch.cat([sees_prompt, tree.follows], -1)[:, None],
                use_cache=True,
                **{self._cache_name: self._copies(1)},
            )
            logits = output.logits[0].float()  # (tokens of the tree, vocabulary)
            total = logits.logsumexp(-1)
            for number, (_, end) in zip(tree.sequences, tree.ends.tolist(), strict=True):
                path = paths[longer[number]]
                way = tree.follows[0, end].nonzero()[:, 0]
                following = torch.tensor(path[1:], device=way.device)
                chosen = logits[way, following] - total[way]
                found[longer[number]] = torch.cat([found[longer[number]], chosen])
        return found

    def paths(self, paths: Sequence[TokenIds]) -> list[Tensor]:
        """Log-probability of each token (tokens,) of each path after the prompt, one by one."""
        longest = max((len(path) for path in paths), default=0)
        each = max(1, CACHED_TOKENS // (len(self._ids) + longest))
        found: list[Tensor] = []
        for start in range(0, len(paths), each):
            found += self._some_paths(paths[start : start + each])
        return found

    def _some_paths(self, paths: Sequence[TokenIds]) -> list[Tensor]:
        wanted = pad(paths, 0).to(self._ids.device)  # (paths, longest)
        first = self.first[wanted[:, :1]]  # (paths, 1)
        if wanted.shape[1] > 1:
            rest = self._logits(wanted[:, :-1]).float()  # (paths, longest - 1, vocabulary)
            chosen = rest.gather(2, wanted[:, 1:, None])[..., 0] - rest.logsumexp(-1)
            first = torch.cat([first, chosen], dim=1)
        return [row[: len(path)] for row, path in zip(first, paths, strict=True)]

    def _logits(self, ids: Tensor) -> Tensor:
        """Logits after each token of continuations `ids` (paths, tokens), padded on the right."""
        if self._cached:
            output = self.model(
                input_ids=ids, use_cache=True, **{self._cache_name: self._copies(len(ids))}
            )
            logits: Tensor = output.logits
            return logits
        start = len(self._ids)
        whole = torch.cat([self._ids.expand(len(ids), -1), ids], dim=1)
        keep = torch.arange(start, whole.shape[1], device=ids.device)
        kept: Tensor = self.model(input_ids=whole, use_cache=False, logits_to_keep=keep).logits
        return kept

    def _copies(self, number: int) -> DynamicCache | None:
        """The prompt's keys and values for so many continuations; they never change it."""
        if self._cache is None:
            return None
        return DynamicCache(
            [
                (keys.expand(number, -1, -1, -1), values.expand(number, -1, -1, -1))
                for keys, values, *_ in self._cache
            ]
        )


def _may_pay(model: Model, longest: int, device: torch.device) -> bool:
    """Whether a tree whose longest way has so many tokens may be worth a try."""
    # A mask for a tree holds for layers that see the whole sequence.
    window = getattr(model.config, "sliding_window", None) or math.inf
    # A GPU copies keys and values fast; trees are packed on the CPU.
    return longest <= window and device.type != "cuda"


class PathReader:
    """Log-probabilities of paths behind a prompt: along a tree, if the model reads trees.

    Attributes:
        trees: False reads one by one.
    """

    def __init__(self) -> None:
        """Know nothing of any model yet."""
        self.trees = True
        self._tried: dict[type, bool] = {}  # kind of model -> whether it reads trees

    def __call__(self, context: Context, paths: Sequence[TokenIds]) -> list[Tensor]:
        """Log-probability of each token (tokens,) of each path, all of one token at least."""
        if not (self.trees and paths and context.allows_tree(paths)):
            return context.paths(paths)
        kind = type(context.model)
        if kind not in self._tried:
            self._tried[kind] = _reads_trees(context, paths)
        return context.tree(paths) if self._tried[kind] else context.paths(paths)


@torch.no_grad()
def _reads_trees(context: Context, paths: Sequence[TokenIds]) -> bool:
    """Whether the model heeds a mask and positions: the same paths must come out the same."""
    try:
        found = torch.cat(context.tree(paths))
    except (TypeError, ValueError, RuntimeError):  # it takes no such mask
        return False
    return float((found - torch.cat(context.paths(paths))).abs().mean()) < _ALIKE


class LinesReader:
    """Log-probabilities of paths behind several short prompts, which one pass reads together.

    A prompt and all its paths are one tree of tokens, so that the prompt is read once. Models that
    read no trees, and GPUs, which copy keys and values fast, read prompt by prompt.
    """

    def __init__(self) -> None:
        """Know nothing of any model yet."""
        self._tried: dict[type, bool] = {}  # kind of model -> whether it reads trees

    def __call__(
        self, model: Model, prompts: Sequence[Tensor], paths: Sequence[Sequence[TokenIds]]
    ) -> list[list[Tensor]]:
        """Log-probability of each token (tokens,) of each path behind each prompt.

        Args:
            model: the language model.
            prompts: token ids (tokens,) on its device, one at least each.
            paths: those of each prompt, of one token at least.
        """
        pairs = list(zip(prompts, paths, strict=True))
        longest = max((len(prompt) + len(path) for prompt, own in pairs for path in own), default=0)
        kind = type(model)
        if longest and _may_pay(model, longest, prompts[0].device):
            if kind not in self._tried:
                self._tried[kind] = self._reads_trees(model, *pairs[0])
            if self._tried[kind]:
                return self._together(model, prompts, paths)
        return [Context(model, prompt).paths(own) for prompt, own in pairs]

    @torch.no_grad()
    def _reads_trees(self, model: Model, prompt: Tensor, paths: Sequence[TokenIds]) -> bool:
        with without_dropout(model):
            try:
                (found,) = self._together(model, [prompt], [paths])
            except (TypeError, ValueError, RuntimeError):  # it takes no such mask
                return False
            plain = Context(model, prompt).paths(paths)
        return float((torch.cat(found) - torch.cat(plain)).abs().mean()) < _ALIKE

    def _together(
        self, model: Model, prompts: Sequence[Tensor], paths: Sequence[Sequence[TokenIds]]
    ) -> list[list[Tensor]]:
        owner = [user for user, own in enumerate(paths) for _ in own]
        every = [path for own in paths for path in own]
        # The last token of a path is predicted, and nothing behind it.
        starts = [prompt.tolist() for prompt in prompts]
        read = [[*starts[user], *path[:-1]] for user, path in zip(owner, every, strict=True)]
        found: list[list[Tensor]] = [[] for _ in prompts]
        flat: list[Tensor | None] = [None] * len(every)
        for forest in forests(read, _TREE_TOKENS, pass_tokens(model), owner):
            tree = forest.to(prompts[0].device)
            # Each tree begins with its prompt, whose own tokens need no prediction.
            first = min(len(starts[owner[number]]) for number in tree.sequences) - 1
            output = model(
                input_ids=tree.input_ids,
                position_ids=tree.depths,
                attention_mask=tree.follows[:, None],
                use_cache=False,
                logits_to_keep=torch.arange(first, tree.input_ids.shape[1]),
            )
            total = output.logits.float().logsumexp(-1)  # (rows, tokens from the first one on)
            for number, (row, end) in zip(tree.sequences, tree.ends.tolist(), strict=True):
                path = every[number]
                before = len(starts[owner[number]])
                way = tree.follows[row, end].nonzero()[before - 1 :, 0] - first
                following = torch.tensor(path, device=way.device)
                flat[number] = output.logits[row, way, following].float() - total[row, way]
        for user, line in zip(owner, flat, strict=True):
            assert line is not None
            found[user].append(line)
        return found
