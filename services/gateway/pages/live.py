"""The live stream for pages: what the API streams, opened by the session's cookie. Ids of what moved, nothing else."""

from flask import Response, request

from events.vocabulary import Role
from services.gateway import stream
from services.gateway.pages.frame import Page, Visit, page
from services.gateway.routing import ON_BEHALF_OF, guarded


@page("GET", "/live", Role.REFERRER, Role.COORDINATOR, Role.SHELTER, Role.GUARDIAN, Role.ESCORT)
def live(visit: Visit) -> Response:
    """Not by `visit.ask`, which reads an answer to its end: this one has none."""
    request.environ[ON_BEHALF_OF] = visit.principal
    return guarded(visit.site.gateway, stream.live_stream)()


PAGES: tuple[Page, ...] = (live,)
