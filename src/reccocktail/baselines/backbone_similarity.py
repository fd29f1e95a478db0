"""Backbone similarity: titles compared by what the bare backbone's vocabulary knows of words."""

from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
from torch import nn

from reccocktail.baselines.base import FloatArray
from reccocktail.baselines.similarity import HALF_LIVES, HalfLives, ItemSimilarity
from reccocktail.prompting.encoding import plain_tokens

if TYPE_CHECKING:
    from reccocktail.backbone import Backbone
    from reccocktail.data.domain import Domain

RIDGE = 0.1  # of the mean eigenvalue, added before whitening
_TOKENS = 32  # of a title


class BackboneSimilarity(ItemSimilarity):
    """Cosine of titles as the whitened mean of the backbone's input embeddings of their tokens.

    Of the ways to read a bare backbone that ``benchmarks/fit_readout.py`` compares, this one ranks
    best, and it needs no forward pass. Mean and covariance for the whitening (ZCA
    but for a rotation, which leaves cosines alone) come from the domain's own titles. The row
    `backbone` of an evaluation is another reading of the same model: the last token's last state,
    from which adapters start.
    """

    name: ClassVar[str] = "backbone-similarity"

    def __init__(self, backbone: "Backbone", half_lives: HalfLives = HALF_LIVES) -> None:
        """Make an unfitted model.

        Args:
            backbone: whose input embeddings are read.
            half_lives: see `ItemSimilarity`.
        """
        super().__init__(half_lives)
        self._backbone = backbone

    def _vectors(self, domain: "Domain") -> FloatArray:
        encoded = plain_tokens(self._backbone.tokenizer, domain.titles)
        embeddings = cast(nn.Embedding, self._backbone.model.get_input_embeddings())
        table = embeddings.weight.detach().cpu().double().numpy()
        means = np.zeros((len(encoded), table.shape[1]))
        for row, ids in enumerate(encoded):
            if ids:
                vectors = table[ids[:_TOKENS]]
                norms = np.linalg.norm(vectors, axis=1, keepdims=True)
                means[row] = (vectors / np.maximum(norms, 1e-12)).mean(axis=0)
        return whitened(means)


def whitened(vectors: FloatArray) -> FloatArray:
    """Centre (n, d) vectors and give them the identity as covariance, up to `RIDGE`."""
    centred: FloatArray = vectors - vectors.mean(axis=0)
    if len(centred) < 2:
        return centred
    values, directions = np.linalg.eigh(np.atleast_2d(np.cov(centred.T)))
    # Vectors that are all the same have no covariance; the small term keeps them finite.
    scale = np.sqrt(np.maximum(values, 0.0) + RIDGE * values.mean() + 1e-9)
    return np.asarray(centred @ directions / scale, dtype=np.float64)
