"""The servers of the process map, started as it starts them: the same commands, files and secrets, in folders of the tests."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml

from deploy import kafka_access, secrets
from deploy.artifacts import java, kafka_jars
from events.kafka import connection, topics
from events.kafka.connection import CredentialsRefused
from services.config import read_settings
from services.migrate import OWNER, ROLES, migrate
from tests.real.test_postgresql_settings import SERVERS_WITH_TLS, free_port, wait_until

pytestmark = [pytest.mark.real, pytest.mark.slow]

ROOT = Path(__file__).resolve().parent.parent.parent
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


@contextmanager
def running(command: list[str | Path], log: Path, stop: signal.Signals, **how: Any) -> Iterator[None]:
    with log.open("wb") as said, subprocess.Popen(command, stdout=said, stderr=said, **how) as server:
        try:
            yield
        finally:
            server.send_signal(stop)
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()


# Kafka


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """The folder of a broker started by broker.sh, and the settings of a process that is to reach it."""
    folder = tmp_path_factory.mktemp("broker")
    places = {name: folder / name.lower() for name in ("SECRETS", "CONFIG", "SCRATCH", "DATA", "LIBRARIES")}
    for place in places.values():
        place.mkdir()
    secrets.make(places["SECRETS"], lambda *_: None)
    shutil.copy(places["SECRETS"] / secrets.AUTHORITY, places["CONFIG"])
    for jar in kafka_jars():
        (places["LIBRARIES"] / jar.name).symlink_to(jar)
    client, internal, controller = free_port(), free_port(), free_port()
    settings = (ROOT / "deploy/kafka/server.properties").read_text()
    for there, here in (
        ("CLIENT://kafka:", "CLIENT://localhost:"),
        ("CLIENT://:", "CLIENT://localhost:"),
        (":9093", f":{client}"),
        (":9094", f":{internal}"),
        (":9095", f":{controller}"),
        ("=/tmp/", f"={places['SCRATCH']}/"),
        ("/etc/haven/", f"{places['CONFIG']}/"),
        ("/var/lib/kafka/data", str(places["DATA"])),
    ):
        assert there in settings
        settings = settings.replace(there, here)
    (places["CONFIG"] / "server.properties").write_text(settings)
    environment = {"PATH": f"{java().parent}:/usr/bin:/bin", "HEAP": "-Xmx256m"}
    environment |= {name: str(place) for name, place in places.items()}
    command = [SERVICES["kafka"]["entrypoint"][0], ROOT / "deploy/kafka/broker.sh"]
    ours = {key: value for key, value in SERVICES["relay"]["environment"].items() if key.startswith("HAVEN_KAFKA")}
    ours |= {
        "HAVEN_KAFKA": f"localhost:{client}",
        "HAVEN_KAFKA_CA_FILE": str(places["CONFIG"] / secrets.AUTHORITY),
        "HAVEN_SECRETS_DIR": str(places["SECRETS"]),
    }
    # As the container engine stops it. A JVM that was started in the background, as tests may be, would not heed SIGINT.
    with running(command, folder / "log", signal.SIGTERM, env=environment):
        wait_until(lambda: b"Kafka Server started" in (folder / "log").read_bytes(), 90)
        yield folder, ours


def test_the_broker_lets_its_administrator_in_and_nobody_else_before_passwords_are_set(
    broker: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = read_settings(broker[1])
    settings.broker(kafka_access.ADMINISTRATOR).admin("test").close()
    monkeypatch.setattr(connection, "REACH_SECONDS", 3)
    with pytest.raises(CredentialsRefused):
        settings.broker("haven_topics").admin("test")


def test_the_broker_is_prepared_as_the_map_prepares_it(broker: tuple[Path, dict[str, str]]) -> None:
    settings = read_settings(broker[1])
    administrator = settings.broker(kafka_access.ADMINISTRATOR)
    kafka_access.apply(administrator, settings.layout, kafka_access.passwords_of(settings))
    lines = topics.create(settings.broker("haven_topics"), settings.layout)
    assert [line for line in lines if "created" not in line] == []
    assert topics.check(settings.broker("haven_relay"), settings.layout)


def test_no_password_of_the_broker_is_left_outside_its_secrets(broker: tuple[Path, dict[str, str]]) -> None:
    folder = broker[0]
    password = (folder / "secrets/admin_kafka_password").read_bytes()
    assert password not in (folder / "log").read_bytes()
    assert not (folder / "scratch/format.args").exists()
    assert [path for path in (folder / "data").rglob("*") if path.is_file() and password in path.read_bytes()] == []
    assert [path for path in (folder / "scratch").iterdir() if path.stat().st_mode & 0o077] == []


# PostgreSQL


@pytest.mark.skipif(
    not SERVERS_WITH_TLS or os.geteuid() != 0,
    reason="THE MAP'S POSTGRESQL WAS NOT TESTED: needs root and a packaged server with TLS (/usr/lib/postgresql)",
)
def test_postgresql_starts_and_is_prepared_as_on_the_map() -> None:
    """On the packaged server: the one of the development dependencies has no TLS."""
    programs, folder = SERVERS_WITH_TLS[-1].parent, Path(tempfile.mkdtemp(prefix="haven-compose-postgresql-"))
    account = {"user": "postgres", "group": "postgres", "extra_groups": []}
    made = folder / "secrets"
    secrets.make(made, lambda *_: None)
    config, data, port = folder / "config", folder / "data", free_port()
    shutil.copytree(ROOT / "deploy/postgres", config)
    for path in (folder, *made.iterdir(), made, config):
        shutil.chown(path, "postgres", "postgres")
    server, roles = SERVICES["postgresql"], SERVICES["postgresql-roles"]
    initdb = [programs / "initdb", "-D", data, f"--pwfile={made / 'postgres_password'}", "-U", "postgres"]
    initdb += [*server["environment"]["POSTGRES_INITDB_ARGS"].split(), "--no-sync"]
    subprocess.run(initdb, cwd=folder, check=True, capture_output=True, **account)

    def here(word: str) -> str:
        return word.replace("/etc/haven", str(config)).replace("/run/secrets", str(made))

    program, *arguments = server["command"]
    command = [programs / program, "-D", data, *map(here, arguments)]
    command += [f"--port={port}", f"--unix_socket_directories={folder}"]
    psql = {"cwd": folder, "capture_output": True, "text": True, **account}
    psql["env"] = {"PGHOST": str(folder), "PGPORT": str(port), "PATH": "/usr/bin:/bin"}
    try:
        with running(command, folder / "log", signal.SIGINT, cwd=folder, **account):
            probe = [programs / "pg_isready", "--quiet", "--host=127.0.0.1"]
            wait_until(lambda: subprocess.run(probe, env=psql["env"], check=False).returncode == 0)
            create = [programs / "psql", "--dbname=postgres", "--command=CREATE DATABASE haven"]
            subprocess.run(create, check=True, **psql)
            entrypoint = [programs / "psql", *roles["entrypoint"][1:]]
            for _ in range(2):  # a second start changes nothing
                subprocess.run([*entrypoint, f"--set=secrets={made}", *map(here, roles["command"])], check=True, **psql)
            healthy = server["healthcheck"]["test"][1].replace("pg_isready", str(programs / "pg_isready"))
            healthy = re.sub(r"\bpsql\b", str(programs / "psql"), healthy)
            subprocess.run(["sh", "-c", healthy], check=True, **psql)
            for file in made.iterdir():
                shutil.chown(file, os.geteuid())
            url = SERVICES["gateway"]["environment"]["HAVEN_DATABASE"].replace("/etc/haven", str(made))
            url = url.replace(":5432", f":{port}") + "&hostaddr=127.0.0.1"
            settings = read_settings({"HAVEN_DATABASE": url, "HAVEN_SECRETS_DIR": str(made)})
            assert migrate(settings.database_url(OWNER))
            for role in ROLES:
                engine = sa.create_engine(settings.database_url(role), poolclass=sa.NullPool)
                with engine.connect() as connection:
                    found = "SELECT current_user, ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
                    assert tuple(connection.exec_driver_sql(found).one()) == (role, True)
            secrets.make(folder / "others", lambda *_: None)
            strange = settings.database_url(OWNER).update_query_dict(
                {"sslrootcert": str(folder / "others" / secrets.AUTHORITY)}
            )
            with pytest.raises(sa.exc.OperationalError, match="certificate verify failed"):
                sa.create_engine(strange, poolclass=sa.NullPool).connect()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
