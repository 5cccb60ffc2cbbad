"""One odd row never costs another one its value: dates that are none, sessions that spell differently, locales."""

import json
import logging
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg2
import pytest
from psycopg2 import sql

from dev.schema import create_postgres_schema
from dev.servers import PostgresServer
from pipeline.base.settings import Settings
from pipeline.runs.backfill import backfill
from pipeline.runs.one_instant import materialize
from pipeline.sources.extract import extract_postgres
from pipeline.sources.postgres import open_postgres
from tests.dcmms import MICROSECOND, SITE, TENANT, Dcmms, T, ago, asset_key

ASSETS, WORK_ORDERS = "asset_features", "work_order_features"
INFINITIES = ("infinity", "-infinity")
UNDATED = "PostgreSQL: rows left out, whose own date is missing or infinite: assets 1, work orders 2, alerts 3"


@pytest.fixture(params=INFINITIES)
def infinity(request: pytest.FixtureRequest) -> str:
    """An instant that is none."""
    return request.param


def with_undated_rows(dcmms: Dcmms, date: str | None) -> None:
    """Fill in two plain assets; and an asset, two work orders and three alerts whose own date is `date`."""
    for number in (1, 2):
        asset = dcmms.asset(number, created_at=ago(100))
        dcmms.work_order(asset, ago(10), status="completed", actual_end=ago(9))
        dcmms.alert(asset, ago(5))
    dcmms.asset(3, created_at=date)
    for kind in ("corrective", "preventive"):
        dcmms.work_order(asset_key(1), date, type=kind, status="completed", actual_end=ago(1), updated_at=ago(1))
    for _ in range(3):
        dcmms.alert(asset_key(1), date, "critical")
    # of no asset, they count nowhere anyway
    dcmms.work_order(None, date, updated_at=ago(1))
    dcmms.alert(None, date)


def check_undated_rows(dcmms: Dcmms, caplog: pytest.LogCaptureFixture) -> None:
    """Both assets have the same values, and a run and a backfill tell what was left out, once."""
    for view in (ASSETS, WORK_ORDERS):
        first, second = dcmms.extract(view)
        assert first | {"asset_id": None} == second | {"asset_id": None}
    assert (first["wo_count_30d"], dcmms.column(ASSETS, "recent_alarms_30d")) == (1, [1, 1])
    assert dcmms.column(ASSETS, "total_work_orders") == [1, 1]
    assert dcmms.column(ASSETS, "days_since_last_maintenance") == [9, 9]
    with caplog.at_level(logging.WARNING):
        for result in materialize(dcmms.settings, T, [ASSETS, WORK_ORDERS], dry_run=True):
            assert result.rows == 2
    assert [message for message in caplog.messages if "infinite" in message] == [UNDATED]
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert backfill(dcmms.settings, [ago(1), T], [ASSETS, WORK_ORDERS]).rows == 8
    assert [message for message in caplog.messages if "infinite" in message] == [UNDATED]


def test_rows_whose_own_date_is_infinite_are_left_out_and_counted(
    dcmms: Dcmms, infinity: str, caplog: pytest.LogCaptureFixture
) -> None:
    with_undated_rows(dcmms, infinity)
    check_undated_rows(dcmms, caplog)


@pytest.fixture
def optional_dates(dcmms: Dcmms) -> Iterator[None]:
    """A dCMMS in which rows may be without a date of their own."""
    columns = {"assets": "created_at", "work_orders": "created_at", "alerts": "triggered_at"}

    def alter(action: str) -> None:
        with dcmms.postgres.cursor() as cursor:
            for table, column in columns.items():
                cursor.execute(f"alter table {table} alter {column} {action} not null")
        dcmms.postgres.commit()

    alter("drop")
    yield
    with dcmms.postgres.cursor() as cursor:
        cursor.execute(f"truncate {', '.join(columns)}")
    alter("set")


@pytest.mark.usefixtures("optional_dates")
def test_rows_without_a_date_of_their_own_are_left_out_and_counted(
    dcmms: Dcmms, caplog: pytest.LogCaptureFixture
) -> None:
    with_undated_rows(dcmms, None)
    check_undated_rows(dcmms, caplog)


def test_nothing_is_said_where_nothing_is_left_out(dcmms: Dcmms, caplog: pytest.LogCaptureFixture) -> None:
    dcmms.work_order(dcmms.asset(), ago(1))
    materialize(dcmms.settings, T, [WORK_ORDERS], dry_run=True)
    assert [message for message in caplog.messages if "infinite" in message] == []


