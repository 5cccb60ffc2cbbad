"""`verify` and `prune`: online values against the newest snapshots."""

import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING

import click

from pipeline.commands import options

if TYPE_CHECKING:
    from pipeline.base.settings import Settings
    from pipeline.commands.console import Console


@click.command(short_help="Compare online values with the newest snapshots.")
@click.option("--sample", type=click.IntRange(min=1), metavar="N", help="N entities at random; by default all.")
@click.option(
    "--rest",
    "urls",
    multiple=True,
    callback=options.http_addresses,
    metavar="URL",
    help="Ask a feature server or a gateway over HTTP, as its clients do; repeatable.",
)
@click.option(
    "--follow",
    is_flag=False,
    flag_value=60.0,
    type=click.FloatRange(min=1, max=options.LONGEST_SECONDS),
    metavar="[SECONDS]",
    help="With --rest: again every so often, by default 60 s, until something differs.",
)
@options.views_option
@options.timeout_option()
@options.log_format_option
def verify(sample: int | None, urls: list[str], follow: float | None, views: list[str]) -> None:
    """Read the online store through Feast and count the values that are not those of the newest snapshot.

    Mismatched values differ, missing ones are only in the snapshot, extra ones only online. Exit code 1 if there are
    any. Online fields of features and views that are not registered any more are counted. With --rest, what a server
    answers is compared with the snapshots that were published last; REST_TOKEN is shown to one that asks for a token.

    \b
    Examples:
      python materialize_features.py verify --sample 1000
      python materialize_features.py verify --rest http://127.0.0.1:6566 --sample 200 --follow 30
    """
    from pipeline.base.errors import WrongOption
    from pipeline.base.retries import retrying_for
    from pipeline.base.settings import load_settings
    from pipeline.commands.console import Console
    from pipeline.online.redis.engine import unowned_fields
    from pipeline.online.verify import can_be_listed
    from pipeline.online.verify import verify as compare
    from pipeline.registry.feast_store import open_feature_store

    if follow and not urls:
        raise WrongOption("--follow is for servers: say which with --rest")
    console = Console([], quiet=False)
    settings = load_settings()
    if urls:
        with retrying_for(settings.retry_seconds):
            _verify_servers(console, settings, urls, views, sample)
        while follow:
            console.report(f"again in {follow:g} s, until something differs or Ctrl-C")
            time.sleep(follow)
            with retrying_for(settings.retry_seconds):
                _verify_servers(console, settings, urls, views, sample)
        return
    with open_feature_store() as store:
        features = [feature for view in views for feature in compare(store, settings.snapshots, view, sample=sample)]
        unowned = unowned_fields(store) if sample is None and can_be_listed(store) else 0
    console.consistency(features)
    if unowned:
        console.report(f"{unowned:,} online fields belong to no registered view: `prune` removes them")
    if any(feature.wrong for feature in features):
        sys.exit(1)


def _verify_servers(
    console: "Console", settings: "Settings", urls: list[str], views: list[str], sample: int | None
) -> None:
    """Compare once what each server answers; ends the command with exit code 1 where something differs."""
    from pipeline.online.rest import Server, verify_server
    from pipeline.registry.feast_store import open_feature_store

    wrong = 0
    with open_feature_store() as store:
        for url in urls:
            with closing(Server(url, settings.rest_token.get_secret_value())) as server:
                features = verify_server(server, store, settings.snapshots, views, sample=sample)
            console.consistency(features, f"{server.url}, a {server.kind}, against the snapshots", url=server.url)
            wrong += sum(feature.wrong for feature in features)
    if wrong:
        sys.exit(1)


@click.command(short_help="Remove online values of entities that left.")
@options.views_option
@options.wait_option
@options.log_format_option
def prune(views: list[str], wait: float | None) -> None:
    """Remove the online values of entities that the newest snapshots lack, after a look at every key of Redis.

    A run does it for those that left since the last one; this finds all the others, and the fields of features and
    views that are no longer registered. Keys of other projects stay. It takes its turn with the runs.

    \b
    Example:
      python materialize_features.py prune --view telemetry_features
    """
    from pipeline.base.settings import load_settings
    from pipeline.commands.console import Console
    from pipeline.online.publish import prune as remove
    from pipeline.online.redis.engine import unowned_fields
    from pipeline.registry.feast_store import open_feature_store
    from pipeline.registry.lock import one_at_a_time

    console = Console(views, quiet=False)
    settings = load_settings()
    with open_feature_store() as store, one_at_a_time(store, wait):
        for view in views:
            console.report(f"{view}: {remove(store, settings.snapshots, view):,} entities removed")
        console.report(f"{unowned_fields(store, delete=True):,} fields removed that no registered view has")
