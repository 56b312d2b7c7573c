"""Who can do what on the real broker once deploy/kafka/access.toml was applied: what each must, and nothing else."""

import asyncio
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition, errors
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ConfigResource,
    ConfigResourceType,
    KafkaAdminClient,
    OffsetSpec,
    ResourcePattern,
    ResourceType,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from kafka.errors import (
    AuthorizationError,
    ClusterAuthorizationFailedError,
    GroupIdNotFoundError,
    KafkaError,
    NoError,
    NonEmptyGroupError,
    TopicAlreadyExistsError,
    for_code,
)

from deploy import kafka_access
from deploy.artifacts import PartUnavailable
from deploy.kafka_access import AccessRefused, apply, principals, read_rules
from deploy.parts import Kafka
from deploy.private import private_file
from events.envelope import encode
from events.kafka import connection, dead_letters, topics
from events.kafka.connection import Broker, CredentialsRefused
from events.kafka.layout import Layout
from events.kafka.receiver import Receiver
from events.kafka.relay import Relay
from events.kafka.sweep import Sweep
from events.kafka.topics import TopicsUnfit
from events.kafka.worker import bring, faust_app
from events.log.engines import sqlite_engine
from events.log.inbox import Consumer
from events.log.store import EventLog
from tests.events.drafts import an_event

pytestmark = pytest.mark.real

LAYOUT = Layout(partitions=2, replication=1, in_sync=1)
SOURCES = ("gateway", "placement", "capacity")
ALL = (*SOURCES, "dead-letters")
PATIENCE = 60
"""Seconds; generous, for a machine that does much else."""
FOREIGN = "payroll"
"""A topic and a group of somebody else on the same cluster."""

READS = {
    "haven_placement": ("gateway", "capacity"),
    "haven_capacity": ("gateway", "placement"),
    "haven_projection": SOURCES,
}
MAY = {
    "haven_relay": {(verb, topic) for topic in ALL for verb in ("write", "describe", "describe configs")},
    "haven_topics": {(verb, topic) for topic in ALL for verb in ("create", "describe", "describe configs")},
    **{
        who: {(verb, topic) for topic in read for verb in ("read", "describe", "describe configs")}
        | {(verb, f"group {who.removeprefix('haven_')}") for verb in ("join", "describe group")}
        for who, read in READS.items()
    },
}
"""Written down once more, by hand and from what each service does: a slip in the file must not be the expectation too."""

PASSWORDS = {who: f"{who}-{'x' * 24}" for who in MAY}


# The broker


@pytest.fixture(scope="module")
def kafka_part(tmp_path_factory, without_part) -> Iterator[Kafka]:
    part = Kafka(tmp_path_factory.mktemp("access"), principals=["stranger"])
    try:
        part.start()
    except PartUnavailable as failure:
        without_part("kafka", failure)
    yield part
    part.kill()


@pytest.fixture(scope="module")
def admin(kafka_part: Kafka) -> Broker:
    return Broker((kafka_part.bootstrap,), "admin", kafka_part.password("admin"), kafka_part.ca_file)


@pytest.fixture(scope="module")
def prepared(admin: Broker) -> Broker:
    """The administrator of a cluster that is as an operator prepares it, and that somebody else uses too."""
    apply(admin, LAYOUT, PASSWORDS)
    topics.create(of("haven_topics", admin), LAYOUT)
    with closing(admin.admin("test")) as client:
        client.create_topics({FOREIGN: {"num_partitions": 1, "replication_factor": 1}}, wait_for_metadata=True)
    with closing(KafkaProducer(**admin.kafka_python("test"))) as producer:
        for topic in (*LAYOUT.wanted(), FOREIGN):
            producer.send(topic, b"{}", partition=0).get(timeout=10)
    return admin


def of(principal: str, broker: Broker) -> Broker:
    return replace(broker, username=principal, password=PASSWORDS[principal])


# What can be tried


