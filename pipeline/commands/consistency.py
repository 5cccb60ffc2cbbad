"""`verify` and `prune`: online values against the newest snapshots."""

import sys

import click

from pipeline.commands import options


@click.command(short_help="Compare online values with the newest snapshots.")
@click.option("--sample", type=click.IntRange(min=1), metavar="N", help="N entities at random; by default all.")
@options.views_option
@options.log_format_option
def verify(sample: int | None, views: list[str]) -> None:
    """Read the online store through Feast and count the values that are not those of the newest snapshot.

    Mismatched values differ, missing ones are only in the snapshot, extra ones only online. Exit code 1 if there are
    any. Online fields of features and views that are not registered any more are counted.

    \b
    Example:
      python materialize_features.py verify --sample 1000
    """
    from pipeline.base.settings import load_settings
    from pipeline.commands.console import Console
    from pipeline.online.redis.engine import unowned_fields
    from pipeline.online.verify import can_be_listed
    from pipeline.online.verify import verify as compare
    from pipeline.registry.feast_store import open_feature_store

    console = Console([], quiet=False)
    settings = load_settings()
    with open_feature_store() as store:
        features = [feature for view in views for feature in compare(store, settings.snapshots, view, sample=sample)]
        unowned = unowned_fields(store) if sample is None and can_be_listed(store) else 0
    console.consistency(features)
    if unowned:
        console.report(f"{unowned:,} online fields belong to no registered view: `prune` removes them")
    if any(feature.wrong for feature in features):
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
