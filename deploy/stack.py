"""The whole distributed runtime as processes of this machine: what `docker-compose.yml` maps, without containers.

Kafka and PostgreSQL (and Keycloak, if wanted) are started beside Haven's own processes, prepared by the same code an operator
runs, and stopped with them. Everything lies in one folder. For the demonstration, the tests, the fault campaign and the
benchmark.
"""

import itertools
import os
import secrets
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar, Self

import sqlalchemy as sa

from deploy import kafka_access
from deploy.certificates import LOOPBACK
from deploy.keycloak import Keycloak as KeycloakAdmin
from deploy.keycloak import provision
from deploy.parts import Kafka, KafkaCluster, Keycloak, PostgreSQL
from deploy.postgresql import prepare
from deploy.private import private_file
from deploy.process import Command, Part, PartFailed
from deploy.secrets import NOBODY_YET, NOTIFY_FILE
from events.kafka import topics
from events.kafka.connection import Broker
from events.key_file import load_or_create_key_file
from events.log.engines import postgresql_engine
from events.log.store import EventLog
from reference import load
from services.api_client import SenderKey, SignIn
from services.clock import clock_of
from services.config import Settings, read_settings
from services.gateway.identity import PAGES
from services.gateway.node_secrets import load_or_create_logins
from services.migrate import ROLES, latest, migrate
from services.node import demo_accounts
from services.seeding import seed
from services.sign_in_client import IssuerUnreachable, sign_in
from simulation.inventory import SyntheticUnit, synthetic_inventory

ROOT = Path(__file__).resolve().parent.parent
REALM = Path(__file__).with_name("keycloak") / "realm.json"
DATABASE = "haven"
PRINCIPALS = kafka_access.principals()
UNLIMITED = {"HAVEN_REQUESTS_PER_MINUTE": "0", "HAVEN_BEDS_AT_ONCE": "0"}
"""For measurements: nobody but them asks as often, and under one name."""
PROCESSES = ("relay", "placement", "capacity", "projection", "gateway", "stream", "notify")
NOT_BY_ITSELF = ("notify",)
"""Started only if somebody asks for it: no measurement rings anybody."""

_BEHIND = """
    SELECT (SELECT count(*) FROM gateway.events) + (SELECT count(*) FROM placement.events)
         + (SELECT count(*) FROM capacity.events) - (SELECT count(*) FROM gateway.trail)
"""


class HavenProcess(Part):
    """One of Haven's own processes; it answers when its /readyz does."""

    name: ClassVar[str] = "haven"
    port_names = ("operations", "client")
    start_timeout = 90

    def __init__(self, folder: Path, kind: str, environment: Mapping[str, str]) -> None:
        super().__init__(folder)
        self.kind = kind
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HAVEN_")},
            **environment,
            "HAVEN_WORKER_NAME": folder.name,
            "HAVEN_OPERATIONS_PORT": str(self._ports["operations"]),
            "HAVEN_PORT": str(self._ports["client"]),
            "PYTHONUNBUFFERED": "1",
        }

    @property
    def url(self) -> str:
        """Where the gateway serves people."""
        return f"http://{LOOPBACK}:{self._ports['client']}"

    @property
    def operations_url(self) -> str:
        return f"http://{LOOPBACK}:{self._ports['operations']}"

    def address(self) -> dict[str, Any]:
        return {"url": self.url, "operations": self.operations_url}

    def _prepare(self) -> Command:
        program = "import sys; from services.cli import main; main()"
        return Command([sys.executable, "-c", program, self.kind], ROOT, environment=self.environment)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.operations_url}/readyz", timeout=5) as answer:  # noqa: S310 - our own address
                return bool(answer.status == 200)
        except OSError:
            return False


