"""What the doctor finds on a real broker."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.parts import Kafka
from deploy.process import Part
from events.kafka import topics
from events.kafka.connection import Broker
from events.kafka.layout import Layout
from services.operations import doctor

pytestmark = pytest.mark.real


@pytest.fixture
def layout(topic_prefix: str) -> Layout:
    return Layout(prefix=topic_prefix.rstrip("."), partitions=2, replication=1, in_sync=1)


def test_topics_that_are_missing_few_or_fit_are_told_apart(kafka: str, layout: Layout) -> None:
    broker = Broker(tuple(kafka.split(",")))
    missing = doctor.kafka(broker, layout)
    assert len(missing) == len(layout.wanted())
    assert all(not finding.ok and "haven topics create" in finding.remedy for finding in missing)
    topics.create(broker, layout)
    assert [(finding.name, finding.ok) for finding in doctor.kafka(broker, layout)] == [
        ("kafka", True),
        ("topics", True),
    ]
    few = doctor.kafka(broker, replace(layout, partitions=4))
    assert len(few) == len(layout.sources)
    assert all("HAVEN_KAFKA_PARTITIONS" in finding.reason and finding.remedy for finding in few)


def test_a_wrong_password_and_a_wrong_authority_are_told_apart(
    own_part: Callable[..., Part], layout: Layout, tmp_path: Path
) -> None:
    secured = own_part(lambda folder: Kafka(folder, principals=["haven_placement"]))
    assert isinstance(secured, Kafka)
    sound = Broker((secured.bootstrap,), "haven_placement", secured.password("haven_placement"), secured.ca_file)
    (refused,) = doctor.kafka(replace(sound, password="PLOVER-41"), layout)
    assert not refused.ok
    assert "does not let haven_placement sign in" in refused.finding
    assert "haven_placement_kafka_password" in refused.remedy
    assert "PLOVER" not in str(refused)
    (missing,) = doctor.kafka(replace(sound, ca_file=tmp_path / "nothing.pem"), layout)
    assert not missing.ok
    assert "HAVEN_KAFKA_CA_FILE" in missing.remedy
