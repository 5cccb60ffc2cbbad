"""Telemetry read in groups of sites: sites that belong together stay together, and the rows are the same."""

import pytest

from pipeline.sources import telemetry
from pipeline.sources.clickhouse import open_clickhouse
from pipeline.sources.telemetry import connected, read_telemetry, site_groups
from tests.dcmms import Dcmms, T, ago, asset_key, bucket

SITES = [f"00000000-0000-4000-8000-00000000010{number}" for number in range(4)]


@pytest.fixture
def variant() -> str:
    return "n"


def test_sites_between_which_an_asset_moved_are_one() -> None:
    counts = [(["a"], 5), (["b"], 2), (["b", "c"], 1), (["c", "d"], 1), (["e"], 7), (["d"], 1)]
    assert connected(counts) == [(["a"], 5), (["b", "c", "d"], 5), (["e"], 7)]


def test_rows_do_not_depend_on_the_groups(dcmms: Dcmms, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(12):
        asset = dcmms.asset(number)
        dcmms.buckets(
            *[
                bucket(asset, "power_kw", ago(hours=hour), 10.0 * ((number + hour) % 5), site_id=SITES[number % 4])
                for hour in range(1, 60)
            ]
        )
    # asset 0 has moved from site 0 to site 1
    dcmms.buckets(bucket(asset_key(0), "voltage_v", ago(hours=70), 400.0, site_id=SITES[1]))
    with open_clickhouse(dcmms.settings) as source:
        whole = read_telemetry(source, "telemetry_features", [T], 3600).sort_by("asset_id")
        monkeypatch.setattr(telemetry, "ROWS_PER_QUERY", 300)
        assert site_groups(source, ago(90), T, rows_per_group=300) == [SITES[:2], SITES[2:3], SITES[3:]]
        assert read_telemetry(source, "telemetry_features", [T], 3600).sort_by("asset_id").equals(whole)
    assert whole.num_rows == 12
    assert whole["availability_7d"].null_count == 0
