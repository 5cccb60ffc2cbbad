"""The SQL files: what several queries say stands once, in a fragment that they name.

`python -m pipeline.sources.queries FILE` prints the whole SQL of a file.
"""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from pipeline import REPOSITORY
from pipeline.base.errors import PipelineError

NOTHING: Mapping[str, str] = MappingProxyType({})
FRAGMENTS = REPOSITORY / "features" / "shared"
# (:name), as psql has it; a looser pattern would also find the (?:e of a regular expression.
_FRAGMENT = re.compile(r"\(:(\w+)\)")
# psql reads its fragments by these lines.
_PSQL_SET = re.compile(r"^\\set .*\n", re.MULTILINE)


def query_text(path: Path, in_place_of: Mapping[str, str] = NOTHING) -> str:
    """Return the SQL of a file as a server takes it.

    Each `(:name)` in it, and in fragments, is features/shared/name.sql in brackets, or the fragment that `in_place_of`
    has for it. Raises `PipelineError` where there is no such file.
    """

    def fragment(match: re.Match[str]) -> str:
        named = FRAGMENTS / f"{in_place_of.get(match[1], match[1])}.sql"
        if not named.is_file():
            raise PipelineError(f"{path.name} names the fragment {match[0]}, but there is no {named}")
        return f"(\n{query_text(named, in_place_of)})"

    return _FRAGMENT.sub(fragment, _PSQL_SET.sub("", path.read_text(encoding="utf-8")))


if __name__ == "__main__":
    sys.stdout.write(query_text(Path(sys.argv[1])))
