"""How a process reaches Kafka: addresses, credentials and what both client libraries want to be told of them."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kafka.admin import KafkaAdminClient
from kafka.errors import (
    AuthorizationError,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    SaslAuthenticationFailedError,
)

SASL_MECHANISM = "SCRAM-SHA-512"
REACH_SECONDS = 10
"""How long a starting process tries to reach a broker before it says that it cannot."""


class BrokerProblem(Exception):
    """Kafka cannot be used like this; the message names the cause and the remedy.

    BrokerProblem
     +-- BrokerUnreachable     nobody answers at the address
     +-- CredentialsRefused    it answers and does not let us in, or not do this
     +-- TopicsUnfit           topics are missing or are not as the promises need them (events/kafka/topics.py)
    """


class BrokerUnreachable(BrokerProblem):
    def __init__(self, broker: "Broker") -> None:
        super().__init__(
            f"no Kafka broker answers at {broker.addresses} within {REACH_SECONDS} s. Start it, or correct HAVEN_KAFKA; "
            "with TLS, look whether HAVEN_KAFKA_CA_FILE is the authority that signed the broker's certificate."
        )


class CredentialsRefused(BrokerProblem):
    def __init__(self, broker: "Broker", action: str) -> None:
        who = broker.username or "anonymous"
        super().__init__(
            f"Kafka at {broker.addresses} does not let {who} {action}. Look at HAVEN_KAFKA_USERNAME and its password "
            "file, and at the access rules in deploy/kafka."
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
        """Settings every kafka-python client of ours shares."""
        settings: dict[str, Any] = {
            "bootstrap_servers": list(self.servers),
            "client_id": client_id,
            "request_timeout_ms": 10_000,
            "reconnect_backoff_max_ms": 1_000,
        }
        if self.username:
            settings |= {
                "security_protocol": "SASL_SSL",
                "ssl_cafile": str(self.ca_file) if self.ca_file else None,
                "sasl_mechanism": SASL_MECHANISM,
                "sasl_plain_username": self.username,
                "sasl_plain_password": self.password,
            }
        return settings

    def tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.ca_file) if self.ca_file else None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    def admin(self, client_id: str) -> KafkaAdminClient:
        """An administration client that has reached a broker. Raises BrokerUnreachable or CredentialsRefused."""
        settings = self.kafka_python(client_id) | {"bootstrap_timeout_ms": REACH_SECONDS * 1000}
        try:
            return KafkaAdminClient(**settings)
        except KafkaError as failure:
            raise self.problem(failure, "sign in") from None

    def problem(self, failure: Exception, action: str) -> Exception:
        """What `failure` of a client means to the person who runs Haven; itself when there is nothing to add."""
        match failure:
            case SaslAuthenticationFailedError() | AuthorizationError():
                return CredentialsRefused(self, action)
            case KafkaConnectionError() | KafkaTimeoutError():
                return BrokerUnreachable(self)
        return failure
