"""All benchmarks of docs/performance.md: `make bench`, or a small one for a look.

python -m benchmarks                                                    an hour, 40 GB of disk
python -m benchmarks --entities 9000 --assets 200 --assets 2000 --serve-seconds 5 --output /tmp    some minutes
python -m benchmarks --part publishing --entities 1000000               these figures anew, and all others as they are
"""

import json
from pathlib import Path

import click
from rich.console import Console

from benchmarks.backfill import measure_backfill
from benchmarks.cluster import measure_cluster
from benchmarks.extraction import measure_fleets
from benchmarks.history import measure_history
from benchmarks.iceberg import measure_iceberg
from benchmarks.publishing import VIEW, measure_publishing
from benchmarks.reads import measure_reads
from benchmarks.report import write_report
from benchmarks.serving import measure_serving
from benchmarks.watching import measure_watching
from dev.stack import REPOSITORY

# The parts of the report, and which field of a record tells the size at which it was measured.
SIZES = {
    "publishing": "entities",
    "cluster": None,
    "fleets": "assets",
    "backfill": None,
    "serving": None,
    "reads": None,
    "history": None,
    "report": None,
    "iceberg": None,
}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--entities", type=click.IntRange(min=1), multiple=True, default=(10_000, 100_000, 1_000_000), show_default=True
)
@click.option("--assets", type=click.IntRange(min=100), multiple=True, default=(5_000, 50_000), show_default=True)
@click.option(
    "--runs",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="One at a million entities and more; three times as many below 100,000, where each takes seconds.",
)
@click.option(
    "--serve-seconds", type=click.FloatRange(min=1), default=60, show_default=True, help="Load on feast serve."
)
@click.option(
    "--read-seconds",
    type=click.FloatRange(min=1),
    default=3,
    show_default=True,
    help="Load per round, way to read, and number of connections, three times as long for 100 assets.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=REPOSITORY / "docs",
    help="Folder of performance.md, .svg and .json; by default docs/.",
)
@click.option(
    "--part",
    "parts",
    type=click.Choice(list(SIZES)),
    multiple=True,
    help="Measure only this, at the sizes given; keep all other figures of performance.json.",
)
def main(
    entities: tuple[int, ...],
    assets: tuple[int, ...],
    runs: int,
    serve_seconds: float,
    read_seconds: float,
    output: Path,
    parts: tuple[str, ...],
) -> None:
    """Measure publishing, extraction, whole runs and serving, and write docs/performance.md."""
    from pipeline.base.specs import VIEWS

    file = output / "performance.json"
    if parts and not file.exists():
        raise click.ClickException(f"{file} is missing: measure everything first, without --part")
    figures = json.loads(file.read_text()) if parts else {part: [] for part in SIZES}
    console = Console(stderr=True)
    with console.status("starting") as status:
        say = status.update if console.is_terminal else console.print
        measure = {
            "publishing": lambda: measure_publishing({n: _runs(runs, n) for n in entities}, say),
            "cluster": lambda: measure_cluster(say),
            "fleets": lambda: measure_fleets(list(assets), runs, say),
            "backfill": lambda: measure_backfill(400, 455, 20_000, 10_000, 365, runs, say),
            "serving": lambda: measure_serving(serve_seconds, say),
            "history": lambda: measure_history(say),
            "reads": lambda: measure_reads(read_seconds, say),
            "report": lambda: measure_watching(say),
            "iceberg": lambda: measure_iceberg(say),
        }
        for part in parts or SIZES:
            figures[part] = _replaced(figures.get(part, []), measure[part](), SIZES[part])
    file.write_text(json.dumps(figures, indent=1) + "\n")
    write_report(output, figures, len(VIEWS[VIEW].features))
    click.echo(f"wrote {output / 'performance.md'}")


def _runs(runs: int, entities: int) -> int:
    """Return of how many runs the median is: short ones suffer more from the noise of a machine."""
    if entities >= 1_000_000:
        return 1
    return runs if entities >= 100_000 else 3 * runs


def _replaced(old: list[dict], new: list[dict], size: str | None) -> list[dict]:
    """Return the new records, and the old ones of other sizes."""
    if size is None:
        return new
    measured = {record[size] for record in new}
    return sorted([r for r in old if r[size] not in measured] + new, key=lambda record: record[size])


if __name__ == "__main__":
    main()
