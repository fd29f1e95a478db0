"""Fixed readouts for pico backbones."""

import torch
from torch.nn.functional import normalize

from reccocktail.ranking.readout import Readout, Whitening
from tests.pico import HIDDEN


def vectors(n: int, seed: int = 0, width: int = HIDDEN) -> torch.Tensor:
    """Unit vectors that point much the same way and vary little but in a few directions."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.logspace(0, -2, width)
    return normalize(3 + torch.randn(n, width, generator=generator) * spread, dim=-1)


def a_readout(backbone_sha256: str, weight: float = 0.7) -> Readout:
    """Whitening of vectors drawn by chance, for a backbone's weights."""
    states = Whitening.of(vectors(400, 1), vectors(400, 2), 0.1)
    words = Whitening.of(vectors(400, 3), vectors(400, 4), 0.1)
    return Readout(states, words, weight, 0.12, backbone_sha256)
