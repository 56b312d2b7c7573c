"""What the gateway's HTTP requests are counted and traced by: method, the rule of the route and status. Never a path, a query,
a header or a body, so neither an id nor a person can get into a label or an attribute.
"""

import re
import time
from collections.abc import Sequence, Sized
from secrets import randbits

from flask import Flask, Response, g, has_request_context, request
from opentelemetry.trace import SpanContext, TraceFlags
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from events.envelope import Event
from events.log.store import EventLog
from events.trace_context import trace_id
from services.operations.tracing import Tracer

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
UNMATCHED = "unmatched"
"""The route of a request for which there is none: what was asked for is the client's own text."""
PROBES = frozenset({"/healthz", "/readyz"})
"""Asked every few seconds, by nobody who wants anything: counted, not traced."""
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_PLACEHOLDER = re.compile(r"<(?:\w+:)?(\w+)>")


def observe_requests(app: Flask, log: EventLog, streams: Sized, metrics: CollectorRegistry, tracer: Tracer) -> None:
    """Counts and traces every request of the application, and what it appends to the gateway's log: the commands of one
    request hang under its span. In place of `tracer.watch_log`."""
    answered = Counter(
        "haven_http_requests",
        "HTTP requests answered, by the rule of their route",
        ["method", "route", "status"],
        registry=metrics,
    )
    seconds = Histogram(
        "haven_http_request_duration_seconds",
        "From the request to the first byte of its answer",
        ["method", "route"],
        buckets=BUCKETS,
        registry=metrics,
    )
    listening = Gauge("haven_http_open_streams", "Live streams open now", registry=metrics)
    listening.set_function(lambda: len(streams))

    @app.before_request
    def begin() -> None:
        g.haven_began = time.time_ns(), time.perf_counter()
        g.haven_span = randbits(64) or 1
        g.haven_trace = 0

    @app.after_request
    def end(response: Response) -> Response:
        method = request.method if request.method in METHODS else "other"
        route = _route()
        began, counter = g.haven_began
        answered.labels(method, route, str(response.status_code)).inc()
        seconds.labels(method, route).observe(time.perf_counter() - counter)
        if route not in PROBES:
            tracer.requested(_span_of_request(), method, route, response.status_code, began)
        return response

    def appended(events: Sequence[Event]) -> None:
        if not (has_request_context() and "haven_span" in g):
            tracer.appended(events)
            return
        g.haven_trace = g.haven_trace or trace_id(events[0])
        tracer.appended(events, _span_of_request())

    log.observers.append(appended)


def _route() -> str:
    """The path as the API document writes it, placeholders and all."""
    return _PLACEHOLDER.sub(r"{\1}", request.url_rule.rule) if request.url_rule else UNMATCHED


def _span_of_request() -> SpanContext:
    """In the trace of the first thing it brought about; a request that brought nothing is a trace of its own."""
    g.haven_trace = g.haven_trace or randbits(128) or 1
    return SpanContext(g.haven_trace, g.haven_span, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
