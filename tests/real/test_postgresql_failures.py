"""What becomes of an acknowledgement, an event, a consumer when PostgreSQL fails under it: a clear no or a retry, and never a
second effect. On a real server that is killed, filled up, cut off and switched to read-only."""

import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolExhausted
from werkzeug.test import TestResponse

import services.node
from deploy.parts import PostgreSQL
from events.envelope import Event, wire_name
from events.gateway import KeyDestroyed, OpenRelocationRequest
from events.key_file import KeyEncryptionKeys
from events.log.engines import is_database_trouble, postgresql_engine
from events.log.errors import LogError
from events.log.inbox import Consumer, Delivery, ParkReason
from events.log.store import ANY_VERSION, NO_STREAM, EventLog, Expected, Writing
from events.placement import HouseholdErased
from events.sealing import KeyStore
from services.gateway.erasure import Eraser
from services.migrate import migrate
from tests.events.drafts import a_draft, an_event
from tests.gateway.world import AN_OPENING, CALLBACK, POLICE, PREFIX, World, is_problem
from tests.pages.reader import CSRF, Reader
from tests.real.postgresql_database import (
    COMMIT,
    PASSWORDS,
    Database,
    DeployedCore,
    Wire,
    a_database,
    a_server,
    a_standby,
)

pytestmark = pytest.mark.real

CAN_MOUNT = os.geteuid() == 0 and shutil.which("mount") is not None
CUTS = pytest.mark.parametrize("server_has_it", [True, False], ids=["the server has it", "the server never got it"])


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    with a_server() as server:
        yield server


@pytest.fixture
def database(server: PostgreSQL) -> Iterator[Database]:
    with a_database(server) as database:
        yield database


@pytest.fixture
def wire(server: PostgreSQL) -> Iterator[Wire]:
    port = sa.make_url(server.url).port
    assert port
    wire = Wire(port)
    yield wire
    wire.close()


@contextmanager
def a_world(database: Database, folder: Path, port: int | None = None) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            services.node,
            "Core",
            lambda _engine, _keys, reference, clock: DeployedCore(database, reference, clock, port),
        )
        world = World(folder)
    yield world
    world.node.stop()


def opening(world: World, key: str) -> TestResponse:
    headers = {"Idempotency-Key": key}
    return world.send(POLICE, "POST", f"{PREFIX}/relocation-requests", json=AN_OPENING, headers=headers)


def openings(database: Database) -> int:
    with database.engine().connect() as connection:
        count = sa.text("SELECT count(*) FROM gateway.events WHERE type = :type")
        return int(connection.execute(count, {"type": wire_name(OpenRelocationRequest)}).scalar_one())


def not_recorded(answer: TestResponse) -> None:
    problem = is_problem(answer, 503)
    assert problem["type"].endswith("/not-recorded")
    assert int(answer.headers["Retry-After"]) > 0


def trouble(act: Callable[[], object]) -> DBAPIError:
    """The failure of `act`, which is the database's and says so."""
    with pytest.raises((DBAPIError, PoolExhausted)) as failure:
        act()
    assert is_database_trouble(failure.value), failure.value
    return failure.value


class Notes:
    """A consumer whose effect is an event of its own, one for each that it handles."""

    def __init__(self, log: EventLog) -> None:
        self.log = log
        self.consumer = Consumer("notes", log, self.handle)

    def handle(self, tx: Writing, event: Event) -> None:
        tx.append([a_draft(f"note-{event.stream}", event_id=f"note of {event.id}")])

    @property
    def effects(self) -> list[str]:
        return [event.id for _, event in self.log.read_all() if event.id.startswith("note of ")]


# The connection breaks while COMMIT is under way


@CUTS
@pytest.mark.parametrize(
    ("expected", "words"),
    [(ANY_VERSION, COMMIT), (NO_STREAM, b"INSERT INTO events")],
    ids=["commit", "one statement"],
)
def test_an_append_in_doubt_is_settled_by_trying_again(
    database: Database, wire: Wire, expected: Expected, words: bytes, server_has_it: bool
) -> None:
    log = database.log("placement", port=wire.port)
    wire.cut_at(words, server_has_it=server_has_it)
    trouble(lambda: log.append([a_draft(event_id="e-1")], expected))
    assert wire.cuts == 1
    assert (log.find("e-1") is not None) == server_has_it
    try:
        log.append([a_draft(event_id="e-1")], expected)
        assert not server_has_it
    except LogError:
        assert server_has_it
    assert [event.id for _, event in log.read_all()] == ["e-1"]


