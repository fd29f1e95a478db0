"""Log lines as JSON, one event a line: whatever is logged, it cannot begin a line of its own."""

import json
import logging
import sys
import time
from typing import Any

LOGGER = logging.getLogger("reccocktail.serving")


class JsonFormatter(logging.Formatter):
    """One JSON object a record, pure ASCII: no title, path or key can break the line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True, default=str)


def log_json() -> None:
    """Send the log lines of this package, uvicorn and asyncio to standard error as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name in ("reccocktail", "uvicorn", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(logging.INFO)
        logger.propagate = False


def event(message: str, **fields: object) -> None:
    """Log what happened, with its particulars in fields of their own."""
    LOGGER.info(message, extra={"fields": fields})


def unexpected(error: BaseException, **fields: object) -> None:
    """Log an error that nobody foresaw, with where it came from."""
    LOGGER.error("unexpected error", exc_info=error, extra={"fields": fields})


def warn(sentence: str, **fields: object) -> None:
    """Log what somebody must know; before `log_json`, the sentence alone on standard error."""
    LOGGER.warning(sentence, extra={"fields": fields})
