"""The one exception whose text is for the person who runs the command, and how the words of others get into it."""

import re


class PipelineError(Exception):
    """Something that a person can put right. The text is one line: what failed, where, and what to do next."""

    # What the command that ends with it returns to the shell.
    exit_code = 1


class Unavailable(PipelineError):
    """A server is out of reach or has broken off, for reasons that may pass: the same again can well succeed."""


def first_line(error: BaseException, limit: int = 300) -> str:
    """Return the first line of what a library said, at most `limit` characters, without the password of a URL."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"://[^@/\s]*@", "://***@", lines[0])[:limit].rstrip(".? ")
