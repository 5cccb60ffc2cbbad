"""`catalogue`: the feature catalogue as Markdown."""

import click


@click.command(short_help="Print the feature catalogue as Markdown.")
def catalogue() -> None:
    """Print docs/features.md as the definitions have it.

    \b
    Example:
      python materialize_features.py catalogue > docs/features.md
    """
    from pipeline.operations.catalogue import catalogue as text

    click.echo(text(), nl=False)
