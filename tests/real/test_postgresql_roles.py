"""What each role of the database may do, and that it may do nothing else; on a real server, as it is deployed."""

import re
import time
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import InternalError, OperationalError, ProgrammingError

from deploy.parts import PostgreSQL
from deploy.postgresql import ROLES as ROLES_FILE
from events.gateway import TrailQuery
from events.key_file import KeyEncryptionKeys
from events.log.engines import ANSWER_SECONDS, is_database_trouble, lift_time_limit
from events.log.store import NO_STREAM, EventLog
from events.sealing import KeyDestroyed, KeyStore
from services.gateway.projection import Projection, projection_log
from services.gateway.read_model import AVAILABILITY, ReadModel
from services.migrate import ROLES, SCHEMAS, latest
from tests.events.drafts import a_draft
from tests.real.postgresql_database import Database, a_database, a_server

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    with a_server() as server:
        yield server


@pytest.fixture(scope="module")
def shared(server: PostgreSQL) -> Iterator[Database]:
    """One database for all tests that leave nothing behind."""
    with a_database(server) as database:
        yield database


@pytest.fixture
def database(server: PostgreSQL) -> Iterator[Database]:
    with a_database(server) as database:
        yield database


def refused(engine: sa.Engine, statement: str) -> str:
    """The SQLSTATE with which the server refuses a statement."""
    with pytest.raises((ProgrammingError, InternalError)) as failure, engine.begin() as connection:
        connection.exec_driver_sql(statement)
    return str(failure.value.orig.sqlstate)


# History

APPENDERS = (
    ("haven_gateway", "gateway"),
    ("haven_projection", "gateway"),
    ("haven_placement", "placement"),
    ("haven_capacity", "capacity"),
)
CHANGES_OF_HISTORY = [
    "UPDATE events SET record = '{}'",
    "DELETE FROM events",
    "TRUNCATE events",
    "DROP TABLE events",
    "ALTER TABLE events ADD COLUMN note text",
    "ALTER TABLE events DROP CONSTRAINT one_event_per_id",
    "ALTER TABLE events DISABLE TRIGGER ALL",
    "ALTER TABLE events OWNER TO CURRENT_USER",
    "ALTER SEQUENCE events_position_seq RESTART",
    "SELECT setval('events_position_seq', 1)",
    "CREATE TRIGGER quiet BEFORE INSERT ON events EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "CREATE RULE quiet AS ON INSERT TO events DO INSTEAD NOTHING",
    "SET session_replication_role = replica",
    "LOCK TABLE events IN ACCESS EXCLUSIVE MODE",
    (
        "INSERT INTO events (position, id, stream, version, type, record) OVERRIDING SYSTEM VALUE "
        "VALUES (0, 'past', 'past', 1, 'x', 'x')"
    ),
    (
        "INSERT INTO events (id, stream, version, type, record) VALUES ('e-1', 'x', 1, 'x', 'x') "
        "ON CONFLICT (id) DO UPDATE SET record = 'x'"
    ),
    "MERGE INTO events USING (VALUES (1)) AS v(x) ON true WHEN MATCHED THEN DELETE",
    "COPY events TO '/tmp/events'",
]


@pytest.fixture(scope="module")
def logs(shared: Database) -> dict[str, EventLog]:
    """Every log with one event in it, as each role that appends to it opens it."""
    logs = {role: shared.log(service, role) for role, service in APPENDERS}
    for role, log in logs.items():
        log.append([a_draft(f"unit-{role}", event_id=f"e-{role}")], NO_STREAM)
    return logs


@pytest.mark.parametrize("statement", CHANGES_OF_HISTORY)
@pytest.mark.parametrize("role", [role for role, _ in APPENDERS])
def test_history_cannot_be_changed_by_who_writes_it(logs: dict[str, EventLog], role: str, statement: str) -> None:
    log = logs[role]
    before = log.read_all()
    with pytest.raises(ProgrammingError) as failure, log.writing() as tx:
        tx.connection.exec_driver_sql(statement)
    assert failure.value.orig.sqlstate == "42501"
    assert log.read_all() == before