@CUTS
def test_a_households_key_in_doubt_is_answered_503_and_the_same_intent_goes_on_with_it(
    database: Database, wire: Wire, tmp_path: Path, server_has_it: bool
) -> None:
    with a_world(database, tmp_path, wire.port) as world:
        assert opening(world, "another-intent").status_code == 202  # the keys of the node itself are made with it
        # The household's key is made first, in a statement that commits by itself: nothing is acknowledged yet.
        wire.cut_at(b"INSERT INTO data_keys", server_has_it=server_has_it)
        not_recorded(opening(world, "key-of-the-intent"))
        assert wire.cuts == 1
        assert openings(database) == 1
        answers = [opening(world, "key-of-the-intent") for _ in range(2)]
        assert [answer.status_code for answer in answers] == [202, 202]
        assert answers[0].json["command_ids"] == answers[1].json["command_ids"]
        assert openings(database) == 2


@CUTS
def test_an_acknowledgement_in_doubt_is_found_by_the_same_key(
    database: Database, wire: Wire, tmp_path: Path, server_has_it: bool
) -> None:
    with a_world(database, tmp_path, wire.port) as world:
        append = world.log._insert

        def cut_the_commit_after(*arguments: object) -> None:
            append(*arguments)  # type: ignore[arg-type]
            wire.cut_at(COMMIT, server_has_it=server_has_it)

        world.log._insert = cut_the_commit_after  # type: ignore[method-assign]
        not_recorded(opening(world, "key-of-the-intent"))
        world.log._insert = append  # type: ignore[method-assign]
        assert wire.cuts == 1
        assert openings(database) == (1 if server_has_it else 0)
        answer = opening(world, "key-of-the-intent")
        assert answer.status_code == 202
        assert openings(database) == 1
        world.core.settle()
        assert world.read(POLICE, answer.json["request_id"]).json["stage"] != "received"


@CUTS
def test_an_event_whose_handling_is_in_doubt_takes_effect_once(
    database: Database, wire: Wire, server_has_it: bool
) -> None:
    notes = Notes(database.log("capacity", port=wire.port))
    incoming = an_event("unit-1", 1)
    wire.cut_at(COMMIT, server_has_it=server_has_it)
    trouble(lambda: notes.consumer.deliver(incoming, 7))
    assert wire.cuts == 1
    again = notes.consumer.deliver(incoming, 7)
    assert again is (Delivery.DUPLICATE if server_has_it else Delivery.HANDLED)
    assert notes.effects == [f"note of {incoming.id}"]
    assert notes.consumer.position("gateway") == 7
    assert notes.consumer.parked() == []


@CUTS
def test_an_erasure_in_doubt_destroys_the_key_and_says_so_once(
    database: Database, wire: Wire, server_has_it: bool
) -> None:
    keks = KeyEncryptionKeys({"0badcafe": bytes(32)})
    KeyStore(database.engine("haven_gateway", "keys"), keks).create("r-1")
    log = database.log("gateway", "haven_projection", wire.port)
    eraser = Eraser(log, KeyStore(database.engine("haven_eraser"), keks))
    erased = msgspec.structs.replace(
        an_event("relocation_request-r-1", 1, "placement"), data=HouseholdErased(request_id="r-1")
    )
    wire.cut_at(COMMIT, server_has_it=server_has_it)
    trouble(lambda: eraser.consumer.deliver(erased, 1))
    assert wire.cuts == 1
    eraser.consumer.deliver(erased, 1)
    assert [type(event.data) for _, event in log.read_all()] == [KeyDestroyed]
    with database.engine("haven_eraser").connect() as connection:
        rows = connection.exec_driver_sql("SELECT subject, wrapped FROM data_keys").all()
    assert [tuple(row) for row in rows] == [("r-1", None)]


# Connections and servers that go away


