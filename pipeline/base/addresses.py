"""Addresses with a password in them: refused where a driver would misread them, and then repeat part of the password.

A driver cuts `postgresql://user:p@ss@host/db` at the wrong @ and complains about the host "ss@host". So an address has
to be well-formed before any driver sees it, and the passwords in it are kept out of all messages.
"""

import ipaddress
import json
import re
from collections.abc import Mapping
from typing import Any, get_args
from urllib.parse import parse_qsl

from pipeline.base.errors import keep_secret

_ESCAPES = "in a password write @ : / ? # [ ] % and a blank as %40 %3A %2F %3F %23 %5B %5D %25 %20"
_USER = r"(?:[^@:/?#\[\]\s]*(?::(?P<password>[^@/?#\[\]\s]*))?@)?"
_PORT = r"(?:6553[0-5]|655[0-2]\d|65[0-4]\d\d|6[0-4]\d{3}|[1-5]\d{4}|[1-9]\d{0,3})"
# Longer labels, and empty ones, are what Python's sockets raise UnicodeError for. A socket begins with an escape.
_NAME = r"[\w-]{1,63}(?:\.[\w-]{1,63})*\.?"
_IPV6 = r"\[[\da-fA-F:.]+\]"
_HOST = rf"(?:{_IPV6}|{_NAME}|%[\w.%-]*)?(?::{_PORT})?"
_POSTGRES = re.compile(
    rf"postgres(?:ql)?(?:\+\w+)?://{_USER}{_HOST}(?:,{_HOST})*/[^@/?#\s]+(?:\?(?P<query>[^#\s]*))?", re.ASCII
)
_DSN = re.compile(rf"\w+(?:\+\w+)?://{_USER}{_HOST}(?:/[^@/?#\s]*)?(?:\?(?P<query>[^#\s]*))?", re.ASCII)
_HTTP_ADDRESS = re.compile(rf"(?:https?://)?(?:{_IPV6}|{_NAME})(?::{_PORT})?/?", re.ASCII)
_REDIS_NODE = re.compile(rf"{_NAME}:{_PORT}", re.ASCII)
_REDIS_URL = re.compile(
    rf"redis(?P<tls>s)?://(?P<login>(?P<user>[\w.-]*):[^@/?#,\s]*@)?(?P<host>[\w.-]+)(?::(?P<port>{_PORT}))?"
    r"(?:/(?P<db>\d{1,3})?)?(?:\?[^@\s]*)?",
    re.ASCII,
)
# The node stands before the options, and answers have to be bytes.
_NO_OPTIONS = {"host", "port", "decode_responses", "encoding", "encoding_errors"}
_PLAIN = {str, int, float, bool, type(None)}
_LARGEST = 2**31
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
    if not _HTTP_ADDRESS.fullmatch(address) or not _real_ipv6(address):
        raise ValueError("is no https://host:port, http://host:port or host; a user and a password have no place in it")
    return address


def checked_redis_connection(connection: str, known: Mapping[str, Any] | None) -> str:
    """Return `connection`, in Feast's form `host:port,option=value,...`.

    Raises `ValueError`, without any part of it but names of options, where Feast would read something else than what
    is meant. `known` are the options of a single Redis with their types, None for the nodes of a cluster.
    """
    parts = connection.split(",")
    nodes = [part for part in parts if "=" not in part]
    options = [part.split("=", 1) for part in parts if "=" in part]
    for name, value in options:
        if name == "password":
            keep_secret(value)
    if parts[0].startswith(("redis://", "rediss://")):
        raise ValueError(f"is a redis:// URL, which Feast does not read: write {_as_feast_writes(connection)}")
    if "=" in parts[0] or not all(_REDIS_NODE.fullmatch(node) for node in nodes) or (known and len(nodes) > 1):
        raise ValueError("is no host:port,option=value,...; a password must have no comma, Feast cuts it there")
    if any(name in _NO_OPTIONS or (known and not _is_plain(name, known)) for name, _ in options):
        raise ValueError("has an option that the client of Redis does not have; a password must have no comma")
    for name, value in options:
        if name == "password" and str(_as_feast_reads(value)) != value:
            raise ValueError("has a password that Feast takes for JSON and changes: choose one that is no number")
        if known and not _fits(_as_feast_reads(value), known[name]):
            raise ValueError(f"has a value of {name} that the client of Redis does not take")
    return connection


def _as_feast_writes(url: str) -> str:
    """Return a redis:// URL in Feast's form; without its password, and what it does not say for sure stays general."""
    found = _REDIS_URL.fullmatch(url)
    if not found:
        return "host:port,ssl=true,password=..."
    options = ["ssl=true"] if found["tls"] else []
    if found["login"]:
        options += [*([f"username={found['user']}"] if found["user"] else []), "password=..."]
    options += [f"db={found['db']}"] if found["db"] and int(found["db"]) else []
    as_it_is = ", with the password as it is, without %xx" if found["login"] else ""
    return ",".join([f"{found['host']}:{found['port'] or 6379}", *options]) + as_it_is


def _is_plain(name: str, known: Mapping[str, Any]) -> bool:
    """Return whether an option's value can be written, unlike an object."""
    return name in known and (str in get_args(known[name]) or {*(get_args(known[name]) or [known[name]])} <= _PLAIN)


def _fits(value: Any, kind: Any) -> bool:
    if isinstance(value, int | float) and not isinstance(value, bool) and not 0 <= value < _LARGEST:
        return False
    # As JSON has them: any other word is true to the client.
    return type(value) in (get_args(kind) or [kind]) or (isinstance(value, int) and float in get_args(kind))


def _as_feast_reads(value: str) -> Any:
    """Return an option's value as Feast passes it on: it tries JSON first."""
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


def _real_ipv6(url: str) -> bool:
    """Return whether each [...] of `url` holds an IPv6 address, as `urllib.parse` asks for."""
    try:
        return all(ipaddress.IPv6Address(each) for each in re.findall(r"\[(.*?)\]", url))
    except ipaddress.AddressValueError:
        return False


def _checked(url: str, pattern: re.Pattern[str], fault: str) -> str:
    """Return `url` if it has the form of `pattern`, and remember its passwords; raises `ValueError` otherwise."""
    parts = pattern.fullmatch(url)
    if not parts or _BROKEN_ESCAPE.search(url) or not _real_ipv6(url):
        raise ValueError(f"{fault}; {_ESCAPES}")
    options = dict(parse_qsl(parts["query"] or ""))
    for password in (parts["password"], *(options[name] for name in options if "password" in name)):
        keep_secret(password or "")
    return url
