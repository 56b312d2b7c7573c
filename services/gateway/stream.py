"""The live stream (Server-Sent Events): ids of what moved, nothing else. What moved is then read, and that is written down."""

import threading
import time
from collections.abc import Callable, Iterator

import msgspec
from flask import Response, request

from events.vocabulary import Role
from services.gateway import problems
from services.gateway.access import parties
from services.gateway.principals import Principal, Scope
from services.gateway.read_model import Json, ReadModel
from services.gateway.routing import Call, rule

HEARTBEAT_SECONDS = 15.0
LONGEST_STREAM_SECONDS = 240.0
"""Shorter than a token lives: whoever listens longer shows a new token."""
MOST_STREAMS = 48

_open_streams = threading.BoundedSemaphore(MOST_STREAMS)


@rule(
    "GET",
    "/stream",
    Scope.READ_STREAM,
    (Role.REFERRER, Role.COORDINATOR, Role.SHELTER, Role.GUARDIAN, Role.ESCORT),
    "Ids of requests and units that moved, as they move (text/event-stream)",
    headers={"Last-Event-ID": "resume after this one; nothing in between is lost"},
)
def live_stream(call: Call) -> Response:
    if not _open_streams.acquire(blocking=False):
        raise problems.Problem(
            503,
            "too-many-streams",
            "Too many live streams are open.",
            next_action="Reload from time to time instead.",
            headers={"Retry-After": "30"},
        )
    sent = request.headers.get("Last-Event-ID", "")
    after = int(sent) if sent.isascii() and sent.isdigit() and len(sent) < 16 else call.gateway.read_model.last_change()
    call.gateway.note_read(call.principal, "stream")
    moved = threading.Event()
    call.gateway.log.listeners.append(moved.set)

    def close() -> None:
        call.gateway.log.listeners.remove(moved.set)
        _open_streams.release()

    response = Response(
        _lines(call.gateway.read_model, call.principal, after, moved.wait, moved.clear),
        content_type="text/event-stream",
    )
    response.call_on_close(close)
    return response


def _lines(
    read_model: ReadModel,
    principal: Principal,
    after: int,
    wait: Callable[[float], bool],
    clear: Callable[[], None],
) -> Iterator[bytes]:
    yield b"retry: 2000\n\n"
    ends = time.monotonic() + LONGEST_STREAM_SECONDS
    while time.monotonic() < ends:
        clear()
        changes = read_model.changes(after)
        for change in changes:
            after = change.seq
            if _concerns(read_model, principal, change.kind, change.subject):
                data: Json = {"kind": change.kind, "id": change.subject, "revision": change.revision}
                yield b"id: %d\nevent: moved\ndata: %s\n\n" % (after, msgspec.json.encode(data))
        if not changes and not wait(HEARTBEAT_SECONDS):
            yield b": still here\n\n"


def _concerns(read_model: ReadModel, principal: Principal, kind: str, subject: str) -> bool:
    if kind == "relocation_request":
        return read_model.request(subject, parties(principal)) is not None
    if principal.role is Role.COORDINATOR:
        return True
    return principal.role is Role.SHELTER and any(
        unit["unit_id"] == subject for unit in read_model.units(principal.organisation)
    )


RULES = (live_stream,)
