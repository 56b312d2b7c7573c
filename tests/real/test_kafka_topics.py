"""The topics on a real broker: made once, found unfit with a remedy, and a broker that is not there or not ours."""

import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient
from kafka.errors import KafkaError

from deploy.certificates import certificates
from deploy.parts import Kafka
from events.kafka import connection
from events.kafka.connection import (
    REACH_SECONDS,
    AuthorityRefused,
    Broker,
    BrokerFailed,
    BrokerProblem,
    BrokerUnreachable,
    CredentialsRefused,
)
from events.kafka.layout import Layout
from events.kafka.topics import TopicsUnfit, check, create

pytestmark = pytest.mark.real

PATIENCE = 4 * REACH_SECONDS
"""Seconds after which a test calls it a hang, on a loaded machine."""


@pytest.fixture
def broker(kafka: str) -> Broker:
    return Broker((kafka,))


@pytest.fixture
def layout(topic_prefix: str) -> Layout:
    return Layout(topic_prefix + "haven", partitions=3, replication=1, in_sync=1)


@pytest.fixture
def admin(kafka: str) -> Iterator[KafkaAdminClient]:
    client = KafkaAdminClient(bootstrap_servers=kafka)
    yield client
    client.close()


def problems(broker: Broker, layout: Layout) -> list[str]:
    with pytest.raises(TopicsUnfit) as unfit:
        check(broker, layout)
    return list(unfit.value.problems)


def settings_of(admin: KafkaAdminClient, topic: str) -> dict[str, str]:
    answer = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)], config_filter="all")
    return {name: entry["value"] for name, entry in answer["topic"][topic].items()}


# Making them


def test_all_topics_are_made_kept_for_ever_and_found_fit(broker: Broker, layout: Layout, admin) -> None:
    lines = create(broker, layout)
    assert lines == [
        f"{layout.prefix}.gateway: created with 3 partitions, 1 copies",
        f"{layout.prefix}.placement: created with 3 partitions, 1 copies",
        f"{layout.prefix}.capacity: created with 3 partitions, 1 copies",
        f"{layout.prefix}.dead-letters: created with 1 partitions, 1 copies",
    ]
    assert set(check(broker, layout)) == set(layout.wanted())
    for topic in layout.wanted():
        found = settings_of(admin, topic)
        assert (found["cleanup.policy"], found["retention.ms"], found["retention.bytes"]) == ("delete", "-1", "-1")
        assert found["unclean.leader.election.enable"] == "false"


def test_making_them_twice_changes_nothing(broker: Broker, layout: Layout) -> None:
    create(broker, layout)
    ids = check(broker, layout)
    assert create(broker, layout) == [f"{topic}: there already" for topic in layout.wanted()]
    assert check(broker, layout) == ids


def test_making_them_at_once_is_harmless(broker: Broker, layout: Layout) -> None:
    with ThreadPoolExecutor(4) as pool:
        told = list(pool.map(lambda _: create(broker, layout), range(4)))
    lines = [line for lines in told for line in lines]
    assert sum("created" in line for line in lines) == len(layout.wanted())
    assert sum("there already" in line for line in lines) == 3 * len(layout.wanted())


def test_only_what_is_missing_is_made(broker: Broker, layout: Layout, admin) -> None:
    create(broker, layout)
    before = check(broker, layout)
    admin.delete_topics([layout.topic("capacity")])
    lines = wait_for(lambda: create(broker, layout), until=lambda lines: any("created" in line for line in lines))
    assert [line for line in lines if "created" in line] == [
        f"{layout.prefix}.capacity: created with 3 partitions, 1 copies"
    ]
    after = check(broker, layout)
    assert {topic for topic in after if after[topic] != before[topic]} == {layout.topic("capacity")}


def wait_for(ask: Callable, until: Callable):
    ends = time.monotonic() + PATIENCE
    while True:
        answer = ask()
        if until(answer) or time.monotonic() > ends:
            return answer
        time.sleep(0.1)


def test_three_copies_on_one_broker_are_refused_in_words(broker: Broker, layout: Layout) -> None:
    with pytest.raises(TopicsUnfit, match=r"3 copies and the cluster has 1 brokers now: .*HAVEN_KAFKA_REPLICATION"):
        create(broker, replace(layout, replication=3, in_sync=2))


def test_a_name_the_broker_refuses_is_a_problem_in_words(broker: Broker, layout: Layout) -> None:
    with pytest.raises(BrokerFailed, match="InvalidTopicError"):
        create(broker, replace(layout, prefix="no spaces"))


# What is unfit


def test_what_is_missing_is_named_with_its_remedy(broker: Broker, layout: Layout) -> None:
    assert problems(broker, layout) == [
        f"topic {topic} is missing: run `haven topics create`" for topic in layout.wanted()
    ]


def test_a_process_asks_only_for_the_topics_it_uses(broker: Broker, layout: Layout, admin) -> None:
    create(broker, layout)
    admin.delete_topics([layout.topic("placement")])
    used = [layout.topic("gateway"), layout.topic("capacity")]
    assert set(check(broker, layout, used)) == set(used)


