"""An adapter: LoRA tensors, stock PEFT files, and a card that says where it came from."""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from peft import LoraConfig
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from reccocktail import __version__
from reccocktail.data.domain import Domain
from reccocktail.errors import AdapterError, RecCocktailError, RunError
from reccocktail.fingerprint import Fingerprint
from reccocktail.progress import say
from reccocktail.recipe import Recipe
from reccocktail.storage import atomic_dir, read_json, require_replaceable, write_json

CARD_FILE = "adapter.json"
CONFIG_FILE = "adapter_config.json"
TENSORS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."
_TENSOR_NAME = re.compile(r"^base_model\.model\.(?P<module>.+)\.lora_(?P<factor>[AB])\.weight$")
# Kinds of LoRA whose update is not scaling * B @ A on frozen weights: merging them as if it were
# would be wrong.
_REFUSED = {
    "use_dora": "DoRA",
    "modules_to_save": "modules_to_save",
    "lora_bias": "a bias in B",
    "fan_in_fan_out": "fan_in_fan_out",
    "trainable_token_indices": "trainable tokens",
    "target_parameters": "target_parameters",
    "layer_replication": "layer replication",
    "use_qalora": "QA-LoRA",
    "use_bdlora": "block-diagonal LoRA",
    "alora_invocation_tokens": "activated LoRA",
    "arrow_config": "Arrow routing",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
}
# Other starts (PiSSA, OLoRA, CorDA, LoftQ, ...) move part of the backbone's weights into A and B.
_PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")

Role = Literal["base", "ingredient", "cocktail"]


class Factors(NamedTuple):
    """One module's update, W + scaling * b @ a.

    Attributes:
        a: (rank, inputs).
        b: (outputs, rank).
        scaling: alpha / rank, or alpha / sqrt(rank) for rsLoRA.
    """

    a: Tensor
    b: Tensor
    scaling: float


Lora = Mapping[str, Factors]
"""Module name in the backbone (such as `model.layers.0.self_attn.q_proj`) -> its factors."""


class DataCard(BaseModel):
    """A domain that an adapter was made with."""

    model_config = ConfigDict(frozen=True)

    name: str
    sha256: str
    users: int
    items: int

    @classmethod
    def of(cls, domain: Domain) -> "DataCard":
        """What a card says of a domain: its name, its hash, training users and items."""
        users, items = domain.train().height, len(domain.item_ids)
        return cls(name=domain.name, sha256=domain.sha256, users=users, items=items)


class Card(BaseModel):
    """Where an adapter came from: `adapter.json`."""

    model_config = ConfigDict(frozen=True)

    format: int = 1
    role: Role
    backbone: Fingerprint
    recipe: Recipe
    template_sha256: str
    wording: dict[str, str] | None = None
    """The template itself where it is a file of one's own, which need not stay where it was; None
    for one that ships, and in cards from before they held it."""
    data: tuple[DataCard, ...]
    steps: int | None = None
    initial_sha256: str | None = None
    """Hash of the adapter that training started from; None for a fresh start."""
    beside_sha256: str | None = None
    """Hash of the adapter that was at work, frozen, during the training; None for none."""
    readout_sha256: str | None = None
    """Hash of the fixed readout (see `ranking.readout`); None where states are read as they are."""
    version: str = __version__

    @model_validator(mode="before")
    @classmethod
    def _before_readouts(cls, values: Any) -> Any:
        """Cards from before there was a readout read states as they are."""
        if not isinstance(values, dict) or not isinstance(values.get("recipe"), dict):
            return values
        recipe = values["recipe"]
        dense = {"readout": None} | dict(recipe.get("dense") or {})
        return values | {"recipe": recipe | {"dense": dense}}

    def reading(self) -> dict[str, object]:
        """How text is read, by name of the setting: what adapters used together must share."""
        ranker, relevant = self.recipe.ranker, self.recipe.relevant()
        # A template is known by its hash, wherever its file lies.
        prompt, own = (
            {name: value for name, value in relevant[part].items() if name != "template"}
            for part in ("prompt", ranker)
        )
        reading: dict[str, object] = {
            "ranker": ranker,
            "prompt template": self.template_sha256,
            "prompt settings": prompt,
        }
        if ranker == "dense":
            return reading | {
                "depth": own["depth"],
                "pooling": own["pooling"],
                "readout": self.readout_sha256,
            }
        return reading | {f"settings of {ranker}": own}