def end_connections_of(database: Database, role: str) -> None:
    database.admin(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = '{role}'")


def test_a_connection_lost_between_two_statements_takes_everything_back(database: Database) -> None:
    notes = Notes(database.log("capacity"))
    handle = notes.consumer.handle

    def cut_off(tx: Writing, event: Event) -> None:
        handle(tx, event)
        end_connections_of(database, "haven_capacity")

    notes.consumer.handle = cut_off
    trouble(lambda: notes.consumer.deliver(an_event("unit-1", 1), 1))
    notes.consumer.handle = handle
    assert notes.effects == []
    assert notes.consumer.deliver(an_event("unit-1", 1), 1) is Delivery.HANDLED
    assert len(notes.effects) == 1


def test_a_connection_lost_while_something_early_is_taken_up_blames_no_event(database: Database) -> None:
    notes = Notes(database.log("capacity"))
    handle = notes.consumer.handle
    first, early = an_event("unit-1", 1), an_event("unit-1", 2)
    assert notes.consumer.deliver(early) is Delivery.PARKED

    def cut_off(tx: Writing, event: Event) -> None:
        if event.id == early.id:
            end_connections_of(database, "haven_capacity")
        handle(tx, event)

    notes.consumer.handle = cut_off
    trouble(lambda: notes.consumer.deliver(first))
    assert [parked.reason for parked in notes.consumer.parked()] == [ParkReason.EARLY]
    notes.consumer.handle = handle
    assert notes.consumer.deliver(first) is Delivery.HANDLED
    assert notes.consumer.parked() == []
    assert len(notes.effects) == 2


def test_a_server_that_was_restarted_is_used_again_without_an_error(database: Database, server: PostgreSQL) -> None:
    log = database.log("placement")
    log.append([a_draft()], NO_STREAM)
    server.stop()
    started = time.monotonic()
    trouble(lambda: log.append([a_draft()]))
    trouble(log.head)
    assert time.monotonic() - started < 5
    server.start()
    log.append([a_draft()])
    assert [event.version for _, event in log.read_all()] == [1, 2]


@pytest.mark.slow
def test_a_server_killed_again_and_again_loses_and_doubles_nothing_that_was_acknowledged() -> None:
    with a_server(fsync="on") as server, a_database(server) as database:
        notes = Notes(database.log("capacity"))
        done = threading.Event()
        acknowledged: list[str] = []

        def deliver() -> None:
            version, settled = 1, True
            while not (done.is_set() and settled):
                incoming = an_event("unit-1", version)
                settled = False
                try:
                    notes.consumer.deliver(incoming, version)
                except Exception as failure:  # noqa: BLE001
                    if not is_database_trouble(failure):
                        acknowledged.append(f"unexpected {failure!r}")
                        return
                    time.sleep(0.02)
                    continue
                acknowledged.append(f"note of {incoming.id}")
                version, settled = version + 1, True

        worker = threading.Thread(target=deliver)
        worker.start()
        for _ in range(5):
            seen = len(acknowledged)
            deadline = time.monotonic() + 20
            while len(acknowledged) < seen + 20 and time.monotonic() < deadline:
                time.sleep(0.01)
            server.kill()
            server.start()
        done.set()
        worker.join(30)
        assert len(acknowledged) >= 100
        assert notes.effects == acknowledged


@pytest.mark.slow
@CUTS
def test_a_failover_in_the_middle_of_a_commit_loses_and_doubles_nothing(tmp_path: Path, server_has_it: bool) -> None:
    """The primary dies with an intent and an event in doubt; the standby takes over, and both are tried again on it."""
    with a_server() as primary, a_database(primary) as database, a_standby(primary) as standby:
        wire = Wire(sa.make_url(primary.url).port or 0)
        notes = Notes(database.log("capacity", port=wire.port))
        with a_world(database, tmp_path, wire.port) as world:
            acknowledged = [world.received(opening(world, f"key-{n:08}")) for n in range(10)]
            for version in range(1, 11):
                notes.consumer.deliver(an_event("unit-1", version), version)
            wire.cut_at(COMMIT, server_has_it=server_has_it)
            trouble(lambda: notes.consumer.deliver(an_event("unit-1", 11), 11))
            insert = world.log._insert

            def cut_the_commit_after(*arguments: object) -> None:
                insert(*arguments)  # type: ignore[arg-type]
                wire.cut_at(COMMIT, server_has_it=server_has_it)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(world.log, "_insert", cut_the_commit_after)
                not_recorded(opening(world, "key-in-doubt"))
            assert wire.cuts == 2
            primary.kill()
            not_recorded(opening(world, "key-in-doubt"))

            with sa.create_engine(standby.url, isolation_level="AUTOCOMMIT").connect() as admin:
                assert admin.exec_driver_sql("SELECT pg_promote(true, 30)").scalar()
            wire.leads_to = sa.make_url(standby.url).port or 0
            acknowledged.append(world.received(opening(world, "key-in-doubt")))
            again = notes.consumer.deliver(an_event("unit-1", 11), 11)
            assert again is (Delivery.DUPLICATE if server_has_it else Delivery.HANDLED)
            assert notes.effects == [f"note of {an_event('unit-1', n).id}" for n in range(1, 12)]
            opened = [
                event.data.request_id
                for _, event in world.log.read_all()
                if isinstance(event, Event) and isinstance(event.data, OpenRelocationRequest)
            ]
            assert opened == acknowledged
            assert notes.consumer.parked() == []
        for engine in database.engines.values():
            engine.dispose()
        wire.close()


# A server that is there and will not write


def test_a_full_connection_limit_is_a_503_and_passes(database: Database, tmp_path: Path) -> None:
    with a_world(database, tmp_path) as world:
        for engine in database.engines.values():
            engine.dispose()
        with database.engine().connect() as administrator:
            limit = administrator.scalar(sa.text("SELECT rolconnlimit FROM pg_roles WHERE rolname = 'haven_gateway'"))
        database.admin("ALTER ROLE haven_gateway CONNECTION LIMIT 0")
        try:
            not_recorded(opening(world, "key-of-the-intent"))
        finally:
            database.admin(f"ALTER ROLE haven_gateway CONNECTION LIMIT {limit}")
        assert opening(world, "key-of-the-intent").status_code == 202
        assert openings(database) == 1


def test_a_missing_right_is_a_503_and_parks_nothing(database: Database, tmp_path: Path) -> None:
    notes = Notes(database.log("capacity"))
    with a_world(database, tmp_path) as world:
        database.admin(
            "REVOKE INSERT ON gateway.events FROM haven_gateway",
            "REVOKE INSERT (id, stream, version, type, record) ON gateway.events FROM haven_gateway",
            "REVOKE INSERT ON capacity.inbox FROM haven_capacity",
        )
        not_recorded(opening(world, "key-of-the-intent"))
        trouble(lambda: notes.consumer.deliver(an_event("unit-1", 1), 1))
        migrate(database.url("haven_migrator"))  # applies the rights anew
        assert opening(world, "key-of-the-intent").status_code == 202
        assert notes.consumer.deliver(an_event("unit-1", 1), 1) is Delivery.HANDLED
        assert notes.consumer.parked() == []


def test_a_read_only_standby_after_a_failover_is_a_503_and_parks_nothing(database: Database, tmp_path: Path) -> None:
    notes = Notes(database.log("capacity"))
    with a_world(database, tmp_path) as world:
        database.admin(f"ALTER DATABASE {database.name} SET default_transaction_read_only = on")
        for role in ("haven_gateway", "haven_capacity"):
            end_connections_of(database, role)
        not_recorded(opening(world, "key-of-the-intent"))
        failure = trouble(lambda: notes.consumer.deliver(an_event("unit-1", 1), 1))
        assert failure.orig.sqlstate == "25006"
        with sa.create_engine(database.url(), isolation_level="AUTOCOMMIT").connect() as admin:
            admin.exec_driver_sql("SET default_transaction_read_only = off")
            admin.exec_driver_sql(f"ALTER DATABASE {database.name} RESET default_transaction_read_only")
        for role in ("haven_gateway", "haven_capacity"):
            end_connections_of(database, role)
        assert opening(world, "key-of-the-intent").status_code == 202
        assert notes.consumer.deliver(an_event("unit-1", 1), 1) is Delivery.HANDLED
        assert notes.consumer.parked() == []


@pytest.mark.slow
def test_a_server_that_is_down_is_a_503_at_once_and_the_same_key_works_when_it_is_back(tmp_path: Path) -> None:
    with a_server() as server, a_database(server) as database, a_world(database, tmp_path) as world:
        server.kill()
        started = time.monotonic()
        not_recorded(opening(world, "key-of-the-intent"))
        assert time.monotonic() - started < 5
        server.start()
        assert opening(world, "key-of-the-intent").status_code == 202
        assert openings(database) == 1


@pytest.mark.slow
def test_a_frozen_server_is_a_503_in_seconds_and_the_same_key_works_when_it_thaws(tmp_path: Path) -> None:
    """It acknowledges every packet and answers nothing."""
    with a_server() as server, a_database(server) as database, a_world(database, tmp_path) as world:
        assert opening(world, "key-before").status_code == 202
        server.pause()
        try:
            for longest in (22, 12):  # the first finds the connections it had, the next cannot make new ones
                started = time.monotonic()
                not_recorded(opening(world, "key-of-the-intent"))
                assert time.monotonic() - started < longest
        finally:
            server.resume()
        answer = opening(world, "key-of-the-intent")
        assert answer.status_code == 202
        assert openings(database) == 2


@contextmanager
def a_small_disk(megabytes: int) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="haven-small-disk-"))
    folder.chmod(0o755)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        folder.rmdir()
        pytest.skip("A FULL DISK WAS NOT TESTED: this user may not mount a small one (run as root)")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
        folder.rmdir()


