"""Untrusted input: what each body may be, and how a wrong one is turned away.

One validation language with the contracts (msgspec): strict types, no unknown field, no NaN, bounded numbers and texts.
A refusal names the field and the rule and never what was sent.
"""

import json
import re
from datetime import date, datetime, timedelta
from typing import Annotated, Any, TypeVar

import msgspec
from flask import Request

from events.gateway import ProposalHash
from events.vocabulary import (
    AcceptCondition,
    ArrivalOutcome,
    Beds,
    BlockReason,
    ConsentBy,
    ConsentScope,
    CountryCode,
    DangerZone,
    DeclineReason,
    DisclosureReason,
    EndingReason,
    Household,
    LanguageCode,
    Need,
    OverrideReason,
    RegionCode,
    SafeIdentifier,
    SealedField,
    SignatureRefusal,
    Urgency,
    WithdrawalReason,
)
from reference import Reference
from services.gateway import problems

LARGEST_BODY = 64 * 1024

# C0, DEL and C1 controls, and the bidi controls that make a text read otherwise than it is.
_PLAIN = r"\A[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]*\Z"
SealedText = Annotated[str, msgspec.Meta(min_length=1, max_length=1000, pattern=_PLAIN)]
"""Plain text that is sealed before it is kept; line breaks and tabs are allowed, other controls are not."""

Instant = Annotated[datetime, msgspec.Meta(tz=True)]
Few = msgspec.Meta(max_length=20)
A_YEAR = timedelta(days=366)


class Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The JSON object of one request."""


class HouseholdBody(Household, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A household as sent: an event may carry fields of a newer release, a request may not."""


