"""How the tables come about and change, on a real server."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import events.kafka.dead_letters
import events.sealing
import services.capacity.worker
import services.gateway.asked_for
import services.gateway.intake
import services.gateway.pages.sessions
import services.gateway.read_model
import services.gateway.ringing
import services.gateway.token_store
import services.placement.worker
from deploy.parts import PostgreSQL
from deploy.postgresql import prepare
from events.log import schema
from events.log.engines import is_database_trouble
from events.log.schema import SchemaMissing, SchemaNewer, SchemaOutdated, verify_version
from events.log.store import NO_STREAM, EventLog
from services.gateway.read_model import ReadModel, request_parties, requests
from services.migrate import FILES, ROLES, SCHEMAS, MigrationFailed, NotPrepared, latest, migrate
from services.notifications.queue import RingQueue
from tests.events.drafts import a_draft
from tests.real.postgresql_database import PASSWORDS, Database, a_database, a_server

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    with a_server() as server:
        yield server


@pytest.fixture
def database(server: PostgreSQL) -> Iterator[Database]:
    with a_database(server, migrated=False) as database:
        yield database


@pytest.fixture
def owner(database: Database) -> sa.URL:
    return database.url("haven_migrator")


@pytest.fixture
def version_two(tmp_path: Path) -> Path:
    """A later release with one step more: a column for every log, and a table for the gateway."""
    files = tmp_path / "migrations"
    shutil.copytree(FILES, files)
    number = latest() + 1
    (files / f"{number:04}_log.sql").write_text("ALTER TABLE events ADD COLUMN checked text; -- for tests only\n")
    (files / f"{number:04}_gateway.sql").write_text("CREATE TABLE novelties (id text PRIMARY KEY);\n")
    with (files / "rights.sql").open("a") as rights:
        rights.write("GRANT SELECT ON gateway.novelties TO haven_gateway;\n")
    return files


def tables(database: Database) -> set[str]:
    with database.engine().connect() as connection:
        return set(
            connection.exec_driver_sql(
                "SELECT table_schema || '.' || table_name FROM information_schema.tables "
                "WHERE table_schema IN ('gateway', 'placement', 'capacity', 'keys')"
            ).scalars()
        )


def shape(engine: sa.Engine, where: str) -> dict[str, Any]:
    """Everything about the tables of a schema that could differ, apart from the order of the columns."""
    look = sa.inspect(engine)
    return {
        name: {
            "columns": {
                column["name"]: (str(column["type"]), column["nullable"], column["default"], column.get("identity"))
                for column in look.get_columns(name, where)
            },
            "key": look.get_pk_constraint(name, where)["constrained_columns"],
            "unique": {one["name"]: one["column_names"] for one in look.get_unique_constraints(name, where)},
            "checks": {one["name"]: one["sqltext"] for one in look.get_check_constraints(name, where)},
            "indexes": {one["name"]: (one["column_names"], one["unique"]) for one in look.get_indexes(name, where)},
            "comment": look.get_table_comment(name, where)["text"],
        }
        for name in look.get_table_names(where)
    }


OF_EVERY_LOG = (schema.metadata, events.kafka.dead_letters.metadata)
DECLARED = {
    "gateway": (
        *OF_EVERY_LOG,
        services.gateway.intake.metadata,
        services.gateway.read_model.metadata,
        services.gateway.read_model.changes_metadata,
        services.gateway.ringing.metadata,
        services.gateway.token_store.metadata,
        services.gateway.asked_for.metadata,
        services.gateway.pages.sessions.metadata,
    ),
    "placement": (*OF_EVERY_LOG, services.placement.worker.metadata),
    "capacity": (*OF_EVERY_LOG, services.capacity.worker.metadata),
    "keys": (events.sealing.metadata,),
}
MADE_BY_SQL_ALONE = {"schema_version", "relay_cursors"}


@pytest.mark.parametrize("where", SCHEMAS)
def test_the_steps_lead_to_the_very_tables_the_code_declares(database: Database, owner: sa.URL, where: str) -> None:
    migrate(owner)
    database.admin("CREATE SCHEMA declared")
    engine = database.engine(schema="declared")
    for metadata in DECLARED[where]:
        metadata.create_all(engine)
    migrated = shape(engine, where)
    assert {name: made for name, made in migrated.items() if name not in MADE_BY_SQL_ALONE} == shape(engine, "declared")


def test_a_second_run_changes_nothing(database: Database, owner: sa.URL) -> None:
    first = migrate(owner)
    assert "gateway: 0001_log.sql" in first
    before = [shape(database.engine(), where) for where in SCHEMAS]
    assert migrate(owner) == []
    assert [shape(database.engine(), where) for where in SCHEMAS] == before


def test_two_at_once_do_it_once(owner: sa.URL) -> None:
    done: list[list[str]] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(migrate(owner))
        except Exception as failure:  # noqa: BLE001
            failed.append(failure)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
    assert sorted(map(bool, done)) == [False, False, True]


def test_a_database_of_the_first_version_is_brought_to_the_second_with_all_it_holds(
    database: Database, owner: sa.URL, version_two: Path
) -> None:
    migrate(owner)
    log = database.log("gateway")
    (appended,) = log.append([a_draft()], NO_STREAM)
    assert migrate(owner, version_two) == [
        f"gateway: {latest() + 1:04}_log.sql",
        f"gateway: {latest() + 1:04}_gateway.sql",
        f"placement: {latest() + 1:04}_log.sql",
        f"capacity: {latest() + 1:04}_log.sql",
    ]
    assert "gateway.novelties" in tables(database)
    assert EventLog(log.engine, "gateway", latest(version_two)).read_stream("unit-1") == [appended]
    log.append([a_draft()])
    with database.engine("haven_gateway").connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM novelties").scalar() == 0
    assert migrate(owner, version_two) == []


def test_a_new_database_goes_the_same_way(database: Database, owner: sa.URL, version_two: Path) -> None:
    migrate(owner, version_two)
    new = [shape(database.engine(), where) for where in SCHEMAS]
    other = Database(database.admin_url, f"{database.name}_upgraded")
    prepare(other.admin_url, PASSWORDS, other.name)
    try:
        migrate(other.url("haven_migrator"))
        migrate(other.url("haven_migrator"), version_two)
        assert [shape(other.engine(), where) for where in SCHEMAS] == new
    finally:
        for engine in other.engines.values():
            engine.dispose()
        database.admin(f"DROP DATABASE {other.name} WITH (FORCE)")


def test_a_step_that_fails_leaves_everything_as_it_was(database: Database, owner: sa.URL, version_two: Path) -> None:
    migrate(owner)
    before = tables(database)
    (version_two / f"{latest() + 1:04}_keys.sql").write_text("CREATE TABLE more (x int); SELECT 1 / 0;")
    with pytest.raises(MigrationFailed, match=r"_keys\.sql failed in schema keys.*22012 division by zero"):
        migrate(owner, version_two)
    assert tables(database) == before
    verify_version(database.engine("haven_gateway"), latest())


def test_a_service_does_not_start_on_a_database_without_tables(database: Database) -> None:
    with pytest.raises(SchemaMissing, match="haven migrate"):
        database.log("placement")


def test_a_service_does_not_start_on_an_older_database(database: Database, owner: sa.URL) -> None:
    migrate(owner)
    newer = EventLog(database.engine("haven_placement"), "placement", latest() + 1)
    with pytest.raises(SchemaOutdated, match="haven migrate"):
        newer.create_schema()


def test_an_older_release_neither_starts_on_nor_migrates_a_newer_database(
    database: Database, owner: sa.URL, version_two: Path
) -> None:
    migrate(owner, version_two)
    with pytest.raises(SchemaNewer, match="upgrade Haven"):
        database.log("capacity")
    with pytest.raises(SchemaNewer, match="upgrade Haven"):
        migrate(owner)
    with pytest.raises(SchemaNewer, match="schema keys"):
        verify_version(database.engine("haven_eraser"), latest())


def test_without_roles_the_administrator_is_asked_for_them(server: PostgreSQL, database: Database) -> None:
    with pytest.raises(NotPrepared, match=r"roles\.sql"):
        migrate(server.url)  # another database of the same server
    with pytest.raises(NotPrepared):
        migrate(database.url("haven_gateway"))


def test_an_administrator_who_migrates_makes_nothing_of_his_own(database: Database) -> None:
    migrate(database.url())
    with database.engine().connect() as connection:
        owners = connection.exec_driver_sql(
            "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname IN ('gateway', 'placement', 'capacity', 'keys')"
        ).scalars()
        assert list(owners) == ["haven_migrator"]


def test_a_right_given_by_hand_is_gone_after_the_next_run(database: Database, owner: sa.URL) -> None:
    migrate(owner)
    database.admin(
        "GRANT ALL ON gateway.events TO haven_gateway",
        "GRANT SELECT ON keys.data_keys TO PUBLIC",
        "CREATE POLICY everything ON gateway.requests TO haven_gateway USING (true)",
        "ALTER TABLE gateway.requests NO FORCE ROW LEVEL SECURITY",
    )
    migrate(owner)
    with database.engine().connect() as connection:
        row = connection.exec_driver_sql(
            "SELECT has_table_privilege('haven_gateway', 'gateway.events', 'DELETE'), "
            "has_table_privilege('haven_placement', 'keys.data_keys', 'SELECT'), "
            "(SELECT count(*) FROM pg_policies WHERE policyname = 'everything'), "
            "(SELECT relforcerowsecurity FROM pg_class WHERE oid = 'gateway.requests'::regclass)"
        ).one()
    assert tuple(row) == (False, False, 0, True)


def test_preparing_twice_changes_nothing_but_the_passwords(server: PostgreSQL, database: Database) -> None:
    settings = "SELECT rolname, rolconnlimit FROM pg_roles WHERE rolname LIKE 'haven%%' ORDER BY 1"
    with database.engine().connect() as connection:
        before = connection.exec_driver_sql(settings).all()
        prepare(server.url, {}, database.name)
        assert connection.exec_driver_sql(settings).all() == before
    assert len(before) == len(ROLES)


@pytest.mark.slow
def test_a_migration_beside_services_at_work_costs_them_at_most_another_try(database: Database, owner: sa.URL) -> None:
    migrate(owner)
    done, unexpected, tries = threading.Event(), [], {"done": 0, "again": 0}

    def at_work(work: Callable[[int], object]) -> None:
        n = 0
        while not done.is_set():
            n += 1
            try:
                work(n)
                tries["done"] += 1
            except Exception as failure:  # noqa: BLE001
                tries["again"] += 1
                if not is_database_trouble(failure):
                    unexpected.append(failure)

    model = ReadModel(database.engine("haven_gateway"))
    log, shown = database.log("gateway"), database.log("gateway", "haven_projection")

    def project(n: int) -> None:
        with shown.writing() as tx:
            tx.connection.execute(
                sa.insert(requests).values(request_id=f"r-{n}", opened_at="2026", revision=1, view="{}")
            )
            tx.connection.execute(sa.insert(request_parties).values(request_id=f"r-{n}", party="coordinator:BE"))

    works = (
        lambda n: log.append([a_draft(f"unit-{n}")], NO_STREAM),
        lambda _n: model.requests(["coordinator:BE"], None, 10),
        lambda n: model.case_timeline(f"r-{n}", ["coordinator:BE"]),
        project,
    )
    threads = [threading.Thread(target=at_work, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    refused = 0
    for _ in range(20):
        time.sleep(0.05)
        try:
            migrate(owner)
        except MigrationFailed:
            refused += 1
    done.set()
    for thread in threads:
        thread.join(30)
    assert unexpected == []
    assert tries["done"] > 100
    assert refused == 0, tries


@pytest.mark.parametrize("there_were_cases", [False, True])
def test_nobody_is_rung_after_the_upgrade_until_the_read_model_says_who_waits(
    database: Database, owner: sa.URL, there_were_cases: bool, tmp_path: Path
) -> None:
    """Views from before do not say since when somebody waits, and no row says who does."""
    before = tmp_path / "before"
    shutil.copytree(FILES, before)
    for step in before.glob("000[3-9]_*.sql"):
        step.unlink()
    # As every release left it: a table whose rows its owner does not see.
    (before / "rights.sql").write_text(
        "ALTER TABLE gateway.requests ENABLE ROW LEVEL SECURITY; ALTER TABLE gateway.requests FORCE ROW LEVEL SECURITY;"
    )
    migrate(owner, before)
    if there_were_cases:
        database.admin("INSERT INTO gateway.requests VALUES ('r-1', '2026-11-26T02:05:00.000000Z', 1, '{}')")
    migrate(owner)
    assert RingQueue(database.engine("haven_notifier")).is_paused() is there_were_cases
