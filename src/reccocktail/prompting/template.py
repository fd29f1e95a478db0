"""The words around the titles. A template is a file, and its hash goes into every adapter."""

from importlib import resources
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from reccocktail.errors import RecipeError
from reccocktail.storage import sha256_json


class DenseTemplate(BaseModel):
    """Text of the `dense` ranker around histories and items."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    history_prefix: str
    separator: str
    item_prefix: str
    item_suffix: str

    @property
    def sha256(self) -> str:
        """Hash of the wording; two adapters mix only if it is the same."""
        return sha256_json(self.model_dump())


def load_template(name: str) -> DenseTemplate:
    """Load a shipped template by name, or any YAML file by path.

    Raises:
        RecipeError: no such template, or it lacks a field.
    """
    shipped = resources.files("reccocktail.prompting") / "templates" / f"{name}.yaml"
    try:
        text = shipped.read_text() if shipped.is_file() else Path(name).read_text(encoding="utf-8")
        return DenseTemplate.model_validate(yaml.safe_load(text))
    except OSError as error:
        raise RecipeError(f"No prompt template '{name}': give 'titles' or a YAML file.") from error
    except (ValidationError, yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise RecipeError(f"The prompt template '{name}' is not valid: {reason}.") from error
