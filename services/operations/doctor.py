"""What is wrong with an installation, each finding with its remedy: `haven doctor`, and why a process is not ready.

A check returns findings and never raises for what it looks at; `examine` bounds each in time and runs them beside each other.
Nothing secret is said: settings are redacted, and of a failure only what our own errors say, or its type.
"""

import os
import re
import shutil
import socket
import stat
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from events.key_file import SealingError, load_key_file
from events.log.engines import postgresql_engine
from events.log.schema import SchemaMismatch, verify_version
from services.connections import most_of
from services.operations.health import clock_skew, database_clock
from services.operations.patience import NoAnswer, Patience

if TYPE_CHECKING:
    from events.kafka.connection import Broker
    from events.kafka.layout import Layout
    from services.config import Settings

CHECK_SECONDS = 10.0
CONNECT_SECONDS = 3.0
OLDEST_POSTGRESQL = 15
LEAST_FREE_BYTES = 1 << 30
LEAST_FREE_SHARE = 0.05
SCRATCH_BYTES = 4 << 20
"""What a process needs that keeps nothing: what it acknowledged is in PostgreSQL."""
MORE_CONNECTIONS = "raise its limit in deploy/postgres/roles.sql, and max_connections with it"


@dataclass(frozen=True)
class Finding:
    """What one look at one thing found. `remedy` is empty when all is well."""

    name: str
    ok: bool
    finding: str
    remedy: str = ""

    @property
    def reason(self) -> str:
        """Cause and remedy in one sentence, as `/readyz` says it."""
        return f"{self.finding}; {self.remedy}" if self.remedy else self.finding


Check = Callable[[], Iterable[Finding]]


def examine(checks: Mapping[str, Check], seconds: float = CHECK_SECONDS) -> list[Finding]:
    """The findings of all checks, in their order. One that does not come back, or raises, is itself a finding."""
    with ThreadPoolExecutor(max(1, len(checks))) as beside_each_other:
        found = beside_each_other.map(lambda name: _examined(name, checks[name], seconds), checks)
        return [finding for findings in found for finding in findings]


def _examined(name: str, check: Check, seconds: float) -> list[Finding]:
    try:
        return Patience(lambda: list(check()), seconds).answer()
    except NoAnswer as late:
        return [Finding(name, False, str(late), "see that it runs, and that nothing between it and us drops packets")]
    except Exception as failure:  # noqa: BLE001 - a doctor that falls ill still has other patients
        return [Finding(name, False, f"could not be examined ({type(failure).__name__})", "please report this")]


def reasons(findings: Iterable[Finding]) -> dict[str, str]:
    """What `/readyz` says of findings: name to cause and remedy of what is not well."""
    return {finding.name: finding.reason for finding in findings if not finding.ok}


# Settings and files

_SECRET = re.compile(r"password|secret|token|credential", re.IGNORECASE)
_PLACE = re.compile(r"_(dir|file|path)$")
_USER = re.compile(r"(?<=//)[^/@\s]*@")
_QUERY = re.compile(r"(?<=[?&])(\w*(?:user|pass)\w*)=[^&\s]*")


def redacted(settings: Any) -> dict[str, str]:
    """Each setting as it may be shown: without what a URL says of a user, and nothing of what is called a secret."""
    shown = {}
    for name in settings.__struct_fields__:
        value = str(getattr(settings, name))
        hidden = _SECRET.search(name) and not _PLACE.search(name) and value
        shown[f"HAVEN_{name.upper()}"] = "(set, not shown)" if hidden else _QUERY.sub(r"\1=…", _USER.sub("…@", value))
    return shown


def private_files(paths: Iterable[Path]) -> list[Finding]:
    """Whether files with secrets are this user's (or the administrator's) alone. One that is not there is for others to miss."""
    return [_private(path) for path in paths if path.exists()]


def _private(path: Path) -> Finding:
    status = path.stat()
    name = f"file {path.name}"
    if status.st_uid not in (os.getuid(), 0):
        return Finding(name, False, f"{path} belongs to user {status.st_uid}", f"run: chown {os.getuid()} {path}")
    if stat.S_IMODE(status.st_mode) & (stat.S_IRWXO | stat.S_IWGRP):
        mode = "700" if path.is_dir() else "600"
        return Finding(name, False, f"{path} can be read or changed by others", f"run: chmod {mode} {path}")
    return Finding(name, True, f"{path} is private")


