"""OpenLineage events: what each run, rollback and backfill reads and writes, for Marquez, DataHub and others.

Off unless OpenLineage's own variables (OPENLINEAGE_URL, OPENLINEAGE_CONFIG, OPENLINEAGE__...) say where events go; only
then is the package `openlineage-python` imported. Who listens must not fail a run: what cannot be sent is a warning.
"""

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import UUID, uuid5

from feast import FeatureStore

from pipeline import __version__
from pipeline.base.errors import PipelineError, first_line
from pipeline.base.results import ViewResult
from pipeline.base.settings import Settings
from pipeline.base.specs import SPECS, VIEWS, snapshot_schema
from pipeline.registry.ledger import RUNNING, Ledger
from settings_file import file_values, in_environment

if TYPE_CHECKING:
    from openlineage.client import OpenLineageClient
    from openlineage.client.event_v2 import InputDataset, OutputDataset, RunEvent

logger = logging.getLogger(__name__)

MATERIALIZE, BACKFILL, ROLLBACK = "materialize", "backfill", "rollback"
_KEPT = Path(__file__).with_name("column_lineage.json")
_VARIABLES = ("OPENLINEAGE_URL", "OPENLINEAGE_CONFIG", "OPENLINEAGE__")
# Of the ledger's last runs those that never ended are looked for.
_LAST_RUNS = 20
# Where the registry is out of reach.
_PROJECT = "dcmms"


@cache
def kept_lineage() -> dict[str, dict[str, Any]]:
    """Return what column_lineage.json has: `lineage` of pipeline/sources/column_lineage.py."""
    kept: dict[str, dict[str, Any]] = json.loads(_KEPT.read_text(encoding="utf-8"))
    return kept


def is_wanted() -> bool:
    """Return whether OpenLineage's variables are set, in the environment or the settings file."""
    return any(name.startswith(_VARIABLES) for name in (*os.environ, *file_values()))


@contextmanager
def told(
    job: str,
    run_id: UUID,
    settings: Settings,
    store: FeatureStore | None,
    as_of: datetime | None,
    results: Mapping[str, ViewResult],
    views: Sequence[str],
) -> Iterator[None]:
    """Tell of a run that happens in the block: START, and COMPLETE or FAIL, as a whole and of each of `results`.

    First those runs get their FAIL which the ledger knows as running, and whose session has lost the lock. The
    whole has the tables and snapshots of all `views`; each view of `results` has a run of its own at the end, with what
    was written and published. Nothing is done or raised where no events are wanted.
    """
    teller = _teller(settings, store) if is_wanted() else None
    if teller is None:
        yield
        return
    started = datetime.now(UTC)
    if store and job != BACKFILL:
        teller.tell_of_dead_runs(store)
    teller.tell("START", job, run_id, views, at=started, as_of=as_of)
    error: str | None = None
    try:
        yield
        error = "; ".join(sorted({result.error for result in results.values() if result.error})) or None
    except BaseException as exception:
        error = first_line(exception)
        raise
    finally:
        for view in views:
            if (result := results.get(view)) is None:
                continue
            of_view = uuid5(run_id, view)
            parent = (job, run_id)
            teller.tell("START", f"{job}.{view}", of_view, [view], at=started, as_of=as_of, parent=parent)
            end = "FAIL" if result.error else "COMPLETE"
            teller.tell(
                end, f"{job}.{view}", of_view, [view], as_of=as_of, parent=parent, error=result.error, result=result
            )
        teller.tell("FAIL" if error else "COMPLETE", job, run_id, views, as_of=as_of, error=error)


def _teller(settings: Settings, store: FeatureStore | None) -> "_Teller | None":
    try:
        with in_environment():
            from openlineage.client import OpenLineageClient

            return _Teller(OpenLineageClient(), settings, store)
    except ImportError:
        logger.warning("OpenLineage is configured, and openlineage-python is not installed: no events are sent")
    except Exception as error:  # of whatever its configuration asks for
        logger.warning("OpenLineage: %s: no events are sent", first_line(error))
    return None


