"""What a good answer looks like, for the published document: tests/gateway/test_fuzzed_api.py holds every answer to it.

What is not shown to a role is not there at all, so most fields of a request may be missing. No field that is not named here is ever sent.
"""

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from events.placement import Candidate, OpeningRefusal, Rejection
from events.vocabulary import (
    AcceptCondition,
    BlockReason,
    CountryCode,
    DangerZone,
    DeclineReason,
    Freshness,
    Group,
    Household,
    LanguageCode,
    Need,
    OverrideReason,
    RegionCode,
    Role,
    SealedField,
    Stage,
    Step,
    Track,
    Urgency,
    Verb,
)
from services.gateway.asked_for import Stopped
from services.gateway.call_list import CallToMake
from services.gateway.demand import Figures


class Answer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The JSON object of one answer."""


class Received(Answer, frozen=True, kw_only=True):
    """Kept, and not decided yet."""

    status: Literal["received"]
    command_ids: tuple[str, ...]
    received_at: datetime
    request_id: str | UnsetType = UNSET
    unit_id: str | UnsetType = UNSET
    shelter_id: str | UnsetType = UNSET


class Done(Answer, frozen=True, kw_only=True):
    """What was done took the case out of the reader's sight."""

    status: Literal["done"]
    request_id: str


class AskShown(Answer, frozen=True, kw_only=True):
    ask_id: str
    unit_id: str
    shelter_id: str
    country: CountryCode
    asked_at: datetime | UnsetType = UNSET
    deadline: datetime
    state: Literal["open", "accepted", "declined", "expired", "closed"]
    decline: DeclineReason | None
    condition: AcceptCondition | None


class AskInFull(AskShown, frozen=True, kw_only=True):
    """A question with what a shelter has to know to answer it."""

    request_id: str
    urgency: Urgency | None
    household: Household
    needs: tuple[Need, ...]
    languages: tuple[LanguageCode, ...]
    stage: Stage | UnsetType = UNSET
    owner: Role | UnsetType = UNSET
    next_steps: tuple[Step, ...] | UnsetType = UNSET
    journey: "JourneyShown | UnsetType | None" = UNSET


class Asks(Answer, frozen=True, kw_only=True):
    asks: tuple[AskInFull, ...]


class JourneyShown(Answer, frozen=True, kw_only=True):
    arrival_due: datetime
    escort: str | UnsetType = UNSET


class ProposalShown(Answer, frozen=True, kw_only=True):
    """What both signatures bind to; `hash` is what a countersignature names."""

    request_id: str
    ask_id: str
    hold_id: str
    unit_id: str
    shelter_id: str
    host_country: CountryCode
    household: Household
    needs: tuple[Need, ...]
    condition: AcceptCondition | None
    consent_version: int
    ruleset: str
    rank: int
    override: OverrideReason | None
    hash: str


class SignatureShown(Answer, frozen=True, kw_only=True):
    what: Literal["proposed", "countersigned"]
    person: str
    organisation: str
    country: CountryCode
    at: datetime
    stands: bool


class ShortlistShown(Answer, frozen=True, kw_only=True):
    request_id: str
    ruleset: str
    units_digest: str
    candidates: tuple[Candidate, ...]
    rejected: tuple[Rejection, ...]
    drawn_at: datetime


class Shortlist(Answer, frozen=True, kw_only=True):
    request_id: str
    shortlist: ShortlistShown | None


class ReflectionShown(Answer, frozen=True, kw_only=True):
    """The reflection period, with its sources."""

    country: CountryCode
    length: int
    unit: str
    started_on: date | None
    ends_on: date | None
    source: str
    dated: Any
    verified: bool
    if_moved: tuple[dict[str, Any], ...]


class DetailsShown(Answer, frozen=True, kw_only=True):
    """Which word on what was learnt after the opening stands, and whose it is."""

    version: int
    at: datetime
    role: Role
    country: CountryCode


class RequestShown(Answer, frozen=True, kw_only=True):
    """One relocation request, as far as the reader may know it."""

    request_id: str
    revision: int
    stage: Stage
    opened_at: datetime
    changed_at: datetime
    owner: Role
    next_steps: tuple[Step, ...]
    deadline: datetime | None
    owner_country: str | UnsetType = UNSET
    urgency: Urgency | UnsetType | None = UNSET
    danger_country: CountryCode | UnsetType = UNSET
    danger_zones: tuple[DangerZone, ...] | UnsetType = UNSET
    household: Household | UnsetType = UNSET
    needs: tuple[Need, ...] | UnsetType = UNSET
    languages: tuple[LanguageCode, ...] | UnsetType = UNSET
    consents: dict[str, bool] | UnsetType = UNSET
    region_of_stay: RegionCode | UnsetType | None = UNSET
    third_country_national: bool | UnsetType | None = UNSET
    reflection_started_on: date | UnsetType | None = UNSET
    reflection_ends_on: date | UnsetType | None = UNSET
    reflection: ReflectionShown | UnsetType | None = UNSET
    details: DetailsShown | UnsetType = UNSET
    host_country: CountryCode | UnsetType | None = UNSET
    journey: JourneyShown | UnsetType | None = UNSET
    refusal: OpeningRefusal | UnsetType | None = UNSET
    referrer_organisation: str | UnsetType = UNSET
    shortlist: ShortlistShown | UnsetType | None = UNSET
    asks: dict[str, AskShown] | UnsetType = UNSET
    proposal: ProposalShown | UnsetType | None = UNSET
    signatures: tuple[SignatureShown, ...] | UnsetType = UNSET
    missed_deadlines: int | UnsetType = UNSET