def test_infinite_instants_of_an_asset_are_missing(dcmms: Dcmms, infinity: str) -> None:
    dcmms.asset(1, updated_at=infinity)
    dcmms.asset(2, updated_at=infinity, status="decommissioned")
    dcmms.asset(3, installation_date=infinity, created_at=ago(10))
    dcmms.work_order(asset_key(3), ago(4), status="completed", actual_end=ago(2), updated_at=ago(2))
    rows = dcmms.extract(ASSETS)
    assert [row["asset_status"] for row in rows] == [None, None, "operational"]
    assert [row["asset_age_months"] for row in rows] == [None] * 3
    assert [row["mtbf_hours"] for row in rows] == [None, None, 8 * 24]
    assert len(dcmms.extract(WORK_ORDERS)) == 3


# columns of the work order, tasks → days since its completion, None where it is not completed
INFINITE: list[tuple[dict[str, Any], list[datetime | str], int | None]] = [
    ({"status": "completed", "actual_end": "?", "updated_at": ago(2)}, [], 2),
    ({"status": "closed", "actual_end": "?", "updated_at": ago(2)}, [ago(3)], 3),
    ({"status": "closed", "updated_at": ago(2)}, [ago(3), "?"], 3),
    ({"status": "closed", "updated_at": ago(2)}, ["?"], 2),
    ({"status": "closed", "updated_at": ago(2), "actual_end": ago(5)}, ["?"], 5),
    # without a last edit, no task is known to be a fact about the closing
    ({"status": "closed", "updated_at": "?", "actual_end": ago(5)}, [ago(3)], 5),
    ({"status": "closed", "updated_at": "?"}, [ago(3)], None),
    ({"status": "closed", "updated_at": "?", "actual_end": "?"}, ["?"], None),
    # nor that it was cancelled by then
    ({"status": "cancelled", "updated_at": "?"}, [], None),
    ({"status": "open", "scheduled_start": "?", "actual_start": "?"}, [], None),
]


def test_infinite_instants_of_a_work_order_are_missing(dcmms: Dcmms, infinity: str) -> None:
    for number, (columns, tasks, _) in enumerate(INFINITE):
        named = {name: infinity if value == "?" else value for name, value in columns.items()}
        key = asset_key(100 + number)
        dcmms.work_order(dcmms.asset(number), ago(9), id=key, scheduled_end=infinity, **named)
        for completed_at in tasks:
            dcmms.task(key, infinity if completed_at == "?" else completed_at)
    completed = [days for *_, days in INFINITE]
    assert dcmms.column(ASSETS, "days_since_last_maintenance") == completed
    assert dcmms.column(ASSETS, "total_work_orders") == [1] * len(INFINITE)
    assert dcmms.column(WORK_ORDERS, "wo_completion_rate_30d") == [100.0 * (days is not None) for days in completed]
    assert dcmms.column(WORK_ORDERS, "overdue_wo_count_30d") == [0] * len(INFINITE)
    assert dcmms.column(WORK_ORDERS, "avg_wo_completion_hours_30d") == [
        None if days is None else 24.0 * (9 - days) for days in completed
    ]


def test_infinite_instants_of_scores_are_missing(dcmms: Dcmms, infinity: str) -> None:
    asset = dcmms.asset(1)
    dcmms.score(asset, ago(2), 50)
    dcmms.score(asset, infinity, 60)
    dcmms.score(dcmms.asset(2), infinity, 70)
    assert dcmms.column(ASSETS, "health_score") == [50.0, None]


def test_placeholders_of_an_installation_are_missing(dcmms: Dcmms) -> None:
    dates = {
        "0001-01-01": None,
        "1900-01-01": None,
        "1970-01-01": None,
        "0001-01-02": 24302,
        "1900-01-02": 1514,
        "1970-01-02": 674,
        "294276-12-31": None,
        "4713-01-01 BC": 80858,
    }
    for number, date in enumerate(dates):
        asset = dcmms.asset(number, created_at=ago(10), installation_date=date)
        dcmms.work_order(asset, ago(4), status="completed", actual_end=ago(2), updated_at=ago(2))
    assert dict(zip(dates, dcmms.column(ASSETS, "asset_age_months"), strict=True)) == dates
    assert dcmms.column(ASSETS, "mtbf_hours") == [8 * 24] * len(dates)


