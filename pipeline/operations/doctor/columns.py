"""What has changed of the columns that are read, against pipeline/sources/schema.py."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from pipeline.operations.doctor.check import Check, State, Subject
from pipeline.sources.schema import ENUM, Column

_FIX = "decide what it means for the features, and adapt features/*.sql and pipeline/sources/schema.py"


class Found(NamedTuple):
    """A column as the server has it; `labels` are the values that its enumerated type has."""

    type: str
    may_be_null: bool
    labels: Sequence[str] = ()
    may_read: bool = True


def check_columns(subject: Subject, tables: Mapping[str, tuple[Mapping[str, Column], Mapping[str, Found]]]) -> Check:
    """Return what differs of the tables, of each what is declared and what was found.

    A type of another kind fails: where a query still runs, it takes the values for what they are not. A NULL or a
    value that may come has not come yet, and the quality gate looks at the rows: that is a warning.
    """
    changes = [
        change
        for table, (declared, found) in tables.items()
        for name, column in declared.items()
        for change in _changes(f"{table}.{name}", column, found[name])
    ]
    if not changes:
        what = f"{len(tables)} tables" if len(tables) > 1 else next(iter(tables))
        return subject.ok("schema", f"{what} with every column that is read")
    report = subject.fails if any(state == State.FAILS for state, _ in changes) else subject.warning
    return report("schema", "; ".join(text for _, text in changes), _FIX)


def _changes(name: str, column: Column, found: Found) -> Iterator[tuple[State, str]]:
    if (ENUM if found.labels else found.type) not in column.kind.types:
        yield State.FAILS, f"{name} is {found.type}, and the features take it for {column.kind.name}"
    elif column.values and not found.labels:
        yield State.WARNING, f"{name} is {found.type}, and may be what no feature knows"
    elif column.values:
        for label in sorted({*found.labels} - {*column.values}):
            yield State.WARNING, f"{name} may be {label}, which no feature knows"
        for label in sorted({*column.values} - {*found.labels}):
            yield State.WARNING, f"{name} is never {label} any more"
    if found.may_be_null and not column.null:
        yield State.WARNING, f"{name} may be NULL, and no feature knows what that means"