class Trying:
    """The clients of one principal, and everything one might try with them."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker

    @cached_property
    def admin(self) -> KafkaAdminClient:
        return self.broker.admin("test")

    # A new client each time: one that was refused a topic goes on being refused others because of it.

    def write(self, topic: str) -> None:
        settings = self.broker.kafka_python("test")
        with closing(KafkaProducer(**settings, enable_idempotence=False, max_block_ms=5_000, retries=0)) as producer:
            producer.send(topic, b"{}", key=b"stream-1").get(timeout=10)

    def read(self, topic: str) -> None:
        self.describe(topic)  # who may read may describe; a reader to whom a topic is hidden waits without a word
        with closing(KafkaConsumer(**self.broker.kafka_python("test"), group_id=None)) as reader:
            reader.assign([TopicPartition(topic, 0)])
            reader.seek(TopicPartition(topic, 0), 0)
            ends = time.monotonic() + PATIENCE
            while not reader.poll(timeout_ms=200):
                assert time.monotonic() < ends, "neither given anything nor refused"

    def describe(self, topic: str) -> None:
        (described,) = self.admin.describe_topics([topic])
        refuse(for_code(described["error_code"]))
        self.admin.list_partition_offsets({TopicPartition(topic, 0): OffsetSpec.LATEST})

    def describe_configs(self, topic: str) -> None:
        self.see_configs(ConfigResourceType.TOPIC, topic)

    def see_configs(self, kind: ConfigResourceType, name: str) -> None:
        answer = self.admin.describe_configs([ConfigResource(kind, name)], config_filter="all")
        if not answer[kind.name.lower()][name]:  # how the client tells that it was refused
            raise ClusterAuthorizationFailedError

    def alter_configs(self, topic: str) -> None:
        change = ConfigResource(ConfigResourceType.TOPIC, topic, configs={"segment.bytes": "1073741824"})
        refuse_in(self.admin.alter_configs([change], raise_on_unknown=False))

    def delete_records(self, topic: str) -> None:
        refuse_in(self.admin.delete_records({TopicPartition(topic, 0): 0}, partition_leader_id=1))

    def add_partitions(self, topic: str) -> None:
        self.admin.create_partitions({topic: 5}, validate_only=True)

    def create(self, topic: str) -> None:
        with suppress(TopicAlreadyExistsError):
            self.admin.create_topics({topic: {"num_partitions": 1, "replication_factor": 1}})

    def delete(self, topic: str) -> None:
        self.admin.delete_topics([topic])

    def join(self, group: str, topic: str) -> None:
        with closing(KafkaConsumer(**self.broker.kafka_python("test"), group_id=group)) as member:
            member.subscribe([topic])
            ends = time.monotonic() + PATIENCE
            while not member.assignment():
                member.poll(timeout_ms=200)
                assert time.monotonic() < ends, "neither let in nor refused"
            member.commit()

    def describe_group(self, group: str) -> None:
        self.admin.list_group_offsets([group])

    def delete_group(self, group: str) -> None:
        with suppress(GroupIdNotFoundError, NonEmptyGroupError):
            refuse_in(self.admin.delete_groups([group]))

    def read_access_rules(self) -> None:
        kafka_access._entries(self.admin)

    def give_oneself_rights(self) -> None:
        everything = ResourcePattern(ResourceType.TOPIC, "*", ACLResourcePatternType.LITERAL)
        rule = ACL(f"User:{self.broker.username}", "*", ACLOperation.ALL, ACLPermissionType.ALLOW, everything)
        refuse_in(self.admin.create_acls([rule]))

    def set_a_password(self) -> None:
        upsertion = UserScramCredentialUpsertion("haven_new", ScramMechanism.SCRAM_SHA_512, "x" * 30)
        if error := self.admin.alter_user_scram_credentials([upsertion])["haven_new"]:
            assert "needs ALTER permission" in error  # the client tells the text alone
            raise ClusterAuthorizationFailedError

    def see_who_has_passwords(self) -> None:
        # By name: asked for all, a broker (4.3.1) fails over its own refusal and does not answer.
        self.admin.describe_user_scram_credentials(["admin"])

    def read_settings_of_the_broker(self) -> None:
        self.see_configs(ConfigResourceType.BROKER, "1")

    def change_settings_of_the_broker(self) -> None:
        change = ConfigResource(ConfigResourceType.BROKER, "1", configs={"log.cleaner.threads": "1"})
        refuse_in(self.admin.alter_configs([change], raise_on_unknown=False))

    def begin_a_transaction(self) -> None:
        settings = self.broker.kafka_python("test")
        with closing(KafkaProducer(**settings, transactional_id="haven", max_block_ms=5_000)) as producer:
            producer.init_transactions()

    def close(self) -> None:
        self.admin.close()


def refuse(error: type[KafkaError]) -> None:
    if error is not NoError:
        raise error


def refuse_in(answer: Any) -> None:
    """Raises the error that lies somewhere in an answer: each call of the client has its own place for it."""
    match answer:
        case type() if issubclass(answer, KafkaError):
            refuse(answer)
        case KafkaError():
            refuse(type(answer))
        case str() if found := re.match(r"\[Error (\d+)\]", answer):
            refuse(for_code(int(found[1])))
        case str() if answer != "OK" and hasattr(errors, answer):
            refuse(getattr(errors, answer))
        case {"error_code": int(code), **rest}:
            refuse(for_code(code))
            refuse_in(list(rest.values()))
        case dict():
            refuse_in(list(answer.values()))
        case list() | tuple():
            for part in answer:
                refuse_in(part)


ON_TOPICS = (
    "write",
    "read",
    "describe",
    "describe configs",
    "alter configs",
    "delete records",
    "add partitions",
    "create",
    "delete",
)
ON_CLUSTER = (
    "read access rules", "give oneself rights", "set a password", "see who has passwords", "read settings of the broker",
    "change settings of the broker", "begin a transaction",
)  # fmt: skip
GROUPS = ("placement", "capacity", "projection", FOREIGN)


def everything(trying: Trying, readable: str) -> Iterator[tuple[str, str, Callable[[], None]]]:
    """Each thing to try: verb, what it is done to, how. `readable` is the topic with which a group is joined."""
    for verb in ON_TOPICS:
        for name in (*ALL, FOREIGN, "__consumer_offsets"):
            topic = name if name in (FOREIGN, "__consumer_offsets") else LAYOUT.topic(name)
            yield verb, name, lambda verb=verb, topic=topic: getattr(trying, verb.replace(" ", "_"))(topic)
    for name in GROUPS:
        group = name if name == FOREIGN else LAYOUT.topic(name)
        yield "join", f"group {name}", lambda group=group: trying.join(group, readable)
        yield "describe group", f"group {name}", lambda group=group: trying.describe_group(group)
        yield "delete group", f"group {name}", lambda group=group: trying.delete_group(group)
    for verb in ON_CLUSTER:
        yield verb, "cluster", getattr(trying, verb.replace(" ", "_"))


def is_let(attempt: Callable[[], None]) -> bool:
    """Whether it went well; False when it was refused for want of rights. Any other failure fails the test."""
    try:
        attempt()
    except AuthorizationError:
        return False
    return True


@pytest.mark.parametrize("who", MAY)
def test_a_principal_can_do_what_it_must_and_nothing_else(prepared: Broker, who: str) -> None:
    trying = Trying(of(who, prepared))
    readable = LAYOUT.topic(READS.get(who, ("gateway",))[0])
    with closing(trying):
        let = {(verb, what) for verb, what, attempt in everything(trying, readable) if is_let(attempt)}
    assert let == MAY[who]


def test_the_administrator_can_do_all_of_it_so_that_each_refusal_means_something(prepared: Broker) -> None:
    """Only what leaves the cluster as it is for the other tests."""
    trying = Trying(prepared)
    with closing(trying):
        for verb, what, attempt in everything(trying, LAYOUT.topic("gateway")):
            harmless = verb not in ("delete", "give oneself rights", "delete group", "set a password")
            if harmless and "__consumer_offsets" not in (what, verb):
                assert is_let(attempt), (verb, what)
        trying.create("haven.superfluous")
        trying.delete("haven.superfluous")


# The clients we really use


@pytest.mark.parametrize("who", ["haven_relay", "haven_topics"])
def test_who_uses_all_topics_finds_them_fit(prepared: Broker, who: str) -> None:
    assert set(topics.check(of(who, prepared), LAYOUT)) == set(LAYOUT.wanted())


@pytest.mark.parametrize("who", READS)
def test_a_worker_finds_the_topics_it_follows_fit(prepared: Broker, who: str) -> None:
    used = [LAYOUT.topic(source) for source in READS[who]]
    assert set(topics.check(of(who, prepared), LAYOUT, used)) == set(used)


def test_a_worker_is_told_which_topics_are_hidden_from_it(prepared: Broker) -> None:
    with pytest.raises(TopicsUnfit) as unfit:
        topics.check(of("haven_placement", prepared), LAYOUT)
    assert [problem.split()[1] for problem in unfit.value.problems] == ["haven.placement", "haven.dead-letters"]
    assert all("deploy.kafka_access" in problem for problem in unfit.value.problems)


def send(broker: Broker, layout: Layout, count: int) -> dict[str, int]:
    """Events published by the relay's own producer under its own name; how many went into each topic."""
    for source in SOURCES:
        relay = Relay({source: None}, of("haven_relay", broker), layout, "test.relay")
        (leader,) = relay._leaders
        events = [an_event(f"stream-{number}", 1, source) for number in range(count)]
        leader._send(None, [leader._message(encode(event)) for event in events])
        leader._drop_producer()
    return dict.fromkeys(map(layout.topic, SOURCES), count)