@pytest.mark.parametrize("role", [role for role, _ in APPENDERS])
def test_granting_itself_a_right_gets_a_service_nothing(logs: dict[str, EventLog], role: str) -> None:
    with logs[role].writing() as tx:
        tx.connection.exec_driver_sql("GRANT ALL ON events TO CURRENT_USER")  # only a warning, says the manual
    assert refused(logs[role].engine, "DELETE FROM events") == "42501"


@pytest.mark.parametrize("role", [role for role, _ in APPENDERS])
def test_appending_needs_no_more_than_what_is_granted(logs: dict[str, EventLog], role: str) -> None:
    stream = f"more-{role}"
    logs[role].append([a_draft(stream)], NO_STREAM)
    logs[role].append([a_draft(stream)])
    assert [event.version for event in logs[role].read_stream(stream)] == [1, 2]


# The whole table of rights

ALL = "SELECT INSERT UPDATE DELETE"
APPEND = "INSERT(id,record,stream,type,version)"
READ_MODEL = ("asks", "changes", "request_parties", "requests", "trail", "trail_subjects", "units")
CONSUMES = ("inbox", "parked", "cursors", "dead_letters")
LOG_SCHEMAS = ("gateway", "placement", "capacity")
GRANTED: dict[str, dict[str, str]] = {
    "haven_gateway": {
        "gateway.events": f"SELECT {APPEND}",
        "gateway.idempotency": "SELECT INSERT DELETE",
        "gateway.revocations": "SELECT INSERT DELETE",
        "gateway.used_proofs": "SELECT INSERT DELETE",
        "gateway.asked_for": "SELECT INSERT UPDATE(at,beds,stopped_at,times_stopped)",
        "gateway.page_sessions": "SELECT INSERT UPDATE(sealed,seen_at) DELETE",
        "gateway.cursors": "SELECT",
        "gateway.last_change": "SELECT",
        "gateway.set_aside": "SELECT",
        "gateway.demand_sums": "SELECT",
        "gateway.unrung": "SELECT",
        "gateway.ringing": "SELECT",
        "gateway.schema_version": "SELECT",
        "keys.schema_version": "SELECT",
        "keys.data_keys": "SELECT INSERT(created_at,key_id,subject,wrapped,wrapped_by)",
        **{f"gateway.{table}": "SELECT" for table in READ_MODEL},
    },
    "haven_projection": {
        "gateway.events": f"SELECT {APPEND}",
        "placement.events": "SELECT",
        "capacity.events": "SELECT",
        "gateway.idempotency": "SELECT DELETE",
        "gateway.demand": ALL,
        "gateway.ringing": "SELECT INSERT DELETE",
        "gateway.schema_version": "SELECT",
        **{f"gateway.{table}": ALL for table in (*READ_MODEL, *CONSUMES, "waits")},
    },
    "haven_placement": {
        "placement.events": f"SELECT {APPEND}",
        "placement.schema_version": "SELECT",
        **{f"placement.{table}": ALL for table in (*CONSUMES, "timers", "unit_views", "waiting_requests")},
    },
    "haven_capacity": {
        "capacity.events": f"SELECT {APPEND}",
        "capacity.bed_claims": "SELECT INSERT DELETE",
        "capacity.schema_version": "SELECT",
        **{f"capacity.{table}": ALL for table in (*CONSUMES, "timers")},
    },
    "haven_relay": {
        f"{schema}.{table}": rights
        for schema in LOG_SCHEMAS
        for table, rights in {
            "events": "SELECT",
            "schema_version": "SELECT",
            "relay_cursors": ALL,
            "dead_letters": "SELECT UPDATE(published_at)",
        }.items()
    },
    "haven_auditor": {
        "gateway.trail": "SELECT",
        "gateway.trail_subjects": "SELECT",
        **{f"{schema}.{table}": "SELECT" for schema in LOG_SCHEMAS for table in ("events", "schema_version")},
    },
    "haven_notifier": {
        "gateway.schema_version": "SELECT",
        "gateway.waits": "SELECT",
        "gateway.rings": ALL,
        "gateway.ringing": "SELECT INSERT UPDATE(at)",
    },
    "haven_eraser": {
        "keys.schema_version": "SELECT",
        "keys.data_keys": (
            "SELECT INSERT(created_at,destroyed_at,key_id,subject) UPDATE(destroyed_at,wrapped,wrapped_by)"
        ),
    },
}

