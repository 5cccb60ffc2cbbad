"""What became of each view of a run, and the exit code that follows from it."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

# The exit codes where views were rejected, or are on hold, and nothing else went wrong.
REJECTED, ON_HOLD = 2, 3


@dataclass
class ViewResult:
    """What became of one view: `error` is None when all that was asked for it is done.

    `rejected` counts the rows that the quality gate has set aside, and `held_back` says that it let none pass.
    `implausible` counts the rows whose value passes but is not plausible, by the feature.
    `on_hold` says that the view has been rolled back and not resumed, `note` is the reason that was given for it.
    `compared` counts the values that were read back from the online store, `inconsistent` those that are not as the
    snapshot has them. `seconds` is the time spent on it, `newest_source` the newest fact that a row rests on, `bytes`
    the size of its snapshot, `published` whether it is online now, `is_part_online` whether that share of it is which a
    shard has published.
    """

    view: str
    rows: int = 0
    rejected: int = 0
    held_back: bool = False
    implausible: dict[str, int] = field(default_factory=dict)
    on_hold: bool = False
    compared: int = 0
    inconsistent: int = 0
    seconds: float = 0.0
    newest_source: datetime | None = None
    bytes: int = 0
    published: bool = False
    is_part_online: bool = False
    error: str | None = None
    note: str | None = None

    @property
    def outcome(self) -> str:
        """What became of it, in a word or two."""
        if self.error:
            return "rejected" if self.held_back else "on hold" if self.on_hold else "failed"
        if self.published:
            return "online"
        if self.is_part_online:
            return "part online"
        return "snapshot only" if self.bytes else "nothing written"

    def as_json(self) -> dict[str, Any]:
        """Return it in types that JSON has, as the ledger and the log tell of it."""
        fields = asdict(self) | {
            "seconds": round(self.seconds, 3),
            "newest_source": self.newest_source and self.newest_source.astimezone(UTC).isoformat(),
            "outcome": self.outcome,
        }
        del fields["published"], fields["held_back"], fields["on_hold"], fields["is_part_online"]
        if not self.note:
            del fields["note"]
        return fields


def exit_code(results: Iterable[ViewResult]) -> int:
    """Return what the command returns: 0 if all is done, 1 if a view failed, else `REJECTED` or else `ON_HOLD`."""
    outcomes = {result.outcome for result in results if result.error}
    if "failed" in outcomes:
        return 1
    return REJECTED if "rejected" in outcomes else ON_HOLD if outcomes else 0
