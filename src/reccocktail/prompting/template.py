"""The words around the titles. A template is a file, and its hash goes into every adapter."""

from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from reccocktail.errors import RecipeError
from reccocktail.storage import sha256_json


class Template(BaseModel):
    """Any ranker's wording."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def sha256(self) -> str:
        """Hash of the wording; two adapters mix only if it is the same."""
        return sha256_json(self.model_dump())


class DenseTemplate(Template):
    """Text of the `dense` ranker around histories and items."""

    history_prefix: str
    separator: str
    item_prefix: str
    item_suffix: str


class InstructionTemplate(Template):
    """Text of the rankers that read a history and candidates in one prompt."""

    system: str
    before_history: str
    before_candidates: str
    after_candidates: str
    separator: str
    after_label: str
    answer_separator: str
    plain_answer: str


class ExplanationTemplate(InstructionTemplate):
    """Text of a reason for one item: a prompt, and the sentence that answers it."""

    opening: str
    middle: str
    closing: str
    short: str


AnyTemplate = TypeVar("AnyTemplate", bound=Template)
SHIPPED: dict[type[Template], tuple[str, ...]] = {
    DenseTemplate: ("titles",),
    InstructionTemplate: ("instruction", "choice"),
    ExplanationTemplate: ("explanation",),
}


def is_shipped(name: str) -> bool:
    """Whether a template of that name comes with the package."""
    return _shipped(name).is_file()


def load(
    name: str, kind: type[AnyTemplate], wording: Mapping[str, str] | None = None
) -> AnyTemplate:
    """Load a shipped template by name, or any YAML file by path.

    Args:
        name: the template.
        kind: the fields it must have.
        wording: what a file of one's own says, for where it is gone.

    Raises:
        RecipeError: no such template, or it lacks a field.
    """
    try:
        file = _shipped(name) if is_shipped(name) else Path(name)
        if wording is not None and not file.is_file():
            return kind.model_validate(wording)
        return kind.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    except OSError as error:
        known = " or ".join(f"'{known}'" for known in SHIPPED[kind])
        raise RecipeError(f"No prompt template '{name}': give {known} or a YAML file.") from error
    except (ValidationError, yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise RecipeError(f"The prompt template '{name}' is not valid: {reason}.") from error


def _shipped(name: str) -> Traversable:
    return resources.files("reccocktail.prompting") / "templates" / f"{name}.yaml"
