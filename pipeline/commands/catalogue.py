"""`catalogue`: the feature catalogue as Markdown."""

import click

from pipeline.commands import options
from pipeline.commands.starting import clear


@click.command(short_help="Print the feature catalogue as Markdown.")
@options.log_format_option
def catalogue() -> None:
    """Print docs/features.md as the definitions have it.

    \b
    Example:
      python materialize_features.py catalogue > docs/features.md
    """
    from pipeline.operations.catalogue import catalogue as text

    clear()
    click.echo(text(), nl=False)
