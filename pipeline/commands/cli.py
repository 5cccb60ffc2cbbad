"""The command with all of its commands, and how any of them ends."""

import errno
import io
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from pipeline import __version__
from pipeline.base import logs
from pipeline.base.errors import WrongOption, redacted
from pipeline.base.stop import stoppable
from pipeline.commands.backfill import backfill
from pipeline.commands.catalogue import catalogue
from pipeline.commands.compact import compact
from pipeline.commands.consistency import prune, verify
from pipeline.commands.doctor import doctor
from pipeline.commands.report import report
from pipeline.commands.rollback import rollback
from pipeline.commands.run import EXAMPLES, run
from pipeline.commands.skew import skew
from pipeline.commands.starting import announced
from pipeline.commands.status import status
from pipeline.commands.training_set import training_set

_OUTPUT_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE}


class DefaultCommandGroup(click.Group):
    """A group whose options without a command belong to `run`, and whose commands stop cleanly."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # in Latin-1 there is no arrow
                stream.reconfigure(errors="backslashreplace")
        try:
            try:
                return super().main(*args, **kwargs)
            finally:
                sys.stdout.flush()
        except OSError as error:
            if not _is_of_output(error):
                raise
            if error.errno != errno.EPIPE:  # who closes a pipe has seen enough
                say(f"Standard output cannot be written: {error.strerror}")
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left of it is not tried again
            sys.exit(1)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with usage_errors():
            return super().make_context(*args, **kwargs)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {name for option in self.get_params(ctx) for name in option.opts}
        if not args or (args[0].startswith("-") and args[0] not in own):
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        logs.choose_format("text")
        with stoppable(say):
            try:
                with usage_errors():
                    return super().invoke(ctx)
            except click.ClickException as error:
                if not logs.are_json():
                    raise
                logs.logger.error(error.format_message())
                ctx.exit(error.exit_code)
            except (click.exceptions.Exit, click.Abort):
                raise
            except Exception as error:  # a bug; a library may have put a password into its message
                if _is_of_output(error):
                    raise
                if logs.are_json():  # the stack trace, too, belongs on one line then
                    logs.logger.exception("unexpected error")
                else:
                    click.echo(redacted(traceback.format_exc()), err=True, nl=False)
                ctx.exit(1)


@contextmanager
def usage_errors() -> Iterator[None]:
    """Let wrong options end in one line, with EX_USAGE: click's 2 is that of a rejected view."""
    try:
        yield
    except click.UsageError as error:
        help_of = f" ({error.ctx.command_path} -h lists the options)" if error.ctx else ""
        raise WrongOption(f"{error.format_message().rstrip('.')}{help_of}") from None


def _is_of_output(error: Exception) -> bool:
    """Return whether `error` is of a stream that was open from the start, such as standard output on a full disk."""
    return isinstance(error, OSError) and not error.filename and error.errno in _OUTPUT_ERRORS


def say(message: str) -> None:
    """Write one line to standard error, as the log lines look."""
    if logs.are_json():
        logs.logger.error(message)
    else:
        click.echo(message, err=True)


@click.group(cls=DefaultCommandGroup, context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXAMPLES)
@click.version_option(__version__, message="%(version)s")
def cli() -> None:
    """Materialize the features of dCMMS. Without a command: `run`."""
    from pipeline.base.quick_feast import leave_out_type_checks

    leave_out_type_checks()


for command in (run, backfill, training_set, status, doctor, verify, prune, compact, rollback, skew, report, catalogue):
    cli.add_command(announced(command))
