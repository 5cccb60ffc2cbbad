"""A word on the terminal while Feast is being imported, which takes seconds."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from pipeline.base import logs

_TEXT = "loading Feast ..."
_CLEAR = "\r\033[K"
_shown = False


def clear() -> None:
    """Take the word back, if it is there."""
    global _shown
    if _shown:
        _shown = False
        sys.stderr.write(_CLEAR)
        sys.stderr.flush()


def announced(command: click.Command) -> click.Command:
    """Return `command`, which shows the word from its start until `clear`, at the latest until its end."""
    callback: Callable[..., Any] = command.callback or (lambda: None)

    @wraps(callback)
    def with_a_word(*args: Any, **options: Any) -> Any:
        global _shown
        if sys.stderr.isatty() and not logs.are_json() and not options.get("quiet"):
            _shown = True
            sys.stderr.write(_TEXT)
            sys.stderr.flush()
        try:
            return callback(*args, **options)
        finally:
            clear()

    command.callback = with_a_word
    return command
