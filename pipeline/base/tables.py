"""Tables for a terminal of 80 columns: instants fold before anything else has to give way."""

from datetime import UTC, datetime

from rich import box
from rich.table import Table

_DATE = 10


def table(title: str, *headings: str) -> Table:
    """Return an empty table. A heading that starts with > is of a column of numbers, on the right side.

    Instants, in columns with UTC in their heading, fold between date and time where there is no room.
    """
    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for heading in headings:
        folds, is_number = "UTC" in heading, heading.startswith(">")
        made.add_column(
            heading.removeprefix(">"),
            justify="right" if is_number else "left",
            no_wrap=not folds,
            min_width=_DATE if folds else None,
        )
    return made


def to_the_second(moment: datetime | None) -> str:
    """Return an instant in UTC as tables have it, - for none."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}" if moment else "-"


def to_the_minute(moment: datetime | None) -> str:
    """Return an instant in UTC without its seconds, - for none."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}" if moment else "-"
