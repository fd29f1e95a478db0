"""Every setting, declared once, with its unit; kept as YAML and hashed into results."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from reccocktail.errors import RecipeError
from reccocktail.schema import RankerName
from reccocktail.storage import atomic_file, sha256_json

Quantization = Literal["nf4"]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PromptSettings(_Settings):
    """How titles become text and tokens."""

    template: str = Field(
        "titles", description="A template shipped in prompting/templates, or a YAML file."
    )
    title_tokens: int = Field(16, ge=1, description="Tokens kept of each title.")
    max_history: int = Field(10, ge=1, description="Most recent items of a history that are read.")
    cutoff: int = Field(
        1200,
        ge=1,
        description="Tokens of a prompt with candidates and of its answer; the oldest items give "
        "way, candidates never.",
    )


class LoraSettings(_Settings):
    """The shape of an adapter (PEFT's names)."""

    rank: int = Field(16, ge=1, description="Inner dimension r of the update.")
    alpha: float = Field(32.0, gt=0, description="The update is scaled by alpha / rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the input of A while training.")
    target_modules: Literal["all-linear"] | tuple[str, ...] = Field(
        "all-linear", description="Names of linear layers that carry LoRA, or 'all-linear'."
    )
    init_seed: int = Field(
        0,
        ge=0,
        lt=2**31,
        description="Seed of A's start. The same in every adapter, so that adapters stay mixable.",
    )

    @field_validator("target_modules", mode="before")
    @classmethod
    def _one_name_is_a_list_of_one(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) and value != "all-linear" else value


class DenseSettings(_Settings):
    """The two-tower ranker."""

    depth: int | None = Field(
        None, ge=1, description="Lowest layers that are read; null reads all of them."
    )
    pooling: Literal["last", "mean"] = Field(
        "last", description="A text's vector: the state of its last token, or the mean of all."
    )
    readout: str | None = Field(
        "auto",
        description="Fixed whitening of the states: 'auto' for the one that ships for the "
        "backbone, if any, a file, or null.",
    )
    temperature: float | None = Field(
        None,
        gt=0,
        description="Cosines are divided by it before the softmax; null takes the readout's own, "
        "or 0.05 without one.",
    )
    sampling_correction: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of log q(item) taken off in-batch logits; 1 = full correction.",
    )


class TitleSettings(_Settings):
    """The ranker that goes on with the history's titles."""

    temperature: float = Field(
        0.5,
        gt=0,
        description="A title's mean log-likelihood a token is divided by it before the softmax.",
    )


class GenerateSettings(_Settings):
    """The paper's ranker: the answer is titles."""

    template: str = Field(
        "instruction", description="A template shipped in prompting/templates, or a YAML file."
    )
    answer: Literal["positive", "published"] = Field(
        "positive",
        description="Taught answer: the positive alone, or the published code's list of `titles` "
        "titles, the positive first and random negatives after it.",
    )
    titles: int = Field(
        5, ge=1, description="Titles ranked by constrained decoding, and in a published answer."
    )
    ranking: Literal["likelihood", "constrained"] = Field(
        "likelihood", description="Order by each title's likelihood, or by greedy decoding first."
    )
    length: Literal["sum", "mean"] = Field(
        "sum", description="A title's score: the sum of its tokens' log-probabilities or the mean."
    )
    forms: Literal["one", "several"] = Field(
        "one",
        description="What counts as a title in an answer: its tokens as they were taught, or also "
        "behind a space, in quotes and without its year.",
    )
    entropy: Literal["tokens", "candidates"] = Field(
        "tokens",
        description="Eq. 8 on the first tokens of the written titles, or over the candidates.",
    )
    entropy_tokens: int = Field(
        3, ge=1, description="First tokens of each title that the entropy looks at."
    )


class ChoiceSettings(_Settings):
    """The ranker whose answer is one letter."""

    template: str = Field(
        "choice", description="A template shipped in prompting/templates, or a YAML file."
    )
    orders: int = Field(
        1, ge=1, description="Seeded orders of the candidates that scores are averaged over."
    )


