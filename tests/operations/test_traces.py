"""One request through the services is one connected trace, made from the envelopes alone."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import msgspec
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client import CollectorRegistry, Counter

from events.capacity import HoldPlaced
from events.envelope import Event, encode, type_of
from events.kafka.wire import to_message
from events.log.errors import StreamConflict
from events.log.store import Exact
from events.placement import AskExpired, ShelterAsked
from events.trace_context import span_id, trace_id, traceparent
from services.operations.tracing import BadEndpoint, Outbox, Tracer, configure_tracing, trace_headers
from services.operations.web import observe_requests
from tests.gateway.world import AN_OPENING, CALLBACK, POLICE, PREFIX, RECEIVING, RENDEZVOUS, STEPS, World

ALLOWED_ATTRIBUTES = {
    "haven.consumer",
    "haven.event.type",
    "haven.service",
    "haven.stream.kind",
    "http.request.method",
    "http.response.status_code",
    "http.route",
    "messaging.destination.name",
    "messaging.destination.partition.id",
    "messaging.kafka.offset",
    "messaging.system",
}


@dataclass
class Traced:
    world: World
    exporter: InMemorySpanExporter
    tracer: Tracer

    def spans(self) -> list[ReadableSpan]:
        """Everything made; nothing more is made afterwards."""
        self.tracer.stop()
        return list(self.exporter.get_finished_spans())

    def events(self, kind: type | None = None) -> list[Event]:
        logs = self.world.core.logs.values()
        events = [event for log in logs for _, event in log.read_all(limit=10_000) if isinstance(event, Event)]
        return [event for event in events if kind is None or isinstance(event.data, kind)]


@pytest.fixture
def traced(tmp_path: Path) -> Iterator[Traced]:
    world = World(tmp_path / "data")
    exporter = InMemorySpanExporter()
    tracer = Tracer("haven-test", exporter)
    for source, log in world.core.logs.items():
        if source != "gateway":
            tracer.watch_log(log)
    for consumer in world.core.consumers:
        tracer.watch_consumer(consumer)
    observe_requests(world.node.app, world.log, world.node.gateway.feed, CollectorRegistry(), tracer)
    yield Traced(world, exporter, tracer)
    tracer.stop()


def named(spans: Sequence[ReadableSpan], name: str) -> list[ReadableSpan]:
    return [span for span in spans if span.name == name]


def number(span: ReadableSpan) -> int:
    return span.context.span_id


def parents(spans: Sequence[ReadableSpan], of: ReadableSpan) -> list[str]:
    """Names from a span up to its root."""
    by_id = {(span.context.trace_id, span.context.span_id): span for span in spans}
    names = [of.name]
    while of.parent is not None:
        of = by_id[of.parent.trace_id, of.parent.span_id]
        names.append(of.name)
    return names


def test_one_request_is_one_tree_from_http_to_the_shelter_that_is_asked(traced: Traced) -> None:
    request_id = traced.world.received(
        traced.world.send(
            POLICE,
            "POST",
            f"{PREFIX}/relocation-requests",
            json=AN_OPENING,
            headers={"Idempotency-Key": traced.world.new_key()},
        )
    )
    traced.world.core.settle()
    asked = [event for event in traced.events(ShelterAsked) if event.correlation_id == request_id]
    assert asked
    spans = traced.spans()
    trace = [span for span in spans if span.context.trace_id == trace_id(asked[0])]
    roots = [span for span in trace if span.parent is None]
    assert [root.name for root in roots] == [f"POST {PREFIX}/relocation-requests"]
    ids = {number(span) for span in trace}
    assert len(ids) == len(trace), "no span twice"
    assert {span.parent.span_id for span in trace if span.parent} <= ids, "every parent is there"
    for event in asked:
        (span,) = [span for span in trace if number(span) == span_id(event.id)]
        assert parents(trace, span) == [
            "append placement.ask.made.v1",
            "append capacity.hold.placed.v1",
            "append placement.hold.requested.v1",
            "append gateway.relocation_request.open.v1",
            f"POST {PREFIX}/relocation-requests",
        ]
    about_case = [event for event in traced.events() if event.correlation_id == request_id]
    assert {span_id(event.id) for event in about_case} <= ids, "every event of the case has its span"
    placed = traced.events(HoldPlaced)[0]
    (handled,) = [span for span in trace if number(span) == span_id(placed.id, "placement")]
    assert handled.name == "handle capacity.hold.placed.v1"
    assert handled.parent.span_id == span_id(placed.id)
    assert handled.kind is SpanKind.CONSUMER


def test_what_time_makes_happen_has_time_as_its_root(traced: Traced) -> None:
    traced.world.open()
    traced.world.later(minutes=31)
    expired = traced.events(AskExpired)
    spans = traced.spans()
    for event in expired:
        (span,) = [span for span in spans if number(span) == span_id(event.id)]
        assert parents(spans, span) == ["append placement.ask.expired.v1", "time passed"]
    causes = {event.causation_id for event in expired}
    assert expired
    assert {span_id(cause) for cause in causes} <= {number(span) for span in named(spans, "time passed")}


def test_a_second_tap_makes_no_event_and_no_second_span_of_one(traced: Traced) -> None:
    key = traced.world.new_key()
    for _ in range(2):
        answer = traced.world.ask(POLICE, "POST", "/relocation-requests", AN_OPENING, Idempotency_Key=key)
        assert answer.status_code == 201
    spans = traced.spans()
    assert len(named(spans, "append gateway.relocation_request.open.v1")) == 1
    requests = named(spans, f"POST {PREFIX}/relocation-requests")
    assert len({number(span) for span in requests}) == 2


def test_a_read_is_a_trace_of_its_own_and_not_of_its_organisation(traced: Traced) -> None:
    request_id = traced.world.open()
    for _ in range(2):
        traced.world.done(traced.world.read(POLICE, request_id))
    spans = traced.spans()
    reads = named(spans, f"GET {PREFIX}/relocation-requests/{{request_id}}")
    case = named(spans, "append gateway.relocation_request.open.v1")[0].context.trace_id
    assert len({span.context.trace_id for span in reads} | {case}) == 3
    consulted = named(spans, "append gateway.record.consulted.v1")
    assert [parents(spans, span)[-1] for span in consulted[1:]] == [reads[0].name] * 2
    # The answer to the opening was a read too: outside the case's trace, and linked to the request that made it.
    assert consulted[0].parent is None
    assert [link.context.trace_id for link in consulted[0].links] == [case]


def test_nothing_of_a_case_or_a_person_is_in_a_trace(traced: Traced) -> None:
    world = traced.world
    request_id = world.open()
    world.done(world.say_yes(request_id))
    world.done(world.propose(request_id))
    world.done(world.countersign(request_id))
    world.done(world.plan_journey(request_id))
    world.send(None, "GET", f"/nothing/{CALLBACK}")
    world.send(None, "GET", f"{PREFIX}/relocation-requests/{request_id}?secret={CALLBACK}")
    ids = {part for event in traced.events() for part in (event.id, event.correlation_id, event.stream)}
    spans = traced.spans()
    said = "\n".join(span.to_json() for span in spans)
    assert len(spans) > 100
    assert not [text for text in (CALLBACK, RENDEZVOUS, STEPS, "synthetic.", RECEIVING.organisation) if text in said]
    assert not [one for one in ids if one in said]
    assert {name for span in spans for name in span.attributes} <= ALLOWED_ATTRIBUTES
    assert {name for span in spans for name in span.resource.attributes} == {"service.name", "service.namespace"}


def test_what_was_rolled_back_has_no_span(traced: Traced) -> None:
    log = traced.world.core.placement_log
    event = traced.world.appended_since(0)[0]
    draft = msgspec.structs.replace(event, id="0" * 32)
    with suppress(RuntimeError), log.writing() as tx:
        tx.append([draft])
        raise RuntimeError
    with log.writing() as tx, suppress(RuntimeError), tx.attempt():
        tx.append([draft])
        raise RuntimeError
    with pytest.raises(StreamConflict), log.writing() as tx:
        tx.append([draft], Exact(7))
    assert span_id(draft.id) not in {number(span) for span in traced.spans()}


def test_an_answer_that_failed_is_marked_and_says_no_more(traced: Traced) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(CALLBACK)

    traced.world.core.intake.accept = fail  # type: ignore[method-assign]
    answer = traced.world.ask(POLICE, "POST", "/relocation-requests", AN_OPENING)
    assert answer.status_code == 500
    (span,) = traced.spans()
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description is None
    assert CALLBACK not in span.to_json()


def test_probes_are_not_traced(traced: Traced) -> None:
    traced.world.send(None, "GET", "/healthz")
    traced.world.send(None, "GET", "/readyz")
    assert traced.spans() == []


# On the wire


def an_event(traced: Traced) -> Event:
    traced.world.open()
    return traced.events(ShelterAsked)[0]


def test_the_header_on_the_wire_names_the_span_of_the_append(traced: Traced) -> None:
    event = an_event(traced)
    header = trace_headers(encode(event))["ce_traceparent"]
    (span,) = [span for span in traced.spans() if number(span) == span_id(event.id)]
    assert header == f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-01"
    assert header == traceparent(event)


def test_the_span_of_a_message_hangs_under_the_event_it_carries(traced: Traced) -> None:
    event = an_event(traced)
    message = to_message("haven.placement", encode(event))
    headers = message.headers | {name: value.encode() for name, value in trace_headers(encode(event)).items()}
    sent = msgspec.structs.replace(message, headers=headers, partition=3, offset=41)
    for _ in range(2):  # sent again after a crash: the same span, said twice
        traced.tracer.sent(sent, time.time_ns())
    spans = named(traced.spans(), "send haven.placement")
    assert len({number(span) for span in spans}) == 1
    assert spans[0].parent.span_id == span_id(event.id)
    assert spans[0].context.trace_id == trace_id(event)
    assert spans[0].attributes["messaging.kafka.offset"] == 41
    assert spans[0].kind is SpanKind.PRODUCER


def test_ids_of_traces_are_never_zero_and_differ_by_what_they_are_of() -> None:
    assert span_id("a") != span_id("a", "placement") != span_id("a", "capacity")
    assert span_id("a", "b") != span_id("ab")
    assert 0 < span_id("a") < 2**64


# The way out


class Deaf(SpanExporter):
    """A collector that does not answer until it is told to."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.go_on = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.asked.set()
        self.go_on.wait(30)
        return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        pass


