"""Settings of a Haven process: only from `HAVEN_*` environment variables, checked at start, shown redacted by
`haven doctor`.

All processes read the same names and each uses what it needs, so one environment can serve a whole installation. A secret is
never a setting: it lies in a file of HAVEN_SECRETS_DIR, readable by its process alone.
"""

import os
import re
import socket
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec
import sqlalchemy as sa

from events.kafka.layout import Layout
from services.loopback import is_loopback

if TYPE_CHECKING:
    from events.kafka.connection import Broker

PREFIX = "HAVEN_"
NOT_OURS = ("HAVEN_TEST_", "HAVEN_PARTS_")
DPOP_POLICIES = ("machines", "all", "offered")
SCENES = ("living", "still", "none")


class BadSetting(ValueError):
    """A setting that cannot be used; the message names it and the remedy."""

    def __init__(self, name: str, remedy: str) -> None:
        self.name = name
        super().__init__(f"{name}: {remedy}")


class ConfigurationError(Exception):
    """The node must not start like this; the message says what to change."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a process needs to know. The defaults serve the embedded node on one machine and nobody else."""

    host: str = "127.0.0.1"
    port: int = 8080
    data_dir: Path = Path("data")
    issuer: str = ""
    """An external identity provider. The embedded node refuses to start with one: it brings its own demo sign-in."""
    exercise_speed: float = 1.0
    """How many seconds pass in the node for one second outside; more than 1 only for exercises and demonstrations."""
    inventory_seed: int = 2026
    """Seed of the synthetic shelters a new data directory begins with."""
    scene: str = "living"
    """What the embedded node begins a new data directory with: a scene whose synthetic people go on acting (`living`), one they
    leave as it is (`still`), or the shelters alone (`none`)."""
    public_url: str = ""
    """Where people reach the gateway, if not at its own host and port: scheme, host and port."""
    audience: str = "haven"
    """The audience that access tokens must name."""
    signing_acr: str = ""
    """Authentication contexts (`acr`) that may sign a placement, separated by spaces; empty: any."""
    dpop: str = "machines"
    """Whose tokens must be bound to a key (RFC 9449): those of `machines`, `all`, or nobody's (`offered`)."""
    requests_per_minute: int = 600
    """How many requests of the API one person may make in a minute; 0: any number."""
    beds_at_once: int = 120
    """For how many beds one organisation may open requests at once, and again within a day; 0: any number."""
    database: str = ""
    """PostgreSQL as `postgresql://host:port/name?sslmode=...`, without a user: each process comes under its own role."""
    secrets_dir: Path = Path("/run/secrets")
    kafka: str = ""
    """Brokers as `host:port,host:port`."""
    kafka_ca_file: str = ""
    """Authority that signed the brokers' certificates. Empty: no TLS and no sign-in, on this machine only."""
    kafka_prefix: str = "haven"
    kafka_partitions: int = 6
    kafka_replication: int = 3
    kafka_in_sync: int = 2
    worker_name: str = ""
    """Unique among the workers of one kind, and the same after a restart; empty: the host's name."""
    operations_host: str = "127.0.0.1"
    operations_port: int = 0
    """Where /healthz, /readyz and /metrics of a process are, for the operator's network only; 0: nowhere."""
    otlp_endpoint: str = ""
    """Where traces go (OTLP over HTTP); empty: nowhere."""
    notify_file: str = ""
    """Whom Haven rings, and where: a path, or the name of a file in HAVEN_SECRETS_DIR; empty: nobody."""

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.public_url or f"http://{host}:{self.port}"

    @property
    def worker(self) -> str:
        return self.worker_name or socket.gethostname()

    def require_this_machine(self) -> None:
        """Raises BadSetting unless the process serves the loopback interface only: demo logins are shown on the screen."""
        if not is_loopback(self.host):
            raise BadSetting("HAVEN_HOST", "demo sign-in serves this machine only; use 127.0.0.1, ::1 or localhost.")

    def require_embedded(self) -> None:
        """Raises BadSetting if something is set that the embedded node would not heed: whoever set it believes otherwise."""
        self.require_this_machine()
        if self.notify_file and self.scene == "living":
            raise BadSetting(
                "HAVEN_SCENE",
                "would ring people day and night for what synthetic people do; with HAVEN_NOTIFY_FILE say none, or still.",
            )
        for name in ("database", "kafka", "operations_port", "otlp_endpoint"):
            if getattr(self, name):
                raise BadSetting(
                    PREFIX + name.upper(),
                    "is for the distributed runtime (haven gateway, placement, ...); take it away, or do not use `haven run`.",
                )

    def database_url(self, role: str) -> sa.URL:
        """The database as one role sees it. Raises BadSetting."""
        if not self.database:
            raise BadSetting("HAVEN_DATABASE", "is missing; name the database, as in postgresql://db:5432/haven.")
        try:
            url = sa.make_url(self.database)
        except (sa.exc.ArgumentError, ValueError):
            raise BadSetting("HAVEN_DATABASE", "is not a URL; write it as postgresql://db:5432/haven.") from None
        if url.get_backend_name() != "postgresql":
            raise BadSetting("HAVEN_DATABASE", "must begin with postgresql://.")
        if url.username or url.password or _CREDENTIALS & url.query.keys():
            raise BadSetting(
                "HAVEN_DATABASE",
                "must name no user and no password: each process has a role, and its password is a file of "
                "HAVEN_SECRETS_DIR.",
            )
        password = self.secret(f"{role}_password")
        return url.set(drivername="postgresql+psycopg", username=role, password=password)

    def secret(self, name: str) -> str:
        """What a file of HAVEN_SECRETS_DIR holds. Raises BadSetting when it is missing or others may read it."""
        path = self.secret_file(name)
        try:
            mode = path.stat().st_mode
            text = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as failure:
            raise BadSetting(
                "HAVEN_SECRETS_DIR", f"{path} cannot be read ({type(failure).__name__}); put the secret there."
            ) from None
        if mode & (stat.S_IRWXO | stat.S_IWGRP):
            raise BadSetting("HAVEN_SECRETS_DIR", f"{path} can be read by others. Run: chmod 600 {path}")
        if not text:
            raise BadSetting("HAVEN_SECRETS_DIR", f"{path} is empty; put the secret there.")
        return text

    def secret_file(self, name: str) -> Path:
        return self.secrets_dir / name

    def broker(self, principal: str) -> "Broker":
        """Kafka as one principal sees it. Raises BadSetting."""
        from events.kafka.connection import Broker  # noqa: PLC0415 - the embedded node never loads a broker's client

        servers = tuple(server for server in self.kafka.split(",") if server)
        if not servers:
            raise BadSetting("HAVEN_KAFKA", "is missing; name the brokers, as in kafka-1:9093,kafka-2:9093.")
        for server in servers:
            if not _SERVER.fullmatch(server):
                raise BadSetting("HAVEN_KAFKA", "must be host:port, or several separated by commas.")
        if self.kafka_ca_file:
            password = self.secret(f"{principal}_kafka_password")
            return Broker(servers, principal, password, Path(self.kafka_ca_file))
        if not all(is_loopback(server.rpartition(":")[0].strip("[]")) for server in servers):
            raise BadSetting(
                "HAVEN_KAFKA_CA_FILE", "is missing; without TLS and sign-in only brokers on this machine are spoken to."
            )
        return Broker(servers)

    @property
    def layout(self) -> Layout:
        return Layout(self.kafka_prefix, self.kafka_partitions, self.kafka_replication, self.kafka_in_sync)


