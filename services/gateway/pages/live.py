"""The live stream for pages: what the API streams, opened by the session's cookie. Ids of what moved, nothing else."""

from collections.abc import Iterator
from typing import Any

from flask import Response, request

from events.vocabulary import Role
from services.gateway import stream
from services.gateway.pages.frame import Page, Visit, page
from services.gateway.routing import ON_BEHALF_OF, guarded


@page("GET", "/live", Role.REFERRER, Role.COORDINATOR, Role.SHELTER, Role.GUARDIAN, Role.ESCORT)
def live(visit: Visit) -> Response:
    """Not by `visit.ask`, which reads an answer to its end: this one has none."""
    request.environ[ON_BEHALF_OF] = visit.principal
    # The first time a page listens, it says in the address what it has seen; a browser can add no header then.
    request.environ.setdefault("HTTP_LAST_EVENT_ID", request.args.get("after", ""))
    response = guarded(visit.site.gateway, stream.live_stream)()
    if response.mimetype == "text/event-stream":
        response.response = _while_signed_in(visit, iter(response.response))
    return response


def _while_signed_in(visit: Visit, lines: Iterator[Any]) -> Iterator[Any]:
    """Nothing is said after a session has ended, but for one last word: the page then asks for what stands now, and is shown
    the sign-in. A board that stood still without saying so would be believed."""
    for line in lines:
        if not visit.site.sessions.is_open(visit.cookie):
            yield b"event: moved\ndata: {}\n\n"
            return
        # A comment keeps a line open, and a script never sees it: a page has to know that somebody is still there.
        yield b"event: beat\ndata: {}\n\n" if line.startswith(b":") else line


PAGES: tuple[Page, ...] = (live,)
