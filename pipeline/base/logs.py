"""Log lines for people, or one JSON object per line for a log collector."""

import logging
from pathlib import Path
from typing import Any

from pythonjsonlogger.json import JsonFormatter

from pipeline.base.errors import redacted

logger = logging.getLogger("pipeline")


class WithoutSecrets(logging.Filter):
    """Takes passwords out of messages, whoever has put them in."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the message; let every record pass."""
        record.msg, record.args = redacted(record.getMessage()), None
        return True


class JsonLines(JsonFormatter):
    """JSON objects, without passwords in stack traces either."""

    def formatException(self, exc_info: Any) -> str:
        return redacted(str(super().formatException(exc_info)))


class _TextFormatter(logging.Formatter):
    def formatException(self, exc_info: Any) -> str:
        return redacted(super().formatException(exc_info))


def choose_format(name: str) -> None:
    """Write log lines as `json`, warnings of libraries too, or as `text`, whose looks are the console's."""
    root = logging.getLogger()
    root.handlers[:] = [handler for handler in root.handlers if not isinstance(handler.formatter, JsonFormatter)]
    for handler in logger.handlers:
        handler.close()
    logger.handlers.clear()
    if name == "json":
        _write_json(logging.StreamHandler())
    logging.captureWarnings(name == "json")


def write_to(path: Path) -> None:
    """Append JSON lines to the file; standard error gets the errors alone, in plain words: what a mail should say.

    Raises `OSError` where the file cannot be written.
    """
    file = logging.FileHandler(path, encoding="utf-8")
    choose_format("text")
    _write_json(file)
    logging.captureWarnings(True)
    errors = logging.StreamHandler()
    errors.setLevel(logging.ERROR)
    errors.setFormatter(_TextFormatter())
    errors.addFilter(WithoutSecrets())
    logger.addHandler(errors)


def _write_json(handler: logging.Handler) -> None:
    handler.setFormatter(
        JsonLines("{levelname}{message}", style="{", rename_fields={"levelname": "level"}, timestamp="time")
    )
    handler.addFilter(WithoutSecrets())
    logger.addHandler(handler)
    logger.propagate = False
    logging.getLogger().addHandler(handler)


def are_json() -> bool:
    """Return whether log lines are JSON objects."""
    return any(isinstance(handler.formatter, JsonFormatter) for handler in logger.handlers)


def tag(**fields: Any) -> None:
    """Have every JSON line from now on carry `fields`, such as the id of the run."""
    for handler in logger.handlers:
        if isinstance(handler.formatter, JsonFormatter):
            handler.formatter.static_fields.update(fields)
