"""What Haven says in Kafka as an AsyncAPI 3.0 document, made from the contracts themselves: it cannot say anything else.

Whoever reads our topics needs this document and nothing of ours: topics, keys, headers, bodies, one example of each message.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from events.envelope import CONTRACTS
from events.kafka.dead_letters import TYPE as DEAD_LETTER_TYPE
from events.kafka.dead_letters import DeadLetter
from events.kafka.layout import DEAD_LETTERS, Layout
from events.kafka.wire import EXTENSIONS, LARGEST_ATTRIBUTE, to_message
from events.vocabulary import Role

GOLDEN = Path(__file__).parent / "golden"
"""One event of every contract ever released, as it lies in a log. None is ever changed."""

VERSION = "1.0.0"
"""Of the document. A released message never changes, so the first number grows only if the topics or headers do."""

BINDING = "0.5.0"
JSON = "application/json"
TITLES = {
    "gateway": "What people and programs want of Haven, and what was shown to whom",
    "placement": "The life of relocation requests",
    "capacity": "Units, beds and holds",
}
KEYS = {
    "ce_specversion": "CloudEvents 1.0, binary mode",
    "ce_id": "Unique for ever. The same event sent twice has the same one: take it once.",
    "ce_source": "The service whose log it is from",
    "ce_type": "What it says and in which version; names the schema of the body",
    "ce_subject": "The stream, which is also the key of the message",
    "ce_time": "When the owner of the fact decided, RFC 3339 in UTC",
    "content-type": "Of the body",
    "ce_streamversion": "Its place in the stream, from 1 and without gaps",
    "ce_correlationid": "The same for everything that followed from one intent",
    "ce_causationid": "The event or intent it follows from",
    "ce_actorperson": "Who did it: an opaque id of a member of staff or a program",
    "ce_actorrole": "In which role",
    "ce_actororganisation": "For which organisation",
    "ce_actorcountry": "Of which country; missing for Haven itself, which acts for none",
    "ce_traceparent": "Where it belongs in a trace (W3C Trace Context)",
}
KEYS_OF_DEAD_LETTER = {
    name: meaning
    for name, meaning in KEYS.items()
    if name not in EXTENSIONS and name not in ("ce_subject", "ce_traceparent")
} | {"ce_source": "The service that gave up", "ce_time": "When it did, RFC 3339"}
OPTIONAL = ("ce_actorcountry", "ce_traceparent")

DESCRIPTION = """\
Every message is one CloudEvents 1.0 event in Kafka's binary mode: the attributes are headers, UTF-8, the body is JSON. The key
is the stream, and all events of one stream lie in one partition, in order of `ce_streamversion`.

*Reading.* A message may come more than once; `ce_id` says which it is. Leave alone what you do not know: a new optional field of
a body does not change the version, and a header not listed here means nothing to you. A `ce_type` you do not know is a newer
release's: set it aside and raise an alarm, since what follows on that stream rests on it.

*Writing.* Only Haven's relay may. Who computes the partition of a stream uses murmur2 of the key, as Kafka's Java client does
(`partitioner=murmur2` for librdkafka).

No name, address or telephone number is in any message. `Sealed` is ciphertext under one household's own key."""


def document(layout: Layout | None = None) -> dict[str, Any]:
    """The whole document for the topics of one installation, the standard ones by default. The same every time."""
    return json.loads(text(layout))  # type: ignore[no-any-return]  # what `text` wrote, with JSON's own lists and texts


def text(layout: Layout | None = None) -> str:
    """The document as it is printed and kept: the same bytes every time."""
    return json.dumps(_document(layout or Layout()), indent=1, ensure_ascii=False) + "\n"


def _document(layout: Layout) -> dict[str, Any]:
    contracts = {name: CONTRACTS[name] for name in sorted(CONTRACTS)}
    schemas, components = msgspec.json.schema_components(
        [*contracts.values(), DeadLetter], ref_template="#/components/schemas/{name}"
    )
    bodies = dict(zip([*contracts, DEAD_LETTER_TYPE], schemas, strict=True))
    sources = {source: [name for name in contracts if name.startswith(f"{source}.")] for source in layout.sources}
    topics = {**sources, DEAD_LETTERS: [DEAD_LETTER_TYPE]}
    return {
        "asyncapi": "3.0.0",
        "id": "urn:haven:events",
        "info": {
            "title": "Haven",
            "version": VERSION,
            "description": DESCRIPTION,
            "license": {"name": "EUPL-1.2"},
        },
        "defaultContentType": JSON,
        "servers": {"kafka": _server()},
        "channels": {name: _channel(name, layout, messages) for name, messages in topics.items()},
        "operations": {f"publish-{name}": _operation(name) for name in topics},
        "components": {
            "messages": {
                **{name: _message(name, contract, bodies[name], layout) for name, contract in contracts.items()},
                DEAD_LETTER_TYPE: _dead_letter(bodies[DEAD_LETTER_TYPE]),
            },
            "schemas": {
                **components,
                "EventHeaders": _headers(KEYS),
                "DeadLetterHeaders": _headers(KEYS_OF_DEAD_LETTER),
            },
            "securitySchemes": {"scram": {"type": "scramSha512", "description": "One principal for each program"}},
        },
    }