class _Teller:
    """Sends events, until one cannot be sent."""

    def __init__(self, client: "OpenLineageClient", settings: Settings, store: FeatureStore | None) -> None:
        self._client: OpenLineageClient | None = client
        self._settings = settings
        self._project = store.project if store else _PROJECT
        self._online = _online_namespace(store) if store else None

    def tell_of_dead_runs(self, store: FeatureStore) -> None:
        """Send the FAIL of runs that have died."""
        try:
            ledger = Ledger(store)
            alive = ledger.alive()
            runs = ledger.last_runs(_LAST_RUNS)
            dead = [run for run in runs if run.outcome == RUNNING and run.backend_pid not in alive]
        except PipelineError as error:
            logger.warning("%s. Runs that died are not told of.", error)
            return
        for run in dead:
            self.tell("FAIL", MATERIALIZE, run.run_id, [], as_of=run.as_of, error="the run died")

    def tell(self, kind: str, job: str, run_id: UUID, views: Sequence[str], **told: Any) -> None:
        """Send one event, with what else `_event` takes; after one that fails none is sent any more."""
        if self._client is None:
            return
        try:
            self._client.emit(self._event(kind, job, run_id, views, **told))
        except Exception as failure:  # of whatever transport is configured
            logger.warning("OpenLineage: %s: no more events are sent", first_line(failure))
            self._client = None

    def _event(
        self,
        kind: str,
        job: str,
        run_id: UUID,
        views: Sequence[str],
        *,
        as_of: datetime | None,
        at: datetime | None = None,
        parent: tuple[str, UUID] | None = None,
        error: str | None = None,
        result: ViewResult | None = None,
    ) -> "RunEvent":
        from openlineage.client.event_v2 import Job, Run, RunEvent, RunState
        from openlineage.client.facet_v2 import error_message_run, job_type_job, nominal_time_run, parent_run

        facets: dict[str, Any] = {}
        if as_of:
            facets["nominalTime"] = nominal_time_run.NominalTimeRunFacet(as_of.isoformat())
        if parent:
            facets["parent"] = parent_run.ParentRunFacet(
                parent_run.Run(str(parent[1])), parent_run.Job(self._project, parent[0])
            )
        if error:
            facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(error, "PYTHON")
        kind_of_job = job_type_job.JobTypeJobFacet("BATCH", "FEAST", jobType="MATERIALIZE")
        return RunEvent(
            eventType=RunState[kind],
            eventTime=(at or datetime.now(UTC)).isoformat(),
            run=Run(str(run_id), facets),
            job=Job(self._project, job, {"jobType": kind_of_job}),
            inputs=self._inputs(views, job),
            outputs=[output for view in views for output in self._outputs(view, job, as_of, result)],
            producer=f"urn:dcmms-feature-store:{__version__}",
        )

    def _inputs(self, views: Sequence[str], job: str) -> "list[InputDataset]":
        from openlineage.client.event_v2 import InputDataset

        if job.startswith(ROLLBACK):
            return [InputDataset(*self._snapshots_of(view)) for view in views]
        tables = {name for view in views for name in self._tables(view)}
        return [InputDataset(namespace, table) for namespace, table in sorted(tables)]

    def _outputs(self, view: str, job: str, as_of: datetime | None, result: ViewResult | None) -> "list[OutputDataset]":
        from openlineage.client.event_v2 import OutputDataset
        from openlineage.client.facet_v2 import dataset_version_dataset, output_statistics_output_dataset

        is_rollback = job.startswith(ROLLBACK)
        facets: dict[str, Any] = {}
        if as_of:
            facets["version"] = dataset_version_dataset.DatasetVersionDatasetFacet(as_of.isoformat())
        statistics: dict[str, Any] = {}
        if result:
            statistics["outputStatistics"] = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
                rowCount=result.rows, size=result.bytes or None
            )
        outputs = []
        if not is_rollback and (result is None or result.bytes):
            described = facets | {"schema": _schema(view), "columnLineage": self._column_lineage(view)}
            outputs.append(OutputDataset(*self._snapshots_of(view), facets=described, outputFacets=statistics))
        if self._online and job.split(".")[0] != BACKFILL and (result is None or result.published):
            described = facets | {"schema": _schema(view)}
            outputs.append(OutputDataset(self._online, f"{self._project}.{view}", facets=described))
        return outputs

    def _snapshots_of(self, view: str) -> tuple[str, str]:
        """Return the namespace and name of the snapshots of `view`: a folder, here or in a bucket, or a table."""
        place = self._settings.snapshots
        if isinstance(place, Path):
            return "file", str(place / view)
        scheme, _, name = place.url.partition("://")
        bucket, _, prefix = name.partition("/")
        return (f"s3://{bucket}", f"{prefix}/{view}") if scheme == "s3" else (place.url, view)

    def _tables(self, view: str) -> list[tuple[str, str]]:
        """Return the namespace and name of each table that the query of `view`, or of a view that it needs, reads."""
        wanted = {view, *(need.view for need in SPECS[view].needs)}
        return [self._table(SPECS[each].engine, table) for each in wanted for table in kept_lineage()[each]["reads"]]

    def _table(self, engine: str, table: str) -> tuple[str, str]:
        """Return the namespace and name of a table by OpenLineage's naming conventions."""
        settings = self._settings
        if engine == "postgresql":
            url = urlsplit(settings.database_url.get_secret_value().replace(",", "?", 1).split("?")[0])
            return (
                f"postgres://{url.hostname or 'localhost'}:{url.port or 5432}",
                f"{url.path.strip('/')}.public.{table}",
            )
        dsn = settings.clickhouse_dsn.get_secret_value() if settings.clickhouse_dsn else settings.clickhouse_host or ""
        url = urlsplit(dsn if "://" in dsn else f"http://{dsn}")
        port = url.port or (8443 if url.scheme in ("https", "clickhousedbs") else 8123)
        return f"clickhouse://{url.hostname or 'localhost'}:{port}", f"{settings.clickhouse_database}.{table}"

    def _column_lineage(self, view: str) -> Any:
        from openlineage.client.facet_v2 import column_lineage_dataset as facet

        engines = {table: SPECS[each].engine for each in SPECS for table in kept_lineage()[each]["reads"]}

        def inputs(columns: Sequence[str], kind: str) -> list[facet.InputField]:
            found = []
            for column in columns:
                table, _, name = column.partition(".")
                how = facet.Transformation(type=kind, subtype="TRANSFORMATION" if kind == "DIRECT" else "FILTER")
                found.append(facet.InputField(*self._table(engines[table], table), name, [how]))
            return found

        lineage = kept_lineage()[view]
        read = [f"{table}.{column}" for table, columns in lineage["reads"].items() for column in columns]
        return facet.ColumnLineageDatasetFacet(
            fields={name: facet.Fields(inputs(columns, "DIRECT")) for name, columns in lineage["features"].items()},
            dataset=inputs(read, "INDIRECT"),
        )


def _schema(view: str) -> Any:
    from openlineage.client.facet_v2 import schema_dataset

    meanings = {field.name: field.description for field in VIEWS[view].features}
    return schema_dataset.SchemaDatasetFacet(
        [
            schema_dataset.SchemaDatasetFacetFields(column.name, str(column.type), meanings.get(column.name))
            for column in snapshot_schema(view)
        ]
    )


def _online_namespace(store: FeatureStore) -> str:
    """Return where the online store is: redis://host:port of its first node, or the kind of store."""
    config: Any = store.config.online_store
    connection = str(getattr(config, "connection_string", ""))
    if connection:
        return f"redis://{connection.split(',')[0]}"
    return str(getattr(config, "type", "online"))
