"""Whom a focal point phones: shelters that were asked and do not answer, or that nothing of Haven's can reach."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from enum import StrEnum

import msgspec
from flask import Response

from events.vocabulary import CountryCode, Role, Urgency
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


class CallToMake(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One shelter to phone about one ask that reached nobody, or whose answer is late."""

    request_id: str
    ask_id: str
    shelter_id: str
    country: CountryCode
    asked_at: datetime
    deadline: datetime
    reason: CallReason
    ours: bool
    """The shelter is of the reader's country; others are for the focal point of theirs."""


def calls_to_make(
    views: Sequence[Json], country: str, clocks: Clocks, now: datetime, ringing: Ringing
) -> list[CallToMake]:
    """The calls a focal point of `country` has to know of, most pressing first. `views` are what it may see."""
    found = [call for view in views for call in _of(view, country, clocks, now, ringing)]
    return sorted(found, key=lambda call: (not call.ours, call.deadline, call.ask_id))


def next_call_at(views: Sequence[Json], clocks: Clocks, now: datetime) -> datetime | None:
    """When the list changes by time alone: the next moment at which a shelter has been silent for too long, if nothing moves. Who
    rings people, and whom nothing reaches, may change at any time and is not in it."""
    urgent = (view for view in views if view["urgency"] == Urgency.URGENT)
    moments = (_asked_at(view, ask) + _patience(clocks) for view in urgent for ask in open_asks(view))
    return min((moment for moment in moments if moment > now), default=None)


def _asked_at(view: Json, ask: Json) -> datetime:
    return datetime.fromisoformat(str(ask.get("asked_at", view["opened_at"])))


def _patience(clocks: Clocks) -> timedelta:
    return timedelta(minutes=clocks.call_after_minutes)


def _of(view: Json, country: str, clocks: Clocks, now: datetime, ringing: Ringing) -> Iterator[CallToMake]:
    for ask in open_asks(view):
        asked_at = _asked_at(view, ask)
        silent_since = asked_at + _patience(clocks)
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
            deadline=datetime.fromisoformat(ask["deadline"]),
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
    clocks, now = gateway.reference.clocks, gateway.clock()
    calls = calls_to_make(views, call.principal.country, clocks, now, ringing)
    if calls:  # a list of nobody tells nothing of anybody, and every board asks for it again and again
        gateway.note_read(call.principal, "call_list", sorted({one.request_id for one in calls}))
    next_at = next_call_at(views, clocks, now)
    return answer(
        {
            "people_are_rung": ringing.is_on,
            "calls": msgspec.to_builtins(calls),
            "next_at": msgspec.to_builtins(next_at),
        }
    )


RULES = (list_calls,)
