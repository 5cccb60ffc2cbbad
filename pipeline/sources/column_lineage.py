"""Which columns of dCMMS each feature is computed from, as its SQL says.

A column counts where its value, or a condition in the expression, enters the feature. What only chooses, joins or
groups rows concerns all features of a view alike: it is in the columns that the query reads, and not here.

`python -m pipeline.sources.column_lineage` prints pipeline/runs/column_lineage.json: to follow the names takes seconds.
"""

import json
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

import sqlglot
from sqlglot import exp

from pipeline.base.settings import TELEMETRY_TABLE
from pipeline.base.specs import SPECS
from pipeline.sources.columns import postgres_columns
from pipeline.sources.extract import query_of
from pipeline.sources.schema import TELEMETRY

# A table of dCMMS, and a column of it.
Column = tuple[str, str]


def columns_of(view: str) -> dict[str, set[Column]]:
    """Return the columns that each feature of `view` is computed from, also through the views that it needs.

    A feature that Python computes has the columns of all that the SQL gives to Python for the view.
    """
    return {field.name: _columns(view, field.name) for field in SPECS[view].definition.features}


def lineage() -> dict[str, dict[str, Any]]:
    """Return as JSON has it, by view, the `features` with the columns of each as table.column, and what it `reads`."""
    return {
        view: {
            "features": {name: sorted(map(".".join, columns)) for name, columns in columns_of(view).items()},
            "reads": columns_read(view),
        }
        for view in SPECS
    }


@cache
def _columns(view: str, name: str) -> set[Column]:
    spec, reader = SPECS[view], _reader(view)
    if name not in spec.computed:
        return reader.columns(name)
    needed = [_columns(need.view, column) for need in spec.needs for column in need.columns]
    return set().union(*(reader.columns(field.name) for field in spec.inputs), *needed)


@cache
def _reader(view: str) -> "_Reader":
    spec = SPECS[view]
    return _Reader(_parsed(view), _known_columns(spec.engine))


def _parsed(view: str) -> exp.Expr:
    spec = SPECS[view]
    dialect = "postgres" if spec.engine == "postgresql" else spec.engine
    return sqlglot.parse_one(query_of(spec.rows_of), dialect=dialect)


@cache
def columns_read(view: str) -> dict[str, list[str]]:
    """Return the columns that the query of `view` reads, for whatever purpose, by table."""
    query, known = _parsed(view), _known_columns(SPECS[view].engine)
    named = {column.name for column in query.find_all(exp.Column)} | {
        name.name for join in query.find_all(exp.Join) for name in join.args.get("using") or ()
    }
    tables = {table.name for table in query.find_all(exp.Table)} & known.keys()
    return {table: [column for column in known[table] if column in named] for table in sorted(tables)}


def _known_columns(engine: str) -> dict[str, list[str]]:
    return postgres_columns() if engine == "postgresql" else {TELEMETRY_TABLE: list(TELEMETRY)}