class Stack:
    """The runtime in one folder. `counts` says how many processes of each kind there are, `more` are further settings,
    `inventory` the units it begins with. More than one of `brokers` keep a copy each of all topics."""

    def __init__(
        self,
        folder: Path | str,
        *,
        counts: Mapping[str, int] | None = None,
        secure: bool = True,
        fsync: bool = True,
        more: Mapping[str, str] | None = None,
        inventory: Sequence[SyntheticUnit] | None = None,
        keycloak: bool = False,
        brokers: int = 1,
    ) -> None:
        self.folder = Path(folder).resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.counts = {kind: (counts or {}).get(kind, int(kind not in NOT_BY_ITSELF)) for kind in PROCESSES}
        self.secure = secure
        principals, kafka = PRINCIPALS if secure else None, self.folder / "kafka"
        self.cluster = KafkaCluster(kafka, brokers=brokers, principals=principals) if brokers > 1 else None
        self.kafka = self.cluster.brokers[0] if self.cluster else Kafka(kafka, principals=principals)
        self.postgresql = PostgreSQL(self.folder / "postgresql", fsync=fsync)
        # Where the pages are is said to the realm once the gateway has its port (`sign_in_at_keycloak`).
        pages = {"HAVEN_PUBLIC_URL": f"http://{LOOPBACK}"}
        self.keycloak = Keycloak(self.folder / "keycloak", REALM, pages) if keycloak else None
        self.more = dict(more or {})
        self._inventory = inventory
        self.secrets = self.folder / "secrets"
        self.data = self.folder / "data"
        self.data.mkdir(exist_ok=True, mode=0o700)
        self.processes: dict[str, HavenProcess] = {}
        self._running = ExitStack()
        self.administrator = sa.create_engine(
            sa.make_url(self.postgresql.url).set(database=DATABASE), poolclass=sa.NullPool, isolation_level="AUTOCOMMIT"
        )
        """For looking, past every right."""

    @property
    def url(self) -> str:
        """Where the first gateway serves people."""
        return self.processes["gateway-1"].url

    @property
    def stream_url(self) -> str:
        """Where the first process for live streams serves people; a proxy makes one origin of both."""
        return self.processes["stream-1"].url

    @property
    def environment(self) -> dict[str, str]:
        """The settings all processes share."""
        return {
            "HAVEN_DATABASE": f"postgresql://{LOOPBACK}:{sa.make_url(self.postgresql.url).port}/{DATABASE}",
            "HAVEN_SECRETS_DIR": str(self.secrets),
            "HAVEN_DATA_DIR": str(self.data),
            "HAVEN_KAFKA": self.kafka.bootstrap,
            "HAVEN_KAFKA_CA_FILE": str(self.kafka.ca_file) if self.secure else "",
            "HAVEN_KAFKA_PARTITIONS": "3",
            "HAVEN_KAFKA_REPLICATION": str(len(self.kafka.quorum)),
            "HAVEN_KAFKA_IN_SYNC": str(len(self.kafka.quorum) // 2 + 1),
            **self.more,
        }

    @property
    def settings(self) -> Settings:
        """What a process of this runtime is told, for work done from here."""
        return read_settings(self.environment)

    def of(self, kind: str) -> list[HavenProcess]:
        """The processes of one kind."""
        return [process for process in self.processes.values() if process.kind == kind]

    def start(self) -> Self:
        """Starts everything and returns when all of it is ready. Raises PartUnavailable or PartFailed."""
        try:
            self.start_parts()
            self.prepare()
            self.start_processes()
            self.settle()
        except BaseException:
            self.stop()
            raise
        return self

    def start_parts(self) -> None:
        parts = (self.cluster or self.kafka, self.postgresql, self.keycloak)
        _at_once(self._running.enter_context, [part for part in parts if part])

    def prepare(self) -> None:
        """What an operator does once: roles and passwords, tables, topics and access, the key file. Repeatable."""
        passwords = {role: self._secret(f"{role}_password") for role in ROLES}
        if self.secure:
            for principal in PRINCIPALS:
                private_file(self.secrets / f"{principal}_kafka_password", self.kafka.password(principal))
        load_or_create_key_file(self.secrets / "key-file")
        if not (self.secrets / NOTIFY_FILE.name).exists():
            private_file(self.secrets / NOTIFY_FILE.name, NOBODY_YET)
        prepare(self.postgresql.url, passwords, DATABASE)
        settings = self.settings
        migrate(settings.database_url("haven_migrator"))
        self.make_topics()
        engine = postgresql_engine(settings.database_url("haven_gateway"))
        inventory = self._inventory or synthetic_inventory(settings.inventory_seed, load())
        seed(EventLog(engine, "gateway", latest()), inventory, clock_of(settings)())
        engine.dispose()

    def make_topics(self) -> None:
        """The topics and, with TLS, who may do what with them; again after Kafka was lost."""
        settings = self.settings
        if self.secure:
            administrator = Broker(
                tuple(self.kafka.bootstrap.split(",")),
                self.kafka.ADMIN,
                self.kafka.password(self.kafka.ADMIN),
                self.kafka.ca_file,
            )
            passwords = {principal: self.kafka.password(principal) for principal in PRINCIPALS}
            kafka_access.apply(administrator, settings.layout, passwords)
        topics.create(settings.broker("haven_topics"), settings.layout)

    def start_processes(self) -> None:
        new = [process for kind, count in self.counts.items() for process in self._more_of(kind, count)]
        _at_once(lambda process: process.start(), new)

    def scale(self, kind: str, count: int) -> None:
        """Stops or starts processes until there are `count` of a kind."""
        there = self.of(kind)
        _at_once(self._remove, there[count:])
        _at_once(lambda process: process.start(), self._more_of(kind, count - len(there)))

    def _more_of(self, kind: str, count: int) -> list[HavenProcess]:
        free = (name for number in itertools.count(1) if (name := f"{kind}-{number}") not in self.processes)
        names = list(itertools.islice(free, max(0, count)))
        self.processes |= {name: HavenProcess(self.folder / name, kind, self._environment_of(kind)) for name in names}
        return [self.processes[name] for name in names]

    def _environment_of(self, kind: str) -> dict[str, str]:
        if kind == "notify":
            return {"HAVEN_PUBLIC_URL": self.url, "HAVEN_NOTIFY_FILE": NOTIFY_FILE.name} | self.environment
        if kind != "stream" or "gateway-1" not in self.processes:
            return self.environment
        # One origin, as a proxy makes it: who listens here has signed in there.
        return {"HAVEN_PUBLIC_URL": self.processes["gateway-1"].url} | self.environment

    def _remove(self, process: HavenProcess) -> None:
        process.stop()
        del self.processes[process.folder.name]

    def behind(self) -> int:
        """How many events of the three logs the read model does not show yet."""
        with self.administrator.connect() as connection:
            return int(connection.exec_driver_sql(_BEHIND).scalar_one())

    def settle(self, seconds: float = 60) -> Self:
        """Returns when everything that was said has been heard by everybody: each event leads to others until none is left.
        Raises PartFailed."""
        deadline, quiet = time.monotonic() + seconds, 0
        while quiet < 3:
            if time.monotonic() > deadline:
                raise PartFailed(f"after {seconds} s the read model is still {self.behind()} events behind")
            quiet = 0 if self.behind() else quiet + 1
            time.sleep(0.1)
        return self

    def sign_in_at_keycloak(self) -> SignIn:
        """From now on the gateways take Keycloak's tokens and bring no sign-in of their own; how an account gets one."""
        assert self.keycloak is not None
        settings = self.settings
        accounts = demo_accounts(synthetic_inventory(settings.inventory_seed, load()))
        passwords = load_or_create_logins(self.data, accounts)
        admin_password = self.keycloak.admin_password_file.read_text()
        provision(self.keycloak.url, admin_password, accounts, passwords)
        with KeycloakAdmin(self.keycloak.url, admin_password) as admin:
            admin.pages_at(self.url)
            secret, issuer = admin.client_secret(), admin.issuer
        private_file(self.secrets / "pages_client_secret", secret)
        for gateway in (*self.of("gateway"), *self.of("stream")):
            gateway.stop()
            gateway.environment |= {"HAVEN_ISSUER": issuer}
            gateway.start()

        def token(who: str, key: SenderKey | None) -> str:
            try:
                return sign_in(
                    issuer,
                    PAGES.client_id,
                    secret,
                    f"{self.url}/signed-in",
                    who,
                    passwords[who],
                    proof=key.proof if key else None,
                ).access_token
            except IssuerUnreachable as away:
                raise ConnectionError(str(away)) from None

        return token

    def stop(self) -> None:
        try:
            _at_once(lambda process: process.stop(), self.processes.values())
        finally:
            self._running.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _secret(self, name: str) -> str:
        file = self.secrets / name
        if not file.exists():
            private_file(file, secrets.token_urlsafe(24))
        return file.read_text()


def _at_once(do: Callable[[Any], object], things: Iterable[Any]) -> None:
    things = list(things)
    with ThreadPoolExecutor(max(1, len(things))) as pool:
        for _ in pool.map(do, things):
            pass
