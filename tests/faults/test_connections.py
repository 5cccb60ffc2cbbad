"""Connections that break off, stall or are refused, at any byte: a run is complete, or says in a line why it is not."""

import os
import random

import pytest

from tests.faults.conftest import LONG
from tests.faults.net import Net
from tests.faults.proxy import TO_CLIENT, Fault

SEED = int(os.environ.get("FAULT_SEED", "20260311"))
KINDS = (
    {"kind": "cut"},
    {"kind": "reset"},
    {"kind": "truncate"},
    {"kind": "delay"},
    {"kind": "cut", "lasting": True},
    {"kind": "reset", "lasting": True},
)


@pytest.mark.timeout(900 if LONG else 240)
def test_connections_that_break(net: Net) -> None:
    chance = random.Random(SEED)
    faults = [
        (name, Fault(way, chance.randrange(size), **kind))
        for (name, way), size in net.total_bytes.items()
        for kind in (*KINDS, *([{"kind": "stall"}] if way == TO_CLIENT else []))
    ]
    wrong = []
    for name, fault in faults if LONG else [faults[0], faults[-2]]:
        try:
            net.inject(name, fault)
        except AssertionError as error:
            wrong.append(str(error))
    assert not wrong, f"seed {SEED}:\n" + "\n".join(wrong)
