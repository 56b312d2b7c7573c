"""The topics, and whether a cluster holds them as the promises need them.

Everything is kept for ever: a consumer that is new, or was lost, reads its history from the start. Nothing is created by
accident: a mistyped topic on a broker that creates on demand would swallow events that nobody reads.
"""

from dataclasses import dataclass, field
from typing import Any

from kafka import TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient, OffsetSpec
from kafka.errors import KafkaError, TopicAlreadyExistsError

from events.kafka.connection import Broker, BrokerProblem
from events.kafka.wire import LARGEST_BODY

SOURCES = ("gateway", "placement", "capacity")
DEAD_LETTERS = "dead-letters"
PREFIX = "haven"
MOST_PARTITIONS = 100


class TopicsUnfit(BrokerProblem):
    """Topics are missing, or are not as they must be. `problems` names each with its remedy."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(problems))


@dataclass(frozen=True)
class Layout:
    """What the topics of one installation are called and how they are kept."""

    prefix: str = PREFIX
    partitions: int = 6
    """Of each service's topic; as many workers of one kind can share the work."""
    replication: int = 3
    in_sync: int = 2
    """Copies that must have a message before it counts as sent: one broker may be lost with nothing lost."""
    sources: tuple[str, ...] = field(default=SOURCES)

    def topic(self, source: str) -> str:
        """The topic of one service's log."""
        return f"{self.prefix}.{source}"

    @property
    def dead_letters(self) -> str:
        return self.topic(DEAD_LETTERS)

    def wanted(self) -> dict[str, int]:
        """Every topic with its partitions. Dead letters are few, and read in order."""
        return {self.topic(source): self.partitions for source in self.sources} | {self.dead_letters: 1}

    def settings(self) -> dict[str, str]:
        return {
            "cleanup.policy": "delete",
            "retention.ms": "-1",
            "retention.bytes": "-1",
            "min.insync.replicas": str(self.in_sync),
            "max.message.bytes": str(LARGEST_BODY + 64 * 1024),  # headers and the batch around the body
            "message.timestamp.type": "CreateTime",
            "unclean.leader.election.enable": "false",
        }


def create(broker: Broker, layout: Layout) -> list[str]:
    """Creates the topics that are missing and returns one line for each; those there are stay as they are.

    Raises TopicsUnfit for one that is there and unfit, BrokerUnreachable or CredentialsRefused."""
    admin = broker.admin("haven-topics")
    try:
        there = set(admin.list_topics())
        lines = []
        for topic, partitions in layout.wanted().items():
            if topic in there:
                lines.append(f"{topic}: there already")
                continue
            _create_one(admin, topic, partitions, layout)
            lines.append(f"{topic}: created with {partitions} partitions, {layout.replication} copies")
        problems = _problems(admin, layout)
    except KafkaError as failure:
        raise broker.problem(failure, "create topics") from failure
    finally:
        admin.close()
    if problems:
        raise TopicsUnfit(problems)
    return lines


def check(broker: Broker, layout: Layout) -> dict[str, str]:
    """The id of each topic, when all are fit. Raises TopicsUnfit, BrokerUnreachable or CredentialsRefused.

    A topic that was deleted and made again has another id: whatever was remembered of its offsets is void."""
    admin = broker.admin("haven-topics")
    try:
        problems = _problems(admin, layout)
        found = {} if problems else {name: topic["topic_id"] for name, topic in _described(admin, layout).items()}
    except KafkaError as failure:
        raise broker.problem(failure, "describe topics") from failure
    finally:
        admin.close()
    if problems:
        raise TopicsUnfit(problems)
    return {name: str(topic_id) for name, topic_id in found.items()}


def count(admin: KafkaAdminClient, topic: str, partitions: int) -> int:
    """Messages the topic holds now."""
    places = [TopicPartition(topic, partition) for partition in range(partitions)]
    first = admin.list_partition_offsets(dict.fromkeys(places, OffsetSpec.EARLIEST))
    last = admin.list_partition_offsets(dict.fromkeys(places, OffsetSpec.LATEST))
    return sum(last[place].offset - first[place].offset for place in places)


def _create_one(admin: KafkaAdminClient, topic: str, partitions: int, layout: Layout) -> None:
    wanted = {
        "num_partitions": partitions,
        "replication_factor": layout.replication,
        "configs": layout.settings(),
    }
    try:
        admin.create_topics({topic: wanted}, wait_for_metadata=True)
    except TopicAlreadyExistsError:
        return  # somebody else ran this at the same moment


def _described(admin: KafkaAdminClient, layout: Layout) -> dict[str, dict[str, Any]]:
    return {topic["name"]: topic for topic in admin.describe_topics(list(layout.wanted())) if not topic["error_code"]}


def _problems(admin: KafkaAdminClient, layout: Layout) -> list[str]:
    there = _described(admin, layout)
    problems = []
    for topic, partitions in layout.wanted().items():
        if topic not in there:
            problems.append(f"topic {topic} is missing or hidden from us: run `haven topics create`, look at the ACLs")
            continue
        has = len(there[topic]["partitions"])
        if has < partitions:
            problems.append(
                f"topic {topic} has {has} partitions and HAVEN_KAFKA_PARTITIONS says {partitions}: correct the setting, or "
                f"run `kafka-topics --alter --topic {topic} --partitions {partitions}` while the relay is stopped"
            )
        copies = min(len(partition["replica_nodes"]) for partition in there[topic]["partitions"])
        if copies < layout.replication:
            problems.append(
                f"topic {topic} keeps {copies} copies and HAVEN_KAFKA_REPLICATION says {layout.replication}: "
                "reassign its partitions over more brokers, or correct the setting"
            )
    settings = {topic: setting for topic, setting in _settings(admin, list(there)).items() if topic in there}
    for topic, found in settings.items():
        for name, value in layout.settings().items():
            if name in found and found[name] != value:
                problems.append(
                    f"topic {topic} has {name}={found[name]} and needs {value}: correct it with "
                    f"`kafka-configs --alter --entity-type topics --entity-name {topic} --add-config {name}={value}`"
                )
    return problems


def _settings(admin: KafkaAdminClient, topics: list[str]) -> dict[str, dict[str, str]]:
    if not topics:
        return {}
    asked = [ConfigResource(ConfigResourceType.TOPIC, topic) for topic in topics]
    answer = admin.describe_configs(asked, config_filter="all")
    return {
        topic: {name: str(entry["value"]) for name, entry in settings.items()}
        for topic, settings in answer.get("topic", answer.get("TOPIC", {})).items()
    }
