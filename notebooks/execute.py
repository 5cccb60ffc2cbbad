"""Run the notebooks of this folder on the databases of the settings, and keep their outputs."""

from pathlib import Path

import click
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from traitlets.config import Config

HERE = Path(__file__).resolve().parent
TIMEOUT_SECONDS = 120


def executed(path: Path) -> NotebookNode:
    """Return the notebook `path` with the outputs of a run of all its cells, and nothing about that run.

    Raises `nbclient.exceptions.CellExecutionError` where a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook,
        timeout=TIMEOUT_SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
        # The kernel listens on loopback: other users of the machine cannot read along.
        config=Config(KernelManager={"transport_encryption": "required"}),
    ).execute()
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return notebook


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Run every notebook of this folder and save it with its outputs."""
    for path in sorted(HERE.glob("*.ipynb")):
        nbformat.write(executed(path), path)
        click.echo(f"{path.name}: {path.stat().st_size / 1000:,.0f} kB")


if __name__ == "__main__":
    main()
