"""README.md, and pages like it, taken apart for the tests that hold them to what they say."""

import re

from pipeline import REPOSITORY

TEXT = (REPOSITORY / "README.md").read_text(encoding="utf-8")
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    """Return the contents of the fenced blocks of one language, in order."""
    return [content for found, content in _FENCE.findall(TEXT) if found == language]


def spans(text: str = TEXT) -> list[str]:
    """Return the inline code of the prose."""
    return re.findall(r"`([^`\n]+)`", _FENCE.sub("", text))


def code(text: str = TEXT) -> str:
    """Return everything that is set as code, a piece per line."""
    return "\n".join([content for _, content in _FENCE.findall(text)] + spans(text))


def section(title: str) -> str:
    """Return the text of the section with this heading."""
    return TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]
