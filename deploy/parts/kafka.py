"""Apache Kafka, one broker or several that keep copies, in plain text or with TLS and a log-in for everybody."""

import base64
import shutil
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Self

from deploy.artifacts import java, kafka_jars
from deploy.certificates import LOOPBACK, certificates
from deploy.private import private_file, random_secret
from deploy.process import Command, Part, PartFailed, accepts

LOG4J2 = """\
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d{ISO8601} %p %m (%c)%n
rootLogger.level=INFO
rootLogger.appenderRef.out.ref=out
"""


class Kafka(Part):
    """One broker that is its own controller (KRaft).

    `principals` turns the client listener from plain text into TLS with SCRAM-SHA-512: a log-in for each of them and one for
    the `admin`, who alone may do anything until access control lists say more. Between itself the broker uses client
    certificates. `settings` override the configuration.

    One of a KafkaCluster is told its number (`node`), the cluster's id and where the cluster's certificates and passwords lie
    (`secrets`).
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
        node: int = 1,
        cluster_id: str = "",
        secrets: Path | None = None,
    ) -> None:
        super().__init__(folder)
        self.heap = heap
        self.node = node
        self.cluster_id = cluster_id or _cluster_id()
        self.secrets = secrets or self.folder
        self.quorum: Sequence[Kafka] = (self,)
        """All brokers of its cluster."""
        self.principals = () if principals is None else (self.ADMIN, *principals)
        self.settings = dict(settings or {})
        self.bootstrap = f"{LOOPBACK}:{self._ports['client']}"
        self.ca_file = self.secrets / "tls" / "ca.pem"
        for principal in self.principals:
            random_secret(self.password_file(principal))
        if self.principals and not self.ca_file.exists():
            certificates(self.ca_file, self.secrets / "tls" / "broker.pem")

    def password_file(self, principal: str) -> Path:
        """Where the password of a principal lies, readable by this user alone."""
        return self.secrets / "passwords" / principal

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
        self.cluster_id = _cluster_id()

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
        command = ["-XX:TieredStopAtLevel=1", *java_options, "kafka.tools.StorageTool", "format"]
        command += [] if len(self.quorum) > 1 else ["--standalone"]
        command += [f"--cluster-id={self.cluster_id}", "--config", str(properties)]
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
                "ssl.keystore.location": str(self.secrets / "tls" / "broker.pem"),
                "ssl.truststore.type": "PEM",
                "ssl.truststore.location": str(self.ca_file),
                "listener.name.internal.ssl.client.auth": "required",
                "listener.name.controller.ssl.client.auth": "required",
                "listener.name.client.sasl.enabled.mechanisms": "SCRAM-SHA-512",
                "listener.name.client.scram-sha-512.sasl.jaas.config": (
                    "org.apache.kafka.common.security.scram.ScramLoginModule required;"
                ),
            }
        copies, in_sync = str(len(self.quorum)), str(len(self.quorum) // 2 + 1)
        return {
            "process.roles": "broker,controller",
            "node.id": str(self.node),
            **self._controllers(),
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
            "offsets.topic.replication.factor": copies,
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": copies,
            "transaction.state.log.num.partitions": "4",
            "transaction.state.log.min.isr": in_sync,
            "share.coordinator.state.topic.replication.factor": copies,
            "share.coordinator.state.topic.num.partitions": "4",
            "share.coordinator.state.topic.min.isr": in_sync,
            "log.cleaner.dedupe.buffer.size": str(16 << 20),  # by default a third of the whole heap
            **security,
            **self.settings,
        }

    def _controllers(self) -> dict[str, str]:
        """A quorum of one is found by its address; several are named to each other once and for all."""
        if len(self.quorum) == 1:
            return {"controller.quorum.bootstrap.servers": self._controller()}
        voters = ",".join(f"{broker.node}@{broker._controller()}" for broker in self.quorum)
        return {"controller.quorum.voters": voters}

    def _controller(self) -> str:
        return f"{LOOPBACK}:{self._ports['controller']}"

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
            found = admin.describe_cluster()["brokers"]
            return any(broker["broker_id"] == self.node and not broker.get("is_fenced") for broker in found)
        except KafkaError:
            return False
        finally:
            admin.close()


class KafkaCluster:
    """Several brokers, each a controller too, that keep copies of everything: what one broker cannot show, such as a partition's
    leader dying while another has all that was acknowledged.

    They start and stop together; each of `brokers` may be killed, frozen and started again by itself, and each gives clients
    the addresses of all. `principals` and `settings` as for one broker.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        brokers: int = 3,
        heap: str = "256m",
        principals: Sequence[str] | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = Path(folder).resolve()
        cluster_id = _cluster_id()
        self.brokers = [
            Kafka(
                self.folder / f"broker-{node}",
                heap=heap,
                principals=principals,
                settings=settings,
                node=node,
                cluster_id=cluster_id,
                secrets=self.folder,
            )
            for node in range(1, brokers + 1)
        ]
        bootstrap = ",".join(broker.bootstrap for broker in self.brokers)
        for broker in self.brokers:
            broker.quorum, broker.bootstrap = self.brokers, bootstrap

    def start(self) -> Self:
        """Starts those that do not run and returns when they answer, which none does before most are there. Raises
        PartUnavailable or PartFailed."""
        with ThreadPoolExecutor(len(self.brokers)) as together:
            for _ in together.map(lambda broker: broker.running or broker.start(), self.brokers):
                pass
        return self

    def stop(self) -> None:
        with ThreadPoolExecutor(len(self.brokers)) as together:
            for _ in together.map(lambda broker: broker.stop(), self.brokers):
                pass

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_: object) -> None:
        self.stop()


def _cluster_id() -> str:
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")


def _write_arguments(file: Path, arguments: Sequence[str]) -> None:
    """For `java @file`: what a process was started with is there for every user of the machine to read, this file is not."""
    quoted = ('"' + argument.replace("\\", "\\\\").replace('"', '\\"') + '"' for argument in arguments)
    private_file(file, "\n".join(quoted))


def _pairs(separator: str, values: Mapping[str, str]) -> str:
    return ",".join(f"{key}{separator}{value}" for key, value in values.items())
