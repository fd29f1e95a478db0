"""API keys: who may ask, and who may change things."""

import hmac
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from reccocktail.errors import RunError

LEAST_LENGTH = 16


@dataclass(frozen=True)
class Keys:
    """The keys of a service.

    Attributes:
        user: needed for every request under /v1; None lets everybody ask.
        admin: needed for changes; None turns them off. It opens what the user's key opens, too.
    """

    user: str | None = None
    admin: str | None = None

    def may_ask(self, given: str | None) -> bool:
        """Whether a request may be answered."""
        # Both are compared whatever the first says: the time tells nothing.
        user, admin = _same(given, self.user), _same(given, self.admin)
        return self.user is None or user or admin

    def may_change(self, given: str | None) -> bool:
        """Whether a request may change something."""
        return _same(given, self.admin)


def read_key(file: Path | None, variable: str | None, what: str) -> str | None:
    """A key from a file, or else from an environment variable's value; None without both.

    Raises:
        RunError: the file cannot be read, or the key is too short or holds spaces.
    """
    where = f"the {what} key"
    try:
        key = file.read_text(encoding="utf-8-sig").strip() if file else (variable or "").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"Cannot read {where} from {file}; check the path.") from error
    if not key:
        if file:
            raise RunError(f"{file} is empty; put {where} into it.")
        return None
    if len(key) < LEAST_LENGTH or not key.isascii() or any(c.isspace() for c in key):
        raise RunError(
            f"Use at least {LEAST_LENGTH} letters and digits without spaces as {where}; "
            "`openssl rand -hex 24` makes one."
        )
    return key


def _same(given: str | None, key: str | None) -> bool:
    """Compare in a time that depends on neither; hashes make the lengths equal."""
    digests = (sha256((value or "").encode("utf-8", "replace")).digest() for value in (given, key))
    return hmac.compare_digest(*digests) and key is not None and given is not None
