"""The plan of a journey: who drives, until when they should be there, and the steps, which are sealed at once."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime

from flask import Response

from events.vocabulary import Role, Stage
from services.gateway.pages.frame import Page, Refused, Visit, page
from services.gateway.pages.language import ZONE, gettext
from services.gateway.pages.requests_forms import Wrong, typed
from services.gateway.pages.requests_steps import read_request
from services.gateway.pages.signing import next_command, not_decided_yet, send, wrong_of
from services.gateway.pages.words_of_cases import about_case
from services.gateway.read_model import Json

_DAY_AND_TIME = re.compile(r"\A\d{4}-\d\d-\d\d \d\d:\d\d\Z")


class NoSuchMoment(ValueError):
    """A day and a time that are none, or that the clock jumps over."""


def moment_in_brussels(day: str, time: str) -> datetime:
    """What two fields of a form mean. Of an hour that comes twice, the first: whoever does not arrive is missed the sooner.
    Raises NoSuchMoment."""
    said = f"{day} {time[:5]}"
    if not _DAY_AND_TIME.match(said):
        raise NoSuchMoment
    try:
        wall = datetime.fromisoformat(said)
        moment = wall.replace(tzinfo=ZONE).astimezone(UTC)
    except (ValueError, OverflowError):
        raise NoSuchMoment from None
    if moment.astimezone(ZONE).replace(tzinfo=None) != wall:
        raise NoSuchMoment
    return moment


def _journey_page(visit: Visit, *, wrong: Sequence[Wrong] = (), status: int = 200) -> Response:
    view = read_request(visit)
    planned = view["journey"]
    due = datetime.fromisoformat(planned["arrival_due"]).astimezone(ZONE) if planned else None
    return visit.render(
        "signing_journey.html",
        status,
        **about_case(visit, view),
        grace=visit.site.reference.clocks.arrival_grace_minutes,
        planned=planned,
        planned_day=due.strftime("%Y-%m-%d") if due else "",
        planned_time=due.strftime("%H:%M") if due else "",
        may_plan=_may_plan(view, visit),
        is_origin=view["danger_country"] == visit.principal.country,
        wrong=wrong,
        typed=typed(visit),
        command=next_command(visit, status),
    )


def _may_plan(view: Json, visit: Visit) -> bool:
    return Stage(view["stage"]) is Stage.CONFIRMED and view["danger_country"] == visit.principal.country


@page("GET", "/requests/<request_id>/journey", Role.COORDINATOR)
def see_journey(visit: Visit) -> Response:
    return _journey_page(visit)


@page("POST", "/requests/<request_id>/journey", Role.COORDINATOR)
def plan_journey(visit: Visit) -> Response:
    escort = Wrong(gettext("Give the code of whoever drives, as it is in Haven"), "escort")
    arrival = Wrong(gettext("Give a day and a time of arrival that are still to come, within a year"), "arrival_day")
    steps = Wrong(gettext("Write down the steps of the journey, in at most 1000 characters"), "steps")
    written = visit.text("steps").replace("\r\n", "\n")
    try:
        due = moment_in_brussels(visit.text("arrival_day"), visit.text("arrival_time"))
    except NoSuchMoment:
        return _journey_page(visit, wrong=[arrival], status=400)
    wrong = [one for one, said in ((escort, visit.text("escort")), (steps, written)) if not said]
    if wrong:
        return _journey_page(visit, wrong=wrong, status=400)
    body = {"escort": visit.text("escort"), "arrival_due": due.isoformat(), "steps": written}
    try:
        done = send(visit, "/journey", body)
    except Refused as refused:
        fields = {"escort": escort, "arrival_due": arrival, "arrival-due-in-past": arrival, "steps": steps}
        return _journey_page(visit, wrong=wrong_of(refused, fields), status=refused.status)
    said = gettext("The journey is planned, and its steps are sealed.") if done.status == 200 else not_decided_yet()
    return visit.go_to(f"/requests/{visit.path['request_id']}/journey", said)


PAGES: tuple[Page, ...] = (see_journey, plan_journey)
