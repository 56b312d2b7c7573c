"""Traces in OpenTelemetry's form, made from the envelopes alone: nothing is stored or handed on for them.

Every event is one span, made by whoever appends it: the correlation id gives the trace, the event's id the span, the causation
id its parent (events/trace_context.py). Beside it hang the spans of what was done with it: sent, handled. A trace lives as long
as its case; docs/adr/0023 says what that means. Attributes are contract names, service names and numbers, never an id.

Spans leave by OTLP over HTTP, from a bounded queue in a thread of its own. What does not fit or is not taken is dropped and
counted: traces are for looking, the trail is the truth.
"""

import queue
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from urllib.parse import urlsplit

import msgspec
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from prometheus_client import CollectorRegistry, Counter

from events.envelope import Event, type_of
from events.kafka.wire import Message
from events.log.decider import time_cause
from events.log.inbox import Consumer
from events.log.store import EventLog, Writing
from events.trace_context import span_id, trace_id, traceparent

QUEUE = 4096
"""Spans kept while the collector does not answer."""
BATCH = 512
GATHER_SECONDS = 1.0
TRACES_PATH = "/v1/traces"
EXPORT_SECONDS = 3.0
LONGEST_APPEND_SECONDS = 60.0

Attributes = Mapping[str, str | int]


class BadEndpoint(ValueError):
    def __init__(self) -> None:
        super().__init__(
            "HAVEN_OTLP_ENDPOINT: must be the collector's address as in http://collector:4318, without user, query or path"
        )


class _Envelope(msgspec.Struct, frozen=True):
    id: str
    stream: str
    correlation_id: str


_envelope = msgspec.json.Decoder(_Envelope)


def trace_headers(record: str) -> dict[str, str]:
    """What the relay adds to the Kafka message of a log's record (CloudEvents distributed tracing extension)."""
    return {"ce_traceparent": traceparent(_envelope.decode(record))}


class Outbox:
    """The bounded queue and the one thread between whoever makes a span and the exporter. Putting never waits or raises."""

    def __init__(self, exporter: SpanExporter, dropped: Counter, size: int = QUEUE) -> None:
        self._exporter = exporter
        self._dropped = dropped
        self._spans: queue.Queue[ReadableSpan] = queue.Queue(size)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def put(self, span: ReadableSpan) -> None:
        try:
            self._spans.put_nowait(span)
        except queue.Full:
            self._dropped.inc()

    def stop(self, seconds: float = EXPORT_SECONDS) -> None:
        """Sends what is left for at most some seconds; the rest is dropped and counted."""
        self._stopping.set()
        self._thread.join(seconds)
        self._dropped.inc(len(self._taken()))

    def _run(self) -> None:
        while not (self._stopping.wait(GATHER_SECONDS) and self._spans.empty()):
            while spans := self._taken(BATCH):
                if not self._sent(spans):
                    self._dropped.inc(len(spans))
                    break
        self._exporter.shutdown()

    def _sent(self, spans: Sequence[ReadableSpan]) -> bool:
        try:
            return self._exporter.export(spans) is SpanExportResult.SUCCESS
        except Exception:  # noqa: BLE001 - whatever a collector or its client does, the work goes on
            return False

    def _taken(self, most: int = QUEUE) -> list[ReadableSpan]:
        spans: list[ReadableSpan] = []
        with suppress(queue.Empty):
            while len(spans) < most:
                spans.append(self._spans.get_nowait())
        return spans


def configure_tracing(process: str, otlp_endpoint: str, registry: CollectorRegistry | None = None) -> "Tracer":
    """The tracer of a process; with an empty endpoint one that makes no spans. Raises BadEndpoint."""
    if not otlp_endpoint:
        return Tracer(process, None, registry)
    address = urlsplit(otlp_endpoint)
    if address.scheme not in ("http", "https") or not address.hostname or "@" in address.netloc or address.query:
        raise BadEndpoint
    if address.path.rstrip("/") not in ("", TRACES_PATH):
        raise BadEndpoint
    # Here and not at the top: most processes send no traces, and it brings an HTTP client with it.
    import requests  # noqa: PLC0415
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

    session = requests.Session()
    session.trust_env = False  # or spans would go by way of whatever proxy the environment names
    url = f"{address.scheme}://{address.netloc}{TRACES_PATH}"
    return Tracer(process, OTLPSpanExporter(endpoint=url, timeout=EXPORT_SECONDS, session=session), registry)


