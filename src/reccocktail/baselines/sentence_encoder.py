"""Titles compared by a small sentence encoder, through the library `sentence-transformers`."""

import logging
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from reccocktail.baselines.extras import require
from reccocktail.baselines.similarity import HALF_LIVES, HalfLives, ItemSimilarity
from reccocktail.errors import RunError
from reccocktail.progress import track

if TYPE_CHECKING:
    from reccocktail.data.domain import Domain

DEFAULT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
_BATCH = 64


class SentenceEncoder(ItemSimilarity):
    """Cosine of a candidate's title and the mean of the history's titles, as sentence vectors."""

    name: ClassVar[str] = "sentence-encoder"

    def __init__(self, model: str = DEFAULT_ENCODER, half_lives: HalfLives = HALF_LIVES) -> None:
        """Make an unfitted model.

        Args:
            model: hub id, or folder that `SentenceTransformer.save` wrote.
            half_lives: see `ItemSimilarity`.

        Raises:
            RunError: the package sentence-transformers is missing.
        """
        super().__init__(half_lives)
        self._library = require("sentence_transformers", "encoders", self.name)
        self._model = model
        self.chosen = {"model": model}

    def _vectors(self, domain: "Domain") -> npt.NDArray[np.float64]:
        # Its advice on missing modules is for people who train encoders.
        logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
        try:
            model = self._library.SentenceTransformer(self._model, device="cpu")
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise RunError(
                f"The sentence encoder '{self._model}' cannot be loaded ({reason}); give a hub id "
                f"or a folder: --baseline {self.name}=FOLDER."
            ) from error
        titles = domain.titles
        parts = [
            model.encode(titles[start : start + _BATCH], show_progress_bar=False)
            for start in track(range(0, len(titles), _BATCH), "Encoding titles")
        ]
        return np.concatenate(parts).astype(np.float64)