def test_too_few_partitions_are_named_with_their_remedy(broker: Broker, layout: Layout) -> None:
    create(broker, layout)
    found = problems(broker, replace(layout, partitions=6))
    assert len(found) == 3
    assert "has 3 partitions and HAVEN_KAFKA_PARTITIONS says 6" in found[0]
    assert f"kafka-topics --alter --topic {layout.prefix}.gateway --partitions 6" in found[0]


def test_more_partitions_than_are_swept_are_named_with_their_remedy(broker: Broker, layout: Layout) -> None:
    create(broker, layout)
    found = problems(broker, replace(layout, partitions=2))
    assert len(found) == 3
    assert "has 3 partitions and HAVEN_KAFKA_PARTITIONS says 2: set it to 3" in found[0]


def test_too_few_copies_are_named_with_their_remedy(broker: Broker, layout: Layout) -> None:
    create(broker, layout)
    found = problems(broker, replace(layout, replication=3))
    assert len(found) == 4
    assert all("keeps 1 copies and HAVEN_KAFKA_REPLICATION says 3: reassign" in problem for problem in found)


@pytest.mark.parametrize(
    ("setting", "there"),
    [
        ("retention.ms", "604800000"),
        ("retention.bytes", "1000000"),
        ("cleanup.policy", "compact"),
        ("cleanup.policy", "compact,delete"),
        ("min.insync.replicas", "2"),
        ("max.message.bytes", "1000"),
        ("unclean.leader.election.enable", "true"),
        ("message.timestamp.type", "CreateTime"),
        ("compression.type", "zstd"),
    ],
)
def test_a_setting_that_breaks_a_promise_is_named_with_its_remedy(
    broker: Broker, layout: Layout, admin, setting: str, there: str
) -> None:
    create(broker, layout)
    topic = layout.topic("placement")
    set_one(admin, topic, setting, there)
    (problem,) = wait_for(lambda: problems_or_none(broker, layout), until=bool)
    assert problem.startswith(f"topic {topic} has {setting}={there} and needs {layout.settings()[setting]}: correct it")
    assert f"--entity-name {topic} --add-config {setting}={layout.settings()[setting]}" in problem
    set_one(admin, topic, setting, layout.settings()[setting])
    assert wait_for(lambda: problems_or_none(broker, layout), until=lambda found: not found) == []


def set_one(admin: KafkaAdminClient, topic: str, setting: str, value: str) -> None:
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs={setting: value})])


def problems_or_none(broker: Broker, layout: Layout) -> list[str]:
    try:
        check(broker, layout)
    except TopicsUnfit as unfit:
        return list(unfit.problems)
    return []


def test_a_topic_that_takes_larger_messages_than_needed_is_fit(broker: Broker, layout: Layout, admin) -> None:
    create(broker, layout)
    set_one(admin, layout.topic("placement"), "max.message.bytes", "9000000")
    changed = wait_for(
        lambda: settings_of(admin, layout.topic("placement")), lambda s: s["max.message.bytes"] == "9000000"
    )
    assert changed["max.message.bytes"] == "9000000"
    check(broker, layout)


def test_a_topic_made_again_is_another_topic(broker: Broker, layout: Layout, admin) -> None:
    create(broker, layout)
    before = check(broker, layout)
    admin.delete_topics([layout.topic("gateway")])
    wait_for(lambda: create(broker, layout), until=lambda lines: any("created" in line for line in lines))
    assert check(broker, layout)[layout.topic("gateway")] != before[layout.topic("gateway")]


@pytest.mark.parametrize("hours", [-26, 26])
def test_what_is_sent_by_a_host_whose_clock_is_wrong_is_taken_all_the_same(
    broker: Broker, layout: Layout, hours: int
) -> None:
    create(broker, layout)
    producer = KafkaProducer(**broker.kafka_python("test"))
    try:
        wrong = int((time.time() + hours * 3600) * 1000)
        assert producer.send(layout.topic("gateway"), b"{}", b"k", timestamp_ms=wrong).get(timeout=PATIENCE).offset == 0
    finally:
        producer.close()


# A broker that is not there, not ours, or does not answer


@pytest.fixture(scope="module")
def secured_kafka(tmp_path_factory, without_part) -> Iterator[Kafka]:
    from deploy.artifacts import PartUnavailable

    part = Kafka(tmp_path_factory.mktemp("secured"), principals=["haven_topics"])
    try:
        part.start()
    except PartUnavailable as failure:
        without_part("kafka", failure)
    yield part
    part.kill()


@pytest.fixture
def secured(secured_kafka: Kafka) -> Broker:
    """The broker as somebody sees it who may sign in and was allowed nothing."""
    return Broker(
        (secured_kafka.bootstrap,), "haven_topics", secured_kafka.password("haven_topics"), secured_kafka.ca_file
    )