def key_file(path: Path) -> list[Finding]:
    """Whether the keys that wrap the households' keys can be read."""
    try:
        keys = load_key_file(path)
    except SealingError as refused:
        problem, _, remedy = str(refused).partition("; ")
        return [Finding("key file", False, problem, remedy)]
    except OSError as failure:
        remedy = "put it there, or correct HAVEN_SECRETS_DIR; `haven keys create` makes one for a new installation"
        return [Finding("key file", False, f"{path} cannot be read ({type(failure).__name__})", remedy)]
    return [Finding("key file", True, f"{len(keys.generations)} keys, {keys.current} is current")]


def pages_secret(settings: "Settings") -> list[Finding]:
    """Whether the pages can prove to the issuer that it is they. Raises BadSetting."""
    settings.secret("pages_client_secret")
    return [Finding("sign-in to pages", True, "the issuer's secret of the pages is there")]


def no_key_file(folder: Path) -> list[Finding]:
    """Neither the keys nor the pages' secret lie beside the gateway's password: as it must be for `haven stream`."""
    found = f"none in {folder}: right for `haven stream`, which opens nothing; `haven gateway` does not start without"
    return [Finding("key file", True, found)]


def disk(path: Path, *, scratch: bool = False) -> list[Finding]:
    """Whether there is room where a process writes: a full disk is a 503 for everybody. `scratch`: it keeps nothing there."""
    while not path.exists() and path != path.parent:
        path = path.parent
    usage = shutil.disk_usage(path)
    least = SCRATCH_BYTES if scratch else max(LEAST_FREE_BYTES, usage.total * LEAST_FREE_SHARE)
    enough = usage.free >= least
    unit, name = (1 << 20, "MiB") if scratch else (1 << 30, "GiB")
    found = f"{usage.free / unit:.1f} {name} of {usage.total / unit:.1f} {name} free at {path}"
    return [Finding("disk", enough, found, "" if enough else "make room, or move the data to a larger disk")]


# Whom Haven rings


def notifications(settings: Any) -> list[Finding]:
    """Whom the operator's file names, without any address, and which countries it leaves without a focal point to ring. Raises
    BadSetting."""
    from events.vocabulary import Role  # noqa: PLC0415 - with it comes what few processes need
    from reference import load  # noqa: PLC0415
    from services.notifications.addresses import load_organisations  # noqa: PLC0415

    countries = load().countries
    found = []
    organisations = load_organisations(settings, countries)
    for name, one in organisations.items():
        channels = ", ".join(f"{channel} ({address.service})" for channel, address in one.channels.items())
        found.append(Finding(f"rings {name}", True, f"{one.role} of {one.country}: {channels}"))
    reached = {one.country for one in organisations.values() if one.role is Role.COORDINATOR}
    for country in countries:
        if country not in reached:
            remedy = "name its focal point in HAVEN_NOTIFY_FILE"
            found.append(
                Finding(f"rings {country}", False, "nobody is rung when a shelter there does not answer", remedy)
            )
    return found


# PostgreSQL


