"""Settings, read once from the environment and `.env` into one typed object."""

import os
import re
from collections.abc import Iterable
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, FilePath, SecretStr, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from pipeline import REPOSITORY
from pipeline.base.addresses import checked_clickhouse_dsn, checked_http_address, checked_postgres_url
from pipeline.base.errors import PipelineError, keep_secret
from pipeline.base.places import DataDir, Store, checked_store
from settings_file import in_environment, settings_file

Kind = TypeVar("Kind", bound=BaseSettings)


def _postgres_url(url: SecretStr) -> SecretStr:
    checked_postgres_url(url.get_secret_value())
    return url


def _clickhouse_dsn(dsn: SecretStr) -> SecretStr:
    if dsn:  # empty is none
        checked_clickhouse_dsn(dsn.get_secret_value())
    return dsn


def _http_address(address: str) -> str:
    return checked_http_address(address) if address else address


def _kept_secret(password: SecretStr) -> SecretStr:
    keep_secret(password.get_secret_value())
    return password


def _token(token: SecretStr) -> SecretStr:
    if re.search(r"[^!-~]", token.get_secret_value()):
        raise ValueError("has characters that no header of HTTP has")
    return _kept_secret(token)


# How densely snapshots are kept until which age: (step, age), ascending. None: all of them, for ever.
Keep = tuple[tuple[timedelta, timedelta], ...]


def parsed_keep(text: str) -> Keep:
    """Return what `1h:90d,1d:730d` means: one an hour for 90 d, then one a day until 730 d; empty keeps all.

    Raises `ValueError` for a text that means nothing.
    """
    units = {"h": timedelta(hours=1), "d": timedelta(days=1)}
    bands = [
        re.fullmatch(r"\s*([1-9]\d{0,4})([hd]):([1-9]\d{0,4})([hd])\s*", band, re.ASCII) for band in text.split(",")
    ]
    keep = tuple((int(m[1]) * units[m[2]], int(m[3]) * units[m[4]]) for m in bands if m)
    if text.strip() and (len(keep) < len(bands) or any(a[0] >= b[0] or a[1] >= b[1] for a, b in pairwise(keep))):
        raise ValueError(
            f"{text} is nothing like 1h:90d,1d:730d: a step and until what age, each more than the one before"
        )
    return keep


def _kept(text: str) -> str:
    parsed_keep(text)
    return text


DEFAULT_DATA_DIR = Path("data")
# As dCMMS calls it, and the SQL.
TELEMETRY_TABLE = "telemetry_aggregates"
DataDirectory = Annotated[Path, BeforeValidator(lambda path: _path(path) or DEFAULT_DATA_DIR)]
OptionalFile = Annotated[FilePath | None, BeforeValidator(lambda path: _path(path))]


def _path(text: str | Path | None) -> Path | None:
    """Return where `text` leads, None for nothing; raises `ValueError` where the system knows no such paths."""
    path = Path(text) if text else None
    try:
        if path:
            path.exists()
    except OSError as error:
        raise ValueError(f"is a path that cannot be looked at: {error.strerror}") from None
    return path


