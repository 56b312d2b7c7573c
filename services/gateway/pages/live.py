"""The live stream for pages: what the API streams, opened by the session's cookie. Ids of what moved, nothing else."""

from flask import Response, request

from services.gateway.access import authorise
from services.gateway.feed import Manner
from services.gateway.pages.frame import Page, Visit, page
from services.gateway.pages.sessions import session_id_of
from services.gateway.stream import answer_with_stream, live_stream

LOOK_AGAIN = b"event: moved\ndata: {}\n\n"
MANNER = Manner(
    # A comment keeps a line open, and a script never sees it: a page has to know that somebody is still there.
    beat=b"event: beat\ndata: {}\n\n",
    start_again=LOOK_AGAIN,
    # The page then asks for what stands now, and is shown the sign-in. A board that stood still without saying so would be
    # believed.
    last_word=LOOK_AGAIN,
)


@page("GET", "/live", *live_stream.roles, is_wall=lambda: True)
def live(visit: Visit) -> Response:
    """Not by `visit.ask`, which reads an answer to its end: this one has none."""
    authorise(visit.principal, live_stream.scope, live_stream.roles)
    # The first time a page listens, it says in the address what it has seen; a browser can add no header then.
    last_id = request.headers.get("Last-Event-ID", request.args.get("after", ""))
    return answer_with_stream(visit.site.gateway, visit.principal, last_id, MANNER, session_id_of(visit.cookie))


PAGES: tuple[Page, ...] = (live,)