EFFECTIVE = """
    WITH things AS (
        SELECT c.oid, n.nspname || '.' || c.relname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'v', 'm', 'p', 'f') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
          AND n.nspname NOT LIKE 'pg_toast%%'),
    whole AS (
        SELECT r.rolname, t.name, p.privilege FROM pg_roles r, things t,
            unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER', 'MAINTAIN']) p(privilege)
        WHERE has_table_privilege(r.oid, t.oid, p.privilege)),
    partial AS (
        SELECT r.rolname, t.name, p.privilege || '(' || string_agg(a.attname, ',' ORDER BY a.attname COLLATE "C") || ')'
        FROM pg_roles r, things t, pg_attribute a, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'REFERENCES']) p(privilege)
        WHERE a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
          AND has_column_privilege(r.oid, t.oid, a.attnum, p.privilege)
          AND NOT has_table_privilege(r.oid, t.oid, p.privilege)
        GROUP BY r.rolname, t.name, p.privilege)
    SELECT * FROM whole UNION ALL SELECT * FROM partial
"""


@pytest.mark.parametrize("role", sorted(set(ROLES) - {"haven_migrator"}))
def test_a_role_has_these_rights_and_no_others(shared: Database, role: str) -> None:
    """Effective rights, however they came about: every table and view of the database, every kind of privilege."""
    with shared.engine().connect() as connection:
        rows = connection.exec_driver_sql(f"SELECT * FROM ({EFFECTIVE}) e WHERE rolname = '{role}'").all()
    found: dict[str, set[str]] = {}
    for _, name, privilege in rows:
        found.setdefault(name, set()).add(privilege)
    assert found == {name: set(rights.split()) for name, rights in GRANTED[role].items()}


@pytest.mark.parametrize("role", ROLES)
def test_no_role_is_more_than_its_rights(shared: Database, role: str) -> None:
    with shared.engine().connect() as connection:
        attributes = connection.exec_driver_sql(
            "SELECT rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls OR rolinherit, rolconnlimit > 0, "
            "rolpassword LIKE 'SCRAM-SHA-256$%%' AND rolpassword NOT LIKE '%%for-tests-only%%' "
            f"FROM pg_authid WHERE rolname = '{role}'"
        ).one()
        memberships = connection.exec_driver_sql(
            f"SELECT count(*) FROM pg_auth_members WHERE member = '{role}'::regrole OR roleid = '{role}'::regrole"
        ).scalar()
    assert tuple(attributes) == (False, True, True)
    assert memberships == 0


@pytest.mark.parametrize("role", sorted(set(ROLES) - {"haven_migrator"}))
def test_no_service_creates_anything_anywhere(shared: Database, role: str) -> None:
    engine = shared.engine(role)
    for schema in (*SCHEMAS, "public"):
        for statement in (
            f"CREATE TABLE {schema}.mine (x int)",
            f"CREATE FUNCTION {schema}.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            f"CREATE VIEW {schema}.mine AS SELECT 1",
        ):
            assert refused(engine, statement) == "42501", statement
    for statement in (
        "CREATE TEMPORARY TABLE events (x int)",
        "CREATE SCHEMA mine",
        "CREATE ROLE mine",
        "CREATE DATABASE mine",
        "ALTER SYSTEM SET fsync = off",
        "SET ROLE haven_migrator",
        "SET ROLE haven_eraser" if role != "haven_eraser" else "SET ROLE haven_gateway",
        "SET SESSION AUTHORIZATION haven_projection" if role != "haven_projection" else "SET ROLE postgres",
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "SELECT pg_read_file('/etc/passwd')",
    ):
        assert refused(engine, statement) in {"42501", "25001", "0A000"}, statement


def test_the_owner_of_the_tables_is_no_service_and_no_superuser(shared: Database) -> None:
    with shared.engine().connect() as connection:
        owners = connection.exec_driver_sql(
            "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE n.nspname IN ('gateway', 'placement', 'capacity', 'keys')"
        ).scalars()
        assert list(owners) == ["haven_migrator"]


