"""The live stream (Server-Sent Events): ids of what moved, nothing else. What moved is then read, and that is written down."""

from contextlib import ExitStack

from flask import Response, request

from events.vocabulary import Role
from services.gateway import problems
from services.gateway.feed import Manner, NothingLive, TooManyStreams
from services.gateway.principals import Principal, Scope
from services.gateway.routing import EVENT_STREAM, Call, Gateway, rule

TAKE_OVER = "haven.take_over"
"""Where a server that can give a connection away says how (services/serving.py)."""


@rule(
    "GET",
    "/stream",
    Scope.READ_STREAM,
    (Role.REFERRER, Role.COORDINATOR, Role.SHELTER, Role.GUARDIAN, Role.ESCORT),
    "Ids of requests and units that moved, as they move (text/event-stream)",
    gives=(EVENT_STREAM,),
    headers={
        "Last-Event-ID": "resume after this one; the event `reload` says that what lies between is not known any more"
    },
)
def live_stream(call: Call) -> Response:
    return answer_with_stream(call.gateway, call.principal, request.headers.get("Last-Event-ID", ""), Manner())


def answer_with_stream(
    gateway: Gateway, principal: Principal, last_id: str, manner: Manner, session_id: str = ""
) -> Response:
    """A stream that goes on after `last_id`. Raises Problem 503 when too many are open, or nothing is live."""
    with ExitStack() as leaving:  # whatever fails on the way gives the place back
        leaving.enter_context(gateway.limits.stream_of(principal))
        try:
            listener = gateway.feed.open(principal, last_id, manner, session_id)
        except TooManyStreams:
            raise problems.too_many_streams() from None
        except NothingLive:
            raise problems.nothing_live() from None
        leaving.callback(listener.close)
        gateway.note_read(principal, "stream")
        listener.when_closed(leaving.pop_all().close)
    take_over = request.environ.get(TAKE_OVER)
    if take_over is not None and request.method == "GET":
        response = Response(iter(listener.take()), content_type=EVENT_STREAM)
        take_over(listener)
    else:
        response = Response(iter(listener), content_type=EVENT_STREAM)
        response.call_on_close(listener.close)
    response.headers["X-Accel-Buffering"] = "no"  # what a proxy collects comes too late
    return response


RULES = (live_stream,)
