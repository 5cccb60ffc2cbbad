"""`make contracts`: the newest snapshots against docs/contracts, by datacontract-cli.

It pins other versions of Feast's requirements, so it has a virtual environment of its own, .venv-contracts.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import pyarrow as pa
import pyarrow.parquet as pq

from dev.stack import REPOSITORY

DATACONTRACT = REPOSITORY / ".venv-contracts" / "bin" / "datacontract"


def broken_rules(view: str, snapshot: pa.Table, program: Path = DATACONTRACT) -> list[str]:
    """Return which rules of the contract of `view` the rows of `snapshot` break, in the words of datacontract-cli.

    Raises `click.ClickException` where the program is missing, or does not take the contract.
    """
    from pipeline.operations.contracts import contract_text

    with TemporaryDirectory(prefix="contract-") as directory:
        contract, results, rows = (Path(directory) / name for name in ("odcs.yaml", "results.json", "rows.parquet"))
        pq.write_table(snapshot, rows)
        contract.write_text(contract_text(view, str(rows)), encoding="utf-8")
        command = [str(program), "test", str(contract), "--output", str(results), "--output-format", "json"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise click.ClickException(f"{program} cannot be started: {error.strerror}; make contracts") from error
        if not results.exists():
            raise click.ClickException(f"{program} said: {done.stderr or done.stdout}")
        checks = json.loads(results.read_text())["checks"]
    if not checks:
        raise click.ClickException(f"{program} has checked nothing of {view}")
    # Of types in Parquet files it says in a warning that it cannot look at them.
    return [
        f"{check['field'] or view}: {check['name']}: {check['reason']}"
        for check in checks
        if check["result"] not in ("passed", "warning")
    ]


def check_snapshots() -> bool:
    """Say of the newest snapshot of each view whether it keeps its contract; return whether all do."""
    from pipeline.base.settings import load_settings
    from pipeline.base.views import VIEW_NAMES
    from pipeline.snapshots.files import newest_snapshot, read_snapshot

    data_dir, all_keep = load_settings().snapshots, True
    for view in VIEW_NAMES:
        path = newest_snapshot(data_dir, view)
        if not path:
            raise click.ClickException(f"there is no snapshot in {data_dir / view}: materialize_features.py makes one")
        broken = broken_rules(view, read_snapshot(path))
        click.echo(f"{'✗' if broken else '✓'} {view} as of {path.stem}")
        for rule in broken:
            click.echo(f"    {rule}")
        all_keep = all_keep and not broken
    return all_keep