@pytest.fixture
def less_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the whole ten seconds for each way of being refused; one test does wait for them."""
    monkeypatch.setattr(connection, "REACH_SECONDS", 2)


def refusal(broker: Broker, kind: type[BrokerProblem]) -> str:
    threads = threading.active_count()
    began = time.monotonic()
    with pytest.raises(kind) as told:
        check(broker, Layout(replication=1, in_sync=1))
    assert time.monotonic() - began < PATIENCE
    assert threading.active_count() <= threads, "a client goes on trying behind our back"
    assert told.value.__cause__ is None
    assert broker.password not in str(told.value) or not broker.password
    return str(told.value)


def test_who_was_allowed_nothing_may_sign_in_and_is_told_that_topics_are_hidden(secured: Broker) -> None:
    layout = Layout(replication=1, in_sync=1)
    assert all("is hidden from us, or missing" in problem for problem in problems(secured, layout))
    with pytest.raises(CredentialsRefused, match=r"does not let haven_topics create topics.*access\.toml"):
        create(secured, layout)


@pytest.mark.usefixtures("less_patience")
def test_a_wrong_password_is_named(secured: Broker) -> None:
    said = refusal(replace(secured, password="a wrong one"), CredentialsRefused)
    assert "does not let haven_topics sign in" in said
    assert "haven_topics_kafka_password" in said


@pytest.mark.usefixtures("less_patience")
def test_an_unknown_principal_is_named(secured: Broker) -> None:
    assert "does not let nobody sign in" in refusal(replace(secured, username="nobody"), CredentialsRefused)


@pytest.mark.usefixtures("less_patience")
def test_another_authority_is_named(secured: Broker, tmp_path: Path) -> None:
    certificates(tmp_path / "ca.pem", tmp_path / "broker.pem")
    said = refusal(replace(secured, ca_file=tmp_path / "ca.pem"), AuthorityRefused)
    assert "HAVEN_KAFKA_CA_FILE" in said


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_an_authority_file_that_is_none_is_named_at_once(secured: Broker, tmp_path: Path, content: str | None) -> None:
    if content:
        (tmp_path / "ca.pem").write_text(content)
    assert "reading" in refusal(replace(secured, ca_file=tmp_path / "ca.pem"), AuthorityRefused)


@pytest.mark.usefixtures("less_patience")
def test_plain_text_to_a_secured_broker_is_named(secured: Broker) -> None:
    assert "wants TLS and a sign-in" in refusal(Broker(secured.servers), BrokerUnreachable)


def test_an_address_where_nobody_listens_is_named() -> None:
    assert "no Kafka broker answers at 127.0.0.1:9 " in refusal(Broker(("127.0.0.1:9",)), BrokerUnreachable)


def test_one_of_several_addresses_that_answers_is_enough(kafka: str, layout: Layout) -> None:
    assert create(Broker(("127.0.0.1:9", kafka, "nowhere.invalid:9092")), layout)


@pytest.fixture
def silent() -> Iterator[str]:
    """An address as a frozen broker's: the system takes the connection, and nobody says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.usefixtures("less_patience")
def test_a_handshake_that_nobody_answers_has_an_end(secured: Broker, silent: str) -> None:
    assert "no Kafka broker answers" in refusal(replace(secured, servers=(silent,)), BrokerUnreachable)


def test_one_silent_address_of_several_keeps_nobody_away(
    secured: Broker, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HANDSHAKE_SECONDS", 0.5)
    broker = replace(secured, servers=(silent, *secured.servers))
    for _ in range(6):  # which of them is tried first is drawn by lot
        broker.admin("test").close()


@pytest.mark.usefixtures("less_patience")
def test_a_frozen_broker_is_given_up_on(own_kafka: Kafka) -> None:
    broker = Broker((own_kafka.bootstrap,))
    create(broker, Layout(replication=1, in_sync=1))
    own_kafka.pause()
    try:
        assert "hangs" in refusal(broker, BrokerUnreachable)
    finally:
        own_kafka.resume()
    assert check(broker, Layout(replication=1, in_sync=1))


def test_a_broker_that_freezes_in_the_midst_is_given_up_on(own_kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = Broker((own_kafka.bootstrap,))
    reached = Broker.admin

    def admin(self: Broker, client_id: str) -> KafkaAdminClient:
        client = reached(self, client_id)
        own_kafka.pause()
        return client

    monkeypatch.setattr(Broker, "admin", admin)
    try:
        refusal(broker, BrokerUnreachable)
    finally:
        own_kafka.resume()


@pytest.mark.parametrize("client", [KafkaAdminClient, KafkaConsumer, KafkaProducer])
def test_a_client_that_did_not_reach_its_broker_leaves_no_thread_behind(client: type) -> None:
    before = threading.active_count()
    with pytest.raises(KafkaError):
        client(**Broker(("127.0.0.1:9",)).kafka_python("lost"), bootstrap_timeout_ms=300)
    assert wait_for(threading.active_count, until=lambda count: count <= before) <= before


def test_no_password_is_written_to_any_log(secured: Broker, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        secured.admin("talkative").close()
        repr(secured)
    assert re.search("kafka", caplog.text)
    assert secured.password not in caplog.text
    assert secured.password not in repr(secured)
