"""What operators are told of a real PostgreSQL, under the roles it is used with."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry

from deploy.parts import PostgreSQL
from deploy.postgresql import prepare
from events.key_file import load_or_create_key_file
from events.log.engines import postgresql_engine
from events.log.inbox import Consumer
from reference import load
from services.config import Settings
from services.connections import most_of
from services.gateway.read_model import moment_key
from services.migrate import latest
from services.operations import doctor, metrics
from services.operations.case_metrics import watch_read_model
from services.operations.health import clock_reasons, clock_skew, database_clock
from services.operations.installation import checks
from tests.operations.test_metrics import Receiver, Sweep, samples
from tests.real.postgresql_database import PASSWORDS, Database, a_database, a_server

pytestmark = pytest.mark.real
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
WORKERS = {"haven_placement": True, "haven_capacity": True, "haven_projection": False}
"""Each role of a worker, and whether its service has timers."""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    with a_server() as server:
        yield server


@pytest.fixture
def database(server: PostgreSQL) -> Iterator[Database]:
    with a_database(server) as database:
        yield database


def real_time() -> datetime:
    return datetime.now(UTC)


def by_name(findings: list[doctor.Finding]) -> dict[str, doctor.Finding]:
    return {finding.name: finding for finding in findings}


# Metrics


@pytest.mark.parametrize(("role", "has_timers"), WORKERS.items())
def test_a_worker_may_read_what_its_metrics_are_made_from(database: Database, role: str, has_timers: bool) -> None:
    registry = CollectorRegistry()
    engine = database.engine(role)
    receiver = Receiver(Consumer(role, database.log(role.removeprefix("haven_"), role), lambda *_: None))
    metrics.watch_worker(registry, Sweep(), [receiver], engine, lambda: NOW, has_timers=has_timers)
    said = samples(registry)
    assert said["haven_worker_database_up"] == 1
    assert said[f"haven_dead_letters{{consumer={role},state=given_up}}"] == 0
    assert ("haven_timer_overdue_seconds" in said) is has_timers


def test_the_projection_counts_every_case_and_the_gateway_none(database: Database) -> None:
    statements = []
    view = '{"stage": "asked", "urgency": "urgent", "deadline": "%s", "country": "NL"}'
    late = view % moment_key(NOW - timedelta(minutes=1))
    asked = moment_key(NOW - timedelta(minutes=9))
    statements += [
        f"INSERT INTO gateway.requests VALUES ('r', '{asked}', 1, '{late}')",
        "INSERT INTO gateway.requests VALUES ('s', 'x', 1, '{\"stage\": \"unmet_need\", \"deadline\": null}')",
        'INSERT INTO gateway.requests VALUES (\'t\', \'x\', 1, \'{"stage": "ended", "deadline": "2020"}\')',
        "INSERT INTO gateway.asks VALUES ('a', 'r', 'nl-shelter-01', 'open'), ('b', 'r', 'nl-shelter-02', 'declined')",
        'INSERT INTO gateway.units VALUES (\'u\', \'nl-shelter-01\', \'{"country": "NL", "freshness": "ageing"}\')',
        *(
            "INSERT INTO gateway.trail VALUES "
            f"('{moment}', 1, 'relocation_request-r', {number}, 'e{number}', 'placement', 'placement.ask.made.v1', 'disclosure', "
            f"'r', 'p', 'system', 'o', '', 'r', 'c', '{{\"ask_id\": \"{ask}\"}}')"
            for number, (ask, moment) in enumerate([("a", asked), ("b", moment_key(NOW - timedelta(hours=2)))])
        ),
    ]
    with database.engine("haven_projection").begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement.replace("%", "%%"))
    said = {}
    for role in ("haven_projection", "haven_gateway"):
        registry = CollectorRegistry()
        watch_read_model(registry, database.engine(role), lambda: NOW, load().countries)
        said[role] = samples(registry)
        assert said[role]["haven_read_model_up"] == 1
    seen = said["haven_projection"]
    assert seen["haven_oldest_open_ask_seconds{urgency=urgent}"] == 540
    assert seen["haven_open_asks{urgency=urgent}"] == 1
    assert seen["haven_open_requests{stage=asked}"] == 1
    assert seen["haven_open_requests{stage=unmet_need}"] == 1
    assert seen["haven_requests_past_deadline"] == 1
    assert seen["haven_units{country=NL,freshness=ageing}"] == 1
    assert all(value == 0 for name, value in said["haven_gateway"].items() if name != "haven_read_model_up")


def test_a_server_that_is_frozen_is_said_to_be_silent_and_hangs_no_scrape(
    database: Database, server: PostgreSQL
) -> None:
    registry = CollectorRegistry()
    watch_read_model(registry, database.engine("haven_projection"), lambda: NOW, load().countries)
    assert samples(registry)["haven_read_model_up"] == 1
    server.pause()
    try:
        began = time.monotonic()
        for _ in range(3):
            said = samples(registry)
            assert said == {"haven_read_model_up": 0}
        assert time.monotonic() - began < 25
    finally:
        server.resume()
    deadline = time.monotonic() + 30
    while samples(registry)["haven_read_model_up"] == 0:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_what_moved_is_counted_anew_without_reading_everything_again(database: Database) -> None:
    registry = CollectorRegistry()
    engine = database.engine("haven_projection")
    watch_read_model(registry, engine, lambda: NOW, load().countries)
    with engine.begin() as connection:
        connection.exec_driver_sql("""INSERT INTO gateway.requests VALUES ('r', 'x', 1, '{"stage": "asked"}')""")
    assert samples(registry)["haven_open_requests{stage=asked}"] == 1
    with engine.begin() as connection:
        connection.exec_driver_sql("""UPDATE gateway.requests SET view = '{"stage": "ended"}'""")
        connection.exec_driver_sql(
            "INSERT INTO gateway.changes (kind, subject, revision, parties) VALUES ('relocation_request', 'r', 2, '[]')"
        )
    assert samples(registry)["haven_open_requests{stage=asked}"] == 0


# Clocks


def test_the_clocks_of_one_machine_agree_and_one_set_wrong_does_not(database: Database) -> None:
    engine = database.engine("haven_gateway")
    assert clock_skew(lambda: database_clock(engine), real_time) == ""
    ahead = clock_skew(lambda: database_clock(engine), lambda: real_time() + timedelta(seconds=5))
    assert "s ahead of the database's" in ahead
    behind = clock_skew(lambda: database_clock(engine), lambda: real_time() - timedelta(hours=1))
    assert "s behind the database's" in behind
    assert clock_reasons(engine) == {}
    assert "NTP" in clock_reasons(engine, lambda: real_time() + timedelta(seconds=5))["clock"]
    nobody = sa.create_engine("postgresql+psycopg://127.0.0.1:1/haven")
    assert clock_reasons(nobody) == {}, "a database that cannot be asked is somebody else's reason"


# The doctor


@pytest.mark.parametrize("role", ["haven_gateway", "haven_projection", "haven_placement", "haven_capacity"])
def test_a_sound_database_is_found_sound_under_every_role(database: Database, server: PostgreSQL, role: str) -> None:
    findings = doctor.database(database.url(role), latest())
    bad = [finding for finding in findings if not finding.ok]
    assert [finding.name for finding in bad] in ([], ["database durability"]), (
        bad
    )  # the tests' own server does not fsync
    assert set(by_name(findings)) == {
        "database",
        "database version",
        "database durability",
        "database role",
        "database connections",
        "database tables",
        "clock",
    }


@pytest.mark.parametrize("role", ["haven_relay", "haven_migrator", "haven_eraser"])
def test_a_role_without_tables_of_its_own_is_not_asked_for_them(database: Database, role: str) -> None:
    findings = by_name(doctor.database(database.url(role), None))
    assert findings["database role"].ok
    assert "database tables" not in findings


def test_a_wrong_password_is_named_and_not_repeated(database: Database) -> None:
    (finding,) = doctor.database(database.url("haven_gateway").set(password="PLOVER-41"), latest())
    assert not finding.ok
    assert "refuses the password of haven_gateway" in finding.finding
    assert "haven_gateway_password" in finding.remedy
    assert "PLOVER" not in str(finding)


def test_a_database_or_role_that_is_missing_is_named(database: Database) -> None:
    (finding,) = doctor.database(database.url("haven_gateway").set(database="nowhere"), latest())
    assert "no database nowhere" in finding.finding
    assert "roles.sql" in finding.remedy


def test_tables_of_another_release_are_named_with_what_to_run(database: Database, server: PostgreSQL) -> None:
    newer = by_name(doctor.database(database.url("haven_placement"), latest() - 1))["database tables"]
    assert not newer.ok
    assert "upgrade Haven" in newer.remedy
    older = by_name(doctor.database(database.url("haven_placement"), latest() + 1))["database tables"]
    assert "haven migrate" in older.remedy
    with a_database(server, migrated=False) as bare:
        missing = by_name(doctor.database(bare.url("haven_placement"), latest()))["database tables"]
        assert "haven migrate" in missing.remedy


def test_a_role_that_may_do_more_than_it_must_is_named(database: Database) -> None:
    administrator = by_name(doctor.database(database.url(), None))
    assert not administrator["database role"].ok
    assert "roles.sql" in administrator["database role"].remedy


def test_processes_that_may_want_more_than_their_role_may_hold_are_found(own_postgresql: PostgreSQL) -> None:
    with a_database(own_postgresql) as database, ExitStack() as running:
        url = database.url("haven_capacity")

        def found() -> doctor.Finding:
            return by_name(doctor.database(url, latest()))["database connections"]

        assert found().ok
        each = most_of("capacity", "haven_capacity")
        enough = limits(database)["haven_capacity"] // each
        for number in range(enough + 1):
            engine = postgresql_engine(url.update_query_dict({"application_name": f"haven capacity {number} a-host"}))
            running.callback(engine.dispose)
            running.enter_context(engine.connect())
            if number == enough - 1:
                assert found().ok
        crowded = found()
        assert not crowded.ok
        assert f"its {enough + 1} processes" in crowded.finding
        assert "run fewer" in crowded.remedy


def test_a_server_with_too_few_places_for_all_roles_is_found(own_postgresql: PostgreSQL) -> None:
    with a_database(own_postgresql) as database:
        with database.engine().connect() as connection:
            places = int(connection.scalar(sa.text("SHOW max_connections")) or 0)
        try:
            database.admin(f"ALTER ROLE haven_auditor CONNECTION LIMIT {places}")
            finding = by_name(doctor.database(database.url("haven_relay"), None))["database connections"]
        finally:
            prepare(own_postgresql.url, {}, database.name)
        assert not finding.ok
        assert "max_connections" in finding.remedy
        assert by_name(doctor.database(database.url("haven_relay"), None))["database connections"].ok


def limits(database: Database) -> dict[str, int]:
    with database.engine().connect() as connection:
        rows = connection.exec_driver_sql("SELECT rolname, rolconnlimit FROM pg_roles WHERE rolname LIKE 'haven%%'")
        return {role: limit for role, limit in rows}  # noqa: C416 - rows are no pairs to `dict`


def test_a_database_that_answers_before_it_has_written_is_named(own_postgresql: PostgreSQL) -> None:
    with a_database(own_postgresql) as database:
        url = database.url("haven_capacity")
        assert all(finding.ok for finding in doctor.database(url, latest()))
        database.admin("ALTER ROLE haven_capacity SET synchronous_commit = off")
        found = [finding for finding in doctor.database(url, latest()) if not finding.ok]
    assert [finding.name for finding in found] == ["database durability"]
    assert "synchronous_commit" in found[0].remedy


def test_a_clock_that_is_wrong_is_named(database: Database) -> None:
    findings = doctor.database(database.url("haven_gateway"), latest(), lambda: real_time() + timedelta(minutes=3))
    skewed = by_name(findings)["clock"]
    assert not skewed.ok
    assert "NTP" in skewed.remedy


def test_a_server_that_is_frozen_is_found_in_a_bounded_time(database: Database, server: PostgreSQL) -> None:
    url = database.url("haven_gateway")
    server.pause()
    try:
        began = time.monotonic()
        (finding,) = doctor.examine({"database": lambda: doctor.database(url, latest())})
        assert time.monotonic() - began < 25
    finally:
        server.resume()
    assert not finding.ok
    assert finding.remedy
    assert not [password for password in PASSWORDS.values() if password in str(finding)]


def test_a_sound_installation_is_found_sound_under_all_its_roles(database: Database, tmp_path: Path) -> None:
    for role, password in PASSWORDS.items():
        (tmp_path / f"{role}_password").write_text(password)
        (tmp_path / f"{role}_password").chmod(0o600)
    load_or_create_key_file(tmp_path / "key-file")
    url = database.url()
    address = f"postgresql://{url.host}:{url.port}/{url.database}"
    settings = Settings(database=address, secrets_dir=tmp_path, data_dir=tmp_path / "data")
    findings = doctor.examine(checks(settings, latest()), 30)
    examined = {finding.name.partition(" as ")[2] for finding in findings} - {""}
    assert examined == set(PASSWORDS)
    bad = [finding for finding in findings if not finding.ok and not finding.name.startswith("database durability")]
    assert bad == [], "the tests' own server does not wait for the disk, and that is all"
