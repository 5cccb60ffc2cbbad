"""The report as Prometheus metrics, in a file for the textfile collector of node-exporter.

Two samples per feature, one per site whose newest fact is known, and the number of findings by view, kind and level.
"""

import logging
import time
from collections import Counter
from itertools import product
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

from pipeline.operations.report.facts import Report
from pipeline.operations.report.judging import KINDS, Level

logger = logging.getLogger(__name__)

_PREFIX = "feature_store_report"


def write_metrics(report: Report, path: Path) -> None:
    """Write the metrics of `report` to `path`; a file that cannot be written is a warning."""
    registry = CollectorRegistry()

    def gauge(name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"{_PREFIX}_{name}", text, labels, registry=registry)

    gauge("finished_timestamp_seconds", "When the last report was made.").set(time.time())
    findings = gauge("findings", "How many things the last report found wrong with the view.", "view", "kind", "level")
    rows = gauge("rows_set_aside", "Rows that the newest snapshot of the view lacks.", "view")
    event = gauge("newest_event_timestamp_seconds", "The as-of instant of the newest snapshot of the view.", "view")
    source = gauge(
        "newest_source_timestamp_seconds", "The newest source fact of the site in that snapshot.", "view", "site"
    )
    psi = gauge("psi", "Population stability index of the feature against its baseline.", "view", "feature")
    nulls = gauge("null_ratio", "The share of assets whose value is NULL, 0 to 1.", "view", "feature")
    for view in report.views:
        event.labels(view.name).set(view.instant.timestamp())
        rows.labels(view.name).set(view.set_aside)
        for site in view.sites:
            if site.newest_source:
                source.labels(view.name, site.site).set(site.newest_source.timestamp())
        for feature in view.features:
            labels = (view.name, feature.definition.name)
            for one, value in ((psi, feature.psi), (nulls, feature.null_rate)):
                if value is not None:
                    one.labels(*labels).set(round(value, 4))
    counts = Counter((finding.view, finding.kind, finding.level) for finding in report.findings)
    names = {view.name for view in report.views} | {finding.view for finding in report.findings}
    for view_name, kind, level in product(sorted(names), KINDS, (Level.WARNING, Level.ALARM)):
        findings.labels(view_name, kind, level.name.lower()).set(counts[view_name, kind, level])
    try:
        write_to_textfile(str(path), registry)
    except OSError as error:
        logger.warning("Metrics file %s cannot be written: %s", path, error.strerror or error)