def test_a_service_does_not_reach_another_services_database(shared: Database) -> None:
    assert refused(shared.engine("haven_placement"), "SELECT * FROM capacity.bed_claims") == "42501"
    assert refused(shared.engine("haven_capacity"), "SELECT * FROM placement.events") == "42501"
    assert refused(shared.engine("haven_gateway"), "SELECT * FROM placement.events") == "42501"
    assert refused(shared.engine("haven_auditor"), "SELECT * FROM keys.data_keys") == "42501"
    assert refused(shared.engine("haven_projection"), "SELECT * FROM keys.data_keys") == "42501"


def test_an_unqualified_name_means_the_services_own_schema(shared: Database) -> None:
    paths = {"haven_gateway": "gateway", "haven_eraser": "keys", "haven_relay": None, "haven_capacity": "capacity"}
    for role, schema in paths.items():
        with shared.engine(role).connect() as connection:
            assert connection.exec_driver_sql("SELECT current_schema()").scalar() == schema, role
    with shared.engine("haven_relay", "placement").connect() as connection:
        assert connection.exec_driver_sql("SELECT current_schema()").scalar() == "placement"


def test_the_file_of_roles_holds_no_password() -> None:
    assert not re.search(r"PASSWORD\s*'|ENCRYPTED", ROLES_FILE.read_text(), re.IGNORECASE)


# A frozen process


@pytest.mark.slow
def test_a_writer_that_freezes_in_its_transaction_loses_the_log_and_whoever_waits_gets_it(database: Database) -> None:
    frozen, other = database.log("placement"), database.log("placement")
    started = time.monotonic()
    waits: list[str] = []

    def wait_for_the_log() -> float:
        while True:
            try:
                other.append([a_draft("unit-2")], NO_STREAM)
            except OperationalError as busy:  # four seconds a try: the answer is a 503, not a hang
                waits.append(busy.orig.sqlstate)
            else:
                return time.monotonic() - started

    with pytest.raises((InternalError, OperationalError)) as failure, frozen.writing() as tx:  # noqa: PT012
        tx.append([a_draft("unit-1")])
        took = wait_for_the_log()
        tx.append([a_draft("unit-1")])
    assert is_database_trouble(failure.value)
    assert waits
    assert set(waits) == {"55P03"}
    assert 9 < took < 16
    assert [event.stream for _, event in other.read_all()] == ["unit-2"]
    frozen.append([a_draft("unit-1")], NO_STREAM)


@pytest.mark.slow
def test_a_statement_that_takes_too_long_is_ended(shared: Database) -> None:
    started = time.monotonic()
    with pytest.raises(OperationalError) as failure, shared.engine("haven_gateway").connect() as connection:
        connection.exec_driver_sql("SELECT pg_sleep(60)")
    assert is_database_trouble(failure.value)
    assert 4 < time.monotonic() - started < 8


def test_only_a_rebuild_takes_the_time_it_needs(shared: Database) -> None:
    log = shared.log("gateway", "haven_projection")
    with log.writing() as tx:
        lift_time_limit(tx.connection)
        assert tx.connection.exec_driver_sql("SHOW statement_timeout").scalar() == "0"
    with log.writing() as tx:
        assert tx.connection.exec_driver_sql("SHOW statement_timeout").scalar() == "5s"
        assert tx.connection.connection.driver_connection.answer_within == ANSWER_SECONDS


# Keys

KEKS = KeyEncryptionKeys({"0badcafe": bytes(32)})


@pytest.fixture
def stores(database: Database) -> tuple[KeyStore, KeyStore]:
    return (
        KeyStore(database.engine("haven_gateway", "keys"), KEKS),
        KeyStore(database.engine("haven_eraser"), KEKS),
    )


def test_the_gateway_makes_keys_and_only_the_eraser_destroys_them(
    database: Database, stores: tuple[KeyStore, KeyStore]
) -> None:
    gateway, eraser = stores
    key_id = gateway.create("household-1")
    assert gateway.create("household-1") == key_id
    assert len(gateway.digest_key("intent ids")) == 32
    engine = database.engine("haven_gateway", "keys")
    with pytest.raises(ProgrammingError):
        gateway.destroy("household-1")
    for statement in (
        "DELETE FROM data_keys",
        "TRUNCATE data_keys",
        "UPDATE data_keys SET wrapped = 'x'",
        "UPDATE data_keys SET subject = 'household-2'",
        "INSERT INTO data_keys (key_id, subject, created_at, destroyed_at) VALUES ('k', 'household-9', 'now', 'now')",
    ):
        assert refused(engine, statement) == "42501", statement
    assert gateway.create("household-1") == key_id
    assert eraser.destroy("household-1") is True
    assert eraser.destroy("household-1") is False
    with pytest.raises(KeyDestroyed):
        gateway.create("household-1")
    assert eraser.destroy("never-sealed") is False
    with pytest.raises(KeyDestroyed):
        gateway.create("never-sealed")


