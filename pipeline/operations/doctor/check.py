"""What the doctor finds: one line per check, and what to do about it."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pipeline.base.errors import PipelineError


class State(StrEnum):
    """How a check ended. Only `FAILS` makes the doctor fail."""

    OK = "ok"
    WARNING = "warning"
    FAILS = "fails"
    NOT_CHECKED = "not checked"


_COLOURS = {State.OK: "green", State.WARNING: "yellow", State.FAILS: "bold red", State.NOT_CHECKED: "dim"}


@dataclass(frozen=True)
class Check:
    """One finding about `name` of `subject`, such as the version of PostgreSQL; `fix` says what to do."""

    subject: str
    name: str
    state: State
    text: str
    fix: str = ""

    def line(self) -> str:
        """Return it in one line, for a file, a mail or grep, and the fix in a second one."""
        line = f"{self.state:<12}{f'{self.subject} {self.name}':<24} {self.text}"
        return f"{line}\n{'':<12}→ {self.fix}" if self.fix else line

    def block(self) -> RenderableType:
        """Return it for a terminal: what is too long for it goes on below itself."""
        made = Table.grid()
        made.add_column(width=12)
        made.add_column(min_width=25, no_wrap=True)
        made.add_column()
        made.add_row(Text(self.state, _COLOURS[self.state]), Text(f"{self.subject} {self.name} "), Text(self.text))
        return Group(made, Padding(Text(f"→ {self.fix}"), (0, 0, 0, 12))) if self.fix else made

    def as_json(self) -> dict[str, str]:
        """Return it as the fields of a log line, whose message is the text."""
        return {"subject": self.subject, "check": self.name, "state": str(self.state), "fix": self.fix}


@dataclass(frozen=True)
class Subject:
    """What checks are about; makes them."""

    name: str

    def ok(self, check: str, text: str) -> Check:
        """Return a check that found nothing."""
        return Check(self.name, check, State.OK, text)

    def warning(self, check: str, text: str, fix: str) -> Check:
        """Return a check that found something that runs can live with."""
        return Check(self.name, check, State.WARNING, text, fix)

    def fails(self, check: str, text: str, fix: str) -> Check:
        """Return a check that found what makes runs fail, or their results wrong."""
        return Check(self.name, check, State.FAILS, text, fix)

    def failed(self, check: str, error: PipelineError, fix: str = "") -> Check:
        """Return a check that ended with an error that runs would end with, and `fix` or what it says to do."""
        advice = error.advice.rstrip(".")
        return self.fails(check, error.what.removeprefix(self.name).lstrip(": "), fix or advice[0].lower() + advice[1:])

    def not_checked(self, checks: Iterable[str], because: str) -> Check:
        """Return what could not be checked, since an earlier check failed, in one line."""
        return Check(self.name, "", State.NOT_CHECKED, f"{', '.join(checks)}: {because}")
