"""Text similarity: items whose titles share words and letters with the history's titles."""

from typing import TYPE_CHECKING, ClassVar

from scipy import sparse

from reccocktail.baselines.similarity import ItemSimilarity
from reccocktail.errors import DataError
from reccocktail.ranking.lexical import term_weights

if TYPE_CHECKING:
    from reccocktail.data.domain import Domain


class TextSimilarity(ItemSimilarity):
    """Cosine of a candidate's title and the mean of the history's titles, as TF-IDF vectors.

    See `ranking.lexical.term_weights`. Vectors come from the catalogue's titles alone, of cold
    items as well.
    """

    name: ClassVar[str] = "text-similarity"

    def _vectors(self, domain: "Domain") -> sparse.csr_array:
        try:
            blocks = [part.fit_transform(domain.titles) for part in term_weights()]
        except ValueError as error:  # "empty vocabulary"
            raise DataError(
                f"No title of '{domain.name}' holds a word, so text-similarity has nothing to "
                "compare; leave it out, or give titles in words."
            ) from error
        return sparse.csr_array(sparse.hstack(blocks))
