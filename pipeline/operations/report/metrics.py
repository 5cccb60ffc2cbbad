"""The report as Prometheus metrics, in a file for the textfile collector of node-exporter.

One sample per feature and metric: 86 features are 172 samples, and a site has one. Texts are no labels.
"""

import logging
import time
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

from pipeline.operations.report.judging import Level
from pipeline.operations.report.report import Report

logger = logging.getLogger(__name__)

_PREFIX = "feature_store_report"


def write_metrics(report: Report, path: Path) -> None:
    """Write the metrics of `report` to `path`; a file that cannot be written is a warning."""
    registry = CollectorRegistry()

    def gauge(name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"{_PREFIX}_{name}", text, labels, registry=registry)

    gauge("finished_timestamp_seconds", "When the last report was made.").set(time.time())
    findings = gauge("findings", "What the last report found wrong with the view.", "view", "level")
    rows = gauge("rows_set_aside", "Rows that the newest snapshot of the view lacks.", "view")
    event = gauge("newest_event_timestamp_seconds", "The as-of instant of the newest snapshot of the view.", "view")
    source = gauge(
        "newest_source_timestamp_seconds", "The newest source fact of the site in that snapshot.", "view", "site"
    )
    psi = gauge("psi", "Population stability index of the feature against its baseline.", "view", "feature")
    nulls = gauge("null_ratio", "The share of assets whose value is NULL, 0 to 1.", "view", "feature")
    level = gauge("feature_level", "0 is fine, 1 a warning, 2 an alarm.", "view", "feature")
    for view in report.views:
        event.labels(view.name).set(view.instant.timestamp())
        rows.labels(view.name).set(view.set_aside)
        for site in view.sites:
            if site.newest_source:
                source.labels(view.name, site.site).set(site.newest_source.timestamp())
        for feature in view.features:
            labels = (view.name, feature.definition.name)
            level.labels(*labels).set(feature.level)
            for one, value in ((psi, feature.psi), (nulls, feature.null_rate)):
                if value is not None:
                    one.labels(*labels).set(round(value, 4))
    for name in sorted({view.name for view in report.views} | {each.view for each in report.findings}):
        for each in (Level.WARNING, Level.ALARM):
            number = sum(finding.view == name and finding.level == each for finding in report.findings)
            findings.labels(name, each.name.lower()).set(number)
    try:
        write_to_textfile(str(path), registry)
    except OSError as error:
        logger.warning("Metrics file %s cannot be written: %s", path, error.strerror or error)
