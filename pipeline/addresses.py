"""Addresses with a password in them: refused where a driver would misread them, and then repeat part of the password.

A driver cuts `postgresql://user:p@ss@host/db` at the wrong @ and complains about the host "ss@host". So an address has
to be well-formed before any driver sees it, and the passwords in it are kept out of all messages.
"""

import inspect
import json
import re
from urllib.parse import parse_qsl, urlsplit

from redis import Redis

from pipeline.errors import keep_secret

_ESCAPES = "in a password write @ : / ? # % and a blank as %40 %3A %2F %3F %23 %25 %20"
_POSTGRES = re.compile(
    r"postgres(?:ql)?(?:\+\w+)?://(?:[^@:/?#\s]*(?::[^@/?#\s]*)?@)?[^@/?#\s]*/[^@/?#\s]+(?:\?[^#\s]*)?", re.ASCII
)
_DSN = re.compile(r"\w+(?:\+\w+)?://(?:[^@:/?#\s]*(?::[^@/?#\s]*)?@)?(?:\[[\da-fA-F:]+\]|[\w.-]+)(?::\d+)?(?:[/?]\S*)?")
_HTTP_ADDRESS = re.compile(r"(?:https?://)?(?:\[[\da-fA-F:]+\]|[\w.-]+)(?::\d+)?/?")
_REDIS_NODE = re.compile(r"[\w.-]+:\d+")
_BROKEN_ESCAPE = re.compile(r"%(?![\da-fA-F]{2})")


def checked_postgres_url(url: str) -> str:
    """Return `url`; raises `ValueError`, without any part of it, where it is no well-formed URL of a database."""
    if not _POSTGRES.fullmatch(url) or _BROKEN_ESCAPE.search(url):
        raise ValueError(f"is no postgresql://user:password@host:port/database; {_ESCAPES}")
    _keep_passwords(url)
    return url


def checked_clickhouse_dsn(dsn: str) -> str:
    """Return `dsn`; raises `ValueError`, without any part of it, where clickhouse-connect would misread it."""
    if dsn.startswith("chdb:"):
        return dsn
    if not _DSN.fullmatch(dsn) or _BROKEN_ESCAPE.search(dsn):
        raise ValueError(f"is no clickhouse://user:password@host:port/database and no chdb:///directory; {_ESCAPES}")
    _keep_passwords(dsn)
    return dsn


def checked_http_address(address: str) -> str:
    """Return `address`; raises `ValueError`, without any part of it, where it is not just where a server is."""
    if not _HTTP_ADDRESS.fullmatch(address):
        raise ValueError("is no https://host:port, http://host:port or host; a user and a password have no place in it")
    return address


def checked_redis_connection(connection: str, *, single: bool) -> str:
    """Return `connection`, in Feast's form `host:port,option=value,...`.

    Raises `ValueError`, without any part of it but names of options, where Feast would read something else than what
    is meant. `single` says that it is for a single Redis, whose options are known.
    """
    parts = connection.split(",")
    nodes = [part for part in parts if "=" not in part]
    options = [part.split("=", 1) for part in parts if "=" in part]
    for name, value in options:
        if name == "password":
            keep_secret(value)
    if connection.startswith(("redis://", "rediss://")):
        raise ValueError("is a redis:// URL, which Feast does not read: write host:port,ssl=true,password=...")
    if "=" in parts[0] or not all(_REDIS_NODE.fullmatch(node) for node in nodes) or (single and len(nodes) > 1):
        raise ValueError("is no host:port,option=value,...; a password must have no comma, Feast cuts it there")
    known = inspect.signature(Redis).parameters
    if single and any(name not in known for name, _ in options):
        raise ValueError("has an option that the client of Redis does not have; a password must have no comma")
    for name, value in options:
        if name == "password" and _as_feast_reads(value) != value:
            raise ValueError("has a password that Feast takes for JSON and changes: choose one that is no number")
    return connection


def _as_feast_reads(value: str) -> str:
    """Return an option's value as Feast passes it on: it tries JSON first."""
    try:
        return str(json.loads(value))
    except json.JSONDecodeError:
        return value


def _keep_passwords(url: str) -> None:
    parts = urlsplit(url)
    keep_secret(parts.password or "")
    for name, value in parse_qsl(parts.query):
        if "password" in name:
            keep_secret(value)