@pytest.mark.slow
@pytest.mark.skipif(not CAN_MOUNT, reason="A FULL DISK WAS NOT TESTED: only root can mount a small one")
def test_a_full_disk_is_a_503_and_nothing_acknowledged_is_lost_when_there_is_room_again(tmp_path: Path) -> None:
    with (
        a_small_disk(160) as disk,
        PostgreSQL(disk, fsync=False, settings={"max_wal_size": "64MB", "wal_recycle": "off"}) as server,
        a_database(server) as database,
        a_world(database, tmp_path) as world,
    ):
        notes = Notes(database.log("capacity"))
        filler = disk / "filler"
        filler.write_bytes(bytes(shutil.disk_usage(disk).free - 256 * 1024))
        acknowledged: list[str] = []
        failures: list[TestResponse] = []
        for n in range(3000):
            answer = opening(world, f"key-{n:08}")
            if answer.status_code != 202:
                failures.append(answer)
                break
            acknowledged.append(answer.json["request_id"])
        assert failures, "the disk was never full"
        not_recorded(failures[0])
        trouble(lambda: [notes.consumer.deliver(an_event("unit-1", n), n) for n in range(1, 3000)])
        filler.unlink()
        if not server.running:  # out of room for its write-ahead log the server itself gives up
            server.start()
        deadline = time.monotonic() + 30
        while (again := opening(world, f"key-{len(acknowledged):08}")).status_code != 202:
            not_recorded(again)
            assert time.monotonic() < deadline
            time.sleep(0.2)
        streams = {event.stream for _, event in world.log.read_all(limit=100_000)}
        assert {f"relocation_request-{request_id}" for request_id in acknowledged} <= streams
        assert openings(database) == len(acknowledged) + 1
        assert notes.consumer.parked() == []


