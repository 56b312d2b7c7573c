"""The routes of the trail, of disclosures and of erasure: what must be explained afterwards."""

from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import msgspec
from flask import Response, request

from events.envelope import Contract, UnreadableEvent, type_of
from events.gateway import EraseHousehold, FieldDisclosed, RequestDisclosure, TrailQuery
from events.placement import DisclosureGranted
from events.sealing import SealContext, Unreadable
from events.vocabulary import ReadPurpose, Role, Sealed, SealedField, Stage, Verb
from services.gateway import bodies, problems
from services.gateway.access import parties
from services.gateway.audit_export import AT_ONCE, MEDIA_TYPES, Format, written
from services.gateway.paging import CursorNumber, CursorText, page_size, read_cursor, write_cursor
from services.gateway.principals import Scope
from services.gateway.read_model import Json, TrailPosition, trail_position
from services.gateway.request_routes import known_request, stream_of
from services.gateway.routing import PREFIX, Call, answer, raise_if_refused, received, rule

DISCLOSURE_WAIT = 10.0
"""Seconds a disclosure waits for placement to grant it; without the grant nothing is opened."""

_FIELD_OF_COMMAND = {
    SealedField.CALLBACK: "callback",
    SealedField.RENDEZVOUS: "rendezvous",
    SealedField.JOURNEY: "steps",
}


@rule(
    "POST",
    "/relocation-requests/{request_id}/disclosures",
    Scope.REQUEST_DISCLOSURES,
    (Role.REFERRER, Role.COORDINATOR, Role.SHELTER, Role.ESCORT),
    "Open one sealed field for yourself, with a reason; written down before it is answered, gone in 15 minutes",
    body=bodies.Disclosure,
)
def disclose(call: Call) -> Response:
    request_id = call.path["request_id"]
    if known_request(call, request_id)["stage"] == Stage.ERASED:
        raise problems.erased()
    intent = call.intent()
    disclosure_id = call.gateway.intake.intent_id(intent)

    def commands(_event_id: Any) -> list[tuple[str, Contract]]:
        wanted = RequestDisclosure(
            request_id=request_id, disclosure_id=disclosure_id, **msgspec.structs.asdict(call.body)
        )
        return [(stream_of(request_id), wanted)]

    accepted = call.gateway.intake.accept(intent, request_id, commands)
    outcomes = call.outcome(accepted, DISCLOSURE_WAIT)
    if outcomes is None:
        raise problems.Problem(
            503,
            "not-decided-yet",
            "Whether this may be opened is not decided yet.",
            next_action="Send the same request with the same Idempotency-Key again.",
            headers={"Retry-After": "2"},
        )
    raise_if_refused(outcomes[0])
    return _open_sealed_field(call, msgspec.convert(outcomes[0], DisclosureGranted, strict=False))


def _open_sealed_field(call: Call, granted: DisclosureGranted) -> Response:
    gateway = call.gateway
    if gateway.clock() >= granted.expires_at:
        raise problems.Problem(
            410,
            "disclosure-expired",
            "This disclosure has expired.",
            next_action="Ask again, with a new Idempotency-Key and the reason that applies now.",
        )
    event = gateway.log.find(granted.sealed_in)
    if event is None or isinstance(event, UnreadableEvent):
        raise problems.not_found()
    sealed: Sealed = getattr(event.data, _FIELD_OF_COMMAND[granted.field])
    disclosed = FieldDisclosed(
        request_id=granted.request_id,
        disclosure_id=granted.disclosure_id,
        field=granted.field,
        reason=granted.reason,
        recipient=granted.recipient,
        expires_at=granted.expires_at,
    )
    # Durable before the text exists in memory: a crash here shows one disclosure too many, never one too few.
    stream = f"consultation-{granted.request_id}"
    gateway.log.append([gateway.own_event(call.principal, gateway.new_id(), stream, disclosed, granted.request_id)])
    context = SealContext(stream=event.stream, type=type_of(event), event_id=event.id, field=granted.field)
    text = gateway.keys.unseal(sealed, context)
    if isinstance(text, Unreadable):
        raise problems.erased()
    return answer(
        {
            "disclosure_id": granted.disclosure_id,
            "field": granted.field,
            "value": text,
            "recipient": granted.recipient,
            "expires_at": granted.expires_at,
        }
    )


_FILTERS = {
    "case": "request id",
    "actor": "person id",
    "organisation": "organisation id",
    "verb": " | ".join(Verb),
    "since": "RFC 3339 instant, included",
    "until": "RFC 3339 instant, excluded",
}
_ORDERS = ("oldest", "newest")
_PURPOSE = {"Haven-Purpose": " | ".join(ReadPurpose)}


