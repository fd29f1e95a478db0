"""Words beside the language model: how alike two titles are by the rare words that they share.

A small language model reads what a title means and hardly sees that two titles hold the same brand
or size; TF-IDF sees little else. Here its vectors are brought to few numbers (latent semantic
analysis, Deerwester et al. 1990), so that they can stand beside the model's and one matrix product
still ranks the whole catalogue. A lexicon is learnt from the titles of one catalogue, those of cold
items too, and from no interaction.
"""

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from reccocktail.ranking import kept
from reccocktail.ranking.space import ItemSpace, unit

DIMENSIONS = 256
LEARNT_FROM = 50_000
"""Titles at most that a lexicon is learnt from: time and memory grow with their different terms."""
_LEAST_TITLES = 2  # a term of one title alone makes no two titles alike


def term_weights(least_titles: int = 1) -> list[Any]:
    """Unfitted TF-IDF of a title's words and pairs of words, and of its letters.

    Letters go in runs of 3 to 5 within words. Vectors of both kinds have length 1, so that side by
    side they weigh the same.

    Args:
        least_titles: titles that a term must occur in.
    """
    # Here, because the import costs a second that other commands need not pay.
    from sklearn.feature_extraction.text import TfidfVectorizer

    return [
        # Words of one letter or digit count: "size 7" is not "size 8".
        TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b", min_df=least_titles),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), min_df=least_titles),
    ]


class Lexicon:
    """Titles as TF-IDF vectors in at most `DIMENSIONS` numbers."""

    def __init__(self, titles: Sequence[str], dimensions: int = DIMENSIONS) -> None:
        """Learn from the titles of a catalogue.

        Args:
            titles: every title; of more than `LEARNT_FROM`, so many are drawn.
            dimensions: at most so many numbers a vector; a small catalogue takes fewer.
        """
        from sklearn.decomposition import TruncatedSVD

        if len(titles) > LEARNT_FROM:
            drawn = np.random.default_rng(0).choice(len(titles), LEARNT_FROM, replace=False)
            titles = [titles[number] for number in sorted(drawn.tolist())]
        self._terms, known = [], []
        for part in term_weights(_LEAST_TITLES):
            try:
                known.append(part.fit_transform(titles))
            except ValueError:  # no two titles share such a term
                continue
            self._terms.append(part)
        self._space: Any = None
        if known:
            matrix = sparse.csr_array(sparse.hstack(known)).astype(np.float32)
            space = TruncatedSVD(min(dimensions, *matrix.shape), n_iter=3, random_state=0)
            self._space = space.fit(matrix)

    @property
    def width(self) -> int:
        """Numbers in a vector; 0 where no two titles share a term."""
        return 0 if self._space is None else len(self._space.components_)

    def vectors(self, titles: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors (titles, width); zeros for a title without a known term."""
        if not self.width or not titles:
            return np.zeros((len(titles), self.width), dtype=np.float32)
        known = sparse.csr_array(sparse.hstack([part.transform(titles) for part in self._terms]))
        return unit(self._space.transform(known).astype(np.float32))


@lru_cache(maxsize=4)
def words_of(titles: tuple[str, ...], max_history: int) -> "Words":
    """The words of a catalogue, learnt once for all models that read it (see `Words`)."""
    return Words(titles, max_history)


class Words(ItemSpace):
    """The words of a catalogue.

    To learn a lexicon takes seconds, so the vectors of the catalogue are kept on disk, and a
    lexicon is learnt where there are none or for titles that are not in the catalogue.

    Attributes:
        items: (items, width), of length 1 or 0.
    """

    def __init__(self, titles: Sequence[str], max_history: int) -> None:
        """Take the vectors of the titles from the disk, or learn a lexicon.

        Args:
            titles: every title of the catalogue.
            max_history: items of a history that are read, the last ones.
        """
        super().__init__(max_history)
        self._titles = list(titles)
        file = kept.place(["words", DIMENSIONS, LEARNT_FROM, self._titles])
        stored = kept.read(file)
        if stored is None:
            self.items = self.lexicon.vectors(titles)
            kept.write(file, {"items": torch.from_numpy(self.items)})
        else:
            self.items = stored["items"].numpy()

    @cached_property
    def lexicon(self) -> Lexicon:
        """Learnt from the catalogue, at the first call."""
        return Lexicon(self._titles)

    def new(self, titles: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors (titles, width); zeros for a title without a known term."""
        return self.lexicon.vectors(titles)

    def learn(self) -> None:
        """Learn the lexicon."""
        _ = self.lexicon
