"""The trace that an event's envelope already is: W3C ids derived from its own, so nothing has to be stored or handed on.

The correlation id gives the trace, the event's id its span, the causation id the span's parent: whoever holds the envelope,
or only its Kafka headers, names the same ids. They are digests, so from a trace nobody learns an id the API would take.
"""

import hashlib
from typing import Protocol

CONSULTATIONS = "consultation-"
"""Streams of reads. Nothing follows from a read: each is a trace of its own, or an organisation's would never end."""


class Traced(Protocol):
    """What of an envelope its trace follows from."""

    @property
    def id(self) -> str: ...
    @property
    def stream(self) -> str: ...
    @property
    def correlation_id(self) -> str: ...


def trace_id(event: Traced) -> int:
    """16 bytes, never zero: everything that happens about one case is one trace, as long as the case lives."""
    return _digest("trace", event.id if event.stream.startswith(CONSULTATIONS) else event.correlation_id, size=16)


def span_id(event_id: str, consumer: str = "") -> int:
    """8 bytes, never zero: the span of an event's append, or of its handling by one consumer."""
    return _digest("span", event_id, consumer, size=8)


def traceparent(event: Traced) -> str:
    """The event's place in its trace, for the header of the CloudEvents distributed tracing extension (W3C Trace Context)."""
    return f"00-{trace_id(event):032x}-{span_id(event.id):016x}-01"


def _digest(*parts: str, size: int) -> int:
    # Zero would mean that there is no trace; nothing hashes to it in practice.
    return int.from_bytes(hashlib.sha256("\0".join(parts).encode()).digest()[:size], "big") or 1
