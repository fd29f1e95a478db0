"""Packages that only some baselines need."""

import importlib
from typing import Any

from reccocktail.errors import RunError


def require(module: str, extra: str, baseline: str) -> Any:
    """Import a module of an optional package.

    Args:
        module: dotted name, of which the first part is the package's.
        extra: group of this package's optional dependencies that holds it.
        baseline: who asks.

    Raises:
        RunError: it is not installed, or does not fit this machine.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0].replace("_", "-")
        raise RunError(
            f"The {baseline} baseline needs the package {package} ({error}); install it with "
            f"`pip install 'reccocktail[{extra}]'`."
        ) from error
