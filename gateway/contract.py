"""The bodies of requests and answers, for validation and for OpenAPI."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StringConstraints

from pipeline.base.specs import SERVICES
from pipeline.base.views import VIEW_NAMES

AssetId = Annotated[
    str,
    StringConstraints(
        strict=True, pattern=r"^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"
    ),
]
# Registered are those that are defined, or older or newer ones: what is asked for is looked up there.
Service = Annotated[
    str,
    Field(
        description="A feature service by its name, in place of the one that is answered by default.",
        json_schema_extra={"enum": [*SERVICES]},
    ),
]
_EXAMPLE_ID = "83559962-7e57-5308-9ca5-2dc142375e2d"
_EXAMPLE_RUN = "0b9a7c52-6d0f-4b61-9d59-0c6b0a3f5f0e"


def _example(**example: Any) -> ConfigDict:
    return _examples(example)


def _examples(*examples: dict[str, Any]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": list(examples)})


class FeatureRequest(BaseModel):
    """The assets whose features are asked for, `assets.id` of dCMMS; capitals and repetitions do no harm."""

    model_config = ConfigDict(extra="forbid") | _examples(
        {"assetIds": [_EXAMPLE_ID]}, {"assetIds": [_EXAMPLE_ID], "service": next(iter(SERVICES))}
    )

    assetIds: Annotated[list[AssetId], Field(min_length=1, max_length=100)]
    service: Service | None = None


class MaterializeRequest(BaseModel):
    """`force`: publish although the online values are not older."""

    model_config = ConfigDict(extra="forbid") | _example(force=False)

    force: StrictBool = False


class AssetFeatures(BaseModel):
    """One asset. `present`: all views have values. `partial`: some have. `expired`: all that there is is too old.

    `not_found`: there are none, or the asset is another tenant's. What is not there is null. `asOf` has the instant
    of the values of each view that has any.
    """

    assetId: str
    features: dict[str, float | int | str | None]
    status: Literal["present", "partial", "expired", "not_found"]
    asOf: dict[str, str]


class FeatureAnswer(BaseModel):
    """The features of each asset, in the order asked."""

    model_config = _example(
        count=1,
        features=[
            {
                "assetId": _EXAMPLE_ID,
                "features": {"health_score": 68.85832977294922, "total_work_orders": 12, "manufacturer": None},
                "status": "present",
                "asOf": {"asset_features": "2026-01-01T00:00:00Z"},
            }
        ],
    )

    count: int
    features: list[AssetFeatures]


class FeatureDetails(BaseModel):
    """A feature: its type in Feast, unit and meaning."""

    name: str
    type: str
    unit: str | None
    meaning: str


class ViewDetails(BaseModel):
    """A feature view with what the service has of it."""

    name: str
    description: str
    ttlSeconds: float | None
    features: list[FeatureDetails]


class ViewsAnswer(BaseModel):
    """The feature views of a service: names, or all about them with `details`."""

    model_config = _example(count=len(VIEW_NAMES), featureViews=[*VIEW_NAMES])

    count: int
    featureViews: list[str] | list[ViewDetails]


class Health(BaseModel):
    """Whether features can be read and are fresh."""

    model_config = _example(healthy=True, status="ok")

    healthy: bool
    status: Literal["ok", "unhealthy"]


class Accepted(BaseModel):
    """A run that has been started."""

    model_config = _example(message="materialization started", status="processing", runId=_EXAMPLE_RUN)

    message: str
    status: Literal["processing"]
    runId: str


class ViewOutcome(BaseModel):
    """What became of a view."""

    view: str
    outcome: str
    rows: int
    rejected: int
    error: str | None


class RunOutcome(BaseModel):
    """What became of a run: `starting` until it has the lock, `running`, then `done`, `failed`, ..."""

    model_config = _example(
        runId=_EXAMPLE_RUN,
        status="done",
        asOf="2026-01-01T00:00:00Z",
        startedAt="2026-01-01T00:00:04Z",
        finishedAt="2026-01-01T00:00:19Z",
        error=None,
        views=[{"view": "asset_features", "outcome": "online", "rows": 60, "rejected": 0, "error": None}],
    )

    runId: str
    status: str
    asOf: str | None = None
    startedAt: str | None = None
    finishedAt: str | None = None
    error: str | None = None
    views: list[ViewOutcome] = []


class Problem(BaseModel):
    """The form of every error."""

    model_config = _example(statusCode=401, error="Unauthorized", message="the token has expired")

    statusCode: int
    error: str
    message: str
    details: list[dict[str, Any]] | None = None
    requiredPermissions: list[str] | None = None
    runId: str | None = None