class Service:
    """A consumer on a database of its own, under the name of one of our workers."""

    def __init__(self, who: str, broker: Broker, layout: Layout, folder: Path) -> None:
        self.handled: list[str] = []
        self.broker = of(who, broker)
        self.followed = [layout.topic(source) for source in READS[who] if source in SOURCES]
        self.log = EventLog(sqlite_engine(str(folder / "service.db")), "service")
        self.log.create_schema(dead_letters.metadata)
        consumer = Consumer(who, self.log, lambda _tx, event: self.handled.append(event.id))
        ids = topics.check(self.broker, layout, self.followed)
        self.receiver = Receiver(consumer, lambda: datetime.now(UTC), ids)

    def expects(self, count: int) -> set[str]:
        return {f"{topic.rpartition('.')[2]}.stream-{n}.1" for topic in self.followed for n in range(count)}


@pytest.fixture(scope="module")
def published(prepared: Broker) -> int:
    """How many events lie in each topic, each on a stream of its own."""
    send(prepared, LAYOUT, 8)
    return 8


@pytest.mark.parametrize("who", READS)
def test_a_sweep_reads_all_it_must_without_a_group(prepared: Broker, published: int, who: str, tmp_path: Path) -> None:
    service = Service(who, prepared, LAYOUT, tmp_path)
    sweep = Sweep([service.receiver], service.broker, f"{who}.sweep")
    for _ in range(2):  # what stands still from one round to the next is taken
        sweep.round()
    sweep._forget_clients()
    assert sweep.problem == ""
    assert set(service.handled) == service.expects(published)


