"""Events as Kafka messages: CloudEvents 1.0 in binary mode, with our extensions; and back.

The attributes become `ce_*` headers, `data` the body, byte for byte as in the log (CloudEvents Kafka binding 1.0.2,
section 3.2). Nothing here knows what an event says, so a relay of this release passes on what a newer release appended; a
header that is not of ours (`ce_traceparent`, say) is left alone.

Of what comes from a topic nothing is believed: it is refused before it could be stored under another name than its own, or
could not be stored at all, which would keep its partition waiting for ever.
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from events.envelope import LARGEST_RECORD, Event, UnreadableEvent, decode

LARGEST_BODY = LARGEST_RECORD
"""Bytes. A relocation request is a few hundred; Kafka's own default limit for a message is the same."""

LARGEST_ATTRIBUTE = 300
"""Characters of a header's value. Our longest is a stream's name, about a hundred; an index of PostgreSQL takes 2,700 bytes."""

LARGEST_VERSION = 2**31 - 1

KEY_IS = "ce_subject"
"""The stream: its events keep their order, since all of one key lie in one partition (murmur2, as Java's clients)."""

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


_raw = msgspec.json.Decoder(msgspec.Raw)
_record = msgspec.json.Decoder(_Record)
_tagged = msgspec.json.Decoder(_Tagged)
# A CloudEvents string has no control characters; PostgreSQL would refuse to store U+0000.
_attribute = re.compile(rf"[^\x00-\x1f\x7f-\x9f]{{1,{LARGEST_ATTRIBUTE}}}")


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
    """The event a message carries; one this release cannot read comes back whole. Raises Malformed, and nothing else, when
    it is no message of ours, or says it comes from another service than the one that owns the topic."""
    if len(message.body) > LARGEST_BODY:
        raise Malformed("too large")
    headers = message.headers
    if _header(headers, "ce_specversion") != "1.0":
        raise Malformed("of another version of CloudEvents")
    if _header(headers, "ce_source") != f"/haven/{message.topic.rpartition('.')[2]}":
        raise Malformed("source does not own the topic")
    if message.key.decode(errors="replace") != _header(headers, KEY_IS):
        raise Malformed("key is not the stream")
    try:
        record = _record_of(message).decode()
        _record.decode(record)
        return decode(record)
    except Malformed:
        raise
    except (ValueError, RecursionError):  # msgspec's and Unicode's own errors are ValueErrors
        raise Malformed("not an event") from None


def _record_of(message: Message) -> bytes:
    headers = message.headers
    if b"\0" in message.body:
        raise Malformed("not an event")
    # Decoded before it is put into the document: a body that closes one object and opens another would overrule the headers.
    data = _raw.decode(message.body)
    if _tagged.decode(data).type != _header(headers, "ce_type"):
        raise Malformed("type is not the one its header names")
    document: dict[str, Any] = {
        "id": _header(headers, "ce_id"),
        "source": _header(headers, "ce_source").removeprefix("/haven/"),
        "stream": _header(headers, "ce_subject"),
        "time": _header(headers, "ce_time"),
        "actor": {},
    }
    for header, (first, *rest) in EXTENSIONS.items():
        empty = header not in headers and header != "ce_streamversion"
        value = "" if empty else _header(headers, header)
        if rest:
            document[first][rest[0]] = value
        else:
            document[first] = _version(value) if first == "version" else value
    return msgspec.json.encode({**document, "data": data})


def _version(text: str) -> int:
    # int() alone would take " 1", "1_0" and digits of any script: two spellings of one version.
    if not re.fullmatch(r"[1-9][0-9]{0,9}", text) or int(text) > LARGEST_VERSION:
        raise Malformed("without a readable ce_streamversion header")
    return int(text)


def _header(headers: Mapping[str, bytes], name: str) -> str:
    try:
        value = (headers.get(name) or b"").decode()  # kafka-python gives None for a header that holds nothing
    except UnicodeDecodeError:
        value = ""
    if not _attribute.fullmatch(value):
        raise Malformed(f"without a readable {name} header")
    return value