@dataclass(frozen=True)
class Adapter:
    """LoRA tensors with their card. `name` is the folder's name."""

    name: str
    lora: Lora
    card: Card

    @property
    def sha256(self) -> str:
        """Hash of the update that the tensors stand for (see `lora_sha256`)."""
        return lora_sha256(self.lora)

    def save(self, path: Path, readme: str, extra: Mapping[str, Any] | None = None) -> None:
        """Write stock PEFT files, the card, a README and `extra` JSON files, all or nothing.

        Args:
            path: adapter folder; one that stands there is replaced.
            readme: the model card in Markdown.
            extra: file name -> JSON value.

        Raises:
            AdapterError, RunError: see `require_adapter_dir`.
        """
        require_adapter_dir(path)
        tensors = {}
        for module, (a, b, _) in self.lora.items():
            tensors[f"{PREFIX}{module}.lora_A.weight"] = a.detach().cpu().contiguous()
            tensors[f"{PREFIX}{module}.lora_B.weight"] = b.detach().cpu().contiguous()
        config = lora_config(self.lora).to_dict()  # type: ignore[no-untyped-call]
        config["base_model_name_or_path"] = self.card.backbone.name
        config["inference_mode"] = True
        plain = {
            key: sorted(value) if isinstance(value, set) else value for key, value in config.items()
        }
        with atomic_dir(path) as folder:
            save_file(tensors, folder / TENSORS_FILE, metadata={"format": "pt"})
            write_json(folder / CONFIG_FILE, plain)
            write_json(folder / CARD_FILE, self.card.model_dump(mode="json"))
            (folder / "README.md").write_text(readme, encoding="utf-8")
            for name, value in (extra or {}).items():
                write_json(folder / name, value)

    @classmethod
    def load(cls, path: Path) -> "Adapter":
        """Read an adapter folder.

        Raises:
            AdapterError: a file is missing or damaged, or the LoRA is of a kind that cannot be
                mixed.
        """
        if not (path / CARD_FILE).is_file():
            if (path / CONFIG_FILE).is_file():
                load_lora(path)  # a kind that no card could help is said first
            raise AdapterError(
                f"{path} holds no {CARD_FILE}; "
                "give an adapter folder made by `reccocktail train` or `mix`."
            )
        try:
            card = Card.model_validate(read_json(path / CARD_FILE))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the whole"
            raise AdapterError(
                f"{path / CARD_FILE} is not a valid card ({where}: {first['msg']}); "
                "copy or train the adapter again."
            ) from error
        except RunError as error:  # whoever looks through adapters passes over a damaged one
            raise AdapterError(str(error)) from error
        return cls(path.resolve().name, load_lora(path), card)

    @classmethod
    def first_of(cls, folders: Iterable[Path]) -> "Adapter | None":
        """The first adapter that can be loaded; None if none can."""
        for folder in folders:
            with suppress(RecCocktailError):
                return cls.load(folder)
        return None


def note_cocktail(adapter: Adapter) -> None:
    """Say of a cocktail that becomes part of another adapter whose users nobody will leave out."""
    if adapter.card.role == "cocktail":
        say(
            f"'{adapter.name}' is a cocktail, and only its own folder names the users it looked "
            "at: evaluate what is made of it beside it, and they are left out."
        )


def require_adapter_dir(path: Path) -> None:
    """Refuse a folder to write an adapter to, before any work: saving replaces the whole folder.

    Raises:
        AdapterError: the folder holds something that is not an adapter's.
        RunError: `path` is a file, or the file system refuses.
    """
    files = [TENSORS_FILE, CONFIG_FILE, "README.md", "*.json"]
    require_replaceable(path, "an adapter", CARD_FILE, ("backbone", "recipe"), files, AdapterError)


