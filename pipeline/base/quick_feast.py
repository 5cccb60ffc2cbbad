"""Feast, imported in a third of the time that it takes by itself."""

from typing import TypeVar

import typeguard

T = TypeVar("T")


def leave_out_type_checks() -> None:
    """Let Feast's classes stay as they are written.

    It has the types of all calls of them checked at run time, and preparing that takes most of its import. For
    processes that use Feast and do not define anything, before their first import of it.
    """
    typeguard.typechecked = _as_it_is  # type: ignore[assignment]


def _as_it_is(target: T) -> T:
    return target
