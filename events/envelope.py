"""The envelope every event travels in, and its one encoding.

One event is one JSON document, kept whole in the log: what is stored is what was said. `events/kafka/wire.py` says how it
travels.
"""

from datetime import datetime
from typing import Any, get_args
from uuid import UUID, uuid5

import msgspec

from events.capacity import CapacityContract
from events.gateway import GatewayContract
from events.placement import PlacementContract
from events.vocabulary import Actor, Role

Contract = GatewayContract | PlacementContract | CapacityContract

CONTRACTS: dict[str, type] = {cls.__struct_config__.tag: cls for cls in get_args(Contract)}
"""The explicit type table: wire name to struct. A name, once released, keeps its meaning for ever."""

UPCASTERS: dict[str, Any] = {}
"""Wire name of a retired version to a pure function from its struct to the struct that replaced it."""

LARGEST_RECORD = 1 << 20
"""Bytes of one event as a document. Most are a few hundred; a shortlist over a thousand units is a tenth of this."""

NAMESPACE = UUID("7b0c2f0e-64a5-5f6e-9f2b-3f6d7a2f9d11")


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One fact (or, from the gateway, one accepted intent) with everything needed to explain it.

    `version` is its place in `stream`, from 1, without gaps; 0 means not appended yet. `time` is when the owner of the
    fact decided, aware and in UTC; nobody who replays it looks at a clock again.
    """

    id: str
    source: str
    stream: str
    version: int = 0
    time: datetime
    actor: Actor
    correlation_id: str
    causation_id: str
    data: Contract


class UnreadableEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event this release cannot read (newer type or shape). It is parked, never skipped (docs/adr)."""

    id: str
    source: str
    stream: str
    version: int
    record: str
    """The whole document, exactly as received."""


class _Attributes(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    source: str
    stream: str
    version: int


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Event)
_batch_decoder = msgspec.json.Decoder(list[Event])
_attributes = msgspec.json.Decoder(_Attributes)


def type_of(event: Event) -> str:
    """The versioned wire name of what the event says."""
    return wire_name(type(event.data))


def wire_name(contract: type) -> str:
    """The versioned wire name of a contract."""
    return str(contract.__struct_config__.tag)  # type: ignore[attr-defined]  # every contract is a tagged struct


def encode(event: Event) -> str:
    """The event as its one JSON document."""
    return _encoder.encode(event).decode()


def decode(record: str) -> Event | UnreadableEvent:
    """Reads a stored or received document; what this release cannot read comes back whole, to be parked.

    Raises `msgspec.DecodeError` when even the attributes are missing: then nobody can tell whose event it is.
    """
    try:
        return _upcast(_decoder.decode(record))
    except msgspec.ValidationError:
        attributes = _attributes.decode(record)
        return UnreadableEvent(
            id=attributes.id,
            source=attributes.source,
            stream=attributes.stream,
            version=attributes.version,
            record=record,
        )


def decode_many(records: list[str]) -> list[Event]:
    """Reads many documents in one pass (replay). Raises `msgspec.ValidationError` on the first unreadable one."""
    events = _batch_decoder.decode("[" + ",".join(records) + "]")
    return [_upcast(event) for event in events] if UPCASTERS else events


def _upcast(event: Event) -> Event:
    while UPCASTERS and (upcast := UPCASTERS.get(type_of(event))):
        event = msgspec.structs.replace(event, data=upcast(event.data))
    return event


def derived_id(cause: str, *parts: object) -> str:
    """A stable id for the n-th thing that follows from `cause`: handling the cause twice derives the same id, so the
    log's unique event id refuses the second copy even if every other check were gone."""
    return str(uuid5(NAMESPACE, "/".join([cause, *map(str, parts)])))


def system_actor(service: str) -> Actor:
    """The process itself: timers and follow-ups act under this name, never under a person's."""
    return Actor(person=f"haven.{service}", role=Role.SYSTEM, organisation=f"haven.{service}")
