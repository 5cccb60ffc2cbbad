"""The columns of dCMMS's PostgreSQL that the SQL reads: what the doctor looks for, and deploy/sql grants.

`python -m pipeline.sources.columns` prints the grants.
"""

import sys
from functools import cache

import sqlglot
from sqlglot import exp
from sqlglot.optimizer.scope import Scope, traverse_scope

from features.failure_within_7d import LABEL_SQL
from pipeline import REPOSITORY
from pipeline.base.specs import SPECS
from pipeline.sources.extract import UNDATED_ROWS, query_of
from pipeline.sources.queries import query_text
from pipeline.sources.schema import OPTIONAL_TABLES

_HEAD = """\
-- What postgres_extraction.sql grants: the columns that the queries read, and no more.
-- Generated: python -m pipeline.sources.columns > deploy/sql/postgres_grants.sql

"""


def postgres_queries() -> list[str]:
    """Return every query that is sent to dCMMS's PostgreSQL for features and label, and the count of undated rows."""
    views = [view for view, spec in SPECS.items() if spec.engine == "postgresql"]
    return [*map(query_of, views), query_text(REPOSITORY / LABEL_SQL), UNDATED_ROWS]


@cache
def postgres_columns() -> dict[str, list[str]]:
    """Return the columns that `postgres_queries` read, by table, both in alphabetical order."""
    read: dict[str, set[str]] = {}
    for query in postgres_queries():
        for scope in traverse_scope(sqlglot.parse_one(query, dialect="postgres")):
            for name, (_, source) in scope.selected_sources.items():
                if isinstance(source, exp.Table):
                    read.setdefault(source.name, set()).update(_read_of(name, scope))
    return {table: sorted(read[table]) for table in sorted(read)}


def _read_of(table: str, scope: Scope) -> set[str]:
    """Return the columns that a select reads of its `table`: with its name, by USING, or what no other source has."""
    derived = [source.expression for _, source in scope.selected_sources.values() if isinstance(source, Scope)]
    others = {name for query in derived if isinstance(query, exp.Query) for name in query.named_selects}
    joined = {name.name for join in scope.expression.args.get("joins", ()) for name in join.args.get("using", ())}
    return joined | {c.name for c in scope.columns if c.table == table or not (c.table or c.name in others)}


def postgres_grants() -> str:
    """Return the grants of deploy/sql/postgres_grants.sql, for psql with the variable `role`."""
    grants = []
    for table, columns in postgres_columns().items():
        right = f"select ({', '.join(columns)}) on {table}"
        if table in OPTIONAL_TABLES:
            grants.append(
                f"select format('grant {right} to %I', :'role')\nwhere to_regclass('{table}') is not null\n\\gexec\n"
            )
        else:
            grants.append(f'grant {right} to :"role";\n')
    return _HEAD + "\n".join(grants)


if __name__ == "__main__":
    sys.stdout.write(postgres_grants())
