"""A fixed readout of the dense ranker: whitened states beside whitened token embeddings.

A language model's last states all point much the same way, and its token embeddings hold the words
that two titles share. Centred and whitened with statistics of many domains, both tell items apart
before any training; LoRA then has to learn only what they do not know. The statistics need neither
labels nor the target domain, and are the same for every adapter of a backbone, so that adapters
stay mixable. `benchmarks/fit_readout.py` makes the file.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize

from reccocktail.errors import RecipeError
from reccocktail.fingerprint import Fingerprint
from reccocktail.recipe import DenseSettings
from reccocktail.storage import atomic_file

PLAIN_TEMPERATURE = 0.05  # of cosines of states as they are
AUTO = "auto"
FOLDER = Path(__file__).parent / "readouts"
_FACTS = "readout"
Side = Literal["users", "items"]


@dataclass(frozen=True)
class Whitening:
    """Centre and whiten unit vectors.

    Attributes:
        users: (d,) mean of the users' vectors.
        items: (d,) mean of the items' vectors.
        matrix: (d, d), whitens the items' vectors.
    """

    users: Tensor
    items: Tensor
    matrix: Tensor

    @classmethod
    def of(cls, users: Tensor, items: Tensor, ridge: float) -> "Whitening":
        """Statistics of vectors; ZCA up to a rotation.

        Args:
            users: (n, d) unit vectors.
            items: (m, d) unit vectors.
            ridge: share of the mean eigenvalue that is added to each, at least 0: directions with
                little variance are noise and must not be blown up.
        """
        values, directions = torch.linalg.eigh(torch.cov(items.T.double()))
        # Vectors that are all the same have no covariance; the small term keeps them finite.
        matrix = directions * (values + ridge * values.mean() + 1e-9).rsqrt()
        # The product is scaled to length 1 later: a common factor is free, this one suits float16.
        matrix = matrix / matrix.square().mean().sqrt()
        return cls(users.mean(dim=0), items.mean(dim=0), matrix.float())

    def __call__(self, vectors: Tensor, side: Side) -> Tensor:
        """Unit vectors (..., d) of one side, centred by that side's mean and whitened."""
        centre = self.users if side == "users" else self.items
        return normalize((vectors - centre) @ self.matrix, dim=-1)


@dataclass(frozen=True)
class Readout:
    """How a text's vector is read off a backbone.

    Attributes:
        states: for the states that the ranker pools.
        words: for the mean of the token embeddings, which no adapter changes.
        weight: length of the words' part beside the states' part, at least 0.
        temperature: that fits the bare backbone's cosines.
        backbone_sha256: hash of the backbone's weights.
    """

    states: Whitening
    words: Whitening
    weight: float
    temperature: float
    backbone_sha256: str

    def __call__(self, states: Tensor, words: Tensor, side: Side) -> Tensor:
        """Unit vectors (..., 2 d) from unit states (..., d) and unit means of embeddings."""
        both = [self.states(states, side), self.weight * self.words(words, side)]
        return normalize(torch.cat(both, dim=-1), dim=-1)

    @property
    def width(self) -> int:
        """The backbone's hidden size d."""
        return len(self.states.users)

    @property
    def sha256(self) -> str:
        """Hash of all numbers."""
        digest = hashlib.sha256(f"{self.weight!r} {self.temperature!r}".encode())
        for tensor in self._tensors().values():
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()

    def to(self, device: torch.device) -> "Readout":
        """The same on a device."""
        if self.states.users.device == device:
            return self
        states, words = (
            Whitening(part.users.to(device), part.items.to(device), part.matrix.to(device))
            for part in (self.states, self.words)
        )
        return Readout(states, words, self.weight, self.temperature, self.backbone_sha256)

    def _tensors(self) -> dict[str, Tensor]:
        return {
            f"{name}.{key}": getattr(part, key).half().cpu().contiguous()
            for name, part in (("states", self.states), ("words", self.words))
            for key in ("users", "items", "matrix")
        }

    def save(self, path: Path) -> None:
        """Write a safetensors file in float16, atomically."""
        facts = {
            "format": 1,
            "weight": self.weight,
            "temperature": self.temperature,
            "backbone_sha256": self.backbone_sha256,
        }
        with atomic_file(path) as temporary:
            # One entry, because the order of several would differ from one writing to the next.
            save_file(self._tensors(), temporary, metadata={_FACTS: json.dumps(facts)})

    @classmethod
    def load(cls, path: Path) -> "Readout":
        """Read a file made by `save`.

        Raises:
            RecipeError: the file is missing or not a readout.
        """
        try:
            with safe_open(path, framework="pt") as file:
                facts = json.loads(file.metadata()[_FACTS])
                tensors = {name: file.get_tensor(name).float() for name in file.keys()}
            states, words = (
                Whitening(*(tensors[f"{name}.{key}"] for key in ("users", "items", "matrix")))
                for name in ("states", "words")
            )
            weight, temperature = float(facts["weight"]), float(facts["temperature"])
            return cls(states, words, weight, temperature, facts["backbone_sha256"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise RecipeError(
                f"{path} is not a readout of the dense ranker ({error}); "
                "make one with benchmarks/fit_readout.py, or set dense.readout to null."
            ) from error


def shipped(backbone_sha256: str) -> Readout | None:
    """The readout that comes with the package for a backbone's weights, if one does."""
    for path in sorted(FOLDER.glob("*.safetensors")):
        readout = Readout.load(path)
        if readout.backbone_sha256 == backbone_sha256:
            return readout
    return None


def load_readout(setting: str | None, backbone: Fingerprint) -> Readout | None:
    """The readout that a recipe asks for.

    Args:
        setting: `auto` for the one that ships for the backbone, if any; a file; or None.
        backbone: identity of the weights that it must belong to.

    Raises:
        RecipeError: the file is missing, damaged, or was made with another backbone.
    """
    if setting is None:
        return None
    if setting == AUTO:
        return shipped(backbone.sha256)
    readout = Readout.load(Path(setting))
    if readout.backbone_sha256 != backbone.sha256:
        raise RecipeError(
            f"The readout {setting} was made with other weights than those of {backbone.name}; "
            "make one with benchmarks/fit_readout.py, or set dense.readout to null."
        )
    return readout


def score_temperature(dense: DenseSettings, readout: Readout | None) -> float:
    """What cosines are divided by: as the settings say, else as the readout does."""
    if dense.temperature is not None:
        return dense.temperature
    return readout.temperature if readout else PLAIN_TEMPERATURE
