"""Making the topics, and seeing whether a cluster holds them as the promises need them.

Nothing is created by accident: a mistyped topic on a broker that creates on demand would swallow events that nobody reads.
"""

import time
from collections.abc import Collection, Iterator
from typing import Any

from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient
from kafka.errors import (
    InvalidReplicationFactorError,
    KafkaError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
)

from events.kafka.connection import Broker, BrokerProblem
from events.kafka.layout import LARGEST_MESSAGE, Layout

CLIENT_ID = "haven-topics"
KNOWN_SECONDS = 10.0
"""How long it may take until every broker has heard of a topic that was made just now."""
APPLY = "apply deploy/kafka/access.toml with `python -m deploy.kafka_access`"


class TopicsUnfit(BrokerProblem):
    """Topics are missing, or are not as they must be. `problems` names each with its remedy."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(problems))


def create(broker: Broker, layout: Layout) -> list[str]:
    """Creates the topics that are missing and returns one line for each; those there are stay as they are.

    Run it as often as wanted, also at once with others. Raises TopicsUnfit for what is there and unfit, or cannot be made on
    this cluster; another BrokerProblem when the cluster is not reached or does not let us."""
    admin = broker.admin(CLIENT_ID)
    try:
        there = set(admin.list_topics())
        lines = []
        made_at = 0.0
        for topic, partitions in layout.wanted().items():
            made = topic not in there and _create_one(admin, topic, partitions, layout)
            what = f"created with {partitions} partitions, {layout.replication} copies" if made else "there already"
            lines.append(f"{topic}: {what}")
            made_at = time.monotonic() if made else made_at
        admin.wait_for_topics(list(layout.wanted()))
        # Each question may go to another broker, and not all have heard of what was made.
        while (problems := _problems(admin, layout, layout.wanted())) and time.monotonic() < made_at + KNOWN_SECONDS:
            time.sleep(0.1)
    except KafkaError as failure:
        raise broker.problem(failure, "create topics") from None
    finally:
        admin.close()
    if problems:
        raise TopicsUnfit(problems)
    return lines


def check(broker: Broker, layout: Layout, used: Collection[str] | None = None) -> dict[str, str]:
    """The id of each topic in `used` (all when None), when all of them are fit. Raises a BrokerProblem.

    A process asks for those it uses: the others are hidden from it. A topic that was deleted and made again has another id:
    whatever was remembered of its offsets is void."""
    wanted = {topic: count for topic, count in layout.wanted().items() if used is None or topic in used}
    admin = broker.admin(CLIENT_ID)
    try:
        problems = _problems(admin, layout, wanted)
        found = {} if problems else _described(admin, wanted)
    except KafkaError as failure:
        raise broker.problem(failure, "describe topics") from None
    finally:
        admin.close()
    if problems:
        raise TopicsUnfit(problems)
    return {name: str(topic["topic_id"]) for name, topic in found.items()}


def _create_one(admin: KafkaAdminClient, topic: str, partitions: int, layout: Layout) -> bool:
    """False when somebody else made it at the same moment."""
    wanted = {
        "num_partitions": partitions,
        "replication_factor": layout.replication,
        "configs": layout.settings(),
    }
    try:
        admin.create_topics({topic: wanted})
    except TopicAlreadyExistsError:
        return False
    except InvalidReplicationFactorError:
        brokers = len(admin.describe_cluster()["brokers"])
        problem = (
            f"topic {topic} is to have {layout.replication} copies and the cluster has {brokers} brokers now: start the others, "
            "or correct HAVEN_KAFKA_REPLICATION and HAVEN_KAFKA_IN_SYNC"
        )
        raise TopicsUnfit([problem]) from None
    return True


def _described(admin: KafkaAdminClient, wanted: Collection[str]) -> dict[str, dict[str, Any]]:
    return {topic["name"]: topic for topic in admin.describe_topics(list(wanted))}


def _problems(admin: KafkaAdminClient, layout: Layout, wanted: dict[str, int]) -> list[str]:
    described = _described(admin, wanted)
    problems, there = [], []
    for topic, partitions in wanted.items():
        error = for_code(described[topic]["error_code"])
        if error is UnknownTopicOrPartitionError:
            problems.append(f"topic {topic} is missing: run `haven topics create`")
        elif error is TopicAuthorizationFailedError:
            problems.append(f"topic {topic} is hidden from us, or missing: run `haven topics create` and {APPLY}")
        elif described[topic]["error_code"]:
            raise error
        else:
            there.append(topic)
            problems += _problems_of_partitions(topic, described[topic]["partitions"], partitions, layout)
    for topic, found in _settings(admin, there).items():
        if found:
            problems += _problems_of_settings(topic, found, layout)
        else:  # how the client tells that it was refused
            problems.append(f"the settings of topic {topic} are hidden from us: {APPLY}")
    return problems


def _problems_of_partitions(topic: str, there: list[dict[str, Any]], wanted: int, layout: Layout) -> Iterator[str]:
    named = topic != layout.dead_letters
    if len(there) < wanted:
        correct = "correct the setting, or " if named else ""
        yield (
            f"topic {topic} has {len(there)} partitions and "
            f"{'HAVEN_KAFKA_PARTITIONS says' if named else 'needs'} {wanted}: {correct}run `kafka-topics --alter --topic {topic} "
            f"--partitions {wanted}` while the relay is stopped"
        )
    elif len(there) > wanted and named:
        # What lies beyond the known partitions would be missed by whoever looks through all of them (sweep.py).
        yield (
            f"topic {topic} has {len(there)} partitions and HAVEN_KAFKA_PARTITIONS says {wanted}: set it to {len(there)} for "
            "every process, since partitions cannot be taken away"
        )
    copies = min(len(partition["replica_nodes"]) for partition in there)
    if copies < layout.replication:
        yield (
            f"topic {topic} keeps {copies} copies and HAVEN_KAFKA_REPLICATION says {layout.replication}: "
            "reassign its partitions over more brokers, or correct the setting"
        )


def _problems_of_settings(topic: str, found: dict[str, str], layout: Layout) -> Iterator[str]:
    for name, value in layout.settings().items():
        there = found.get(name, "nothing")
        enough = name == LARGEST_MESSAGE and there.isdigit() and int(there) >= int(value)
        if there != value and not enough:
            yield (
                f"topic {topic} has {name}={there} and needs {value}: correct it with "
                f"`kafka-configs --alter --entity-type topics --entity-name {topic} --add-config {name}={value}`"
            )


def _settings(admin: KafkaAdminClient, topics: list[str]) -> dict[str, dict[str, str]]:
    if not topics:
        return {}
    asked = [ConfigResource(ConfigResourceType.TOPIC, topic) for topic in topics]
    answer = admin.describe_configs(asked, config_filter="all")
    return {
        topic: {name: str(entry["value"]) for name, entry in settings.items()}
        for topic, settings in answer["topic"].items()
    }
