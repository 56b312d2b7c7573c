"""The live stream (Server-Sent Events): ids of what moved, nothing else. What moved is then read, and that is written down."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import msgspec
from flask import Response, request

from events.vocabulary import Role
from services.gateway import problems
from services.gateway.access import parties
from services.gateway.principals import Principal, Scope
from services.gateway.read_model import Json
from services.gateway.routing import EVENT_STREAM, Call, Gateway, rule

HEARTBEAT_SECONDS = 15.0
LONGEST_STREAM_SECONDS = 240.0
"""Shorter than a token lives: whoever listens longer shows a new token."""
MOST_STREAMS = 48
BATCH = 200

_open_streams = threading.BoundedSemaphore(MOST_STREAMS)


@rule(
    "GET",
    "/stream",
    Scope.READ_STREAM,
    (Role.REFERRER, Role.COORDINATOR, Role.SHELTER, Role.GUARDIAN, Role.ESCORT),
    "Ids of requests and units that moved, as they move (text/event-stream)",
    gives=(EVENT_STREAM,),
    headers={"Last-Event-ID": "resume after this one; nothing in between is lost"},
)
def live_stream(call: Call) -> Response:
    if not _open_streams.acquire(blocking=False):
        raise problems.too_many_streams()
    with ExitStack() as leaving:  # whatever fails on the way gives the place back
        leaving.callback(_open_streams.release)
        leaving.enter_context(call.gateway.limits.stream_of(call.principal))
        call.gateway.note_read(call.principal, "stream")
        moved, listeners = threading.Event(), call.gateway.log.listeners
        listeners.append(moved.set)
        leaving.callback(listeners.remove, moved.set)
        response = Response(_lines(call.gateway, call.principal, _start(call), moved), content_type=EVENT_STREAM)
        response.call_on_close(leaving.pop_all().close)
    return response


def _start(call: Call) -> int:
    """After which change to go on. One that is still to come would be from before a restored backup: start at the end."""
    last = call.gateway.read_model.last_change()
    sent = request.headers.get("Last-Event-ID", "")
    return min(int(sent), last) if sent.isascii() and sent.isdigit() and len(sent) < 16 else last


def _lines(gateway: Gateway, principal: Principal, after: int, moved: threading.Event) -> Iterator[bytes]:
    yield b"retry: 2000\n\n"
    ends = time.monotonic() + LONGEST_STREAM_SECONDS
    while time.monotonic() < ends:
        moved.clear()
        if gateway.closing.is_set():
            return
        # Up to here at most: of what nobody tells this listener, only how far it goes is known.
        until = gateway.read_model.last_change()
        changes = gateway.read_model.changes(after, until, parties(principal), BATCH) if until > after else ()
        for change in changes:
            after = change.seq
            if _concerns(principal, change):
                data: Json = {"kind": change.kind, "id": change.subject, "revision": change.revision}
                yield b"id: %d\nevent: moved\ndata: %s\n\n" % (after, msgspec.json.encode(data))
        if len(changes) < BATCH:
            after = max(after, until)
        if not changes and not moved.wait(HEARTBEAT_SECONDS):
            yield b": still here\n\n"


def _concerns(principal: Principal, change: Any) -> bool:
    if change.kind == "unit" and principal.role is Role.COORDINATOR:
        return True  # every country's free beds are on a coordinator's board
    return not set(parties(principal)).isdisjoint(msgspec.json.decode(change.parties, type=list[str]))


RULES = (live_stream,)
