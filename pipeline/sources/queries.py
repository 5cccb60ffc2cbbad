"""The SQL files: what several queries say stands once, in a fragment that they name.

`python -m pipeline.sources.queries FILE` prints the whole SQL of a file.
"""

import re
import sys
from pathlib import Path

from pipeline import REPOSITORY

FRAGMENTS = REPOSITORY / "features" / "shared"
_FRAGMENT = re.compile(r"\(:(\w+)\)")


def query_text(path: Path) -> str:
    """Return the SQL of a file; each `(:name)` in it, and in fragments, is features/shared/name.sql in brackets."""
    text = path.read_text(encoding="utf-8")
    return _FRAGMENT.sub(lambda match: f"(\n{query_text(FRAGMENTS / f'{match[1]}.sql')})", text)


if __name__ == "__main__":
    sys.stdout.write(query_text(Path(sys.argv[1])))