@pytest.mark.parametrize("variant", ["n"], indirect=True)
def test_a_placeholder_is_one_at_any_time_of_its_day(dcmms: Dcmms) -> None:
    dcmms.asset(1, installation_date="1970-01-01 23:59:59.999999")
    assert dcmms.column(ASSETS, "asset_age_months") == [None]


@pytest.mark.parametrize("variant", ["t"], indirect=True)
def test_a_date_beyond_all_instants_is_after_t(dcmms: Dcmms) -> None:
    asset = dcmms.asset(1, installation_date="5874897-12-31", created_at=ago(10))
    dcmms.work_order(asset, ago(4))
    assert dcmms.row(ASSETS, asset)["asset_age_months"] is None


def test_the_oldest_and_the_latest_instants_harm_nobody(dcmms: Dcmms) -> None:
    """The columns of a thousand work orders of one asset lie at the ends of what PostgreSQL can hold."""
    oldest, latest = "4713-11-24 00:00:00 BC", "294276-12-31 23:59:59.999999"
    for number in (1, 2):
        dcmms.work_order(dcmms.asset(number, created_at=ago(100)), ago(8), status="completed", actual_end=ago(7))
    odd = dcmms.asset(3, created_at=oldest, updated_at=latest, installation_date="4713-11-24 BC")
    plain = {"tenant_id": TENANT, "site_id": SITE, "asset_id": odd, "created_by": TENANT, "type": "corrective"}
    plain |= {"title": "Odd", "priority": "low"}
    dates = {"created_at": oldest, "actual_end": T, "scheduled_end": latest, "updated_at": latest}
    dcmms.insert("work_orders", [plain | dates | {"status": "completed"}] * 1000)
    dcmms.insert("work_orders", [plain | dict.fromkeys(dates, at) | {"status": "closed"} for at in (oldest, latest)])
    dcmms.alert(odd, oldest)
    dcmms.alert(odd, latest)
    dcmms.score(odd, oldest, 1)
    dcmms.score(odd, latest, 2)
    first, second, row = dcmms.extract(ASSETS)
    assert first | {"asset_id": None} == second | {"asset_id": None}
    years = (T - datetime(1, 1, 1, tzinfo=UTC)) / timedelta(days=365.25) + 4713
    assert row["total_work_orders"] == 1001
    assert row["mttr_hours"] / 24 / 365.25 == pytest.approx(years * 1000 / 1001, rel=0.001)
    first, second, row = dcmms.extract(WORK_ORDERS)
    assert first | {"asset_id": None} == second | {"asset_id": None}
    assert row["days_since_last_wo"] / 365.25 == pytest.approx(years, rel=0.001)
    assert (row["repeat_failure_count_90d"], row["overdue_wo_count_30d"]) == (0, 0)


def test_a_row_that_rests_on_facts_before_our_era_alone_is_told(dcmms: Dcmms) -> None:
    asset = dcmms.asset(1, created_at="0044-03-15 BC", updated_at="0044-03-15 BC")
    dcmms.work_order(asset, "0044-03-15 BC", updated_at="0044-03-15 BC")
    assert dcmms.row(ASSETS, asset)["newest_source_at"] is None
    assert dcmms.row(WORK_ORDERS, asset)["newest_source_at"] is None
    assert dcmms.row(WORK_ORDERS, asset)["days_since_last_wo"] == 755683


# sessions and locales ---------------------------------------------------------------------------------------------

# What a server, a database or a role may set otherwise: how values are written, how texts are read, how queries run.
WRONG_SETTINGS = {
    "timezone": "Australia/Adelaide",
    "datestyle": "SQL, DMY",
    "intervalstyle": "sql_standard",
    "extra_float_digits": "-15",
    "bytea_output": "escape",
    "standard_conforming_strings": "off",
    "escape_string_warning": "on",
    "backslash_quote": "off",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "xmlbinary": "hex",
    "xmloption": "document",
    "lc_numeric": "C",
    "lc_time": "C",
    "quote_all_identifiers": "on",
    "timezone_abbreviations": "Australia",
    "client_encoding": "latin1",
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "on",
    "jit": "on",
    "jit_above_cost": "0",
    "work_mem": "64kB",
    "enable_hashagg": "off",
    "enable_hashjoin": "off",
    "enable_nestloop": "on",
    "enable_sort": "off",
    "max_parallel_workers_per_gather": "0",
    "row_security": "off",
}