def database(
    url: sa.URL, schema_version: int | None, now: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> list[Finding]:
    """Whether PostgreSQL answers under this role, is new enough, keeps what it acknowledges, has this release's tables and the
    time that we have. `schema_version` None: the role has no tables of its own."""
    where = f"{url.host}:{url.port or 5432}"
    if unreachable := _unreachable(url.host or "", url.port or 5432):
        remedy = "start it, or correct HAVEN_DATABASE"
        return [Finding("database", False, f"no PostgreSQL answers at {where} ({unreachable})", remedy)]
    engine = postgresql_engine(url, answer_within=CHECK_SECONDS / 2)
    try:
        with engine.connect() as connection:
            found = [
                Finding("database", True, f"{where} lets {url.username} in"),
                *_server(connection, str(url.username)),
                *_connections(connection, str(url.username)),
            ]
        return [*found, *_tables(engine, schema_version), *_clock(engine, now)]
    except sa.exc.SQLAlchemyError as failure:
        return [_refused(url, where, failure)]
    finally:
        engine.dispose()


def why_no_database(url: sa.URL, failure: BaseException) -> str:
    """Cause and remedy of a failure of the database, for who waits for it."""
    where = f"{url.host}:{url.port or 5432}"
    if getattr(getattr(failure, "orig", None), "sqlstate", None) in _NOT_MIGRATED:
        return f"the tables or rights of {url.username} at {where} are missing; run `haven migrate`"
    if _unreachable(url.host or "", url.port or 5432):
        return f"no PostgreSQL answers at {where}; start it, or correct HAVEN_DATABASE"
    return _refused(url, where, failure).reason


_NOT_MIGRATED = ("3F000", "42501", "42703", "42P01")


def _unreachable(host: str, port: int) -> str:
    try:
        socket.create_connection((host, port), CONNECT_SECONDS).close()
    except OSError as failure:
        return type(failure).__name__
    return ""


def _refused(url: sa.URL, where: str, failure: BaseException) -> Finding:
    """Somebody listens there and does not serve us. libpq tells why in words only; those of an English server are known."""
    said = str(getattr(failure, "orig", ""))
    user, name = url.username, url.database
    if "password" in said:
        found, remedy = (
            f"refuses the password of {user}",
            f"correct {user}_password in HAVEN_SECRETS_DIR, or the role's",
        )
    elif "pg_hba" in said:
        found, remedy = f"has no rule that lets {user} in", "look at pg_hba.conf (deploy/postgres/pg_hba.conf is ours)"
    elif "certificate" in said or "SSL" in said:
        found, remedy = "cannot be trusted, or speaks no TLS", "look at sslmode and sslrootcert in HAVEN_DATABASE"
    elif "too many" in said:
        found, remedy = (
            f"has no connection left for {user}",
            f"stop what holds them, or {MORE_CONNECTIONS}",
        )
    elif "does not exist" in said:
        found, remedy = (
            f"has no database {name} or no role {user}",
            "let its administrator run deploy/postgres/roles.sql",
        )
    else:
        found = f"does not serve {user} ({type(getattr(failure, 'orig', None) or failure).__name__})"
        remedy = "its own log says why: the password file, pg_hba.conf or TLS"
    return Finding("database", False, f"PostgreSQL at {where} {found}", remedy)


def _server(connection: sa.Connection, role: str) -> list[Finding]:
    version = int(connection.scalar(sa.text("SELECT current_setting('server_version_num')::int / 10000")) or 0)
    safe = connection.scalar(
        sa.text("SELECT current_setting('fsync') = 'on' AND current_setting('synchronous_commit') <> 'off'")
    )
    too_mighty, inherited = connection.execute(
        sa.text(
            "SELECT rolsuper OR rolbypassrls OR rolcreaterole, rolinherit FROM pg_roles WHERE rolname = current_user"
        )
    ).one()
    found = "may do more than it must" if too_mighty or inherited else "has its own rights and no more"
    return [
        Finding(
            "database version",
            version >= OLDEST_POSTGRESQL,
            f"PostgreSQL {version}",
            "" if version >= OLDEST_POSTGRESQL else f"upgrade it to {OLDEST_POSTGRESQL} or newer",
        ),
        Finding(
            "database durability",
            bool(safe),
            "waits for the disk" if safe else "says a commit is done before it is on disk",
            "" if safe else "set fsync and synchronous_commit to on: what was acknowledged could be lost",
        ),
        Finding(
            "database role",
            not (too_mighty or inherited),
            f"{role} {found}",
            "let its administrator run deploy/postgres/roles.sql" if too_mighty or inherited else "",
        ),
    ]


_LIMITS = sa.text(
    "SELECT rolconnlimit, (SELECT sum(rolconnlimit) FROM pg_roles WHERE rolname LIKE 'haven\\_%' AND rolconnlimit > 0), "
    "current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int "
    "- coalesce(current_setting('reserved_connections', true)::int, 0) "
    "FROM pg_roles WHERE rolname = current_user"
)
_PROCESSES = sa.text(
    "SELECT DISTINCT application_name FROM pg_stat_activity WHERE usename = current_user AND application_name LIKE 'haven %'"
)


def _connections(connection: sa.Connection, role: str) -> list[Finding]:
    """Whether everybody who may come is let in: the processes that run now under this role, and all roles beside each other."""
    limit, of_all, places = connection.execute(_LIMITS).one()
    if limit < 0:  # the administrator
        return []
    kinds = [name.split(" ")[1] for name in connection.scalars(_PROCESSES)]
    wanted = sum(most_of(kind, role) for kind in kinds)
    remedy = ""
    if wanted > limit:
        remedy = f"run fewer of them, or {MORE_CONNECTIONS}"
    elif of_all > places:
        remedy = f"raise max_connections by {of_all - places}, as deploy/postgres/postgresql.conf has it"
    found = (
        f"{role} may hold {limit}, its {len(kinds)} processes of now as many as {wanted}; "
        f"all roles together {of_all}, and the server has {places}"
    )
    return [Finding("database connections", not remedy, found, remedy)]


def _tables(engine: sa.Engine, schema_version: int | None) -> list[Finding]:
    if schema_version is None:
        return []
    try:
        verify_version(engine, schema_version)
    except SchemaMismatch as mismatch:
        problem, _, remedy = str(mismatch).partition("; ")
        return [Finding("database tables", False, problem, remedy)]
    return [Finding("database tables", True, f"version {schema_version}, as this release needs")]


def _clock(engine: sa.Engine, now: Callable[[], datetime]) -> list[Finding]:
    problem, _, remedy = clock_skew(lambda: database_clock(engine), now).partition("; ")
    return [Finding("clock", not problem, problem or "agrees with the database's", remedy)]


# Kafka


def kafka(broker: "Broker", layout: "Layout", used: Collection[str] | None = None) -> list[Finding]:
    """Whether the cluster answers, lets this principal in, and the topics it uses (all when None) are as the promises need
    them."""
    # Here and not at the top: the gateway asks the other questions, and never speaks to a broker.
    from events.kafka import topics  # noqa: PLC0415
    from events.kafka.connection import BrokerProblem  # noqa: PLC0415

    places = [server.rpartition(":") for server in broker.servers]
    if all(_unreachable(host.strip("[]"), int(port)) for host, _, port in places):
        remedy = "start it, or correct HAVEN_KAFKA"
        return [Finding("kafka", False, f"nobody answers at {broker.addresses}", remedy)]
    try:
        found = topics.check(broker, layout, used)
    except topics.TopicsUnfit as unfit:
        parts = [problem.partition(": ") for problem in unfit.problems]
        return [Finding("topics", False, problem, remedy) for problem, _, remedy in parts]
    except BrokerProblem as problem:
        cause, _, remedy = str(problem).partition(". ")
        return [Finding("kafka", False, cause, remedy)]
    who = broker.username or "a client without a name"
    return [
        Finding("kafka", True, f"{broker.addresses} lets {who} in"),
        Finding("topics", True, f"{len(found)} topics as they must be"),
    ]


# The identity provider


def issuer(url: str) -> list[Finding]:
    """Whether the external identity provider can be discovered and publishes keys."""
    from services.config import ConfigurationError  # noqa: PLC0415
    from services.gateway.issuer import Issuer, IssuerUnusable  # noqa: PLC0415
    from services.gateway.key_set import KeysUnavailable  # noqa: PLC0415

    try:
        keys = Issuer(url, lambda: datetime.now(UTC)).key_set()
    except ConfigurationError as wrong:
        problem, _, remedy = str(wrong).partition(": ")
        return [Finding("issuer", False, problem, remedy or "correct HAVEN_ISSUER")]
    except IssuerUnusable as unusable:
        return [Finding("issuer", False, unusable.problem, unusable.remedy)]
    except KeysUnavailable as unavailable:
        return [Finding("issuer", False, unavailable.problem, f"see that {url} answers, or correct HAVEN_ISSUER")]
    return [Finding("issuer", True, f"{url} publishes {len(keys.keys)} keys")]
