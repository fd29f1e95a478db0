"""Text similarity: items whose titles share words and letters with the history's titles."""

from typing import TYPE_CHECKING, ClassVar

from scipy import sparse

from reccocktail.baselines.similarity import ItemSimilarity
from reccocktail.errors import DataError

if TYPE_CHECKING:
    from reccocktail.data.domain import Domain


class TextSimilarity(ItemSimilarity):
    """Cosine of a candidate's title and the mean of the history's titles, as TF-IDF vectors.

    A title's vector is the L2-normalised TF-IDF of its words and pairs of words, beside that of its
    letters in runs of 3 to 5 within words, each with the same weight. It learns from the
    catalogue's titles alone, of cold items as well, and from no interaction.
    """

    name: ClassVar[str] = "text-similarity"

    def _vectors(self, domain: "Domain") -> sparse.csr_array:
        # Here, because the import costs a second that other commands need not pay.
        from sklearn.feature_extraction.text import TfidfVectorizer

        parts = [
            # Words of one letter or digit count: "size 7" is not "size 8".
            TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b"),
            TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5)),
        ]
        try:
            blocks = [part.fit_transform(domain.titles) for part in parts]
        except ValueError as error:  # "empty vocabulary"
            raise DataError(
                f"No title of '{domain.name}' holds a word; text-similarity has nothing to compare."
            ) from error
        return sparse.csr_array(sparse.hstack(blocks))
