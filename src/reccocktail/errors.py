"""Errors that a user can act on: what is wrong, where, and what to do.

Every message is one sentence (or two short ones) that names the file, row or value at fault and the
way out. The command line prints it without a traceback and exits with code 2.
"""


class RecCocktailError(Exception):
    """Base class of all errors that are the input's fault and that the user can mend."""


class DataError(RecCocktailError):
    """A table, a prepared folder or a raw source does not hold what it must."""


class FetchError(RecCocktailError):
    """A download failed or did not match its checksum."""


class BackboneError(RecCocktailError):
    """A backbone cannot be loaded."""


class AdapterError(RecCocktailError):
    """An adapter is damaged, unsupported, or made for another backbone or ranker."""


class RecipeError(RecCocktailError):
    """A setting is unknown or out of range."""


class RunError(RecCocktailError):
    """A run cannot start or go on: wrong folder, changed settings, full disk."""


class FollowedError(RecCocktailError):
    """The first of several processes stopped with an error, which it tells itself."""
