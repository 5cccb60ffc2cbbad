"""Addresses with a password in them: refused where a driver would misread them, and then repeat part of the password.

A driver cuts `postgresql://user:p@ss@host/db` at the wrong @ and complains about the host "ss@host". So an address has
to be well-formed before any driver sees it, and the passwords in it are kept out of all messages.
"""

import json
import re
from collections.abc import Collection
from urllib.parse import parse_qsl

from pipeline.base.errors import keep_secret

_ESCAPES = "in a password write @ : / ? # [ ] % and a blank as %40 %3A %2F %3F %23 %5B %5D %25 %20"
_USER = r"(?:[^@:/?#\[\]\s]*(?::(?P<password>[^@/?#\[\]\s]*))?@)?"
_HOST = r"(?:\[[\da-fA-F:.]+\]|[\w.%-]*)(?::\d+)?"
_POSTGRES = re.compile(
    rf"postgres(?:ql)?(?:\+\w+)?://{_USER}{_HOST}(?:,{_HOST})*/[^@/?#\s]+(?:\?(?P<query>[^#\s]*))?", re.ASCII
)
_DSN = re.compile(rf"\w+(?:\+\w+)?://{_USER}{_HOST}(?:/[^@/?#\s]*)?(?:\?(?P<query>[^#\s]*))?", re.ASCII)
_HTTP_ADDRESS = re.compile(r"(?:https?://)?(?:\[[\da-fA-F:]+\]|[\w.-]+)(?::\d+)?/?")
_REDIS_NODE = re.compile(r"[\w.-]+:\d+")
_BROKEN_ESCAPE = re.compile(r"%(?![\da-fA-F]{2})")


def checked_postgres_url(url: str) -> str:
    """Return `url`; raises `ValueError`, without any part of it, where it is no well-formed URL of a database."""
    return _checked(url, _POSTGRES, "is no postgresql://user:password@host:port/database")


def checked_clickhouse_dsn(dsn: str) -> str:
    """Return `dsn`; raises `ValueError`, without any part of it, where clickhouse-connect would misread it."""
    if dsn.startswith("chdb:"):
        return dsn
    return _checked(dsn, _DSN, "is no clickhousedb://user:password@host:port/database and no chdb:///directory")


def checked_http_address(address: str) -> str:
    """Return `address`; raises `ValueError`, without any part of it, where it is not just where a server is."""
    if not _HTTP_ADDRESS.fullmatch(address):
        raise ValueError("is no https://host:port, http://host:port or host; a user and a password have no place in it")
    return address


def checked_redis_connection(connection: str, known: Collection[str] | None) -> str:
    """Return `connection`, in Feast's form `host:port,option=value,...`.

    Raises `ValueError`, without any part of it but names of options, where Feast would read something else than what
    is meant. `known` are the options of a single Redis, None for the nodes of a cluster.
    """
    parts = connection.split(",")
    nodes = [part for part in parts if "=" not in part]
    options = [part.split("=", 1) for part in parts if "=" in part]
    for name, value in options:
        if name == "password":
            keep_secret(value)
    if connection.startswith(("redis://", "rediss://")):
        raise ValueError("is a redis:// URL, which Feast does not read: write host:port,ssl=true,password=...")
    if "=" in parts[0] or not all(_REDIS_NODE.fullmatch(node) for node in nodes) or (known and len(nodes) > 1):
        raise ValueError("is no host:port,option=value,...; a password must have no comma, Feast cuts it there")
    if known and any(name not in known for name, _ in options):
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


def _checked(url: str, pattern: re.Pattern[str], fault: str) -> str:
    """Return `url` if it has the form of `pattern`, and remember its passwords; raises `ValueError` otherwise."""
    parts = pattern.fullmatch(url)
    if not parts or _BROKEN_ESCAPE.search(url):
        raise ValueError(f"{fault}; {_ESCAPES}")
    options = dict(parse_qsl(parts["query"] or ""))
    for password in (parts["password"], *(options[name] for name in options if "password" in name)):
        keep_secret(password or "")
    return url
