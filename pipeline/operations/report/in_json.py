"""The report in types that JSON has."""

from dataclasses import asdict
from datetime import datetime
from typing import Any

import numpy as np

from pipeline.operations.report.facts import FeatureReport, Freshness, Report, ViewReport
from pipeline.operations.report.judging import Finding, instant_text
from pipeline.registry.ledger import Comparison

_OF_RUN = ("outcome", "rows", "rejected", "implausible", "compared", "inconsistent")


def as_json(report: Report) -> dict[str, Any]:
    """Return the report in types that JSON has; instants are ISO 8601 in UTC, ages in seconds."""
    return {
        "as_of": instant_text(report.as_of),
        "level": report.level.name.lower(),
        "findings": [_finding_as_json(each) for each in report.findings],
        "notes": report.notes,
        "views": [_view_as_json(view, report.as_of) for view in report.views],
        "runs": [
            {
                "run_id": str(run.run_id),
                "as_of": instant_text(run.as_of),
                "started_at": instant_text(run.started_at),
                "outcome": run.outcome,
                "error": run.error,
                "views": {view: {name: row.get(name) for name in _OF_RUN} for view, row in run.views.items()},
            }
            for run in report.runs
        ],
    }


def _finding_as_json(finding: Finding) -> dict[str, Any]:
    fields = {"view": finding.view, "feature": finding.feature, "site": finding.site}
    said = {"level": finding.level.name.lower(), "kind": finding.kind, "text": finding.text}
    return said | {name: value for name, value in fields.items() if value}


def _view_as_json(view: ViewReport, as_of: datetime) -> dict[str, Any]:
    return {
        "view": view.name,
        "as_of": instant_text(view.instant),
        "baseline": view.baseline and instant_text(view.baseline),
        "same_season": view.season and instant_text(view.season),
        "set_aside": view.set_aside,
        "skew": view.skew and _skew_as_json(view.skew),
        "rows_course": [[instant_text(at), rows] for at, rows in view.rows],
        "freshness": _freshness_as_json(view.freshness, as_of),
        "sites": [{"site": site.site or None} | _freshness_as_json(site, as_of) for site in view.sites],
        "features": [_feature_as_json(feature) for feature in view.features],
    }


def _skew_as_json(skew: Comparison) -> dict[str, Any]:
    return asdict(skew) | {name: instant_text(getattr(skew, name)) for name in ("as_of", "finished_at")}


def _freshness_as_json(each: Freshness, as_of: datetime) -> dict[str, Any]:
    ages = {
        f"{name}_age_seconds": None if at is None else (as_of - at).total_seconds()
        for name, at in (("event", each.newest_event), ("source", each.newest_source), ("online", each.online))
    }
    names = ("rows", "rows_before", "asked", "missing")
    return {name: getattr(each, name) for name in names} | ages


def _feature_as_json(feature: FeatureReport) -> dict[str, Any]:
    limits = {name: getattr(feature, name) for name in ("warns", "alarms")}
    names = ("psi", "null_rate", "null_rate_before", "quartiles", "quartiles_before")
    return {
        "feature": feature.definition.name,
        "unit": feature.definition.tags["unit"],
        "level": feature.level.name.lower(),
        "baseline": feature.baseline and instant_text(feature.baseline),
        **{name: getattr(feature, name) for name in names},
        # no limit is no number in JSON
        **{
            f"psi_{name}": limit if limit is not None and np.isfinite(limit) else None for name, limit in limits.items()
        },
        "bins": [dict(zip(("bin", "before", "now"), each, strict=True)) for each in feature.bins],
        "null_course": [[instant_text(at), rate] for at, rate in feature.nulls],
    }