class Tracer:
    """Makes the spans of one process. Without an exporter it makes none."""

    def __init__(
        self, process: str, exporter: SpanExporter | None, registry: CollectorRegistry | None = None, size: int = QUEUE
    ) -> None:
        dropped = Counter("haven_spans_dropped", "Spans that never reached the collector", registry=registry)
        # Not Resource.create: it would add what it finds in the environment and of the machine.
        self._resource = Resource({"service.name": process, "service.namespace": "haven"})
        self._outbox = Outbox(exporter, dropped, size) if exporter else None

    @property
    def is_on(self) -> bool:
        return self._outbox is not None

    def stop(self) -> None:
        """Sends what is left, if that can be done in a few seconds."""
        if self._outbox is not None:
            self._outbox.stop()

    def watch_log(self, log: EventLog) -> None:
        """Makes the spans of what this process appends; for a gateway's log use `services.operations.web`."""
        log.observers.append(self.appended)

    def watch_consumer(self, consumer: Consumer) -> None:
        """Makes the spans of what a consumer handles, once it is committed."""
        handle, name = consumer.handle, consumer.name

        def traced(tx: Writing, event: Event) -> None:
            began = time.time_ns()
            handle(tx, event)
            tx.after_commit.append(lambda: self._handled(event, name, began))

        if self.is_on:
            consumer.handle = traced

    def appended(self, events: Sequence[Event], under: SpanContext | None = None) -> None:
        """The spans of one append. `under` is the HTTP request that brought it, which nobody else need know: commands have no
        cause before them, so it is their parent; of what belongs to another trace it is a link."""
        if not (self.is_on and events):
            return
        first, ended = events[0], time.time_ns()
        if first.causation_id == time_cause(first.stream, first.version - 1):
            self._emit(
                "time passed", _context(first, span_id(first.causation_id)), None, _of_event(first), (ended, ended)
            )
        for event in events:
            context = _context(event, span_id(event.id))
            parent: SpanContext | None = None
            links: tuple[Link, ...] = ()
            if event.causation_id != event.id:
                parent = _context(event, span_id(event.causation_id))
            elif under is not None and under.trace_id == context.trace_id:
                parent = under
            elif under is not None:
                links = (Link(under),)
            began = int(event.time.timestamp() * 1e9)
            if not 0 <= ended - began < LONGEST_APPEND_SECONDS * 1e9:
                began = ended  # an exercise has its own time
            self._emit(f"append {type_of(event)}", context, parent, _of_event(event), (began, ended), links=links)

    def sent(self, message: Message, began: int) -> None:
        """The span of one message that a broker acknowledged; `began` in nanoseconds since the epoch (`time.time_ns`)."""
        headers = {name: value.decode() for name, value in message.headers.items()}
        if not self.is_on or "ce_traceparent" not in headers:
            return
        _, trace, parent, _ = headers["ce_traceparent"].split("-")
        attributes: Attributes = {
            "haven.event.type": headers["ce_type"],
            "messaging.system": "kafka",
            "messaging.destination.name": message.topic,
            "messaging.destination.partition.id": str(message.partition),
            "messaging.kafka.offset": message.offset,
        }
        context = _span(int(trace, 16), span_id(headers["ce_id"], "relay"))
        self._emit(
            f"send {message.topic}",
            context,
            _span(int(trace, 16), int(parent, 16)),
            attributes,
            (began, time.time_ns()),
            SpanKind.PRODUCER,
        )

    def requested(self, context: SpanContext, method: str, route: str, status: int, began: int) -> None:
        """The span of one HTTP request, by its rule's path and never its own."""
        attributes: Attributes = {
            "http.request.method": method,
            "http.route": route,
            "http.response.status_code": status,
        }
        outcome = StatusCode.ERROR if status >= 500 else StatusCode.UNSET
        self._emit(
            f"{method} {route}", context, None, attributes, (began, time.time_ns()), SpanKind.SERVER, outcome=outcome
        )

    def _handled(self, event: Event, consumer: str, began: int) -> None:
        self._emit(
            f"handle {type_of(event)}",
            _context(event, span_id(event.id, consumer)),
            _context(event, span_id(event.id)),
            _of_event(event) | {"haven.consumer": consumer},
            (began, time.time_ns()),
            SpanKind.CONSUMER,
        )

    def _emit(
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        attributes: Attributes,
        times: tuple[int, int],
        kind: SpanKind = SpanKind.INTERNAL,
        *,
        links: Sequence[Link] = (),
        outcome: StatusCode = StatusCode.UNSET,
    ) -> None:
        if self._outbox is None:
            return
        self._outbox.put(
            ReadableSpan(
                name,
                context=context,
                parent=parent,
                resource=self._resource,
                attributes=attributes,
                kind=kind,
                links=links,
                status=Status(outcome),
                start_time=times[0],
                end_time=times[1],
            )
        )


def _span(trace: int, span: int) -> SpanContext:
    return SpanContext(trace, span, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))


def _context(event: Event, span: int) -> SpanContext:
    return _span(trace_id(event), span)


def _of_event(event: Event) -> dict[str, str | int]:
    # The kind of stream and not its id: an id would lead whoever holds the traces to a case.
    kind = event.stream.partition("-")[0]
    return {"haven.event.type": type_of(event), "haven.service": event.source, "haven.stream.kind": kind}
