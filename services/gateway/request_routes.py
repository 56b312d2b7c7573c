"""The routes of a relocation request: open it, follow it, sign it, travel, arrive."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, timedelta
from functools import partial
from typing import Any
from urllib.parse import urlencode

import msgspec
from flask import Response

from events.envelope import Contract, Event, derived_id, wire_name
from events.gateway import (
    CountersignPlacement,
    EndPlacement,
    OpenRelocationRequest,
    PlanJourney,
    ProposePlacement,
    RecordArrival,
    RecordConsent,
    RecordDeparture,
    RecordDetails,
    WithdrawRequest,
)
from events.sealing import SealContext
from events.vocabulary import Role, Sealed, SealedField
from services.gateway import bodies, problems
from services.gateway.access import may_know_received, parties, present_request, present_timeline
from services.gateway.paging import CursorText, page_size, read_cursor, write_cursor
from services.gateway.principals import Scope
from services.gateway.read_model import Json, RequestPosition
from services.gateway.reflection import SHOWN_TO, reflection_clock
from services.gateway.routing import PREFIX, Call, answer, raise_if_refused, received, rule
from services.gateway.views import received_view

A_SIGNATURE = timedelta(minutes=5)
"""How long ago whoever signs a placement may have signed in: an unattended screen signs nothing."""
FOLLOWERS = (Role.REFERRER, Role.COORDINATOR, Role.SHELTER, Role.GUARDIAN, Role.ESCORT)


def stream_of(request_id: str) -> str:
    return f"relocation_request-{request_id}"


def seal(call: Call, request_id: str, contract: type, event_id: str, field: SealedField, text: str) -> Sealed:
    """Seals one field of a command for the one event it will stand in."""
    context = SealContext(stream=stream_of(request_id), type=wire_name(contract), event_id=event_id, field=field)
    return call.gateway.keys.seal(request_id, text, context)


def known_request(call: Call, request_id: str) -> Json:
    """The view of a request this principal may know of, also in the moment before it is opened; else Problem 404."""
    gateway, ours = call.gateway, parties(call.principal)
    if (view := gateway.read_model.request(request_id, ours)) is not None:
        return view
    # As much work for a case of others as for one that is not there: how long a no takes must not tell the two apart.
    first = gateway.log.find(derived_id(request_id, 0))
    if (
        isinstance(first, Event)
        and isinstance(first.data, OpenRelocationRequest)
        and may_know_received(call.principal, first.data, first.actor)
    ):
        if gateway.read_model.outcome(first.id) is None:
            return received_view(first, first.data)
        if (view := gateway.read_model.request(request_id, ours)) is not None:
            return view  # opened between the two looks
    raise problems.not_found()


def _shown(call: Call, view: Json, status: int = 200) -> Response:
    """The answer that shows a request to a person, however they came to see it: a read, and written down first."""
    request_id = view["request_id"]
    call.gateway.note_read(call.principal, "relocation_request", [request_id])
    shown = present_request(view, call.principal)
    if call.principal.role in SHOWN_TO:
        shown["reflection"] = reflection_clock(view, call.gateway.reference)
    return answer(
        shown,
        status,
        ETag=f'"{view["revision"]}"',
        Location=f"{PREFIX}/relocation-requests/{request_id}",
    )


def command_about(call: Call, contract: type, **fields: Any) -> Response:
    """Accepts one command about the request in the path and answers with what became of it, if it may wait for that."""
    request_id = call.path["request_id"]
    known_request(call, request_id)
    return accept(call, request_id, lambda _event_id: contract(request_id=request_id, **fields))


def accept(call: Call, request_id: str, command: Any) -> Response:
    """Accepts one command, made for the id of its event, and answers with what became of it, if it may wait for that."""

    def commands(event_id: Any) -> list[tuple[str, Contract]]:
        return [(stream_of(request_id), command(event_id(0)))]

    accepted = call.gateway.intake.accept(call.intent(), request_id, commands)
    location = f"{PREFIX}/relocation-requests/{request_id}"
    outcomes = call.outcome(accepted) if call.wait else None
    if outcomes is None:
        return received(accepted, location, request_id=request_id)
    raise_if_refused(outcomes[0])
    view = call.gateway.read_model.request(request_id, parties(call.principal))
    if view is None:  # what was done took the request out of this principal's sight
        return answer({"status": "done", "request_id": request_id}, Location=location)
    return _shown(call, view)


@rule(
    "POST",
    "/relocation-requests",
    Scope.OPEN_REQUESTS,
    (Role.REFERRER, Role.COORDINATOR),
    "Open a relocation request",
    body=bodies.OpenRequest,
    waits=True,
)
def open_relocation_request(call: Call) -> Response:
    body: bodies.OpenRequest = call.body
    bodies.check_open_request(body, call.gateway.reference, call.gateway.clock())
    if call.principal.role is Role.COORDINATOR and call.principal.country != body.danger_country:
        raise problems.forbidden(
            "not-your-country",
            "You open requests for your own country.",
            "Ask the focal point of the country of danger.",
        )
    intent = call.intent()
    request_id = call.gateway.intake.intent_id(intent)

    with call.gateway.limits.beds_for(call.principal) as take_beds:

        def commands(event_id: Any) -> list[tuple[str, Contract]]:
            take_beds(body.household.beds)  # here: a repeated request asks for no more
            said = msgspec.structs.asdict(body)
            text = said.pop("callback")
            callback = seal(call, request_id, OpenRelocationRequest, event_id(0), SealedField.CALLBACK, text)
            return [(stream_of(request_id), OpenRelocationRequest(request_id=request_id, callback=callback, **said))]

        accepted = call.gateway.intake.accept(intent, request_id, commands, opens_stream=True)
    outcomes = call.outcome(accepted) if call.wait else None
    if outcomes is not None:
        raise_if_refused(outcomes[0])
        return _shown(call, known_request(call, request_id), 201)
    return received(accepted, f"{PREFIX}/relocation-requests/{request_id}", request_id=request_id)


@rule(
    "GET",
    "/relocation-requests",
    Scope.READ_REQUESTS,
    FOLLOWERS,
    "List the requests you may know of, newest first, without their shortlists",
    query={
        "open": "true: only those that are not over",
        "limit": "1 to 100, default 50",
        "cursor": "from the Link header of the page before",
    },
)
def list_relocation_requests(call: Call) -> Response:
    only_open = call.query_flag("open")
    page, headers = page_of_requests(
        call,
        partial(call.gateway.read_model.requests, only_open=only_open),
        {"open": "true" if only_open else "false"},
    )
    call.gateway.note_read(call.principal, "list", [view["request_id"] for view in page])
    return answer({"requests": [_in_a_list(present_request(view, call.principal)) for view in page]}, 200, **headers)


def page_of_requests(
    call: Call, read: Callable[[Sequence[str], RequestPosition | None, int], list[Json]], kept: Mapping[str, str]
) -> tuple[list[Json], dict[str, str]]:
    """One page of what `read` finds, newest first, and the headers that lead to the next; `kept` is what the query said else."""
    limit = page_size(call)
    after: RequestPosition | None = read_cursor(call, tuple[CursorText, CursorText])
    views = read(parties(call.principal), after, limit + 1)
    page, more = views[:limit], len(views) > limit
    if not more:
        return page, {}
    query = urlencode({**kept, "limit": limit, "cursor": write_cursor([page[-1]["opened_at"], page[-1]["request_id"]])})
    return page, {"Link": f'<{PREFIX}{call.rule.path}?{query}>; rel="next"'}


def _in_a_list(shown: Json) -> Json:
    """A shortlist says something of every unit there is: many times all the rest. It is in the request, and has a route."""
    return {name: value for name, value in shown.items() if name != "shortlist"}


@rule("GET", "/relocation-requests/{request_id}", Scope.READ_REQUESTS, FOLLOWERS, "Where one request stands")
def read_relocation_request(call: Call) -> Response:
    return _shown(call, known_request(call, call.path["request_id"]))


@rule(
    "GET",
    "/relocation-requests/{request_id}/timeline",
    Scope.READ_REQUESTS,
    (Role.REFERRER, Role.COORDINATOR, Role.GUARDIAN),
    "Every step and every read of one request, oldest first",
)
def read_timeline(call: Call) -> Response:
    view = known_request(call, call.path["request_id"])
    call.gateway.note_read(call.principal, "timeline", [view["request_id"]])
    entries = call.gateway.read_model.case_timeline(view["request_id"], parties(call.principal))
    return answer({"events": present_timeline(entries, call.principal, view["danger_country"])})


@rule(
    "GET",
    "/relocation-requests/{request_id}/shortlist",
    Scope.READ_REQUESTS,
    (Role.COORDINATOR,),
    "The units that could take the household, ranked and explained, and why not the others",
)
def read_shortlist(call: Call) -> Response:
    view = known_request(call, call.path["request_id"])
    if call.principal.country != view["danger_country"]:
        raise problems.forbidden(
            "not-your-country", "The shortlist is for the origin country.", "Ask that country's focal point."
        )
    call.gateway.note_read(call.principal, "shortlist", [view["request_id"]])
    return answer({"request_id": view["request_id"], "shortlist": view.get("shortlist")})


@rule(
    "POST",
    "/relocation-requests/{request_id}/withdrawal",
    Scope.WITHDRAW_REQUESTS,
    (Role.REFERRER, Role.COORDINATOR),
    "Withdraw a request before departure; every bed is free again",
    body=bodies.Withdrawal,
    waits=True,
)
def withdraw_request(call: Call) -> Response:
    return command_about(call, WithdrawRequest, reason=call.body.reason)


@rule(
    "POST",
    "/relocation-requests/{request_id}/details",
    Scope.OPEN_REQUESTS,
    (Role.REFERRER, Role.COORDINATOR),
    "Add what was learnt of the household after the opening, or correct it",
    body=bodies.Details,
    waits=True,
)
def record_details(call: Call) -> Response:
    request_id = call.path["request_id"]
    view = known_request(call, request_id)
    bodies.check_details(call.body, view["danger_country"], call.gateway.reference, call.gateway.clock())
    said = msgspec.structs.asdict(call.body)
    return accept(call, request_id, lambda _event_id: RecordDetails(request_id=request_id, **said))


@rule(
    "POST",
    "/relocation-requests/{request_id}/consent",
    Scope.RECORD_CONSENT,
    (Role.REFERRER, Role.COORDINATOR, Role.GUARDIAN, Role.SHELTER),
    "Record or withdraw consent to one country, or to the journey",
    body=bodies.Consent,
    waits=True,
)
def record_consent(call: Call) -> Response:
    if call.body.country not in call.gateway.reference.countries:
        raise problems.bad_field("country", "a country of the reference data")
    return command_about(call, RecordConsent, **msgspec.structs.asdict(call.body))


@rule(
    "POST",
    "/relocation-requests/{request_id}/proposal",
    Scope.SIGN_PLACEMENTS,
    (Role.COORDINATOR,),
    "First signature: the origin country's focal point chooses an offer",
    body=bodies.ProposalBody,
    waits=True,
    fresh=A_SIGNATURE,
)
def propose_placement(call: Call) -> Response:
    return command_about(call, ProposePlacement, ask_id=call.body.ask_id, override=call.body.override)


@rule(
    "POST",
    "/relocation-requests/{request_id}/countersignature",
    Scope.SIGN_PLACEMENTS,
    (Role.COORDINATOR,),
    "Second signature, or its refusal: the host country's focal point",
    body=bodies.Countersignature,
    waits=True,
    fresh=A_SIGNATURE,
)
def countersign_placement(call: Call) -> Response:
    return command_about(call, CountersignPlacement, proposal=call.body.proposal_hash, refusal=call.body.refusal)


@rule(
    "POST",
    "/relocation-requests/{request_id}/journey",
    Scope.PLAN_JOURNEYS,
    (Role.COORDINATOR,),
    "Plan the journey: escort, steps (sealed at once) and when to arrive",
    body=bodies.Journey,
    waits=True,
)
def plan_journey(call: Call) -> Response:
    body: bodies.Journey = call.body
    bodies.check_journey(body, call.gateway.clock())
    request_id = call.path["request_id"]
    known_request(call, request_id)
    return accept(
        call,
        request_id,
        lambda event_id: PlanJourney(
            request_id=request_id,
            escort=body.escort,
            arrival_due=body.arrival_due.astimezone(UTC),
            steps=seal(call, request_id, PlanJourney, event_id, SealedField.JOURNEY, body.steps),
        ),
    )


@rule(
    "POST",
    "/relocation-requests/{request_id}/departure",
    Scope.RECORD_JOURNEYS,
    (Role.COORDINATOR, Role.ESCORT, Role.REFERRER),
    "The household has left, with its consent to the journey",
    body=bodies.Departure,
    waits=True,
)
def record_departure(call: Call) -> Response:
    return command_about(call, RecordDeparture)


@rule(
    "POST",
    "/relocation-requests/{request_id}/arrival",
    Scope.RECORD_JOURNEYS,
    (Role.SHELTER, Role.COORDINATOR, Role.ESCORT),
    "The household is there, or is not",
    body=bodies.Arrival,
    waits=True,
)
def record_arrival(call: Call) -> Response:
    return command_about(call, RecordArrival, outcome=call.body.outcome)


@rule(
    "POST",
    "/relocation-requests/{request_id}/end",
    Scope.RECORD_JOURNEYS,
    (Role.SHELTER, Role.COORDINATOR),
    "The stay is over; the beds are blocked until staff report them ready",
    body=bodies.Ending,
    waits=True,
)
def end_placement(call: Call) -> Response:
    return command_about(call, EndPlacement, reason=call.body.reason)


RULES = (
    open_relocation_request,
    list_relocation_requests,
    read_relocation_request,
    read_timeline,
    read_shortlist,
    withdraw_request,
    record_details,
    record_consent,
    propose_placement,
    countersign_placement,
    plan_journey,
    record_departure,
    record_arrival,
    end_placement,
)
