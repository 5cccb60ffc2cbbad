"""The one exception whose text is for the person who runs the command, and how the words of others get into it.

PipelineError         exit code 1    a person can put it right
├── Unavailable       1              may pass by itself: worth another attempt
├── WrongOption       64             options that cannot be meant
├── ClockError        1              a clock is wrong
└── LockHeld          75             another run is busy
"""

import json
import os
import re
from urllib.parse import quote, quote_plus, unquote

import click


class PipelineError(click.ClickException):
    """Something that a person can put right. The text is one line: what failed, where, and what to do next.

    The last may be given apart, as a sentence, for those who show it apart. A command that ends with it prints the text
    and returns the class's `exit_code` to the shell.
    """

    def __init__(self, what: str, advice: str = "") -> None:
        self.what, self.advice = readable(what), readable(advice)
        super().__init__(f"{self.what}. {self.advice}" if advice else self.what)


class Unavailable(PipelineError):
    """A server is out of reach or has broken off, for reasons that may pass: the same again can well succeed."""


class WrongOption(PipelineError):
    """Options that are well-formed and cannot be meant together. The exit code is EX_USAGE of sysexits.h."""

    exit_code = os.EX_USAGE


# Passwords of this process in every form that a message can hold them in. Shorter ones than this are left alone: they
# would turn up in innocent words, and the settings are checked so that no library repeats a password in part.
_SECRETS: set[str] = set()
_SHORTEST_SECRET = 6


def keep_secret(password: str) -> None:
    """Never let `password`, as it is or as a URL has it, into what `redacted` and `first_line` return."""
    for form in {password, unquote(password)}:
        if len(form) >= _SHORTEST_SECRET:
            in_url = {quote(form), quote(form, safe=""), quote_plus(form)}
            in_json = {json.dumps(form, ensure_ascii=ascii)[1:-1] for ascii in (True, False)}
            _SECRETS.update({form, repr(form)[1:-1]} | in_url | in_json)


def readable(text: str) -> str:
    """Return `text` on one line, with what a terminal would obey, or PostgreSQL does not hold, escaped as in Python."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def redacted(text: str) -> str:
    """Return `text` with *** for every password that is known, and for whatever stands before the @ of a URL."""
    for secret in sorted(_SECRETS, key=len, reverse=True):
        text = text.replace(secret, "***")
    return re.sub(r"://[^/\s]*@", "://***@", text)


def first_line(error: BaseException, limit: int = 300) -> str:
    """Return the first line of what a library said, at most `limit` characters, readable and without any password."""
    lines = redacted(str(error)).strip().splitlines() or [type(error).__name__]
    # SQLAlchemy puts the class before the message
    line = re.sub(r"^\(psycopg[\w.]+\) (connection failed: )?", "", lines[0])
    return readable(line)[:limit].rstrip(".? ")
