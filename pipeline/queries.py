"""The SQL files of `features/`, with the facts that several of them share put in."""

import re
from pathlib import Path

from pipeline.config import REPOSITORY
from pipeline.errors import PipelineError

# (:name), as psql has it; a looser pattern would also find the (?:e of a regular expression.
_FRAGMENT = re.compile(r"\(:(\w+)\)")
# psql reads its fragments by these lines.
_PSQL_SET = re.compile(r"^\\set .*\n", re.MULTILINE)


def query_text(path: str) -> str:
    """Return the SQL of the file at `path`, below the repository, as a server takes it.

    `(:name)` becomes the text of `shared/name.sql` beside the file, in brackets. Raises `PipelineError` where there is
    none.
    """
    return _with_fragments(REPOSITORY / path, (REPOSITORY / path).parent / "shared")


def _with_fragments(file: Path, shared: Path) -> str:
    def fragment(match: re.Match[str]) -> str:
        named = shared / f"{match[1]}.sql"
        if not named.is_file():
            raise PipelineError(f"{file.name} names the fragment {match[0]}, but there is no {named}")
        return f"(\n{_with_fragments(named, shared)})"

    return _FRAGMENT.sub(fragment, _PSQL_SET.sub("", file.read_text(encoding="utf-8")))