def test_what_was_destroyed_stays_destroyed_even_for_the_eraser(
    database: Database, stores: tuple[KeyStore, KeyStore]
) -> None:
    gateway, eraser = stores
    gateway.create("household-1")
    eraser.destroy("household-1")
    engine = database.engine("haven_eraser")
    with engine.begin() as connection:
        back = "UPDATE data_keys SET wrapped = 'x', wrapped_by = 'x', destroyed_at = NULL WHERE subject = 'household-1'"
        assert connection.exec_driver_sql(back).rowcount == 0
    for statement in ("DELETE FROM data_keys", "UPDATE data_keys SET subject = 'other'"):
        assert refused(engine, statement) == "42501"
    with pytest.raises(KeyDestroyed):
        gateway.create("household-1")


def test_the_eraser_wraps_keys_anew_and_the_gateway_reads_on(
    stores: tuple[KeyStore, KeyStore], database: Database
) -> None:
    gateway, _ = stores
    key_id = gateway.create("household-1")
    rotated = KeyEncryptionKeys({"0badcafe": bytes(32), "feedbeef": bytes([1]) * 32})
    current = rotated.current
    assert KeyStore(database.engine("haven_eraser"), rotated).rewrap() == (1 if current != "0badcafe" else 0)
    assert KeyStore(database.engine("haven_gateway", "keys"), rotated).create("household-1") == key_id


# Who sees which row

ORGANISATIONS = ("be-police", "nl-police")


@pytest.fixture(scope="module")
def shown(server: PostgreSQL) -> Iterator[Database]:
    """A read model with two requests: one of a Belgian police, asked of a Dutch shelter, and one of a Dutch police."""
    with a_database(server) as database:
        with database.engine("haven_projection").begin() as connection:
            connection.exec_driver_sql(
                """
                INSERT INTO requests VALUES ('r-be', '2026-11-23T12:00:00.000000Z', 1, '{"request_id": "r-be"}'),
                                            ('r-nl', '2026-11-23T12:00:01.000000Z', 1, '{"request_id": "r-nl"}')
                """
            )
            parties = {
                "r-be": ["referrer:be-police", "coordinator:BE", "coordinator:NL", "shelter:nl-1", "shelter:nl-2"],
                "r-nl": ["referrer:nl-police", "coordinator:NL", "escort:synthetic.driver"],
            }
            for request_id, names in parties.items():
                for name in names:
                    connection.exec_driver_sql("INSERT INTO request_parties VALUES (%s, %s)", (request_id, name))
            connection.exec_driver_sql(
                "INSERT INTO asks VALUES ('a-1', 'r-be', 'nl-1', 'open'), ('a-2', 'r-be', 'nl-2', 'open')"
            )
            for shelter, country in (("nl-1", "NL"), ("nl-2", "NL"), ("be-1", "BE")):
                view = f'{{"unit_id": "u-{shelter}", "country": "{country}"}}'
                connection.exec_driver_sql("INSERT INTO units VALUES (%s, %s, %s)", (f"u-{shelter}", shelter, view))
            lines = (
                ("t-1", "r-be", "command-1"),
                ("t-2", "r-nl", "command-2"),
                ("t-3", None, "command-3"),
                ("t-4", None, "t-4"),
            )
            for event_id, case_id, cause in lines:
                connection.exec_driver_sql(
                    "INSERT INTO trail VALUES ('2026-11-23', 1, %s, 1, %s, 'placement', 'x', 'alteration', %s, 'p', 'system', "
                    "'o', 'BE', 'c', %s, '{\"subjects\": []}')",
                    (event_id, event_id, case_id, cause),
                )
            connection.exec_driver_sql("INSERT INTO trail_subjects VALUES ('r-be', 't-4'), ('r-nl', 't-4')")
            connection.exec_driver_sql(
                "INSERT INTO changes (kind, subject, revision, parties) VALUES "
                "('relocation_request', 'r-be', 1, '[\"referrer:be-police\"]'), "
                "('relocation_request', 'r-nl', 1, '[\"referrer:nl-police\"]'), ('unit', 'u-nl-1', 1, '[\"shelter:nl-1\"]')"
            )
        yield database