class Requests(Answer, frozen=True, kw_only=True):
    requests: tuple[RequestShown, ...]


class Who(Answer, frozen=True, kw_only=True):
    person: str
    role: Role
    organisation: str
    country: str


class Entry(Answer, frozen=True, kw_only=True):
    """One event, as the trail has it."""

    time: datetime
    source: str
    stream: str
    version: int
    event_id: str
    type: str
    verb: Verb
    case_id: str | None
    actor: Who
    correlation_id: str
    causation_id: str
    detail: dict[str, Any]


class EntryInShort(Answer, frozen=True, kw_only=True):
    """... as it is shown to whoever follows the case."""

    time: datetime
    type: str
    verb: Verb
    role: Role
    country: str
    detail: dict[str, Any]


class Trail(Answer, frozen=True, kw_only=True):
    events: tuple[Entry, ...]


class TimelineInShort(Answer, frozen=True, kw_only=True):
    events: tuple[EntryInShort, ...]


class UnitShown(Answer, frozen=True, kw_only=True):
    unit_id: str
    shelter_id: str
    country: CountryCode
    region: RegionCode
    track: Track
    accepts: tuple[Group, ...]
    languages: tuple[LanguageCode, ...]
    supports: tuple[Need, ...]
    open_at_night: bool
    beds: int
    free: int
    held: int
    occupied: int
    blocked: int
    taken: int
    revision: int
    freshness: Freshness
    reported_at: datetime | None
    reported_by: str | None
    blocked_because: BlockReason | None
    blocked_until: datetime | None


class Units(Answer, frozen=True, kw_only=True):
    units: tuple[UnitShown, ...]


class Confirmed(Answer, frozen=True, kw_only=True):
    unit_id: str
    confirmed: bool
    reason: str | None


class Confirmations(Answer, frozen=True, kw_only=True):
    shelter_id: str
    units: tuple[Confirmed, ...]


class RegionShown(Answer, frozen=True, kw_only=True):
    """Free beds of one region and track; certain are those of recent reports."""

    country: CountryCode
    region: RegionCode
    track: Track
    free_certain: int
    free_uncertain: int
    units: int
    units_fresh: int
    units_ageing: int
    units_overdue: int
    units_not_reported: int


class Availability(Answer, frozen=True, kw_only=True):
    as_of: datetime
    regions: tuple[RegionShown, ...]


class Alerts(Answer, frozen=True, kw_only=True):
    set_aside: tuple[dict[str, Any], ...]
    asks_for_too_many: tuple[Stopped, ...]


class CallList(Answer, frozen=True, kw_only=True):
    people_are_rung: bool
    calls: tuple[CallToMake, ...]
    next_at: datetime | None
    """When the list changes by time alone."""


class NextFigures(Answer, frozen=True, kw_only=True):
    year: int
    published_from: datetime


class Demand(Answer, frozen=True, kw_only=True):
    """The figures of one year; a count below `threshold` is null."""

    year: int | None
    years: tuple[int, ...]
    next: NextFigures
    threshold: int
    followed_days: int
    countries: tuple[Figures, ...]


class Disclosed(Answer, frozen=True, kw_only=True):
    disclosure_id: str
    field: SealedField
    value: str
    recipient: str
    expires_at: datetime


class Erased(Answer, frozen=True, kw_only=True):
    request_id: str
    status: Literal["erased"]


_OF_A_REQUEST = (RequestShown, Done)
SHOWN: Mapping[str, tuple[type, ...]] = {
    "list_relocation_requests": (Requests,),
    "read_relocation_request": (RequestShown,),
    "open_relocation_request": (RequestShown,),
    "withdraw_request": _OF_A_REQUEST,
    "record_details": _OF_A_REQUEST,
    "record_consent": _OF_A_REQUEST,
    "propose_placement": _OF_A_REQUEST,
    "countersign_placement": _OF_A_REQUEST,
    "plan_journey": _OF_A_REQUEST,
    "record_departure": _OF_A_REQUEST,
    "record_arrival": _OF_A_REQUEST,
    "end_placement": _OF_A_REQUEST,
    "answer_ask": _OF_A_REQUEST,
    "read_timeline": (Trail, TimelineInShort),
    "read_shortlist": (Shortlist,),
    "list_asks": (Asks,),
    "read_ask": (AskInFull,),
    "list_units": (Units,),
    "read_capacity": (UnitShown,),
    "report_capacity": (UnitShown,),
    "confirm_capacity": (Confirmations,),
    "read_availability": (Availability,),
    "read_alerts": (Alerts,),
    "list_calls": (CallList,),
    "read_demand": (Demand,),
    "read_trail": (Trail,),
    "disclose": (Disclosed,),
    "order_erasure": (Erased,),
}
"""By operation; of one that is not here the document says only that it gives an object."""
