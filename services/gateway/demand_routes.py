"""The route of the yearly figures: a fixed set of tables, small counts hidden, nothing of a year that is not over."""

import re

import msgspec
from flask import Response

from events.vocabulary import Role
from services.gateway import problems
from services.gateway.demand import FIRST_YEAR, FOLLOWED, figures_of, last_published, published_from
from services.gateway.principals import Scope
from services.gateway.routing import Call, answer, rule
from services.gateway.suppression import THRESHOLD

_YEAR = re.compile(r"\A\d{4}\Z")


@rule(
    "GET",
    "/demand",
    Scope.READ_DEMAND,
    (Role.COORDINATOR, Role.AUDITOR),
    "Requests of one calendar year by country of danger: placed or not, where, after how long, what was missing. A count is"
    f" null where it is below {THRESHOLD}, or would give away one that is",
    query={"year": "one whose figures are out, which is from 1 February after it; without it, the last one"},
)
def read_demand(call: Call) -> Response:
    last = last_published(call.gateway.clock())
    year = _year(call, last)
    call.gateway.note_read(call.principal, "demand")
    figures = figures_of(call.gateway.read_model.counted(year), call.gateway.reference) if year else ()
    following = max(last + 1, FIRST_YEAR)
    return answer(
        {
            "year": year,
            "years": list(range(FIRST_YEAR, last + 1)),
            "next": {"year": following, "published_from": published_from(following).isoformat()},
            "threshold": THRESHOLD,
            "followed_days": FOLLOWED.days,
            "countries": [msgspec.to_builtins(one) for one in figures],
        }
    )


def _year(call: Call, last: int) -> int | None:
    """The year that is asked for, or the last one; None when there is none yet. Raises Problem 400: what is not out is not
    told apart from what is no year."""
    sent = call.query("year", 10)
    if sent is None:
        return last if last >= FIRST_YEAR else None
    if not _YEAR.match(sent) or not FIRST_YEAR <= int(sent) <= last:
        raise problems.bad_field("year", "a calendar year whose figures are out")
    return int(sent)


RULES = (read_demand,)
