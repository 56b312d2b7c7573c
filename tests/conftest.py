"""The real parts for the tests: those named in the environment, or our own, one of each for all workers of a run.

What needs a part that cannot be had is skipped and the summary says so; where CI is set that is a failure instead.
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import psutil
import pytest
import sqlalchemy as sa

from events.log.engines import postgresql_engine, sqlite_engine
from events.log.store import EventLog

ROOT = Path(__file__).resolve().parent.parent
GIVEN = {
    "postgresql": "HAVEN_TEST_POSTGRES_URL",
    "kafka": "HAVEN_TEST_KAFKA",
    "keycloak": "HAVEN_TEST_KEYCLOAK",
    "chromium": "HAVEN_TEST_CHROMIUM",
}

_parts_folder = pytest.StashKey[Path]()
_parts_owner = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    # The process that outlives all xdist workers owns the shared parts: they end with it, whatever becomes of the worker
    # that happened to start them.
    workerinput = getattr(config, "workerinput", None)
    config.stash[_parts_owner] = workerinput["parts_owner"] if workerinput else os.getpid()
    config.stash[_parts_folder] = Path(
        workerinput["parts_folder"] if workerinput else tempfile.mkdtemp(prefix="haven-parts-")
    )


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node) -> None:
    node.workerinput["parts_owner"] = node.config.stash[_parts_owner]
    node.workerinput["parts_folder"] = str(node.config.stash[_parts_folder])


def pytest_unconfigure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput") or _parts_folder not in config.stash:
        return
    folder = config.stash[_parts_folder]
    for pid in folder.glob("*/pid"):
        with suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
            supervisor = psutil.Process(int(pid.read_text()))
            supervisor.send_signal(signal.SIGTERM)
            supervisor.wait(60)
    shutil.rmtree(folder, ignore_errors=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reasons = [
        report.longrepr[2] for report in terminalreporter.stats.get("skipped", []) if isinstance(report.longrepr, tuple)
    ]
    for name, variable in GIVEN.items():
        if skipped := [reason for reason in reasons if f"no {name}:" in reason]:
            terminalreporter.section(f"{name.upper()} WAS NOT TESTED", sep="!", red=True, bold=True)
            terminalreporter.line(f"{len(skipped)} tests skipped. {skipped[0]}", red=True)
            terminalreporter.line(f"Set {variable} to name one of your own.", red=True)


@pytest.fixture(scope="session")
def without_part() -> Callable[[str, Exception], NoReturn]:
    """What a test does that needs a part, and there is none."""

    def give_up(name: str, failure: Exception) -> NoReturn:
        reason = f"no {name}: {str(failure).splitlines()[0]}"
        if os.environ.get("CI") == "true":
            pytest.fail(f"{reason}\n{failure}")
        pytest.skip(reason)

    return give_up


@pytest.fixture(scope="session")
def shared_part(request: pytest.FixtureRequest, without_part) -> Callable[..., dict[str, Any]]:
    """Starts a part, or finds the one another worker started; returns its address."""

    def address(name: str, *options: str) -> dict[str, Any]:
        folder = request.config.stash[_parts_folder] / name
        try:
            return start_shared_part(name, folder, request.config.stash[_parts_owner], options)
        except RuntimeError as failure:
            without_part(name, failure)

    return address


def start_shared_part(name: str, folder: Path, owner: int, options: tuple[str, ...]) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    addresses, failed, log = (folder / name for name in ("addresses.json", "failed", "supervisor.log"))
    with (folder / "starting").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if failed.exists():
            raise RuntimeError(failed.read_text())
        if not addresses.exists():
            command = [sys.executable, "-m", "deploy.parts", "start", name, "--folder", folder, "--owner", str(owner)]
            with log.open("w") as output:
                supervisor = subprocess.Popen(
                    [*command, *options], stdout=output, stderr=output, cwd=ROOT, start_new_session=True
                )
            (folder / "pid").write_text(str(supervisor.pid))
            try:
                while not addresses.exists() and supervisor.poll() is None:
                    time.sleep(0.05)
            except BaseException:  # the test's time is up: the next one starts anew
                supervisor.terminate()
                raise
            if not addresses.exists():
                failed.write_text(log.read_text())
                raise RuntimeError(log.read_text())
    return json.loads(addresses.read_text())[name]


@pytest.fixture(scope="session")
def postgres_server_url(shared_part) -> str:
    """A server on which the tests may create databases and roles."""
    # No crash of this server is ever tested: without waiting for the disk each test has its database in milliseconds.
    return os.environ.get(GIVEN["postgresql"]) or shared_part("postgresql", "--no-fsync")["url"]


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
