"""Whom a focal point phones: shelters that were asked and do not answer, or that nothing of Haven's can reach."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from enum import StrEnum

import msgspec
from flask import Response

from events.vocabulary import Role, Urgency
from reference import Clocks
from services.gateway.access import parties, present_request
from services.gateway.principals import Scope
from services.gateway.read_model import Json
from services.gateway.ringing import Ringing
from services.gateway.routing import Call, answer, rule
from services.gateway.views import open_asks
from services.gateway.waits import ask_wait_id


class CallReason(StrEnum):
    """Why somebody has to phone."""

    UNANSWERED = "unanswered"
    """Asked urgently, rung twice, and silent."""
    NOT_RUNG = "not_rung"
    """Nothing reached the shelter: it has no channel, or each of them failed."""
    NOBODY_IS_RUNG = "nobody_is_rung"
    """Haven rings nobody at all here now."""


class CallToMake(msgspec.Struct, frozen=True, kw_only=True):
    """One shelter to phone about one ask."""

    request_id: str
    ask_id: str
    shelter_id: str
    country: str
    asked_at: str
    deadline: str
    reason: CallReason
    ours: bool
    """The shelter is of the reader's country; others are for the focal point of theirs."""


def calls_to_make(
    views: Sequence[Json], country: str, clocks: Clocks, now: datetime, ringing: Ringing
) -> list[CallToMake]:
    """The calls a focal point of `country` has to know of, most pressing first. `views` are what it may see."""
    found = [call for view in views for call in _of(view, country, clocks, now, ringing)]
    return sorted(found, key=lambda call: (not call.ours, call.deadline, call.ask_id))


def _of(view: Json, country: str, clocks: Clocks, now: datetime, ringing: Ringing) -> Iterator[CallToMake]:
    for ask in open_asks(view):
        asked_at = str(ask.get("asked_at", view["opened_at"]))
        silent_since = datetime.fromisoformat(asked_at) + timedelta(minutes=clocks.call_after_minutes)
        urgent = view["urgency"] == Urgency.URGENT
        if ask_wait_id(ask["ask_id"]) in ringing.unrung:
            reason = CallReason.NOT_RUNG
        elif urgent and silent_since <= now:
            reason = CallReason.UNANSWERED
        elif urgent and not ringing.is_on:
            reason = CallReason.NOBODY_IS_RUNG
        else:
            continue
        yield CallToMake(
            request_id=view["request_id"],
            ask_id=ask["ask_id"],
            shelter_id=ask["shelter_id"],
            country=ask["country"],
            asked_at=asked_at,
            deadline=ask["deadline"],
            reason=reason,
            ours=ask["country"] == country,
        )


@rule(
    "GET",
    "/call-list",
    Scope.READ_ASKS,
    (Role.COORDINATOR,),
    "Shelters to phone: asked urgently and silent, or reached by nothing; and whether Haven rings people at all",
)
def list_calls(call: Call) -> Response:
    gateway = call.gateway
    ringing = gateway.ringing()
    views = [
        present_request(view, call.principal)
        for view in gateway.read_model.requests_with_open_asks(parties(call.principal))
    ]
    calls = calls_to_make(views, call.principal.country, gateway.reference.clocks, gateway.clock(), ringing)
    if calls:  # a list of nobody tells nothing of anybody, and every board asks for it again and again
        gateway.note_read(call.principal, "call_list", sorted({one.request_id for one in calls}))
    return answer({"people_are_rung": ringing.is_on, "calls": msgspec.to_builtins(calls)})


RULES = (list_calls,)
