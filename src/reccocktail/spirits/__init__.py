"""Base spirits that come with the package, known by name wherever an adapter folder is asked for.

They lie in `<backbone>/<ranker>/base_spirit/` beside this file: ordinary adapter folders with
float16 tensors, put there by `benchmarks/ship.py`.
"""

from dataclasses import dataclass
from pathlib import Path

from reccocktail.errors import AdapterError
from reccocktail.recipe import Recipe
from reccocktail.training.adapter import CARD_FILE, TENSORS_FILE, Adapter

ROOT = Path(__file__).parent
NAME = "base_spirit"


@dataclass(frozen=True)
class Spirit:
    """A shipped base spirit.

    Attributes:
        path: its adapter folder.
        adapter: what the folder holds.
        bytes: size of its tensors' file.
    """

    path: Path
    adapter: Adapter
    bytes: int

    @property
    def name(self) -> str:
        """Its full name, `<backbone>/<ranker>`."""
        return self.path.parent.relative_to(self.path.parents[2]).as_posix()


def folder(backbone: str, ranker: str, root: Path = ROOT) -> Path:
    """Where the base spirit for a backbone and a ranker lies, or would lie.

    Args:
        backbone: hub id, path or `smollm2-135m`; its last part, in lower case, names the folder.
        ranker: name of the ranker.
        root: folder of the spirits.
    """
    return root / Path(backbone).name.lower() / ranker / NAME


def default(root: Path = ROOT) -> Path | None:
    """The base spirit for the recipe's default backbone and ranker; None if it is not shipped."""
    recipe = Recipe()
    path = folder(recipe.backbone, recipe.ranker, root)
    return path if (path / CARD_FILE).is_file() else None


def shipped(root: Path = ROOT) -> list[Spirit]:
    """All base spirits under `root`, by full name.

    Raises:
        AdapterError: one of them is damaged.
    """
    return [
        Spirit(path, Adapter.load(path), (path / TENSORS_FILE).stat().st_size)
        for path in _folders(root)
    ]


def names(root: Path = ROOT) -> dict[str, Path]:
    """Names by which shipped base spirits are known, and their folders."""
    found = {path.parent.relative_to(root).as_posix(): path for path in _folders(root)}
    usual = default(root)
    return {NAME: usual} | found if usual else found


def place(value: str | Path, root: Path = ROOT) -> Path:
    """What `resolve` gives, or the path as it is: whoever loads it says that nothing is there."""
    try:
        return resolve(value, root)
    except AdapterError:
        return Path(value)


def resolve(value: str | Path, root: Path = ROOT) -> Path:
    """The adapter folder that a user means: a path that exists, or the name of a shipped spirit.

    Args:
        value: a path; `base_spirit`, the one for the recipe's default backbone and ranker; or a
            full name such as `smollm2-135m/dense`. What exists wins over a name.
        root: folder of the spirits.

    Raises:
        AdapterError: neither; the sentence lists what is shipped.
    """
    path = Path(value)
    if path.exists():
        return path
    chosen = default(root) if path.as_posix() == NAME else root / path / NAME
    known = _folders(root)
    if chosen in known:
        return chosen
    shipped_names = ", ".join(names(root)) or "none"
    raise AdapterError(
        f"'{path.as_posix()}' is neither an adapter folder nor a shipped base spirit "
        f"(shipped: {shipped_names}); check the path."
    )


def _folders(root: Path) -> list[Path]:
    return sorted(file.parent for file in root.glob(f"*/*/{NAME}/{CARD_FILE}"))
