"""`haven migrate`: brings the tables of a PostgreSQL database to the version of this release, and its rights with them.

A step is a number and one or more files, `services/migrations/<number>_<where>.sql`: `where` is one of the four schemas, or
`log` for each of those that hold a log. A database goes through every step it has not seen, a new one through all of them, so
there is one way to the present tables only. Steps are never changed once released, only added. Everything happens in one
transaction: whatever fails leaves the database as it was.
"""

from collections.abc import Mapping
from pathlib import Path

import psycopg
import sqlalchemy as sa

from events.log.engines import postgresql_engine
from events.log.schema import SchemaNewer

OWNER = "haven_migrator"
LOGS = ("gateway", "placement", "capacity")
SCHEMAS = (*LOGS, "keys")
ROLES = (
    OWNER,
    "haven_gateway",
    "haven_projection",
    "haven_placement",
    "haven_capacity",
    "haven_relay",
    "haven_auditor",
    "haven_eraser",
    "haven_notifier",
)
TRIES = 5
FILES = Path(__file__).parent / "migrations"

_WAIT_FOR_ANOTHER = "SET LOCAL lock_timeout = '5min'"
# While a lock on a table is waited for, everybody else waits behind it.
_WAIT_FOR_A_TABLE = "SET LOCAL lock_timeout = '4s'"
_LOCK = "SELECT pg_advisory_xact_lock(hashtext('haven migrate'))"
_VERSION_TABLE = """
    CREATE TABLE IF NOT EXISTS {schema}.schema_version (
        version integer PRIMARY KEY,
        applied_at timestamptz NOT NULL DEFAULT now()
    )
"""


class NotPrepared(Exception):
    """The database lacks the roles or the schemas, which only its administrator can make."""

    def __init__(self) -> None:
        super().__init__(
            f"the roles and schemas of Haven are missing, or this is neither {OWNER} nor an administrator; "
            "let the administrator of the database run deploy/postgres/roles.sql first"
        )


class MigrationFailed(Exception):
    """A step could not be taken; nothing was changed."""

    def __init__(self, step: str, schema: str, failure: psycopg.Error) -> None:
        self.in_the_way = isinstance(failure, psycopg.errors.LockNotAvailable | psycopg.errors.DeadlockDetected)
        """Somebody held a table; another try may find it free."""
        super().__init__(
            f"{step} failed in schema {schema}, and nothing was changed: {failure.sqlstate} "
            f"{failure.diag.message_primary}; "
            + ("try again when less is going on" if self.in_the_way else "report it, and stay on the release before")
        )


def latest(files: Path = FILES) -> int:
    """The schema version of this release."""
    return max(_steps(files))


def migrate(url: str | sa.URL, files: Path = FILES) -> list[str]:
    """Brings the database to `latest` and applies the rights anew; what it did, in words, empty when nothing was missing.

    Connect as haven_migrator. Two at once are fine: the second waits and finds nothing to do. Raises NotPrepared,
    MigrationFailed, or SchemaNewer when the database is of a later release.
    """
    engine = postgresql_engine(url, answer_within=None)
    try:
        for _ in range(TRIES - 1):
            try:
                return _migrate(engine, files)
            except MigrationFailed as failed:
                if not failed.in_the_way:
                    raise
        return _migrate(engine, files)
    finally:
        engine.dispose()


def _migrate(engine: sa.Engine, files: Path) -> list[str]:
    with engine.begin() as connection:
        _become_owner(connection)
        connection.exec_driver_sql(_WAIT_FOR_ANOTHER)
        connection.exec_driver_sql(_LOCK)
        connection.exec_driver_sql(_WAIT_FOR_A_TABLE)
        done = _apply_steps(connection, _steps(files))
        _run(connection, files / "rights.sql", "pg_catalog")
        return done


def _become_owner(connection: sa.Connection) -> None:
    prepared = connection.execute(
        sa.text(
            "SELECT (SELECT count(*) FROM pg_namespace n JOIN pg_roles r ON r.oid = n.nspowner "
            "WHERE n.nspname = ANY (:schemas) AND r.rolname = :owner) = cardinality(:schemas) "
            "AND (SELECT count(*) FROM pg_roles WHERE rolname = ANY (:roles)) = cardinality(:roles) "
            "AND (SELECT bool_or(pg_has_role(oid, 'MEMBER')) FROM pg_roles WHERE rolname = :owner)"
        ),
        {"schemas": list(SCHEMAS), "roles": list(ROLES), "owner": OWNER},
    ).scalar()
    if not prepared:
        raise NotPrepared
    connection.exec_driver_sql(f"SET LOCAL ROLE {OWNER}")  # also an administrator's tables belong to the owner


def _apply_steps(connection: sa.Connection, steps: Mapping[int, Mapping[str, Path]]) -> list[str]:
    done = []
    for schema in SCHEMAS:
        connection.exec_driver_sql(_VERSION_TABLE.format(schema=schema))
    found = {schema: _version(connection, schema) for schema in SCHEMAS}
    for schema, version in found.items():
        if version > max(steps):
            raise SchemaNewer(schema, version, max(steps))
    for number, files in steps.items():
        for schema in SCHEMAS:
            if number <= found[schema]:
                continue
            for where in ("log", schema) if schema in LOGS else (schema,):
                if where in files:
                    _run(connection, files[where], schema)
                    done.append(f"{schema}: {files[where].name}")
            connection.exec_driver_sql(f"INSERT INTO {schema}.schema_version (version) VALUES ({number})")  # noqa: S608
    return done


def _version(connection: sa.Connection, schema: str) -> int:
    versions = sa.table("schema_version", sa.column("version", sa.Integer), schema=schema)
    return connection.scalar(sa.select(sa.func.max(versions.c.version))) or 0


def _run(connection: sa.Connection, file: Path, search_path: str) -> None:
    connection.exec_driver_sql(f"SET LOCAL search_path = {search_path}")
    # Past SQLAlchemy, which would have the driver prepare it, and only a single statement can be prepared.
    try:
        connection.connection.cursor().execute(file.read_text())
    except psycopg.Error as failure:
        raise MigrationFailed(file.name, search_path, failure) from None


def _steps(files: Path) -> dict[int, dict[str, Path]]:
    steps: dict[int, dict[str, Path]] = {}
    for file in sorted(files.glob("[0-9]*_*.sql")):
        number, _, where = file.stem.partition("_")
        steps.setdefault(int(number), {})[where] = file
    return steps
