"""`python -m gateway`: the dCMMS endpoints, until SIGTERM or Ctrl-C."""

import os
import tempfile
from typing import Any

import click
import uvicorn
from fastapi import FastAPI

# How long requests that are being answered have when the gateway is asked to stop.
GRACE_SECONDS = 10


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--host", default="127.0.0.1", help="Address to listen on; a proxy with TLS stands before it.")
@click.option("--port", type=click.IntRange(1, 65_535), default=3000)
@click.option("--workers", type=click.IntRange(min=1), default=1, help="Processes that answer.")
@click.option("--access-log/--no-access-log", default=True, help="A line per request.")
def main(host: str, port: int, workers: int, access_log: bool) -> None:
    """Answer the dCMMS endpoints for features; the settings are in .env.example."""
    from gateway.settings import GatewaySettings
    from pipeline.base.settings import read_settings

    read_settings(GatewaySettings)  # complains once, and not in each worker
    with tempfile.TemporaryDirectory(prefix="gateway-metrics-") as metrics:
        if workers > 1:
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = metrics
        uvicorn.run(
            "gateway.__main__:app",
            factory=True,
            host=host,
            port=port,
            workers=workers,
            access_log=False,
            log_config=_logging(access_log),
            server_header=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )


def app() -> FastAPI:
    """Return the gateway with the settings of this process."""
    from pipeline.base.quick_feast import leave_out_type_checks

    leave_out_type_checks()
    from gateway.app import create_app
    from gateway.settings import GatewaySettings
    from pipeline.base.settings import read_settings

    return create_app(read_settings(GatewaySettings))


def _logging(access_log: bool) -> dict[str, Any]:
    """Return a JSON object per line on standard error, without any password."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"without_secrets": {"()": "pipeline.base.logs.WithoutSecrets"}},
        "formatters": {
            "json": {
                "()": "pipeline.base.logs.JsonLines",
                "fmt": "{levelname}{name}{message}",
                "style": "{",
                "rename_fields": {"levelname": "level", "name": "logger"},
                "timestamp": "time",
            }
        },
        "handlers": {
            "standard error": {"class": "logging.StreamHandler", "formatter": "json", "filters": ["without_secrets"]}
        },
        "root": {"level": "INFO", "handlers": ["standard error"]},
        "loggers": {"gateway.access": {"level": "INFO" if access_log else "ERROR"}},
    }


if __name__ == "__main__":
    main()