def lora_sha256(lora: Lora) -> str:
    """Hash of LoRA tensors: names, shapes, scalings and values."""
    digest = hashlib.sha256()
    for module in sorted(lora):
        a, b, scaling = lora[module]
        digest.update(f"{module} {tuple(a.shape)} {tuple(b.shape)} {scaling!r}".encode())
        for tensor in (a, b):
            digest.update(tensor.detach().float().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


def load_lora(path: Path) -> Lora:
    """Read the LoRA tensors of a stock PEFT folder, whoever made it.

    Raises:
        AdapterError: files missing or damaged, factors that do not fit, or a kind of LoRA that is
            refused.
    """
    try:
        config = json.loads((path / CONFIG_FILE).read_text(encoding="utf-8"))
        tensors = load_file(path / TENSORS_FILE)
    except FileNotFoundError as error:
        raise AdapterError(
            f"{path} lacks {Path(error.filename or TENSORS_FILE).name}; copy the whole folder."
        ) from error
    except (OSError, json.JSONDecodeError, SafetensorError, UnicodeDecodeError) as error:
        raise AdapterError(
            f"The adapter in {path} is damaged ({error}); copy or train it again."
        ) from error
    if not isinstance(config, dict):
        raise AdapterError(f"{path / CONFIG_FILE} is damaged; copy or train the adapter again.")
    if config.get("peft_type") != "LORA":
        raise AdapterError(
            f"{path} is a {config.get('peft_type')} adapter; only LoRA can be mixed."
        )
    for key, kind in _REFUSED.items():
        if config.get(key):
            raise AdapterError(f"{path} uses {kind}, which cannot be mixed; train a plain LoRA.")
    if config.get("bias", "none") != "none":
        raise AdapterError(f"{path} trains biases, which cannot be mixed; train with bias='none'.")
    start = config.get("init_lora_weights")
    if start not in _PLAIN_STARTS:
        raise AdapterError(
            f"{path} starts from {start}, which changes the backbone's weights and cannot be "
            "mixed; convert it to a plain LoRA, or train one."
        )
    return _pair(tensors, config, path)


def _pair(tensors: dict[str, Tensor], config: dict[str, Any], path: Path) -> Lora:
    halves: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = _TENSOR_NAME.match(name)
        if match is None:
            raise AdapterError(
                f"{path} holds the tensor '{name}', which is not part of a plain LoRA."
            )
        if not torch.isfinite(tensor).all():
            raise AdapterError(
                f"The tensor '{name}' in {path} is not finite; train the adapter again."
            )
        halves.setdefault(match["module"], {})[match["factor"]] = tensor.float()
    patterns, ranks = (_patterns(config, kind, path) for kind in ("alpha", "rank"))
    lora: dict[str, Factors] = {}
    for module in sorted(halves):
        pair = halves[module]
        fits = set(pair) == {"A", "B"} and pair["A"].ndim == pair["B"].ndim == 2
        if not fits or not pair["A"].shape[0] == pair["B"].shape[1] > 0:
            raise AdapterError(
                f"The factors of '{module}' in {path} do not fit; copy or train the adapter again."
            )
        rank = pair["A"].shape[0]
        stated = _pattern(ranks, module, config.get("r"))
        if stated != rank:
            raise AdapterError(
                f"{path / CONFIG_FILE} gives '{module}' the rank {stated} and its tensors have "
                f"{rank}; copy or train the adapter again."
            )
        alpha = _pattern(patterns, module, config.get("lora_alpha"))
        number = isinstance(alpha, int | float) and not isinstance(alpha, bool)
        if not number or not 0 < alpha < math.inf:
            raise AdapterError(
                f"{path / CONFIG_FILE} has the lora_alpha {alpha}; it must be positive."
            )
        scaling = alpha / rank**0.5 if config.get("use_rslora") else alpha / rank
        lora[module] = Factors(pair["A"], pair["B"], float(scaling))
    if not lora:
        raise AdapterError(f"{path} holds no LoRA tensors; copy or train the adapter again.")
    return lora


def _patterns(config: dict[str, Any], kind: str, path: Path) -> dict[str, Any]:
    """Values of modules whose names match expressions."""
    found = config.get(f"{kind}_pattern") or {}
    try:
        for expression in dict(found):
            re.compile(expression)
    except (TypeError, ValueError, re.error) as error:
        raise AdapterError(
            f"{path / CONFIG_FILE} is damaged ({kind}_pattern); copy or train the adapter again."
        ) from error
    return dict(found)


def _pattern(patterns: dict[str, Any], module: str, default: Any) -> Any:
    """PEFT's rule: the first key that ends the module's name wins."""
    for key, value in patterns.items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default


def lora_config(lora: Lora) -> LoraConfig:
    """The stock PEFT configuration of LoRA tensors; patterns where rank or scaling differ."""
    ranks = {module: factors.a.shape[0] for module, factors in lora.items()}
    alphas = {module: factors.scaling * ranks[module] for module, factors in lora.items()}
    common_rank = max(set(ranks.values()), key=list(ranks.values()).count)
    common_alpha = max(set(alphas.values()), key=list(alphas.values()).count)
    return LoraConfig(
        r=common_rank,
        lora_alpha=common_alpha,  # type: ignore[arg-type]  # PEFT divides, floats are exact
        target_modules=sorted(lora),
        rank_pattern={re.escape(m): r for m, r in ranks.items() if r != common_rank},
        alpha_pattern={re.escape(m): a for m, a in alphas.items() if a != common_alpha},
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
    )