@pytest.mark.parametrize("who", READS)
def test_a_faust_worker_is_brought_all_it_must_in_its_group(
    prepared: Broker, published: int, who: str, tmp_path: Path
) -> None:
    service = Service(who, prepared, LAYOUT, tmp_path)
    group = LAYOUT.topic(who.removeprefix("haven_"))
    stop = threading.Event()

    async def work() -> None:
        app = faust_app(
            group=group, worker_name=f"{group}.one", broker=service.broker, topics=service.followed,
            receivers=[service.receiver], folder=tmp_path,
        )  # fmt: skip
        working = asyncio.ensure_future(bring(app, [service.receiver], stop, end=lambda _status: None))
        ends = time.monotonic() + PATIENCE
        try:
            while set(service.handled) != service.expects(published):
                assert not working.done()
                assert time.monotonic() < ends, "the group was brought nothing"
                await asyncio.sleep(0.1)
            with closing(prepared.admin("test")) as admin:
                while not await asyncio.to_thread(admin.list_group_offsets, [group]):
                    assert time.monotonic() < ends, "nothing was acknowledged"
                    await asyncio.sleep(0.1)
        finally:
            stop.set()
            await working

    asyncio.run(work())


# Who is not let in


def test_who_has_a_password_and_no_rule_is_shown_nothing(kafka_part: Kafka, prepared: Broker) -> None:
    stranger = replace(prepared, username="stranger", password=kafka_part.password("stranger"))
    trying = Trying(stranger)
    with closing(trying):
        assert trying.admin.list_topics() == []
        assert trying.admin.list_groups() == []
        let = {(verb, what) for verb, what, attempt in everything(trying, LAYOUT.topic("gateway")) if is_let(attempt)}
    assert let == set()


