"""How a process reaches Kafka: addresses, credentials and what both client libraries want to be told of them."""

import logging
import socket
import ssl
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kafka.admin import KafkaAdminClient
from kafka.errors import (
    AuthorizationError,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    NodeNotReadyError,
    RequestTimedOutError,
    SaslAuthenticationFailedError,
)
from kafka.net import manager
from kafka.net.compat import KafkaNetClient
from kafka.net.transport import KafkaSSLTransport

# At DEBUG this client writes its whole configuration to the log, the password with it.
logging.getLogger("kafka.admin.client").setLevel(logging.INFO)

SASL_MECHANISM = "SCRAM-SHA-512"
REACH_SECONDS = 10
"""How long a starting process tries to reach a broker before it says that it cannot."""
PROBE_SECONDS = 2
HANDSHAKE_SECONDS = 3.0
"""How long a broker may take for its part of the TLS handshake."""


class BrokerProblem(Exception):
    """Kafka cannot be used like this; the message names the cause and the remedy.

    BrokerProblem
     +-- BrokerUnreachable     nobody answers at the address, or not in the way we speak
     +-- AuthorityRefused      it shows a certificate our authority did not sign, or there is no authority to check it with
     +-- CredentialsRefused    it answers and does not let us in, or not do this
     +-- BrokerFailed          it answers with an error of its own
     +-- TopicsUnfit           topics are missing or are not as the promises need them (events/kafka/topics.py)
    """


class BrokerUnreachable(BrokerProblem):
    def __init__(self, broker: "Broker", found: str = "no Kafka broker answers") -> None:
        super().__init__(f"{found} at {broker.addresses} within {REACH_SECONDS} s. Start it, or correct HAVEN_KAFKA.")


class AuthorityRefused(BrokerProblem):
    def __init__(self, broker: "Broker", reason: str) -> None:
        super().__init__(
            f"the certificate of Kafka at {broker.addresses} cannot be trusted ({reason}). HAVEN_KAFKA_CA_FILE must be the "
            "authority that signed it, as PEM, and the certificate must name the host as HAVEN_KAFKA does."
        )


class CredentialsRefused(BrokerProblem):
    def __init__(self, broker: "Broker", action: str) -> None:
        who = broker.username or "a client without a name"
        super().__init__(
            f"Kafka at {broker.addresses} does not let {who} {action}. Look at the password file "
            f"{broker.username or '<role>'}_kafka_password in HAVEN_SECRETS_DIR and at deploy/kafka/access.toml; "
            "`python -m deploy.kafka_access` applies both."
        )


class BrokerFailed(BrokerProblem):
    def __init__(self, broker: "Broker", action: str, failure: Exception) -> None:
        super().__init__(
            f"Kafka at {broker.addresses} could not {action}: {type(failure).__name__}. Its own log says why; repeat it then."
        )


@dataclass(frozen=True)
class Broker:
    """A Kafka cluster as one principal sees it. Without a username: no TLS and no sign-in, for this machine only."""

    servers: tuple[str, ...]
    username: str = ""
    password: str = field(default="", repr=False)
    ca_file: Path | None = None

    @property
    def addresses(self) -> str:
        return ",".join(self.servers)

    @property
    def faust_url(self) -> str:
        return ";".join(f"kafka://{server}" for server in self.servers)

    def kafka_python(self, client_id: str) -> dict[str, Any]:
        """Settings every kafka-python client of ours shares. Raises AuthorityRefused when there is no usable CA file."""
        settings: dict[str, Any] = {
            "bootstrap_servers": list(self.servers),
            "client_id": client_id,
            "request_timeout_ms": 10_000,
            "reconnect_backoff_max_ms": 1_000,
            "kafka_client": _NetClient,
        }
        if self.username:
            settings |= {
                "security_protocol": "SASL_SSL",
                "ssl_context": self.tls(),
                "sasl_mechanism": SASL_MECHANISM,
                "sasl_plain_username": self.username,
                "sasl_plain_password": self.password,
            }
        return settings

    def tls(self) -> ssl.SSLContext:
        """What both clients check the broker's certificate with. Raises AuthorityRefused when there is no usable CA file."""
        try:
            context = ssl.create_default_context(cafile=str(self.ca_file) if self.ca_file else None)
        except OSError as failure:  # not there, not readable, or (ssl.SSLError) no certificate in it
            raise AuthorityRefused(self, f"reading {self.ca_file}: {type(failure).__name__}") from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    def admin(self, client_id: str) -> KafkaAdminClient:
        """An administration client that has reached a broker. Raises a BrokerProblem."""
        settings = self.kafka_python(client_id) | {"bootstrap_timeout_ms": REACH_SECONDS * 1000}
        try:
            return KafkaAdminClient(**settings)
        except (KafkaConnectionError, KafkaTimeoutError):
            raise self._why_not_reached() from None
        except KafkaError as failure:
            raise self.problem(failure, "sign in") from None

    def problem(self, failure: Exception, action: str) -> Exception:
        """What `failure` of a client means to the person who runs Haven; itself when it is none of Kafka's."""
        match failure:
            case SaslAuthenticationFailedError() | AuthorizationError():
                return CredentialsRefused(self, action)
            case KafkaConnectionError() | KafkaTimeoutError() | NodeNotReadyError() | RequestTimedOutError():
                return BrokerUnreachable(self)
            case KafkaError():
                return BrokerFailed(self, action, failure)
        return failure

    def _why_not_reached(self) -> BrokerProblem:
        """The client tries until its time is up, whatever keeps it, and does not say what did: so look by hand."""
        found: BrokerProblem = BrokerUnreachable(self)
        for server in self.servers:
            host, _, port = server.rpartition(":")
            host = host.strip("[]")
            try:
                with socket.create_connection((host, int(port)), timeout=PROBE_SECONDS) as connection:
                    if not self.username:
                        found = BrokerUnreachable(self, "something that hangs, or wants TLS and a sign-in, answers")
                        continue
                    with self.tls().wrap_socket(connection, server_hostname=host):
                        return CredentialsRefused(self, "sign in")
            except ssl.SSLCertVerificationError as refusal:
                return AuthorityRefused(self, refusal.verify_message)
            except (OSError, ValueError):
                continue
        return found


class _Transport(KafkaSSLTransport):  # type: ignore[misc]  # kafka-python ships no types
    """kafka-python's TLS, with an end to the handshake. By itself it waits for ever for a broker that is frozen, or gone behind a
    network that drops everything: its system still takes connections, or took this one. With one such broker of three, a relay
    and the sweeps stood still until it came back, whenever they happened to try it first."""

    async def handshake(self) -> None:
        ends = time.monotonic() + HANDSHAKE_SECONDS
        while True:
            try:
                self._sock.do_handshake()
                return
            except ssl.SSLWantReadError:
                await self._net.wait_read(self._sock, timeout_at=ends)
            except ssl.SSLWantWriteError:
                await self._net.wait_write(self._sock, timeout_at=ends)


manager.KafkaSSLTransport = _Transport


class _NetClient(KafkaNetClient):  # type: ignore[misc]  # kafka-python ships no types
    """kafka-python's connections, ended when they could not be made. By itself it raises and leaves a thread behind that
    goes on trying: a process that waits for its broker would gain one more with every attempt."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._bootstrap = self._manager.bootstrap
        self._manager.bootstrap = self._bootstrap_or_end

    def _bootstrap_or_end(self, *arguments: Any, **settings: Any) -> None:
        try:
            self._bootstrap(*arguments, **settings)
        except Exception:
            self.close()
            self._manager._net.stop(timeout_ms=1_000)
            raise
