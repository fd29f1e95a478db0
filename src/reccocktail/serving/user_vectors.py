"""User vectors of the histories that were asked for lately."""

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from reccocktail.serving.served import Served
from reccocktail.serving.weights import Models


class UserVectors:
    """A bounded cache; what it lacks is computed in one pass. For one thread at a time.

    Attributes:
        hits: vectors that were at hand.
        misses: vectors that were computed.
    """

    def __init__(self, models: Models, device: torch.device, limit: int) -> None:
        """Start empty; at most `limit` vectors are kept, the ones used last."""
        self._models, self._device, self._limit = models, device, limit
        self._vectors: OrderedDict[tuple[int, tuple[int, ...]], NDArray[np.float32]] = OrderedDict()
        self.hits = self.misses = 0

    def __len__(self) -> int:
        """Vectors that are kept."""
        return len(self._vectors)

    def cost(self, state: Served, history: tuple[int, ...]) -> int:
        """Tokens to be read for the vector of a history, and 1; may be asked by any thread."""
        key = _key(state, history)
        if key in self._vectors:
            return 1
        return 1 + sum(len(state.tokens[item]) for item in key[1])

    def of(self, state: Served, histories: Sequence[tuple[int, ...]]) -> NDArray[np.float32]:
        """Vectors (histories, d) of histories of item numbers, oldest first."""
        keys = [_key(state, history) for history in histories]
        missing = [key for key in dict.fromkeys(keys) if key not in self._vectors]
        self.misses += len(missing)
        self.hits += len(keys) - len(missing)
        if missing:
            model = self._models.of(state.update_sha256, state.lora)
            tokens = [[state.tokens[item] for item in history] for _, history in missing]
            found = state.ranker.user_vectors(model, tokens, self._device).numpy()
            found = state.behind.users(found, [history for _, history in missing], state.vectors)
            self._vectors.update(zip(missing, found, strict=True))
        users = np.stack([self._vectors[key] for key in keys])
        for key in keys:
            self._vectors.move_to_end(key)
        while len(self._vectors) > self._limit:
            self._vectors.popitem(last=False)
        return users


def _key(state: Served, history: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """What a vector is kept under: more of a history is not read."""
    return state.serial, history[-state.ranker.prompt.max_history :]