@pytest.mark.parametrize("who", MAY)
def test_no_principal_sees_topics_that_are_not_its_own(prepared: Broker, who: str) -> None:
    with closing(of(who, prepared).admin("test")) as admin:
        assert set(admin.list_topics()) == {LAYOUT.topic(topic) for _, topic in MAY[who] if topic in ALL}


@pytest.mark.parametrize("who", ["haven_gateway", "haven_migrator"])
def test_who_has_no_business_with_kafka_has_no_password_for_it(prepared: Broker, who: str) -> None:
    assert who not in principals()
    with closing(prepared.admin("test")) as admin:
        assert who not in admin.describe_user_scram_credentials()


@pytest.mark.parametrize(
    "settings",
    [
        {"security_protocol": "PLAINTEXT"},
        {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "SCRAM-SHA-512"},
        {"security_protocol": "SSL"},
        {"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN"},
        {"security_protocol": "SASL_SSL", "sasl_mechanism": "SCRAM-SHA-256"},
    ],
    ids=lambda settings: "-".join(settings.values()),
)
def test_without_tls_and_scram_nothing_is_said(prepared: Broker, settings: dict[str, str]) -> None:
    signed_in = of("haven_projection", prepared).kafka_python("test")
    if not settings["security_protocol"].endswith("SSL"):
        del signed_in["ssl_context"]
    with pytest.raises(KafkaError):
        KafkaAdminClient(**{**signed_in, **settings}, bootstrap_timeout_ms=1_500)


def test_an_old_tls_is_refused(prepared: Broker) -> None:
    context = ssl.create_default_context(cafile=str(prepared.ca_file))
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    host, _, port = prepared.servers[0].partition(":")
    with pytest.raises(ssl.SSLError), socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
        context.wrap_socket(connection, server_hostname=host)


# Applying the file


def test_applying_it_again_changes_nothing(prepared: Broker) -> None:
    assert apply(prepared, LAYOUT, PASSWORDS) == [f"user {who}: password set" for who in sorted(PASSWORDS)]


def test_what_is_not_in_the_file_is_taken_from_our_principals_and_from_nobody_else(prepared: Broker) -> None:
    mine, theirs, wide = (
        ACL(
            f"User:{who}",
            "*",
            ACLOperation.READ,
            ACLPermissionType.ALLOW,
            ResourcePattern(ResourceType.TOPIC, name, pattern),
        )
        for who, name, pattern in (
            ("haven_relay", "haven.gateway", ACLResourcePatternType.LITERAL),
            ("accounting", FOREIGN, ACLResourcePatternType.LITERAL),
            ("monitoring", "ha", ACLResourcePatternType.PREFIXED),
        )
    )
    former = UserScramCredentialUpsertion("haven_former", ScramMechanism.SCRAM_SHA_512, "x" * 30)
    weaker = UserScramCredentialUpsertion("haven_relay", ScramMechanism.SCRAM_SHA_256, "x" * 30)
    with closing(prepared.admin("test")) as admin:
        assert admin.create_acls([mine, theirs, wide])["failed"] == []
        assert set(admin.alter_user_scram_credentials([former, weaker]).values()) == {None}
        try:
            lines = apply(prepared, LAYOUT, PASSWORDS)
            there = kafka_access._entries(admin)
        finally:
            admin.delete_acls([kafka_access._exactly(theirs), kafka_access._exactly(wide)])
        users = admin.describe_user_scram_credentials()
    assert [line for line in lines if not line.endswith("password set")] == [
        "user haven_former: SCRAM_SHA_512 taken away",
        "user haven_relay: SCRAM_SHA_256 taken away",
        "taken: haven_relay may read topic haven.gateway",
        "left alone, not in the file: monitoring may read topic ha...",
    ]
    assert {theirs, wide} <= there
    assert mine not in there
    assert "haven_former" not in users
    assert [info["mechanism"] for info in users["haven_relay"]["credential_infos"]] == [ScramMechanism.SCRAM_SHA_512]


def test_a_new_password_is_the_only_one_from_then_on(prepared: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "REACH_SECONDS", 3)
    new = {**PASSWORDS, "haven_relay": "y" * 30}
    apply(prepared, LAYOUT, new)
    try:
        replace(of("haven_relay", prepared), password="y" * 30).admin("test").close()
        with pytest.raises(CredentialsRefused):
            of("haven_relay", prepared).admin("test")
    finally:
        apply(prepared, LAYOUT, PASSWORDS)