def _server() -> dict[str, Any]:
    return {
        "host": "{brokers}",
        "protocol": "kafka-secure",
        "description": "TLS, and SASL with SCRAM-SHA-512",
        "variables": {"brokers": {"description": "host:port of the installation's brokers"}},
        "security": [{"$ref": "#/components/securitySchemes/scram"}],
        "bindings": {"kafka": {"bindingVersion": BINDING}},
    }


def _channel(name: str, layout: Layout, messages: Iterable[str]) -> dict[str, Any]:
    topic = layout.topic(name)
    settings = layout.settings()
    return {
        "address": topic,
        "title": TITLES.get(name, "Messages a service gave up on; a person has to look"),
        "servers": [{"$ref": "#/servers/kafka"}],
        "messages": {message: {"$ref": f"#/components/messages/{message}"} for message in messages},
        "bindings": {
            "kafka": {
                "topic": topic,
                "partitions": layout.wanted()[topic],
                "replicas": layout.replication,
                "topicConfiguration": {
                    "cleanup.policy": [settings["cleanup.policy"]],
                    "retention.ms": int(settings["retention.ms"]),
                    "retention.bytes": int(settings["retention.bytes"]),
                    "max.message.bytes": int(settings["max.message.bytes"]),
                },
                "bindingVersion": BINDING,
            }
        },
        "x-partitioner": "murmur2",
    }


def _operation(name: str) -> dict[str, Any]:
    return {
        "action": "send",
        "channel": {"$ref": f"#/channels/{name}"},
        "summary": f"Haven's relay publishes what {name} has in its log, in the log's order"
        if name != DEAD_LETTERS
        else "Haven's relay tells what a service gave up on, never what it held",
    }


def _message(name: str, contract: type, body: dict[str, Any], layout: Layout) -> dict[str, Any]:
    source = name.partition(".")[0]
    said = {"ce_source": {"const": f"/haven/{source}"}, "ce_type": {"const": name}}
    message: dict[str, Any] = {
        "name": name,
        "title": contract.__name__,
        "contentType": JSON,
        "headers": _all_of("EventHeaders", said),
        "payload": body,
        "correlationId": {"location": "$message.header#/ce_correlationid"},
        "bindings": _key(KEYS["ce_subject"]),
    }
    golden = GOLDEN / f"{name}.json"
    if golden.exists():
        example = to_message(layout.topic(source), golden.read_text(encoding="utf-8"))
        headers = {header: value.decode() for header, value in example.headers.items()}
        message["examples"] = [{"name": name, "headers": headers, "payload": json.loads(example.body)}]
    return message


def _dead_letter(body: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": DEAD_LETTER_TYPE,
        "title": DeadLetter.__name__,
        "contentType": JSON,
        "headers": _all_of("DeadLetterHeaders", {"ce_type": {"const": DEAD_LETTER_TYPE}}),
        "payload": body,
        "bindings": _key("The consumer that gave up"),
    }


def _all_of(schema: str, said: dict[str, Any]) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"$ref": f"#/components/schemas/{schema}"}, {"properties": said}]
    return {"allOf": parts}


def _key(meaning: str) -> dict[str, Any]:
    return {"kafka": {"key": {"type": "string", "description": meaning}, "bindingVersion": BINDING}}


def _headers(keys: Mapping[str, str]) -> dict[str, Any]:
    more: dict[str, dict[str, Any]] = {
        "ce_specversion": {"const": "1.0"},
        "ce_time": {"format": "date-time"},
        "content-type": {"const": JSON},
        "ce_streamversion": {"pattern": "^[1-9][0-9]*$"},
        "ce_actorrole": {"enum": [role.value for role in Role]},
        "ce_traceparent": {"pattern": "^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"},
    }
    return {
        "type": "object",
        "required": [name for name in keys if name not in OPTIONAL],
        "properties": {name: _text(meaning) | more.get(name, {}) for name, meaning in keys.items()},
    }


def _text(meaning: str) -> dict[str, Any]:
    return {"type": "string", "description": meaning, "minLength": 1, "maxLength": LARGEST_ATTRIBUTE}