SEEN = [
    (
        ["referrer:be-police"],
        {"requests": ["r-be"], "request_parties": 1, "trail": ["t-1", "t-4"], "changes": ["r-be"], "trail_subjects": 1},
    ),
    (
        ["referrer:nl-police"],
        {"requests": ["r-nl"], "request_parties": 1, "trail": ["t-2", "t-4"], "changes": ["r-nl"], "trail_subjects": 1},
    ),
    (
        ["coordinator:BE"],
        {
            "requests": ["r-be"],
            "request_parties": 1,
            "asks": ["a-1", "a-2"],
            "units": ["u-be-1"],
            "trail": ["t-1", "t-4"],
            "trail_subjects": 1,
            "changes": ["u-nl-1"],
        },
    ),
    (
        ["coordinator:NL"],
        {
            "requests": ["r-be", "r-nl"],
            "request_parties": 2,
            "asks": ["a-1", "a-2"],
            "units": ["u-nl-1", "u-nl-2"],
            "trail": ["t-1", "t-2", "t-4"],
            "trail_subjects": 2,
            "changes": ["u-nl-1"],
        },
    ),
    (
        ["shelter:nl-1"],
        {
            "requests": ["r-be"],
            "request_parties": 1,
            "asks": ["a-1"],
            "units": ["u-nl-1"],
            "trail": ["t-1", "t-4"],
            "trail_subjects": 1,
            "changes": ["u-nl-1"],
        },
    ),
    (
        ["escort:synthetic.driver"],
        {"requests": ["r-nl"], "request_parties": 1, "trail": ["t-2", "t-4"], "trail_subjects": 1},
    ),
    (["guardian:BE"], {}),
    (["auditor"], {"trail": ["t-1", "t-2", "t-3", "t-4"], "trail_subjects": 2}),
    (["command:command-3"], {"trail": ["t-3"]}),
    ([AVAILABILITY], {"units": ["u-be-1", "u-nl-1", "u-nl-2"]}),
    ([], {}),
    ([""], {}),
    (["%"], {}),
    (["coordinator:"], {"changes": ["u-nl-1"]}),
]
KEY_COLUMN = {
    "requests": "request_id",
    "request_parties": "request_id",
    "asks": "ask_id",
    "units": "unit_id",
    "trail": "event_id",
    "trail_subjects": "event_id",
    "changes": "subject",
}


@pytest.mark.parametrize(("parties", "expected"), SEEN, ids=[",".join(parties) or "nobody" for parties, _ in SEEN])
def test_a_query_without_any_condition_shows_only_what_its_reader_may_know(
    shown: Database, parties: list[str], expected: dict[str, list[str] | int]
) -> None:
    """As if every WHERE had been forgotten."""
    model = ReadModel(shown.engine("haven_gateway"))
    for table, column in KEY_COLUMN.items():
        with model.as_known_to(parties) as connection:
            found = list(connection.exec_driver_sql(f"SELECT {column} FROM {table} ORDER BY 1").scalars())
        wanted = expected.get(table, [])
        assert (len(found) if isinstance(wanted, int) else found) == wanted, table


@pytest.mark.parametrize("table", KEY_COLUMN)
def test_without_a_principal_nothing_is_shown_at_all(shown: Database, table: str) -> None:
    engine = shown.engine("haven_gateway")
    with engine.connect() as connection:
        assert connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar() == 0
    model = ReadModel(engine)
    with model.as_known_to(["coordinator:NL", "auditor", AVAILABILITY]) as connection:
        assert connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar() > 0
        connection.commit()  # a setting of the session would outlive this
        assert connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar() == 0
    # The same connection, back from the pool: what one person may know is not left for the next.
    assert engine.pool.checkedin() == 1
    with engine.connect() as connection:
        assert connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar() == 0


@pytest.mark.parametrize("table", KEY_COLUMN)
def test_the_owner_sees_no_row_either(shown: Database, table: str) -> None:
    with shown.engine("haven_migrator", "gateway").connect() as connection:
        assert connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar() == (3 if table == "changes" else 0)


