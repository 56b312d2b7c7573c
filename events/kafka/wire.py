"""Events as Kafka messages: CloudEvents 1.0 in binary mode, with our extensions; and back.

The attributes become `ce_*` headers, `data` the body, byte for byte as in the log. Nothing here knows what an event says,
so a relay of this release passes on what a newer release appended.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from events.envelope import Event, UnreadableEvent, decode

LARGEST_BODY = 1 << 20
"""Bytes. A relocation request is a few hundred; Kafka's own default limit for a message is the same."""

EXTENSIONS = {
    "ce_streamversion": ("version",),
    "ce_correlationid": ("correlation_id",),
    "ce_causationid": ("causation_id",),
    "ce_actorperson": ("actor", "person"),
    "ce_actorrole": ("actor", "role"),
    "ce_actororganisation": ("actor", "organisation"),
    "ce_actorcountry": ("actor", "country"),
}
"""Our CloudEvents extension attributes, and where in the log's record each comes from."""


class Malformed(ValueError):
    """Not a message of ours: nobody can tell whose event it is. `reason` never quotes what the message holds."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A message as it lies in a topic, or will."""

    topic: str
    key: bytes
    headers: dict[str, bytes]
    body: bytes
    partition: int = -1
    offset: int = -1


class _Record(msgspec.Struct, frozen=True):
    """The log's document, its `data` untouched."""

    id: str
    source: str
    stream: str
    version: int
    time: str
    actor: dict[str, str]
    correlation_id: str
    causation_id: str
    data: msgspec.Raw


class _Tagged(msgspec.Struct, frozen=True):
    type: str


_record = msgspec.json.Decoder(_Record)
_tagged = msgspec.json.Decoder(_Tagged)


def to_message(topic: str, record: str) -> Message:
    """The message of one record of a log."""
    event = _record.decode(record)
    headers = {
        "ce_specversion": "1.0",
        "ce_id": event.id,
        "ce_source": f"/haven/{event.source}",
        "ce_type": _tagged.decode(event.data).type,
        "ce_subject": event.stream,
        "ce_time": event.time,
        "content-type": "application/json",
    }
    for header, (first, *rest) in EXTENSIONS.items():
        value = getattr(event, first)
        headers[header] = str(value[rest[0]] if rest else value) if not rest or rest[0] in value else ""
    return Message(
        topic=topic,
        key=event.stream.encode(),
        headers={name: value.encode() for name, value in headers.items() if value},
        body=bytes(event.data),
    )


def to_event(message: Message) -> Event | UnreadableEvent:
    """The event a message carries; one this release cannot read comes back whole. Raises Malformed when it is no message
    of ours, or says it comes from another service than the one that owns the topic."""
    if len(message.body) > LARGEST_BODY:
        raise Malformed("too large")
    if _header(message.headers, "ce_source") != f"/haven/{message.topic.rpartition('.')[2]}":
        raise Malformed("source does not own the topic")
    try:
        record = _record_of(message)
        _record.decode(record)
        return decode(record.decode())
    except (ValueError, RecursionError):  # msgspec's and Unicode's own errors are ValueErrors
        raise Malformed("not an event") from None


def _record_of(message: Message) -> bytes:
    headers = message.headers
    document: dict[str, Any] = {
        "id": _header(headers, "ce_id"),
        "source": _header(headers, "ce_source").removeprefix("/haven/"),
        "stream": _header(headers, "ce_subject"),
        "time": _header(headers, "ce_time"),
        "actor": {},
    }
    for header, (first, *rest) in EXTENSIONS.items():
        if header == "ce_actorcountry" and header not in headers:
            continue  # the system acts for no country
        value = _header(headers, header)
        if rest:
            document[first][rest[0]] = value
        else:
            document[first] = int(value) if first == "version" else value
    if document["version"] < 1:
        raise Malformed("not an event")
    return msgspec.json.encode({**document, "data": msgspec.Raw(message.body)})


def _header(headers: Mapping[str, bytes], name: str) -> str:
    try:
        return headers[name].decode()
    except (KeyError, UnicodeDecodeError):
        raise Malformed(f"without a readable {name} header") from None