@rule(
    "GET",
    "/audit/events",
    Scope.READ_AUDIT,
    (Role.AUDITOR,),
    "The whole trail of all services, in order: every step and every read",
    query=_FILTERS
    | {
        "order": "what comes first: oldest (default) | newest",
        "limit": "1 to 100, default 50",
        "cursor": "from the Link header of the page before",
    },
    headers=_PURPOSE,
)
def read_trail(call: Call) -> Response:
    purpose, query, order = _purpose(), _filters(call), call.query("order") or "oldest"
    if order not in _ORDERS:
        raise problems.bad_field("order", "one of " + ", ".join(_ORDERS))
    limit = page_size(call)
    after: TrailPosition | None = read_cursor(call, tuple[CursorText, CursorNumber, CursorText, CursorNumber])
    entries = call.gateway.read_model.trail(
        query, after, limit + 1, parties(call.principal), newest_first=order == "newest"
    )
    page, more = entries[:limit], len(entries) > limit
    _note(call, "trail", purpose, query)
    headers = {}
    if more:
        headers["Link"] = f'<{_next_page(call, page[-1], limit)}>; rel="next"'
    return answer({"events": page}, 200, **headers)


@rule(
    "GET",
    "/audit/export",
    Scope.READ_AUDIT,
    (Role.AUDITOR,),
    "The same as one file, every page of it, up to this moment. That it was made is written down before its first byte",
    query=_FILTERS | {"format": " | ".join(Format)},
    headers=_PURPOSE,
    gives=tuple(MEDIA_TYPES.values()),
)
def export_trail(call: Call) -> Response:
    purpose, query, form = _purpose(), _filters(call), _format(call)
    now = call.gateway.clock()
    # Up to now: what others do meanwhile would make a file without an end, and its own entry is not what was asked for.
    until_now = msgspec.structs.replace(query, until=min(query.until or now, now))
    model, known_as = call.gateway.read_model, parties(call.principal)

    def read(after: TrailPosition | None) -> list[Json]:
        return model.trail(until_now, after, AT_ONCE, known_as)

    # A database that does not answer is a problem now; once the file has begun it can only break off.
    first = read(None)
    _note(call, "export", purpose, query)
    response = Response(written(form, first, read), content_type=MEDIA_TYPES[form])
    response.headers["Content-Disposition"] = f'attachment; filename="haven-trail-{now:%Y%m%dT%H%M%SZ}.{form}"'
    return response


def _note(call: Call, resource: str, purpose: ReadPurpose, query: TrailQuery) -> None:
    about = [query.case_id] if query.case_id else ()
    call.gateway.note_read(call.principal, resource, about, purpose, query if query != TrailQuery() else None)


def _filters(call: Call) -> TrailQuery:
    query = TrailQuery(
        case_id=call.query_id("case"),
        person=call.query_id("actor"),
        organisation=call.query_id("organisation"),
        verb=_verb(call),
        since=_instant(call, "since"),
        until=_instant(call, "until"),
    )
    if query.since and query.until and query.until <= query.since:
        raise problems.bad_field("until", "after since")
    return query


def _format(call: Call) -> Format:
    try:
        return Format(call.query("format") or "")
    except ValueError:
        raise problems.bad_field("format", "one of " + ", ".join(Format)) from None


def _next_page(call: Call, last: Json, limit: int) -> str:
    kept = {name: value for name in (*_FILTERS, "order") if (value := call.query(name)) is not None}
    query = urlencode({"limit": limit, **kept, "cursor": write_cursor(list(trail_position(last)))})
    return f"{PREFIX}/audit/events?{query}"


def _purpose() -> ReadPurpose:
    try:
        return ReadPurpose(request.headers.get("Haven-Purpose", ""))
    except ValueError:
        raise problems.bad_field("Haven-Purpose", "one of " + ", ".join(ReadPurpose)) from None


def _verb(call: Call) -> Verb | None:
    sent = call.query("verb")
    if sent is not None and sent not in list(Verb):
        raise problems.bad_field("verb", "one of " + ", ".join(Verb))
    return Verb(sent) if sent else None


def _instant(call: Call, name: str) -> datetime | None:
    sent = call.query(name)
    if sent is None:
        return None
    try:
        return msgspec.convert(sent, bodies.Instant).astimezone(UTC)
    except (msgspec.ValidationError, OverflowError):
        raise problems.bad_field(name, "an RFC 3339 instant with its offset") from None


@rule(
    "POST",
    "/erasures",
    Scope.ORDER_ERASURES,
    (Role.AUDITOR,),
    "Destroy one household's key: what was sealed is unreadable everywhere, the trail stays",
    body=bodies.Erasure,
    waits=True,
)
def order_erasure(call: Call) -> Response:
    request_id = call.body.request_id
    if not call.gateway.log.read_stream(stream_of(request_id)):
        raise problems.not_found()

    def commands(_event_id: Any) -> list[tuple[str, Contract]]:
        return [(stream_of(request_id), EraseHousehold(request_id=request_id))]

    accepted = call.gateway.intake.accept(call.intent(), request_id, commands)
    location = f"{PREFIX}/audit/events?case={request_id}"
    outcomes = call.outcome(accepted) if call.wait else None
    if outcomes is None:
        return received(accepted, location, request_id=request_id)
    raise_if_refused(outcomes[0])
    return answer({"request_id": request_id, "status": "erased"}, Location=location)


RULES = (disclose, read_trail, export_trail, order_erasure)