# What counts as the database's trouble

TROUBLE = {
    "08006": "connection failure",
    "25006": "read-only",
    "25P03": "idle in transaction",
    "25P04": "transaction timeout",
    "28000": "invalid authorisation",
    "3D000": "no such database",
    "40001": "serialisation",
    "40P01": "deadlock",
    "42501": "missing right",
    "42P01": "missing table",
    "53100": "disk full",
    "53200": "out of memory",
    "53300": "too many connections",
    "55P03": "lock not available",
    "57014": "cancelled by a time limit",
    "57P01": "administrator shut down",
    "57P02": "crash",
    "57P03": "starting up",
    "58030": "input or output",
    "XX001": "data corrupted",
}
THE_INPUTS_FAULT = {
    "22003": "number out of range",
    "22P05": "untranslatable character",
    "23505": "unique",
    "23514": "check",
    "25P02": "the transaction had failed before and somebody went on",
    "42601": "syntax",
    "54000": "too long for an index",
    "P0001": "raised by a function",
}


def raised_by_the_server(database: Database, state: str) -> BaseException:
    with pytest.raises(DBAPIError) as failure, database.engine("haven_placement").begin() as connection:
        connection.exec_driver_sql(f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{state}'; END $$")
    assert failure.value.orig.sqlstate == state
    return failure.value


@pytest.fixture(scope="module")
def any_database(server: PostgreSQL) -> Iterator[Database]:
    with a_database(server) as database:
        yield database


@pytest.mark.parametrize("state", TROUBLE, ids=list(TROUBLE.values()))
def test_it_is_the_databases_trouble(any_database: Database, state: str) -> None:
    assert is_database_trouble(raised_by_the_server(any_database, state))


@pytest.mark.parametrize("state", THE_INPUTS_FAULT, ids=list(THE_INPUTS_FAULT.values()))
def test_it_is_not_the_databases_trouble(any_database: Database, state: str) -> None:
    assert not is_database_trouble(raised_by_the_server(any_database, state))


def test_nothing_else_is(any_database: Database) -> None:
    assert not is_database_trouble(ValueError("bad"))
    assert not is_database_trouble(KeyError("bad"))
    with pytest.raises(DBAPIError) as failure, any_database.engine("haven_placement").begin() as connection:
        connection.exec_driver_sql("SELECT %s::text", ("a\0b",))
    assert not is_database_trouble(failure.value)


def test_a_server_that_is_not_there_and_a_wrong_password_are(any_database: Database) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = taken.getsockname()[1]
    trouble(postgresql_engine(any_database.url("haven_placement", nobody)).connect)
    wrong = any_database.url("haven_placement").set(password=PASSWORDS["haven_capacity"])
    failure = trouble(postgresql_engine(wrong).connect)
    assert PASSWORDS["haven_capacity"] not in str(failure)


def test_a_server_that_accepts_and_never_answers_is_given_up_in_time(any_database: Database) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        trouble(postgresql_engine(any_database.url("haven_placement", silent.getsockname()[1])).connect)
        assert 3 < time.monotonic() - started < 8


def test_a_pool_in_use_to_the_last_connection_is(any_database: Database) -> None:
    engine = postgresql_engine(any_database.url("haven_placement"))
    held = [engine.connect() for _ in range(16)]
    trouble(engine.connect)
    for connection in held:
        connection.close()
    engine.connect().close()
    engine.dispose()


def test_with_more_than_a_thousand_files_open_a_connection_is_still_looked_at(any_database: Database) -> None:
    """`select` knows 1,024 of them; a gateway with many listeners has more."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 1200:
        pytest.skip("this user may not open a thousand files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1200), hard))
    with tempfile.TemporaryFile() as file:
        many = [os.dup(file.fileno()) for _ in range(1050)]
        try:
            engine = postgresql_engine(any_database.url("haven_placement"))
            for _ in range(2):
                with engine.connect() as connection:
                    assert connection.connection.fileno() > 1024
            engine.dispose()
        finally:
            for one in many:
                os.close(one)


# The pages, when the server is gone


def test_an_urgent_request_on_a_page_outlives_a_server_that_is_gone(tmp_path: Path) -> None:
    """The form comes back as it was sent, with telephone numbers; sent again once the server is back it happens once."""
    with a_server() as server, a_database(server) as database, a_world(database, tmp_path) as world:
        police = Reader(world, POLICE)
        command = re.search(r'name="command" value="(\w+)"', police.get("/requests/new").text)
        assert command
        form = {"command": command[1], "urgency": "urgent", "danger_country": "BE", "women": "3", "callback": CALLBACK}
        url = world.node.settings.url
        server.stop()
        sent = police.client.post("/requests/new", base_url=url, data={"csrf": CSRF} | form, headers={"Origin": url})
        board = police.client.get("/requests", base_url=url)
        sheets = police.client.get("/help/paper", base_url=url)
        server.start()
        assert sent.status_code == board.status_code == 503
        for page in (sent, board):
            assert 'href="tel:112"' in page.text
        assert re.search(r'name="women"[^>]*value="3"', sent.text)
        assert f'name="command" value="{command[1]}"' in sent.text
        assert CALLBACK not in sent.text
        assert sheets.status_code == 200
        assert openings(database) == 0
        first = police.client.post("/requests/new", base_url=url, data={"csrf": CSRF} | form, headers={"Origin": url})
        again = police.client.post("/requests/new", base_url=url, data={"csrf": CSRF} | form, headers={"Origin": url})
        assert first.status_code == again.status_code == 303
        assert first.headers["Location"] == again.headers["Location"]
        assert openings(database) == 1