class Broken(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        raise OSError(CALLBACK)

    def shutdown(self) -> None:
        pass


def dropped(registry: CollectorRegistry) -> float:
    return registry.get_sample_value("haven_spans_dropped_total") or 0.0


@pytest.mark.parametrize("size", [8])
def test_a_collector_that_does_not_answer_keeps_nobody_waiting(size: int, traced: Traced) -> None:
    deaf, registry = Deaf(), CollectorRegistry()
    tracer = Tracer("haven-test", deaf, registry, size)
    event = an_event(traced)
    tracer.appended([event] * (size * 3))
    assert dropped(registry) == size * 2, "what does not fit is dropped at once"
    assert deaf.asked.wait(30)
    tracer.appended([event] * (size * 2))
    assert dropped(registry) == size * 3, "the queue holds no more than it did"
    deaf.go_on.set()
    tracer.stop()
    assert dropped(registry) == size * 5, "what the collector refused counts too"


def test_an_exporter_that_raises_costs_its_spans_alone(traced: Traced) -> None:
    registry = CollectorRegistry()
    tracer = Tracer("haven-test", Broken(), registry)
    tracer.appended([an_event(traced)])
    tracer.stop()
    assert dropped(registry) == 1


def test_stopping_does_not_wait_for_a_collector_that_hangs(traced: Traced) -> None:
    deaf, registry = Deaf(), CollectorRegistry()
    outbox = Outbox(deaf, Counter("haven_spans_dropped", "for this test", registry=registry), 100)
    for _ in range(50):
        outbox.put(ReadableSpan("late"))
    assert deaf.asked.wait(30)
    outbox.put(ReadableSpan("later"))
    began = time.monotonic()
    outbox.stop(0.2)
    assert time.monotonic() - began < 10
    assert dropped(registry) == 1, "what was never tried; what hangs is still being tried"
    deaf.go_on.set()


def test_without_an_endpoint_nothing_is_made_and_nothing_is_wrapped(traced: Traced) -> None:
    tracer = configure_tracing("haven-placement", "")
    consumer = traced.world.core.placement.consumer
    handle = consumer.handle
    tracer.watch_consumer(consumer)
    tracer.appended(traced.events())
    assert consumer.handle is handle
    assert not tracer.is_on
    tracer.stop()


@pytest.mark.parametrize(
    "endpoint",
    [
        "collector:4318",
        "ftp://collector",
        "http://",
        "http://user:secret@collector:4318",
        "http://c/?key=secret",
        "http://c/x",
    ],
)
def test_an_endpoint_that_is_none_is_refused_without_repeating_it(endpoint: str) -> None:
    with pytest.raises(BadEndpoint, match="HAVEN_OTLP_ENDPOINT") as refused:
        configure_tracing("haven-placement", endpoint)
    assert "secret" not in str(refused.value)


def test_spans_reach_a_collector_as_otlp(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", f"note={CALLBACK}")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        tracer = configure_tracing("haven-placement", f"http://127.0.0.1:{server.server_address[1]}")
        event = an_event(traced)
        tracer.appended([event])
        tracer.stop()
        server.shutdown()
    ((path, body),) = received
    assert path == "/v1/traces"
    (group,) = ExportTraceServiceRequest.FromString(body).resource_spans
    assert {pair.key for pair in group.resource.attributes} == {"service.name", "service.namespace"}
    (span,) = group.scope_spans[0].spans
    assert span.name == f"append {type_of(event)}"
    assert span.span_id == span_id(event.id).to_bytes(8, "big")
    assert span.trace_id == trace_id(event).to_bytes(16, "big")
    assert span.parent_span_id == span_id(event.causation_id).to_bytes(8, "big")
