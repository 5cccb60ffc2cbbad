"""All benchmarks of docs/performance.md: `make bench`, or a small one for a look.

python -m benchmarks                                                    an hour, 40 GB of disk
python -m benchmarks --entities 9000 --assets 200 --assets 2000 --serve-seconds 5 --output /tmp    some minutes
"""

import json
from pathlib import Path

import click
from rich.console import Console

from benchmarks.extraction import measure_fleets
from benchmarks.publishing import VIEW, measure_publishing
from benchmarks.report import write_report
from benchmarks.serving import measure_serving
from dev.stack import REPOSITORY


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--entities", type=click.IntRange(min=1), multiple=True, default=(10_000, 100_000, 1_000_000), show_default=True
)
@click.option("--assets", type=click.IntRange(min=100), multiple=True, default=(5_000, 50_000), show_default=True)
@click.option("--runs", type=click.IntRange(min=1), default=3, show_default=True, help="One at a million and more.")
@click.option(
    "--serve-seconds", type=click.FloatRange(min=1), default=60, show_default=True, help="Load on feast serve."
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=REPOSITORY / "docs",
    help="Folder of performance.md and performance.svg; by default docs/.",
)
@click.option("--records", type=click.Path(path_type=Path), help="Also write the figures as JSON to this file.")
def main(
    entities: tuple[int, ...],
    assets: tuple[int, ...],
    runs: int,
    serve_seconds: float,
    output: Path,
    records: Path | None,
) -> None:
    """Measure publishing, extraction, whole runs and serving, and write docs/performance.md."""
    from pipeline.schemas import VIEWS

    console = Console(stderr=True)
    with console.status("starting") as status:
        say = status.update if console.is_terminal else console.print
        figures = {
            "publishing": measure_publishing({size: 1 if size >= 1_000_000 else runs for size in entities}, say),
            "fleets": measure_fleets(list(assets), runs, say),
            "serving": measure_serving(serve_seconds, say),
        }
    if records:
        records.write_text(json.dumps(figures, indent=1))
    write_report(output, figures, len(VIEWS[VIEW].features))
    click.echo(f"wrote {output / 'performance.md'}")


if __name__ == "__main__":
    main()