@pytest.mark.parametrize("owner", ["role {role}", "database {database}", "role {role} in database {database}"])
def test_settings_of_role_and_database_change_no_bit(
    dcmms: Dcmms, postgres: PostgresServer, variant: str, owner: str
) -> None:
    asset = dcmms.asset(1, specifications='{"ratedPowerKw": " 2.05\\u00a0MW\\t"}', manufacturer="Häger \\ Söhne")
    dcmms.asset(
        2, metadata='{"installed_capacity_kw": 0.1}', installation_date=ago(400), updated_at=ago(1) + MICROSECOND
    )
    for days in (3, 4, 5):
        dcmms.work_order(asset, ago(days), status="completed" if days > 3 else "open", actual_end=ago(days - 0.7))
    dcmms.alert(asset, ago(30) + MICROSECOND)
    dcmms.score(asset, ago(1), 80)

    def tables() -> dict[str, Any]:
        with open_postgres(dcmms.settings) as source:
            return {view: extract_postgres(source, view, T) for view in (ASSETS, WORK_ORDERS)}

    expected = tables()
    (rates,) = [expected[WORK_ORDERS]["wo_completion_rate_30d"].to_pylist()]
    assert sorted(rates, key=str)[0] == pytest.approx(200 / 3, rel=1e-7)
    assert sorted(expected[ASSETS]["installed_capacity_kw"].to_pylist()) == [0.1, 2050.0]
    parts = {"role": sql.Identifier("dcmms"), "database": sql.Identifier(f"dcmms_{variant}")}
    altered = sql.SQL(f"alter {owner}").format(**parts)
    with closing(psycopg2.connect(postgres.admin_url)) as admin, admin.cursor() as cursor:
        admin.autocommit = True
        try:
            for name, value in WRONG_SETTINGS.items():
                cursor.execute(sql.SQL("{} set {} = {}").format(altered, sql.Identifier(name), sql.Literal(value)))
                assert {view: table.equals(expected[view]) for view, table in tables().items()} == {
                    ASSETS: True,
                    WORK_ORDERS: True,
                }, name
                cursor.execute(sql.SQL("{} reset all").format(altered))
        finally:
            cursor.execute(sql.SQL("{} reset all").format(altered))


LOCALES = {
    "C": "locale_provider libc locale 'C'",
    "C.UTF-8": "locale_provider libc locale 'C.UTF-8'",
    "builtin C.UTF-8": "locale_provider builtin builtin_locale 'C.UTF-8' locale 'C'",
    "builtin Unicode": "locale_provider builtin builtin_locale 'PG_UNICODE_FAST' locale 'C'",
    "ICU": "locale_provider icu icu_locale 'en-US' locale 'C'",
    "Turkish ICU": "locale_provider icu icu_locale 'tr-TR' locale 'C'",
}


@pytest.mark.parametrize("locale", LOCALES)
def test_locales_change_no_capacity(postgres: PostgresServer, variant: str, locale: str) -> None:
    figures = [
        "12\u00a0kW",
        "\u200912\u2009kW ",
        "12\tKW",
        "12\nkW",
        "12\u202fkW",
        "12 \u212aW",
        "\u0661\u0662",
        "12 kWDC",
    ]
    database = "dcmms_locale"
    with closing(psycopg2.connect(postgres.admin_url)) as admin, admin.cursor() as cursor:
        admin.autocommit = True
        try:
            cursor.execute(
                f"create database {database} owner dcmms template template0 encoding 'UTF8' {LOCALES[locale]}"
            )
        except psycopg2.errors.FeatureNotSupported as error:
            pytest.skip(f"this server cannot: {error.diag.message_primary}")
        try:
            url = postgres.url("dcmms", database)
            with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as inserting:
                create_postgres_schema(connection, variant)
                for number, figure in enumerate(figures):
                    inserting.execute(
                        "insert into assets (id, tenant_id, site_id, type, created_at, specifications)"
                        " values (%s, %s, %s, 'turbine', %s, %s)",
                        (asset_key(number), TENANT, SITE, ago(9), json.dumps({"ratedPowerKw": figure})),
                    )
            with open_postgres(Settings(database_url=url, clickhouse_dsn="chdb:///unused")) as source:
                table = extract_postgres(source, ASSETS, T).sort_by("asset_id")
        finally:
            cursor.execute(f"drop database {database}")
    assert table["installed_capacity_kw"].to_pylist() == [12.0, 12.0, 12.0, None, None, None, None, 12.0]