_CREDENTIALS = {"user", "password", "passfile"}
"""Under these names libpq would take who we are from the query of a URL."""
_SERVER = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}")
_ORIGIN = re.compile(r"https?://[A-Za-z0-9._\[\]:-]+")
_PREFIX = re.compile(r"[A-Za-z0-9._-]{1,80}")


def read_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Settings from the environment. Raises BadSetting on an unknown name or an impossible value."""
    given = {
        name.removeprefix(PREFIX).lower(): value
        for name, value in (os.environ if environment is None else environment).items()
        if name.startswith(PREFIX) and not name.startswith(NOT_OURS)
    }
    known = {field.name: field for field in msgspec.structs.fields(Settings)}
    for name in given.keys() - known.keys():
        raise BadSetting(PREFIX + name.upper(), "is not a setting of Haven; see `haven doctor` for those there are.")
    settings = Settings(**{name: _value(name, known[name].type, text) for name, text in given.items()})
    _check(settings)
    return settings


_BOUNDS = {
    "port": (1, 65_535),
    "operations_port": (0, 65_535),
    "exercise_speed": (1, 100_000),
    "inventory_seed": (0, 2**31),
    "requests_per_minute": (0, 1_000_000),
    "beds_at_once": (0, 1_000_000),
    "kafka_partitions": (1, 100),
    "kafka_replication": (1, 9),
    "kafka_in_sync": (1, 9),
}


def _value(name: str, kind: type, text: str) -> Any:
    if name not in _BOUNDS:
        return kind(text)
    least, most = _BOUNDS[name]
    if not (text.isascii() and text.isdigit() and least <= int(text[:12]) <= most):
        raise BadSetting(PREFIX + name.upper(), f"must be a whole number from {least} to {most}.")
    return kind(int(text))


def _check(settings: Settings) -> None:
    if settings.public_url and not _is_origin(settings.public_url):
        raise BadSetting("HAVEN_PUBLIC_URL", "must be scheme, host and port only, as in https://haven.example.")
    if settings.dpop not in DPOP_POLICIES:
        raise BadSetting("HAVEN_DPOP", f"must be one of {', '.join(DPOP_POLICIES)}.")
    if settings.scene not in SCENES:
        raise BadSetting("HAVEN_SCENE", f"must be one of {', '.join(SCENES)}.")
    if settings.kafka_in_sync > settings.kafka_replication:
        raise BadSetting("HAVEN_KAFKA_IN_SYNC", "cannot be more copies than HAVEN_KAFKA_REPLICATION makes.")
    if not _PREFIX.fullmatch(settings.kafka_prefix):
        raise BadSetting("HAVEN_KAFKA_PREFIX", "must be letters, digits, dots, dashes and underscores.")
    if settings.worker_name and not _PREFIX.fullmatch(settings.worker_name):
        raise BadSetting("HAVEN_WORKER_NAME", "must be letters, digits, dots, dashes and underscores.")


def _is_origin(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(_ORIGIN.fullmatch(url) and parts.hostname and parts.port != 0)
    except ValueError:  # no port, or no address, is like that
        return False
