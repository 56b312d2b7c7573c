"""The published document of the topics: valid, complete, true of what is sent, and the same as the copy in docs/."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import referencing
from jsonschema import Draft7Validator, FormatChecker

from events.asyncapi import GOLDEN, document, text
from events.envelope import CONTRACTS
from events.kafka.layout import Layout
from events.kafka.wire import to_message

COPY = Path(__file__).resolve().parents[2] / "docs" / "asyncapi.json"
OFFICIAL = json.loads((Path(__file__).parent / "asyncapi-3.0.0-schema.json").read_text())
DOCUMENT = document()
MESSAGES = DOCUMENT["components"]["messages"]
DEAD_LETTER = "haven.dead_letter.given_up.v1"


def validator(schema: dict[str, Any]) -> Draft7Validator:
    """Of a schema inside the document, its references resolved in the document as any reader would."""
    whole = referencing.Resource.from_contents(DOCUMENT, default_specification=referencing.jsonschema.DRAFT7)
    registry = referencing.Registry().with_resource("urn:haven:events", whole)
    absolute = json.loads(json.dumps(schema).replace('"#/', '"urn:haven:events#/'))
    return Draft7Validator(absolute, registry=registry, format_checker=FormatChecker())


def official_problems(asyncapi: dict[str, Any]) -> list[str]:
    return [error.message[:200] for error in jsonschema.Draft7Validator(OFFICIAL).iter_errors(asyncapi)]


def test_it_is_valid_by_the_schema_of_the_specification() -> None:
    assert official_problems(DOCUMENT) == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: d.update(asyncapi="2.6.0"),
        lambda d: d["info"].pop("title"),
        lambda d: d["channels"]["gateway"].update(topic="x"),
        lambda d: d["channels"]["gateway"]["bindings"]["kafka"].update(partitions="six"),
        lambda d: d["components"]["messages"]["placement.ask.made.v1"].update(payload=7),
        lambda d: d["operations"]["publish-gateway"].update(action="shout"),
    ],
)
def test_that_schema_notices_what_is_wrong(spoil) -> None:
    spoilt = document()
    spoil(spoilt)
    assert official_problems(spoilt) != []


def test_every_reference_leads_somewhere() -> None:
    for reference in set(re.findall(r'"\$ref": "#/([^"]+)"', text())):
        there: Any = DOCUMENT
        for step in reference.split("/"):
            there = there[step]
        assert there


def test_it_is_the_same_every_time_and_names_no_host() -> None:
    assert text() == text()
    assert document() == json.loads(text())
    assert not re.search(r"https?://|\blocalhost\b|127\.0\.0\.1", text())


def test_the_copy_in_the_documentation_is_current() -> None:
    assert COPY.read_text() == text(), "run `python -m tests.events.test_asyncapi`"


# Complete


def test_every_contract_is_a_message_of_the_topic_of_its_service() -> None:
    channels = {channel["address"]: set(channel["messages"]) for channel in DOCUMENT["channels"].values()}
    wanted = {
        f"haven.{source}": {n for n in CONTRACTS if n.startswith(f"{source}.")}
        for source in ("gateway", "placement", "capacity")
    }
    assert channels == {**wanted, "haven.dead-letters": {DEAD_LETTER}}
    assert set(MESSAGES) == {*CONTRACTS, DEAD_LETTER}


def test_the_topics_are_described_as_they_are_made() -> None:
    layout = Layout(prefix="other", partitions=12, replication=5, in_sync=3)
    described = {c["address"]: c["bindings"]["kafka"] for c in document(layout)["channels"].values()}
    assert {topic: binding["partitions"] for topic, binding in described.items()} == layout.wanted()
    assert {binding["replicas"] for binding in described.values()} == {5}
    assert all(topic == binding["topic"] for topic, binding in described.items())
    assert {binding["topicConfiguration"]["retention.ms"] for binding in described.values()} == {-1}


def test_every_event_has_the_frozen_example_of_its_contract() -> None:
    for name in CONTRACTS:
        (example,) = MESSAGES[name]["examples"]
        assert example["payload"] == json.loads((GOLDEN / f"{name}.json").read_text())["data"]


# True


@pytest.mark.parametrize("name", CONTRACTS)
def test_what_is_sent_is_what_is_described(name: str) -> None:
    message = to_message(f"haven.{name.partition('.')[0]}", (GOLDEN / f"{name}.json").read_text())
    headers = {header: value.decode() for header, value in message.headers.items()}
    validator(MESSAGES[name]["headers"]).validate(headers)
    validator(MESSAGES[name]["payload"]).validate(json.loads(message.body))
    assert headers.keys() <= DOCUMENT["components"]["schemas"]["EventHeaders"]["properties"].keys()


@pytest.mark.parametrize(
    ("headers", "payload"),
    [
        ({"ce_type": "placement.ask.made.v2"}, {}),
        ({"ce_source": "/haven/capacity"}, {}),
        ({"ce_streamversion": "0"}, {}),
        ({"ce_id": None}, {}),
        ({"ce_traceparent": "x"}, {}),
        ({}, {"request_id": 7}),
        ({}, {"request_id": "x" * 81}),
        ({}, {"ask_id": None}),
        ({}, {"type": "placement.ask.declined.v1"}),
    ],
)
def test_what_is_not_as_described_is_noticed(headers: dict[str, Any], payload: dict[str, Any]) -> None:
    message = MESSAGES["placement.ask.made.v1"]
    (example,) = message["examples"]
    spoilt = [
        {key: value for key, value in {**before, **changes}.items() if value is not None}
        for before, changes in ((example["headers"], headers), (example["payload"], payload))
    ]
    valid = [
        validator(message[part]).is_valid(content) for part, content in zip(("headers", "payload"), spoilt, strict=True)
    ]
    assert valid != [True, True]


def main() -> int:
    COPY.write_text(text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