def test_the_auditor_reads_the_trail_and_nothing_that_is_shown(shown: Database) -> None:
    engine = shown.engine("haven_auditor")
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM trail").scalar() == 4
    assert refused(engine, "SELECT * FROM requests") == "42501"


def test_the_gateway_writes_no_row_of_what_it_shows(shown: Database) -> None:
    engine = shown.engine("haven_gateway")
    for table in KEY_COLUMN:
        assert refused(engine, f"DELETE FROM {table}") == "42501"
    assert refused(engine, "INSERT INTO request_parties VALUES ('r-be', 'referrer:nl-police')") == "42501"
    assert refused(engine, "ALTER TABLE requests DISABLE ROW LEVEL SECURITY") == "42501"
    assert refused(engine, "DROP POLICY known ON requests") == "42501"
    # Asked to, the server says that rows would be hidden instead of showing them.
    with engine.connect() as connection:
        connection.exec_driver_sql("SET row_security = off")
        with pytest.raises(ProgrammingError, match="row-level security"):
            connection.exec_driver_sql("SELECT * FROM requests")


def test_the_queries_of_the_gateway_see_what_they_should(shown: Database) -> None:
    model = ReadModel(shown.engine("haven_gateway"))
    assert model.request("r-be", ["referrer:be-police"]) == {"request_id": "r-be"}
    assert model.request("r-be", ["referrer:nl-police"]) is None
    assert [view["request_id"] for view in model.requests(["coordinator:NL"], None, 10)] == ["r-nl", "r-be"]
    assert [view["request_id"] for view in model.requests_with_open_asks(["shelter:nl-1"])] == ["r-be"]
    assert model.request_of_ask("a-1", "nl-1") == "r-be"
    assert model.request_of_ask("a-1", "nl-2") is None
    assert model.outcome("command-1") == {"type": "x", "time": "2026-11-23", "subjects": []}
    assert [entry["event_id"] for entry in model.case_timeline("r-be", ["referrer:be-police"])] == ["t-1", "t-4"]
    # A read of both cases at once belongs to both: of the other's, no more than that this one was among them.
    assert [entry["event_id"] for entry in model.case_timeline("r-nl", ["referrer:be-police"])] == []
    assert len(model.trail(TrailQuery(), None, 10, ["auditor"])) == 4
    assert model.kept_changes() == (1, 3)
    assert model.shown_among(["t-1", "nothing"]) == {"t-1"}
    assert [change.subject for change in model.changes(0, 3, ["referrer:nl-police"])] == ["r-nl"]


def test_what_moved_long_ago_is_forgotten_by_the_projection_alone(database: Database) -> None:
    projection = Projection(projection_log(database.engine("haven_projection"), latest()))
    with projection.log.engine.begin() as connection:
        for number in range(5):
            connection.exec_driver_sql(
                "INSERT INTO changes (kind, subject, revision, parties) VALUES ('unit', %s, 1, '[]')", (f"u-{number}",)
            )
    projection.forget_changes(keep=2)
    assert ReadModel(database.engine("haven_gateway")).kept_changes() == (4, 5)
    assert refused(database.engine("haven_gateway"), "DELETE FROM changes") == "42501"


def test_nobody_becomes_two_by_a_line_break_in_a_name(shown: Database) -> None:
    with pytest.raises(ValueError, match="one line"):
        ReadModel(shown.engine("haven_gateway")).trail(TrailQuery(), None, 10, ["escort:x\nauditor"])


def test_every_table_of_the_read_model_is_guarded(shared: Database) -> None:
    """Whatever the projection writes and the gateway reads: a table added later must not be forgotten."""
    with shared.engine().connect() as connection:
        unguarded = connection.exec_driver_sql(
            "SELECT relname FROM pg_class WHERE relnamespace = 'gateway'::regnamespace AND relkind = 'r' "
            "AND has_table_privilege('haven_projection', oid, 'INSERT') AND has_table_privilege('haven_gateway', oid, 'SELECT') "
            "AND NOT (relrowsecurity AND relforcerowsecurity)"
        ).scalars()
        # How far the projection is, and when somebody last looked whom to ring; no request is named there.
        assert sorted(unguarded) == ["cursors", "ringing"]
