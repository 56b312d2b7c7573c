"""The runtime on three brokers that keep a copy each, as docs/operations.md advises for who may not wait: one of them may die or
freeze and people notice nothing; without two nothing is published, and nothing that was acknowledged is lost.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kafka.admin import KafkaAdminClient
from msgspec.structs import replace

from deploy.parts import Kafka, KafkaCluster
from deploy.stack import UNLIMITED, Stack
from reference import load
from services.api_client import Client
from services.demo import ORIGIN, POLICE
from simulation.inventory import synthetic_inventory
from tests.journeys.test_distributed_runtime import AN_OPENING, client_of, reasons, running, until

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def stack(without_part) -> Iterator[Stack]:
    beds = [
        replace(unit, beds=100, free=100, blocked=0, blocked_because=None)  # enough for every request of these tests
        for unit in synthetic_inventory(2026, load())
    ]
    yield from running(without_part, brokers=3, inventory=beds, more=UNLIMITED)


@pytest.fixture
def cluster(stack: Stack) -> KafkaCluster:
    assert stack.cluster
    return stack.cluster


@pytest.fixture
def client(stack: Stack) -> Client:
    return client_of(stack)


def partitions(broker: Kafka) -> list[dict[str, Any]]:
    """Of Haven's topics, as the cluster describes them."""
    admin = KafkaAdminClient(**broker.client())
    try:
        names = [name for name in admin.list_topics() if name.startswith("haven.")]
        return [partition for topic in admin.describe_topics(names) for partition in topic["partitions"]]
    finally:
        admin.close()


def all_copies_are_there(cluster: KafkaCluster) -> bool:
    return all(len(partition["isr_nodes"]) == len(cluster.brokers) for partition in partitions(cluster.brokers[0]))


def open_one(client: Client) -> str:
    opened = client.send(POLICE, "POST", "/api/v1/relocation-requests", AN_OPENING)
    assert opened.status == 202, opened.body
    return f"/api/v1/relocation-requests/{opened.body['request_id']}"


def is_asked_for(client: Client, path: str) -> Callable[[], object]:
    return lambda: client.send(ORIGIN, "GET", path).body.get("asks")


def twice_held(stack: Stack) -> list[Any]:
    """What one decision put on hold more than once."""
    with stack.administrator.connect() as connection:
        return list(
            connection.exec_driver_sql(
                "SELECT record::json -> 'data' ->> 'hold_id', count(*) FROM capacity.events "
                "WHERE type = 'capacity.hold.placed.v1' GROUP BY 1 HAVING count(*) > 1"
            )
        )


def test_three_copies_are_kept_and_two_are_waited_for(cluster: KafkaCluster) -> None:
    found = partitions(cluster.brokers[0])
    assert found
    assert {len(partition["replica_nodes"]) for partition in found} == {3}
    assert {partition["leader_id"] for partition in found} == {1, 2, 3}, "each leads some of them"


# Which of them leads what, and who is the controller, is drawn anew by the cluster in every run.
@pytest.mark.parametrize(("how", "number"), [("kill", 0), ("pause", 1)])
def test_one_broker_may_go_and_come_back(
    stack: Stack, client: Client, cluster: KafkaCluster, how: str, number: int
) -> None:
    until("all brokers have all", lambda: all_copies_are_there(cluster))
    broker = cluster.brokers[number]
    getattr(broker, how)()
    try:
        opened = [open_one(client) for _ in range(3)]
        for path in opened:
            until(f"a shelter is asked while broker {number + 1} is away", is_asked_for(client, path))
    finally:
        if how == "kill":
            broker.start()
        else:
            broker.resume()
    until("it has caught up", lambda: all_copies_are_there(cluster))
    stack.settle()
    assert twice_held(stack) == []


def test_without_two_of_three_nothing_is_published_and_nothing_is_lost(
    stack: Stack, client: Client, cluster: KafkaCluster
) -> None:
    until("all brokers have all", lambda: all_copies_are_there(cluster))
    relay = stack.processes["relay-1"]
    for broker in cluster.brokers[1:]:
        broker.kill()
    opened = [open_one(client) for _ in range(3)]
    until("the relay says so", lambda: "log of gateway" in reasons(relay))
    assert "Kafka" in reasons(relay) or "the brokers" in reasons(relay)
    time.sleep(2)
    assert not any(is_asked_for(client, path)() for path in opened)
    cluster.start()
    for path in opened:
        until("a shelter is asked", is_asked_for(client, path))
    until("all is well", lambda: not reasons(relay))
    stack.settle()
    assert twice_held(stack) == []