class TrainingSettings(_Settings):
    """One training loop for base spirits and ingredients."""

    learning_rate: float = Field(1e-3, gt=0, description="Peak of AdamW's learning rate.")
    warmup: float = Field(0.05, ge=0, lt=1, description="Share of the run spent on linear warm-up.")
    weight_decay: float = Field(0.0, ge=0)
    max_gradient_norm: float = Field(
        1.0, gt=0, description="Gradients are clipped to this L2 norm."
    )
    targets_per_batch: int = Field(64, ge=2, description="Targets (history positions) in one step.")
    prompts_per_batch: int = Field(
        8, ge=1, description="Examples in one step of the rankers that read candidates."
    )
    prompts_per_pass: int = Field(
        2, ge=1, description="Examples in one forward pass of these; a step adds up the gradients."
    )
    bank: int = Field(
        0, ge=0, description="Vectors of items seen lately, a domain, kept as further negatives."
    )
    hard_negatives: int = Field(
        0,
        ge=0,
        description="Items with titles alike each target's that its batch of the dense ranker has "
        "as further negatives.",
    )
    domain_temperature: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Domains are drawn in proportion to size ** this: 0 evenly, 1 by size.",
    )
    domain_shares: dict[str, Annotated[float, Field(gt=0, lt=1)]] | None = Field(
        None,
        description="Shares of the draws for domains by name; the others are drawn from what is "
        "left, by size.",
    )
    domains_per_step: int = Field(
        1,
        ge=1,
        description="Domains drawn for one step of `dense` or `title`, which share its targets; "
        "each target's negatives are of its own domain.",
    )
    int8: bool = Field(
        True, description="Multiply by the frozen weights in int8, on CPUs where that is faster."
    )
    compile: bool = Field(
        False, description="Compile the layers: faster after a minute; needs a C++ compiler."
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Order of batches and dropout.")
    validation_users: int = Field(64, ge=0, description="Users per domain of the validation NDCG.")
    validations: int = Field(
        4, ge=0, description="How often the run is validated, the end included."
    )
    checkpoint_minutes: float = Field(5.0, gt=0, description="Minutes between checkpoints.")

    @model_validator(mode="after")
    def _shares_leave_no_less_than_nothing(self) -> Self:
        if sum((self.domain_shares or {}).values()) > 1 + 1e-9:
            raise ValueError("domain_shares must not come to more than 1")
        return self


class Recipe(_Settings):
    """All that decides what an adapter is, but for the data and the length of the run."""

    backbone: str = Field(
        "smollm2-135m", description="Hub id, folder, GGUF file, or 'smollm2-135m'."
    )
    quantization: Quantization | None = Field(
        None,
        description="Bits of the frozen weights: 'nf4' trains on four (QLoRA; CUDA only), null on "
        "the weights as they are.",
    )
    ranker: RankerName = "dense"
    prompt: PromptSettings = PromptSettings()
    lora: LoraSettings = LoraSettings()
    dense: DenseSettings = DenseSettings()
    title: TitleSettings = TitleSettings()
    generate: GenerateSettings = GenerateSettings()
    choice: ChoiceSettings = ChoiceSettings()
    training: TrainingSettings = TrainingSettings()

    @model_validator(mode="after")
    def _correction_is_for_what_frequency_draws(self) -> Self:
        if self.training.hard_negatives and self.dense.sampling_correction:
            raise ValueError(
                "training.hard_negatives are not drawn by frequency; leave "
                "dense.sampling_correction at 0 with them"
            )
        return self

    @property
    def packed(self) -> bool:
        """Whether the ranker learns from packed histories, and not from prompts with candidates."""
        return self.ranker in ("dense", "title")

    @property
    def template(self) -> str:
        """The template that the recipe's ranker reads."""
        if self.packed:
            return self.prompt.template
        return self.generate.template if self.ranker == "generate" else self.choice.template

    def relevant(self) -> dict[str, Any]:
        """The settings that the recipe's ranker reads: what an adapter depends on."""
        settings = self.model_dump(mode="json")
        for name in get_args(RankerName):
            if name != self.ranker:
                del settings[name]
        # Settings added later are left out at their default: older recipes keep their hash.
        if self.quantization is None:
            del settings["quantization"]
        if self.training.domain_shares is None:
            del settings["training"]["domain_shares"]
        if self.ranker == "generate" and self.generate.forms == "one":
            del settings["generate"]["forms"]
        if self.ranker != "dense" or not self.training.hard_negatives:
            del settings["training"]["hard_negatives"]
        if self.ranker != "dense":
            del settings["training"]["bank"]
        if self.packed:
            del settings["prompt"]["cutoff"]
            del settings["training"]["prompts_per_batch"]
            del settings["training"]["prompts_per_pass"]
            if self.training.domains_per_step == 1:
                del settings["training"]["domains_per_step"]
        else:
            del settings["prompt"]["template"]
            del settings["training"]["targets_per_batch"]
            del settings["training"]["domains_per_step"]
        return settings

    @property
    def sha256(self) -> str:
        """Hash of the settings that the ranker reads."""
        return sha256_json(self.relevant())

    @classmethod
    def load(cls, path: Path) -> "Recipe":
        """Read a recipe from YAML; settings that are left out keep their defaults.

        Raises:
            RecipeError: the file is missing, not YAML, or holds an unknown or out-of-range setting.
        """
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except OSError as error:
            reason = error.strerror or str(error)
            raise RecipeError(
                f"Cannot read the recipe {path}: {reason}; check its path."
            ) from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())
            raise RecipeError(f"The recipe {path} is not YAML ({reason}); mend it.") from error
        if not isinstance(values, dict):
            raise RecipeError(f"The recipe {path} must be a mapping of settings.")
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            if first["type"] == "extra_forbidden":
                raise RecipeError(
                    f"Setting '{name}' in {path} does not exist; recipes/default.yaml lists all."
                ) from error
            reason = first["msg"].removeprefix("Value error, ")
            what = f"Setting '{name}' in {path}" if name else str(path)
            raise RecipeError(f"{what}: {reason}.") from error

    def save(self, path: Path) -> None:
        """Write all settings as YAML, atomically."""
        with atomic_file(path) as temporary:
            temporary.write_text(yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False))
