"""What a run shows: progress bars on a terminal, log lines without one (cron), and a table at the end."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import click
from rich.console import Console as RichConsole
from rich.console import RenderableType
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from pipeline.base import logs
from pipeline.base.results import ViewResult
from pipeline.base.tables import table, to_the_second
from pipeline.commands.starting import clear
from pipeline.online.verify import Consistency
from pipeline.operations.doctor.check import Check, State
from pipeline.runs.one_instant import Progress as ProgressCallback

logger = logging.getLogger("pipeline")
_PLAIN_WIDTH = 110
_LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"


class Console:
    """Standard error carries progress and messages, standard output the table."""

    def __init__(self, views: list[str], *, quiet: bool) -> None:
        clear()
        self._views = views
        self._quiet = quiet
        self._errors = RichConsole(stderr=True)
        self._output = RichConsole()
        # a file or a mail of cron has no width of its own
        if not self._output.is_terminal and "COLUMNS" not in os.environ:
            self._output.width = _PLAIN_WIDTH
        self._bars = self._errors.is_terminal and not quiet and not logs.are_json()
        logger.setLevel(logging.WARNING if quiet else logging.INFO)
        if logs.are_json():
            return
        if self._errors.is_terminal:
            handler: logging.Handler = RichHandler(console=self._errors, show_path=False, show_time=False)
        else:
            handler = logging.StreamHandler()
            handler.setFormatter(logging.Formatter(_LOG_FORMAT))
        handler.addFilter(logs.WithoutSecrets())
        logger.handlers[:] = [handler]
        logger.propagate = False

    @contextmanager
    def progress(self) -> Iterator[ProgressCallback]:
        """Yield the callback that shows what is being done with each view."""
        if not self._bars:
            yield self._log_progress
            return
        with Progress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.fields[view]:<20}"),
            BarColumn(bar_width=24),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=self._errors,
        ) as bars:
            tasks = {view: bars.add_task("waiting", view=view, total=1.0, start=False) for view in self._views}

            def show(view: str, stage: str, share: float) -> None:
                if view in tasks:
                    bars.start_task(tasks[view])
                    bars.update(tasks[view], description=stage, completed=share)

            yield show

    @contextmanager
    def backfill_progress(self) -> Iterator[Callable[[int, int], None]]:
        """Yield the callback that shows how many instants are done, and the time left."""
        if not self._bars:
            yield self._log_backfill
            return
        with Progress(
            TextColumn("backfill"),
            BarColumn(bar_width=40),
            MofNCompleteColumn(),
            TextColumn("instants"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._errors,
        ) as bars:
            task = bars.add_task("backfill", total=None)
            yield lambda done, total: bars.update(task, completed=done, total=total)

    def summary(self, results: list[ViewResult], as_of: datetime) -> None:
        """Print one line per view: rows, seconds, newest source time, bytes of its snapshot, outcome.

        Where log lines are JSON, it is one of them.
        """
        if logs.are_json():
            logger.info("summary", extra={"as_of": as_of, "views": [result.as_json() for result in results]})
            return
        if self._quiet or all(result.error for result in results):
            return
        any_rejected = any(result.rejected for result in results)
        rejected = [">rejected"] if any_rejected else []
        made = table(
            f"Features as of {as_of:%Y-%m-%d %H:%M:%S} UTC",
            *("view", ">rows", *rejected, ">seconds", "newest source (UTC)", ">bytes", "outcome"),
        )
        for result in results:
            figures = [f"{result.rows:,}", *([f"{result.rejected:,}"] if any_rejected else []), f"{result.seconds:.1f}"]
            newest = to_the_second(result.newest_source)
            made.add_row(result.view, *figures, newest, f"{result.bytes:,}", result.outcome)
        self._output.print(made)

    def consistency(
        self, features: list[Consistency], title: str = "Online values against the newest snapshots", **of: str
    ) -> None:
        """Print one line per view, and one per feature of which some value is wrong."""
        headings = ("view or feature", ">values", ">mismatched", ">missing", ">extra")
        made = table(title, *headings)
        for view in dict.fromkeys(feature.view for feature in features):
            of_view = [feature for feature in features if feature.view == view]
            made.add_row(view, *_counts(of_view))
            for feature in of_view:
                if feature.wrong:
                    made.add_row(f"  {feature.feature}", *_counts([feature]))
        self.answer(made, "consistency", features=[vars(feature) for feature in features], **of)

    def finding(self, check: Check) -> None:
        """Print a check of the doctor; where log lines are JSON, it is one of them."""
        if logs.are_json():
            level = {State.FAILS: logging.ERROR, State.WARNING: logging.WARNING}.get(check.state, logging.INFO)
            logger.log(level, "%s", check.text, extra=check.as_json())
        elif self._output.is_terminal:
            self._output.print(check.block())
        else:
            click.echo(check.line())

    def report(self, text: str) -> None:
        """Print what a command has done, unless it is to be quiet; where log lines are JSON, it is one of them."""
        if logs.are_json():
            logger.info(text)
        elif not self._quiet:
            click.echo(text)

    def answer(self, table: RenderableType, name: str, **fields: Any) -> None:
        """Print what a command was asked for; where log lines are JSON, `fields` are one of them, called `name`."""
        if logs.are_json():
            logger.info(name, extra=fields)
        else:
            self._output.print(table)

    def _log_progress(self, view: str, stage: str, share: float) -> None:
        if share == 0.0 and view in self._views:
            logger.info("%s: %s", view, stage, extra={"view": view, "stage": stage})

    def _log_backfill(self, done: int, total: int) -> None:
        if done == total or done % 30 == 0:
            logger.info("backfill: %d of %d instants", done, total)


def _counts(features: list[Consistency]) -> list[str]:
    return [f"{sum(getattr(f, count) for f in features):,}" for count in ("values", "mismatched", "missing", "extra")]
