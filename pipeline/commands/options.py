"""Options that several commands have, and what their texts mean. A value that means nothing is a usage error."""

import math
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import click

from pipeline.base import logs
from pipeline.base.addresses import checked_http_address
from pipeline.base.shard import Shard
from pipeline.base.stop import set_time_limit
from pipeline.base.views import VIEW_NAMES

F = TypeVar("F", bound=Callable[..., Any])

# A year. The timers of Python and of PostgreSQL have an end, too.
LONGEST_SECONDS = 31_536_000

# Feast's readers take this very instant for no row at all.
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)


def as_of(_ctx: click.Context, _param: click.Parameter, text: str | None) -> datetime:
    """Return the as-of instant in UTC: by default now, in whole seconds."""
    now = datetime.now(UTC)
    if text is None:
        return now.replace(microsecond=0)
    instant = _instant(text, "is no ISO 8601 instant such as 2026-01-01T00:00:00Z")
    if instant > now:
        raise click.BadParameter(f"{text} is in the future: features are known up to {now:%Y-%m-%dT%H:%M:%SZ}")
    return instant


def instant(_ctx: click.Context, _param: click.Parameter, text: str | None) -> datetime | None:
    """Return a date as its midnight in UTC, or an instant with a zone, in UTC."""
    if text is None:
        return None
    if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
        text += "T00:00:00Z"
    return _instant(text, "is no date such as 2026-01-01 and no instant")


def _instant(text: str, complaint: str) -> datetime:
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(f"{text} {complaint}") from None
    if parsed.tzinfo is None:
        raise click.BadParameter(f"{text} has no time zone: write {parsed.isoformat()}Z for UTC")
    try:
        parsed = parsed.astimezone(UTC)
        if parsed >= EARLIEST:
            return parsed
    except OverflowError:  # year 1 or 9999, and a zone that leads out of it
        pass
    raise click.BadParameter(f"{text} is before 1970 or after 9999")


def step(_ctx: click.Context, _param: click.Parameter, text: str | None) -> timedelta | None:
    """Return a whole number of hours or days such as 12h or 7d."""
    if text is None:
        return None
    match = re.fullmatch(r"([1-9]\d{0,4})([hd])", text, re.ASCII)
    if not match:
        raise click.BadParameter(f"{text} is no whole number of hours or days such as 12h or 7d")
    return timedelta(hours=int(match[1]) * (24 if match[2] == "d" else 1))


def shard(_ctx: click.Context, _param: click.Parameter, text: str | None) -> Shard | None:
    """Return which shard of how many `2/3` is."""
    match = re.fullmatch(r"([1-9]\d{0,2})/([1-9]\d{0,2})", text or "", re.ASCII)
    if text is not None and not (match and int(match[1]) <= int(match[2])):
        raise click.BadParameter(f"{text} is no shard such as 2/3, the second of three")
    return Shard(int(match[1]), int(match[2])) if match else None


def http_addresses(_ctx: click.Context, _param: click.Parameter, addresses: tuple[str, ...]) -> list[str]:
    """Return addresses of HTTP servers, each once; what is wrong is said without them, one may hold a password."""
    try:
        return [checked_http_address(address) for address in dict.fromkeys(addresses)]
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def one_view(ctx: click.Context, param: click.Parameter, name: str) -> str:
    """Return the name of the one view that is asked for."""
    return _views(ctx, param, (name,))[0]


def _views(_ctx: click.Context, _param: click.Parameter, names: tuple[str, ...]) -> list[str]:
    """Return the asked views, by default all, each once."""
    for name in names:
        if name not in VIEW_NAMES:
            raise click.BadParameter(f"{name} is unknown: the views are {', '.join(VIEW_NAMES)}")
    return [name for name in VIEW_NAMES if not names or name in names]


def _limit_time(_ctx: click.Context, _param: click.Parameter, seconds: float | None) -> None:
    if seconds is None:
        return
    if not seconds <= LONGEST_SECONDS:  # not a number is none of both
        raise click.BadParameter(f"{seconds} is no number of seconds up to {LONGEST_SECONDS:,}")
    set_time_limit(seconds)


def _log_to(path: Path | None) -> None:
    if path is None:
        return
    try:
        logs.write_to(path)
    except OSError as error:
        raise click.BadParameter(f"{path} cannot be written: {error.strerror}", param_hint="--log-file") from None


def instant_option(name: str, text: str, **attributes: Any) -> Callable[[F], F]:
    """Return the option `name` that takes a date or an instant."""
    return click.option(name, callback=instant, metavar="INSTANT", help=text, **attributes)


views_option = click.option(
    "--view", "views", multiple=True, callback=_views, metavar="NAME", help="Repeatable; by default all."
)
quiet_option = click.option("--quiet", is_flag=True, help="Say nothing but warnings and errors.")
# Eager: the messages about the other options look like it.
log_format_option = click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    is_eager=True,
    expose_value=False,
    callback=lambda _ctx, _param, name: logs.choose_format(name),
    help="json: one object per line on standard error, in place of the table, too.",
)
log_file_option = click.option(
    "--log-file",
    type=click.Path(path_type=Path, dir_okay=False),
    expose_value=False,
    callback=lambda _ctx, _param, path: _log_to(path),
    help="Append JSON lines to this file; standard error has errors alone, in plain words: the mail of cron.",
)
wait_option = click.option(
    "--wait",
    is_flag=False,
    flag_value=math.inf,
    type=click.FloatRange(min=0),
    metavar="[SECONDS]",
    help="Wait for another run to end, so long or until it does; without it, exit code 75 at once.",
)


def timeout_option(default: float | None = None) -> Callable[[F], F]:
    """Return the option that ends a command after so many seconds."""
    return click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        default=default,
        show_default=default is not None,
        metavar="SECONDS",
        expose_value=False,
        callback=_limit_time,
        help="Stop after so long, exit code 124" + ("." if default else "; by default never."),
    )
