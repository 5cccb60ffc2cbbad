"""Settings of the gateway, read once from the environment and `.env`."""

from datetime import timedelta
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from pipeline.base.addresses import checked_postgres_url
from pipeline.base.errors import keep_secret

# RFC 7518: a key of HS256 has at least as many bits as the hash.
SHORTEST_SECRET_BYTES = 32


def _jwt_secret(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value()
    if len(text.encode()) < SHORTEST_SECRET_BYTES:
        raise ValueError(f"has to be at least {SHORTEST_SECRET_BYTES} bytes long")
    keep_secret(text)
    return secret


def _registry_url(url: SecretStr) -> SecretStr:
    if url:  # empty is none
        checked_postgres_url(url.get_secret_value())
    return url


class GatewaySettings(BaseSettings):
    """Whom the gateway believes, what it answers, and how often. The stores are those of feature_store.yaml."""

    model_config = SettingsConfigDict(extra="ignore", hide_input_in_errors=True)

    jwt_secret: Annotated[SecretStr, AfterValidator(_jwt_secret)]
    gateway_feature_service: str = "predictive_maintenance_v2"
    gateway_requests_per_minute: int = Field(100, ge=1)
    gateway_cors_origins: str = ""
    gateway_runs_registry_url: Annotated[SecretStr, AfterValidator(_registry_url)] = SecretStr("")
    schedule_minutes: int = Field(60, ge=1)

    @property
    def cors_origins(self) -> list[str]:
        """Return the origins whose pages may call the gateway; none by default."""
        return [origin for origin in map(str.strip, self.gateway_cors_origins.split(",")) if origin]

    @property
    def age_limit(self) -> timedelta:
        """How old the values of a view may be in a healthy store: as in `materialize_features.py status`."""
        return 2 * timedelta(minutes=self.schedule_minutes)