class DangerZoneBody(DangerZone, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A danger zone as sent."""


class OpenRequest(Body, frozen=True, kw_only=True):
    """`callback` is a safe way to reach whoever is with the household. It is sealed at once; no name is asked for."""

    urgency: Urgency
    danger_country: CountryCode
    danger_zones: Annotated[tuple[DangerZoneBody, ...], Few] = ()
    household: HouseholdBody
    needs: Annotated[tuple[Need, ...], Few] = ()
    languages: Annotated[tuple[LanguageCode, ...], Few] = ()
    consented_countries: Annotated[tuple[CountryCode, ...], Few] = ()
    third_country_national: bool | None = None
    reflection_started_on: date | None = None
    region_of_stay: RegionCode | None = None
    callback: SealedText


class Withdrawal(Body, frozen=True, kw_only=True):
    reason: WithdrawalReason


class Consent(Body, frozen=True, kw_only=True):
    scope: ConsentScope
    country: CountryCode
    given: bool
    by: ConsentBy


class Details(Body, frozen=True, kw_only=True):
    """All that is known now, null for what is not: a field that was left out would forget what somebody knew. `version_seen` is
    `details.version` of the request as it was shown, 0 before there is one."""

    version_seen: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
    third_country_national: bool | None
    reflection_started_on: date | None
    region_of_stay: RegionCode | None


class ProposalBody(Body, frozen=True, kw_only=True):
    ask_id: SafeIdentifier
    override: OverrideReason | None = None


class Countersignature(Body, frozen=True, kw_only=True):
    """`proposal_hash` is of exactly what was shown; `refusal` instead of a signature says why not."""

    proposal_hash: ProposalHash
    refusal: SignatureRefusal | None = None


class Journey(Body, frozen=True, kw_only=True):
    escort: SafeIdentifier
    arrival_due: Instant
    steps: SealedText


class Departure(Body, frozen=True, kw_only=True):
    """The household has left. The body is empty: everything it would need is known."""


class Arrival(Body, frozen=True, kw_only=True):
    outcome: ArrivalOutcome


class Ending(Body, frozen=True, kw_only=True):
    reason: EndingReason


class AskAnswer(Body, frozen=True, kw_only=True):
    """A yes gives the hand-over place (sealed at once, never the shelter's address); a no gives its reason."""

    accept: bool
    decline: DeclineReason | None = None
    condition: AcceptCondition | None = None
    rendezvous: SealedText | None = None


class Disclosure(Body, frozen=True, kw_only=True):
    field: SealedField
    reason: DisclosureReason
    recipient: SafeIdentifier


class Capacity(Body, frozen=True, kw_only=True):
    """Absolute values; `blocked` beds need a reason."""

    beds: Beds
    free: Beds
    blocked: Beds = 0
    blocked_because: BlockReason | None = None
    blocked_until: Instant | None = None


class UnitSeen(Body, frozen=True, kw_only=True):
    unit_id: SafeIdentifier
    revision_seen: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


class CapacityConfirmations(Body, frozen=True, kw_only=True):
    """Nothing changed in these units since the revisions shown."""

    units: Annotated[tuple[UnitSeen, ...], msgspec.Meta(min_length=1, max_length=50)]


class Erasure(Body, frozen=True, kw_only=True):
    request_id: SafeIdentifier


B = TypeVar("B", bound=Body)

_FIELD = re.compile(r" - at `\$\.?([^`]*)`")
_SAYS_WHAT_WAS_SENT = ("Invalid enum value", "Invalid date", "Invalid RFC3339", "Object contains unknown field")


def read_body(request: Request, body: type[B]) -> B:
    """The validated body; raises Problem 400, 413 or 415. Nothing of the content is in the problem."""
    if request.mimetype != "application/json":
        raise problems.Problem(
            415, "not-json", "The body must be JSON.", next_action="Send Content-Type: application/json."
        )
    if request.content_length is None:
        raise problems.Problem(
            411, "length-required", "The body's length is missing.", next_action="Send Content-Length."
        )
    if request.content_length > LARGEST_BODY:
        raise problems.Problem(
            413, "too-large", "The body is too large.", next_action=f"Send at most {LARGEST_BODY} bytes."
        )
    raw = request.get_data(cache=False)
    try:
        decoded = msgspec.json.decode(raw, type=body)
        json.loads(raw, object_pairs_hook=_unambiguous)
    except msgspec.ValidationError as wrong:
        raise _wrong_field(str(wrong)) from None
    except _RepeatedField:
        raise problems.malformed("every field at most once") from None
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise problems.malformed("valid JSON in UTF-8") from None
    return decoded


class _RepeatedField(Exception):
    pass


def _unambiguous(pairs: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in pairs}) != len(pairs):
        raise _RepeatedField


def _wrong_field(message: str) -> problems.Problem:
    """msgspec names the path and the rule; where its message would repeat the value, only the rule is kept."""
    at = _FIELD.search(message)
    field = at[1] if at else ""
    rule = _FIELD.sub("", message)
    if missing := re.match(r"Object missing required field `(\w+)`", rule):
        field = ".".join(filter(None, [field, missing[1]]))
        rule = "required"
    for prefix in _SAYS_WHAT_WAS_SENT:
        if rule.startswith(prefix):
            rule = {"Object contains unknown field": "no unknown fields"}.get(prefix, f"{prefix.lower()}")
    return problems.bad_field(field or "(body)", rule.replace("`", ""))


def check_open_request(body: OpenRequest, reference: Reference, now: datetime) -> None:
    """What types alone cannot say: codes must be known, dates possible, and somebody must be in the household."""
    _known("danger_country", [body.danger_country], reference.countries)
    _known("consented_countries", body.consented_countries, reference.countries)
    places = {**reference.countries, **reference.regions}
    _known("danger_zones", [zone.code for zone in body.danger_zones], places)
    if body.household.beds == 0:
        raise problems.bad_field("household", "at least one person")
    if body.danger_country in body.consented_countries:
        raise problems.bad_field("consented_countries", "not the country of danger")
    check_details(body, body.danger_country, reference, now)


def check_details(body: OpenRequest | Details, danger_country: str, reference: Reference, now: datetime) -> None:
    """What is known of a household in danger in `danger_country`: when it is learnt makes no difference."""
    if body.region_of_stay is not None:
        _known("region_of_stay", [body.region_of_stay], reference.regions)
    country = reference.countries.get(danger_country)
    # In the country's own day: at half past midnight in Brussels it is still yesterday in UTC.
    today = (country.local_time(now) if country else now).date()
    if body.reflection_started_on is not None and body.reflection_started_on > today:
        raise problems.bad_field("reflection_started_on", "not in the future")


def check_answer(body: AskAnswer) -> None:
    if body.accept and body.decline is not None:
        raise problems.bad_field("decline", "only with accept = false")
    if body.accept and body.rendezvous is None:
        raise problems.bad_field("rendezvous", "required with accept = true")
    if not body.accept and body.decline is None:
        raise problems.bad_field("decline", "required with accept = false")
    for field in ("rendezvous", "condition"):
        if not body.accept and getattr(body, field) is not None:
            raise problems.bad_field(field, "only with accept = true")


def check_journey(body: Journey, now: datetime) -> None:
    # Whether it lies in the past, placement decides. Beyond what a calendar can hold, no deadline could be computed.
    if abs(body.arrival_due - now) > A_YEAR:
        raise problems.bad_field("arrival_due", "within a year")


def check_capacity(body: Capacity, now: datetime) -> None:
    if body.free + body.blocked > body.beds:
        raise problems.bad_field("free", "free + blocked is at most beds")
    if body.blocked and body.blocked_because is None:
        raise problems.bad_field("blocked_because", "required when beds are blocked")
    if not body.blocked and (body.blocked_because is not None or body.blocked_until is not None):
        raise problems.bad_field("blocked", "at least one when a reason or an end is given")
    if body.blocked_until is not None and not timedelta(0) < body.blocked_until - now <= A_YEAR:
        raise problems.bad_field("blocked_until", "in the future, within a year")


def _known(field: str, codes: Any, known: Any) -> None:
    if any(code not in known for code in codes):
        raise problems.bad_field(field, "a code of the reference data")
