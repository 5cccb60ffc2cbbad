"""Connections that break off, stall or are refused, at any byte: a run is complete, or says in a line why it is not."""

import os
import random

import pytest

from tests.faults.conftest import LONG
from tests.faults.net import CLEAR_FAILURE, REGISTRY, Net
from tests.faults.proxy import TO_CLIENT, TO_SERVER, Fault

SEED = int(os.environ.get("FAULT_SEED", "20260311"))
KINDS = (
    {"kind": "cut"},
    {"kind": "reset"},
    {"kind": "truncate"},
    {"kind": "delay"},
)
# The other faults, in one direction each.
ONE_WAY = {
    TO_SERVER: ({"kind": "cut", "lasting": True},),
    TO_CLIENT: ({"kind": "reset", "lasting": True}, {"kind": "stall"}),
}


@pytest.mark.timeout(1800 if LONG else 240)
def test_connections_that_break(net: Net) -> None:
    chance = random.Random(SEED)
    faults = [
        (name, Fault(way, chance.randrange(size), **kind))
        for (name, way), size in net.total_bytes.items()
        for kind in (*KINDS, *ONE_WAY[way])
    ]
    wrong = []
    for name, fault in faults if LONG else [faults[0], faults[-2]]:
        try:
            result = net.inject(name, fault)
            # The lock of the run is in the registry: without it nothing more is published. All else is tried again.
            passes = fault.passes and name != REGISTRY
            assert result != CLEAR_FAILURE or not passes, f"{name}: {fault} was not tried again"
        except AssertionError as error:
            wrong.append(str(error))
    assert not wrong, f"seed {SEED}:\n" + "\n".join(wrong)
