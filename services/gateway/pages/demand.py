"""The figures of a year that is over: how many needed a bed abroad, how many found one, and what the others lacked."""

from flask import Response, request

from events.vocabulary import Role
from services.gateway.demand import QUARTERS, Missing, Waited
from services.gateway.pages.frame import Page, Visit, page


@page("GET", "/demand", Role.COORDINATOR, Role.AUDITOR)
def demand(visit: Visit) -> Response:
    asked = request.args.get("year")
    answer = visit.ask("GET", "/demand", query={} if asked is None else {"year": asked}).data
    return visit.render("demand.html", **answer, waited=list(Waited), missing=list(Missing), quarters=QUARTERS)


PAGES: tuple[Page, ...] = (demand,)
