"""Code in Feast's registry: the functions of on-demand and other transforming views, which whoever reads a view runs.

This repository defines no such view. The registry's own form of a view, its protobuf, is looked at: Feast's objects
have the function run, or unpickled, as soon as they are made.
"""

from collections.abc import Iterable
from typing import Any

from feast.protos.feast.core.OnDemandFeatureView_pb2 import OnDemandFeatureView
from google.protobuf.message import Message

from pipeline.base.errors import PipelineError

_FUNCTIONS = {"UserDefinedFunction", "UserDefinedFunctionV2", "SubstraitTransformationV2"}


def refuse_code(views: Iterable[Any]) -> None:
    """Raise `PipelineError` where one of `views`, protobufs of any kind of feature view, holds a function."""
    if names := sorted(view.spec.name for view in views if isinstance(view, OnDemandFeatureView) or _holds_code(view)):
        raise PipelineError(
            f"Feast registry: {', '.join(names)} would run code in everything that reads the registry, and this "
            "repository defines no such view",
            "Find out who registered it, delete its row by SQL (Feast's own commands run the code), and change the "
            "registry's password: SECURITY.md",
        )


def _holds_code(message: Message) -> bool:
    if message.DESCRIPTOR.name in _FUNCTIONS:
        return True
    return any(_holds_code(part) for field, value in message.ListFields() if field.message_type for part in _all(value))


def _all(value: Any) -> Iterable[Message]:
    """Return the messages in the value of a field that has one, many, or a name for each."""
    parts = [value] if isinstance(value, Message) else value.values() if hasattr(value, "values") else value
    return (part for part in parts if isinstance(part, Message))
