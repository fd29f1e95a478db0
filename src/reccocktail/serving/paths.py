"""Folders named in requests, confined to where they may lie."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from reccocktail.errors import DataError, RecCocktailError
from reccocktail.storage import read_json
from reccocktail.training.adapter import CARD_FILE

_SHIPPED_TEMPLATE = re.compile(r"\w[\w-]*")


class ForbiddenError(RecCocktailError):
    """The request asks for what this service does not allow."""


@dataclass(frozen=True)
class Allowed:
    """Where folders named in requests may lie.

    Attributes:
        root: below this folder, links followed.
        names: adapters known by name (the shipped base spirits).
    """

    root: Path
    names: Mapping[str, Path] = field(default_factory=dict)

    def folder(self, asked: str) -> Path:
        """A folder below the root, given relative to it; a link stays one, and may lead on later.

        Raises:
            ForbiddenError: it, or what lies in it, leads out of the root.
            DataError: there is no such folder.
        """
        root = self.root.resolve()
        outside = ForbiddenError(f"'{asked}' is not below the folder that this service may read.")
        try:
            path = (root / asked).resolve()
            if not path.is_relative_to(root):
                raise outside
            if not path.is_dir():
                raise DataError(f"There is no folder '{asked}'; check the path.")
            if not all(entry.resolve().is_relative_to(root) for entry in path.iterdir()):
                raise outside  # a link in the folder
        except (OSError, ValueError, RuntimeError) as error:
            raise DataError(f"'{asked}' cannot be read; check the path.") from error
        spelled = Path(os.path.normpath(root / asked))
        return spelled if spelled.resolve() == path else path

    def adapter(self, asked: str) -> Path:
        """An adapter folder below the root, or a known name.

        Raises:
            ForbiddenError, DataError: see `folder`; or its card names a prompt template or a
                readout by path, which may be any file of this machine.
        """
        if asked in self.names:
            return self.names[asked]
        path = self.folder(asked)
        if (path / CARD_FILE).is_file():
            card = read_json(path / CARD_FILE)
            recipe = card.get("recipe") if isinstance(card, dict) else None
            groups = recipe.values() if isinstance(recipe, dict) else ()
            for group in groups:
                if not isinstance(group, dict):
                    continue
                template = group.get("template")
                if isinstance(template, str) and not _SHIPPED_TEMPLATE.fullmatch(template):
                    raise ForbiddenError(
                        f"'{asked}' names a prompt template by its path; "
                        "only shipped templates can be plugged in."
                    )
                if group.get("readout") not in (None, "auto"):
                    raise ForbiddenError(
                        f"'{asked}' names a readout by its path; "
                        "only shipped readouts can be plugged in."
                    )
        return path
