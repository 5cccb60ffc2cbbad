"""Which faults of PostgreSQL may pass by themselves, by what the server and libpq say to either of its drivers."""

import re

# Connection exceptions, too many connections, shutdown or start of the server, and the conflicts after which PostgreSQL
# itself says to run the transaction again.
_PASSING_STATES = ("08", "53300", "57P01", "57P02", "57P03", "40001", "40P01")
# Of a connection that was not made libpq tells no SQLSTATE, so there is nothing but its words. What a server says that
# takes no connection just now, and what libpq says of one that can never work:
_NOT_NOW = re.compile(r"database system is|too many|slots")
_NEVER = re.compile(r"certificate|support SSL|alert|wrong version|password|Name or service not known|invalid")


def may_pass(sqlstate: str | None, text: str) -> bool:
    """Return whether a connection that failed with `text` or a transaction that failed with `sqlstate` may do later."""
    if sqlstate:
        return sqlstate.startswith(_PASSING_STATES)
    return bool(_NOT_NOW.search(text)) if "FATAL:" in text else not _NEVER.search(text)