class Settings(BaseSettings):
    """Where the databases are and how to read them. Secrets never show in its `repr`.

    Each field is the environment variable of the same name in capitals; `.env` in the repository, or the file that
    `FEATURE_STORE_ENV_FILE` names, holds values for the variables that the environment does not have.
    """

    model_config = SettingsConfigDict(extra="ignore", hide_input_in_errors=True)

    database_url: Annotated[SecretStr, AfterValidator(_postgres_url)]
    clickhouse_dsn: Annotated[SecretStr, AfterValidator(_clickhouse_dsn)] | None = None
    clickhouse_host: Annotated[str, AfterValidator(_http_address)] | None = None
    clickhouse_user: str = "default"
    clickhouse_password: Annotated[SecretStr, AfterValidator(_kept_secret)] = SecretStr("")
    clickhouse_ca_cert: OptionalFile = None
    clickhouse_client_cert: OptionalFile = None
    clickhouse_client_cert_key: OptionalFile = None
    clickhouse_database: str = Field("dcmms_analytics", pattern=r"^\w+$")
    clickhouse_table: str = Field(TELEMETRY_TABLE, pattern=r"^[A-Za-z_]\w*$")
    telemetry_bucket_minutes: int = Field(60, ge=1, le=1440)
    feature_data_dir: DataDirectory = DEFAULT_DATA_DIR
    feature_snapshots: Annotated[str, AfterValidator(checked_store)] = ""
    statement_timeout_seconds: int = Field(900, ge=1, le=2_000_000)  # PostgreSQL counts milliseconds in 32 bits
    retry_seconds: float = Field(30, ge=0, le=86_400)
    shard_wait_seconds: float = Field(1800, ge=0, le=86_400)
    redis_wait_replicas: int = Field(0, ge=0, le=100)
    keep_snapshots: Annotated[str, AfterValidator(_kept)] = ""
    schedule_minutes: int = Field(60, ge=1, le=100_000_000)
    quality_max_drop: float = Field(0.2, ge=0, le=1)
    quality_max_rejected: float = Field(0.01, ge=0, le=1)
    feature_server_url: Annotated[str, AfterValidator(_http_address)] = "http://127.0.0.1:6566"
    rest_token: Annotated[SecretStr, AfterValidator(_token)] = SecretStr("")

    @model_validator(mode="after")
    def _one_clickhouse(self) -> "Settings":
        if not (self.clickhouse_dsn or self.clickhouse_host):
            raise ValueError("CLICKHOUSE_HOST (or CLICKHOUSE_DSN) is missing")
        if not self.feature_data_dir.is_absolute():
            self.feature_data_dir = REPOSITORY / self.feature_data_dir
        return self

    @property
    def snapshots(self) -> DataDir:
        """Where the snapshots are: the folder, or the store that FEATURE_SNAPSHOTS names."""
        return Store(self.feature_snapshots, self.feature_data_dir) if self.feature_snapshots else self.feature_data_dir

    @property
    def bucket_seconds(self) -> int:
        """Width of a telemetry bucket in seconds."""
        return self.telemetry_bucket_minutes * 60

    @property
    def keep(self) -> Keep:
        """How densely snapshots are kept until which age."""
        return parsed_keep(self.keep_snapshots)

    @property
    def age_limit(self) -> timedelta:
        """How old the published values of a view may be: one run of the schedule may be missed, not two."""
        return 2 * timedelta(minutes=self.schedule_minutes)


def load_settings() -> Settings:
    """Return the settings of this process; raises as `read_settings`."""
    return read_settings(Settings)


def read_settings(kind: type[Kind]) -> Kind:
    """Return settings of the class `kind`, from the environment and the settings file.

    Raises `PipelineError`, one line that names every variable that is missing or malformed, and no value of any.
    """
    try:
        with in_environment():
            check_text(kind.model_fields)
            return kind(_env_file=None)
    except ValidationError as error:
        faults = "; ".join(_fault(detail) for detail in error.errors())
        raise PipelineError(
            f"Settings: {faults}. Set it in the environment or in {settings_file()} (see .env.example)."
        ) from None


def check_text(names: Iterable[str]) -> None:
    """Raise `PipelineError` where one of the variables `names` of the environment is no text in UTF-8."""
    wanted = {name.upper() for name in names}
    for name, value in os.environ.items():
        if name.upper() in wanted and any("\ud800" <= each <= "\udfff" for each in value):
            raise PipelineError(
                f"Settings: {name} is no UTF-8 text. Set it in the environment or in {settings_file()}."
            )


def _fault(detail: ErrorDetails) -> str:
    """Return one pydantic error as `VARIABLE what is wrong`."""
    variable = "_".join(str(part) for part in detail["loc"]).upper()
    if detail["type"] == "missing":
        return f"{variable} is missing"
    message = detail["msg"].removeprefix("Value error, ")
    return f"{variable} {message[0].lower()}{message[1:]}" if variable else message