@pytest.mark.parametrize(
    ("passwords", "told"),
    [
        ({**PASSWORDS, "haven_relay": "short"}, "haven_relay has no password of at least 20"),
        ({who: word for who, word in PASSWORDS.items() if who != "haven_topics"}, "haven_topics has no password"),
        ({**PASSWORDS, "haven_gateway": "x" * 30}, "haven_gateway: not in access.toml"),
    ],
)
def test_it_needs_a_good_password_for_each_and_for_nobody_else(
    prepared: Broker, passwords: dict[str, str], told: str
) -> None:
    with pytest.raises(AccessRefused, match=told):
        apply(prepared, LAYOUT, passwords)


def test_only_an_administrator_can_apply_it(prepared: Broker) -> None:
    with pytest.raises(CredentialsRefused, match="does not let haven_topics set passwords and access rules"):
        apply(of("haven_topics", prepared), LAYOUT, PASSWORDS)


def test_a_cluster_without_an_authorizer_is_refused(kafka: str) -> None:
    with pytest.raises(AccessRefused, match="everybody may do everything"):
        apply(Broker((kafka,)), LAYOUT, PASSWORDS)


def test_a_cluster_that_lets_everybody_do_what_no_rule_is_about_is_refused(own_part) -> None:
    lax = {"allow.everyone.if.no.acl.found": "true"}
    part = own_part(lambda folder: Kafka(folder, principals=[], settings=lax))
    admin = Broker((part.bootstrap,), "admin", part.password("admin"), part.ca_file)
    with pytest.raises(AccessRefused, match=r"allow\.everyone\.if\.no\.acl\.found"):
        apply(admin, LAYOUT, PASSWORDS)


# The file


def test_nobody_may_write_but_the_relay_and_nobody_may_change_or_delete_anything() -> None:
    rules = [(rule.principal, operation.name) for rule in read_rules() for operation in rule.operations]
    assert {who for who, operation in rules if operation == "WRITE"} == {"haven_relay"}
    assert {who for who, operation in rules if operation == "CREATE"} == {"haven_topics"}
    assert {operation for _, operation in rules} == {"READ", "WRITE", "CREATE", "DESCRIBE", "DESCRIBE_CONFIGS"}


@pytest.mark.parametrize(
    "rule",
    [
        '{principal = "payroll", to = ["read"], topics = ["gateway"], because = "x"}',
        '{principal = "haven_relay", to = ["read"], topics = ["*"], because = "x"}',
        '{principal = "haven_relay", to = ["read"], topics = ["gateway"], because = ""}',
        '{principal = "haven_relay", to = ["fly"], topics = ["gateway"], because = "x"}',
        '{principal = "haven_relay", to = ["read"], because = "x"}',
        '{principal = "haven_relay", to = ["read"], topics = ["gateway"], groups = ["x"], because = "x"}',
        '{principal = "haven_relay", to = "read", topics = ["gateway"], because = "x"}',
        "3",
    ],
)
def test_a_rule_that_is_none_is_refused_in_words(tmp_path: Path, rule: str) -> None:
    (tmp_path / "access.toml").write_text(f"allow = [{rule}]")
    with pytest.raises(AccessRefused, match="cannot be read as access rules"):
        read_rules(tmp_path / "access.toml")


def test_it_is_applied_by_one_command(prepared: Broker, tmp_path: Path, monkeypatch, capsys) -> None:
    for who, password in {**PASSWORDS, "admin": prepared.password}.items():
        private_file(tmp_path / f"{who}_kafka_password", password)
    monkeypatch.setenv("HAVEN_KAFKA", prepared.servers[0])
    monkeypatch.setenv("HAVEN_KAFKA_CA_FILE", str(prepared.ca_file))
    monkeypatch.setenv("HAVEN_SECRETS_DIR", str(tmp_path))
    assert kafka_access.main([]) == 0
    told = capsys.readouterr().out
    assert "user haven_relay: password set" in told
    assert not any(password in told for password in PASSWORDS.values())
    (tmp_path / "haven_relay_kafka_password").unlink()
    assert kafka_access.main([]) == 1
    assert "haven_relay_kafka_password cannot be read" in capsys.readouterr().err