class _Reader:
    """Follows the names in a query down to the columns of tables.

    sqlglot's own lineage does not know ClickHouse's names of values (`with now() as t`) nor aliases that are used in
    the select that gives them. Names that two sources have count for both.
    """

    def __init__(self, query: exp.Expr, known: dict[str, list[str]]) -> None:
        self._query = query
        self._known = known
        self._found: dict[tuple[int, str], set[Column]] = {}

    def columns(self, name: str) -> set[Column]:
        """Return the columns of tables that the column `name` of the query is computed from."""
        return self._of_query(self._query, name)

    def _of_query(self, query: exp.Expr, name: str) -> set[Column]:
        if isinstance(query, exp.Subquery | exp.CTE | exp.Lateral):
            given = query.alias_column_names
            inner = query.this.unnest() if isinstance(query.this, exp.Subquery) else query.this
            if not given or not isinstance(inner, exp.Query):
                # rows that are written out, or a function in the place of a table
                is_one = isinstance(inner, exp.Query) or name in (given or [query.alias])
                return self._of_query(inner, name) if is_one else set()
            return self._of_query(inner, inner.named_selects[given.index(name)]) if name in given else set()
        if isinstance(query, exp.SetOperation):
            position = query.named_selects.index(name) if name in query.named_selects else None
            sides = [query.left, query.right]
            names = [side.named_selects[position] if position is not None else name for side in sides]
            return set().union(*(self._of_query(side, each) for side, each in zip(sides, names, strict=True)))
        if not isinstance(query, exp.Select):
            return self._in(query, query)
        key = (id(query), name)
        if key not in self._found:
            self._found[key] = set()  # a name that leads to itself has nothing to add
            projections = [each for each in query.expressions if each.alias_or_name == name]
            if projections:
                self._found[key] = set().union(*(self._in(each, query, but=name) for each in projections))
            else:  # by a star
                self._found[key] = self._of_sources(query, name)
        return self._found[key]

    def _in(self, expression: exp.Expr, query: exp.Expr, but: str = "") -> set[Column]:
        """Return the columns of all names in an expression of `query`."""
        found: set[Column] = set()
        for column in expression.find_all(exp.Column):
            inner = column.find_ancestor(exp.Select)
            of_query = inner if isinstance(inner, exp.Select) and inner is not query else query
            found |= self._of_name(column, of_query, but)
        return found

    def _of_name(self, column: exp.Column, query: exp.Expr, but: str) -> set[Column]:
        if not isinstance(query, exp.Select):
            outer = query.parent_select
            return self._of_name(column, outer, "") if outer is not None else set()
        table, name = _table_and_name(column, {source.alias_or_name for source in _sources(query)})
        is_alias = not table and name != but and any(each.alias == name for each in query.expressions)
        if is_alias and (found := self._of_query(query, name)):
            return found
        if found := self._of_sources(query, name, table):
            return found
        for scalar in self._ctes(query, name):
            if isinstance(scalar.this, exp.Query | exp.Subquery):
                return set().union(*(self._of_query(scalar, each) for each in _names(scalar.this)))
            return self._in(scalar.this, query)
        outer = query.parent_select  # a correlated subquery
        return self._of_name(column, outer, "") if outer is not None else set()

    def _of_sources(self, query: exp.Select, name: str, table: str = "") -> set[Column]:
        found: set[Column] = set()
        for source in _sources(query):
            if table and source.alias_or_name != table:
                continue
            if not isinstance(source, exp.Table):
                found |= self._of_query(source, name)
            elif cte := next(self._ctes(source, source.name), None):
                found |= self._of_query(cte, name)
            elif name in self._known.get(source.name, ()):
                found.add((source.name, name))
        return found

    def _ctes(self, node: exp.Expr, name: str) -> Iterator[exp.Expr]:
        """Yield what `name` stands for in the `with` of the queries around `node`, the nearest first."""
        around: exp.Expr | None = node
        while around is not None:
            inside, around = around, around.parent
            for cte in getattr(around or inside, "ctes", ()):
                if cte.alias == name and cte is not inside and node.find_ancestor(exp.CTE) is not cte:
                    yield cte


def _table_and_name(column: exp.Column, tables: set[str]) -> tuple[str, str]:
    """Return the table and the name of a column; in ClickHouse also `name.1` and `table.name.1` of a tuple."""
    parts = [part.name for part in column.parts]
    if len(parts) > 1 and parts[0] in tables:
        return parts[0], parts[1]
    is_of_a_tuple = isinstance(column.this, exp.Literal) or len(parts) > 2
    return ("", parts[0]) if is_of_a_tuple else (column.table, column.name)


def _names(query: exp.Expr) -> list[str]:
    return query.named_selects if isinstance(query, exp.Query) else []


def _sources(query: exp.Select) -> list[exp.Expr]:
    first = query.args.get("from_")
    sources = [first.this] if first else []
    sources += [join.this for join in query.args.get("joins") or ()]
    return sources + list(query.args.get("laterals") or ())


if __name__ == "__main__":
    sys.stdout.write(f"{json.dumps(lineage(), indent=1)}\n")
