"""The live stream for pages: what the API streams, opened by the session's cookie. Ids of what moved, nothing else."""

import threading
import time
from collections.abc import Callable

import msgspec
from flask import Response, request

from events.vocabulary import Role
from services.gateway.access import authorise
from services.gateway.feed import Manner
from services.gateway.pages.frame import Page, Visit, page
from services.gateway.pages.sessions import session_id_of
from services.gateway.stream import answer_with_stream, live_stream

ASKED_EVERY = 5.0
"""Seconds for which a mark serves all who listen."""
LOOK_AGAIN = b"event: moved\ndata: {}\n\n"


class Unheard:
    """The mark of what a focal point looks at and no change tells of (`Gateway.unheard`), asked for once for all boards. It may be a
    little old: a board that is newer than its mark looks once more than it had to, and none looks too seldom."""

    def __init__(self, ask: Callable[[], str]) -> None:
        self._ask = ask
        self._guard = threading.Lock()
        self._mark = ""
        self._asked_at = float("-inf")

    def __call__(self) -> str:
        with self._guard:
            if time.monotonic() - self._asked_at >= ASKED_EVERY:
                self._mark = self._ask()
                self._asked_at = time.monotonic()
            return self._mark


def _manner(visit: Visit) -> Manner:
    def beat() -> bytes:
        said = {"unheard": visit.site.gateway.feed.unheard()} if visit.principal.role is Role.COORDINATOR else {}
        return b"event: beat\ndata: %s\n\n" % msgspec.json.encode(said)

    return Manner(
        # A comment keeps a line open, and a script never sees it: a page has to know that somebody is still there.
        beat=beat,
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
    return answer_with_stream(visit.site.gateway, visit.principal, last_id, _manner(visit), session_id_of(visit.cookie))


PAGES: tuple[Page, ...] = (live,)
