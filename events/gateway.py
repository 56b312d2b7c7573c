"""What the gateway accepts (imperative) and what it did itself (past tense).

A command in the gateway's log *is* the acknowledgement the client got. Whether it takes effect is decided by the service
that owns the subject; the answer is an event of that service whose causation id is the command's event id.
"""

from datetime import date, datetime
from typing import Annotated

import msgspec

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
    Identifier,
    LanguageCode,
    Need,
    OverrideReason,
    ReadPurpose,
    RegionCode,
    Sealed,
    SealedField,
    SignatureRefusal,
    UnitProfile,
    Urgency,
    Verb,
    WithdrawalReason,
)


class Command(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """An intent, accepted and kept."""


class OpenRelocationRequest(Command, frozen=True, kw_only=True, tag="gateway.relocation_request.open.v1"):
    """A household in danger needs a bed in another country. No complaint, no cooperation and no name is asked for
    (Directive 2011/36/EU art. 11(2)-(3)): a presumption is enough."""

    request_id: Identifier
    urgency: Urgency
    danger_country: CountryCode
    danger_zones: tuple[DangerZone, ...] = ()
    household: Household
    needs: tuple[Need, ...] = ()
    languages: tuple[LanguageCode, ...] = ()
    consented_countries: tuple[CountryCode, ...] = ()
    third_country_national: bool | None = None
    reflection_started_on: date | None = None
    region_of_stay: RegionCode | None = None
    """Where the household is now, for whoever plans the journey; NUTS-2 at the finest. No rule of matching uses it."""
    callback: Sealed


class WithdrawRequest(Command, frozen=True, kw_only=True, tag="gateway.relocation_request.withdraw.v1"):
    request_id: Identifier
    reason: WithdrawalReason


class RecordConsent(Command, frozen=True, kw_only=True, tag="gateway.relocation_request.record_consent.v1"):
    """The household's (or for a presumed minor the guardian's) yes or no to one country, or to the journey."""

    request_id: Identifier
    scope: ConsentScope
    country: CountryCode
    given: bool
    by: ConsentBy


class RecordDetails(Command, frozen=True, kw_only=True, tag="gateway.relocation_request.record_details.v1"):
    """What is known by now of what need not be known at the opening: absolute values, all of them, null for what is not known.

    `version_seen` is the version of what was shown (`DetailsRecorded.version`); 0 is as it was opened."""

    request_id: Identifier
    version_seen: int
    third_country_national: bool | None
    reflection_started_on: date | None
    region_of_stay: RegionCode | None


class ProposePlacement(Command, frozen=True, kw_only=True, tag="gateway.relocation_request.propose.v1"):
    """First signature: the origin focal point chose an offer."""

    request_id: Identifier
    ask_id: Identifier
    override: OverrideReason | None = None


class CountersignPlacement(Command, frozen=True, kw_only=True, tag="gateway.relocation_request.countersign.v1"):
    """Second signature, or its refusal. `proposal` is the hash of exactly what was shown."""

    request_id: Identifier
    proposal: str
    refusal: SignatureRefusal | None = None


class PlanJourney(Command, frozen=True, kw_only=True, tag="gateway.relocation_request.plan_journey.v1"):
    request_id: Identifier
    escort: Identifier
    arrival_due: datetime
    steps: Sealed


class RecordDeparture(Command, frozen=True, kw_only=True, tag="gateway.relocation_request.record_departure.v1"):
    request_id: Identifier


class RecordArrival(Command, frozen=True, kw_only=True, tag="gateway.relocation_request.record_arrival.v1"):
    request_id: Identifier
    outcome: ArrivalOutcome


class EndPlacement(Command, frozen=True, kw_only=True, tag="gateway.relocation_request.end_placement.v1"):
    request_id: Identifier
    reason: EndingReason


class AnswerAsk(Command, frozen=True, kw_only=True, tag="gateway.relocation_request.answer_ask.v1"):
    """A shelter's yes (with the hand-over place, sealed) or no (with its reason)."""

    request_id: Identifier
    ask_id: Identifier
    decline: DeclineReason | None = None
    condition: AcceptCondition | None = None
    rendezvous: Sealed | None = None


class RequestDisclosure(Command, frozen=True, kw_only=True, tag="gateway.relocation_request.request_disclosure.v1"):
    request_id: Identifier
    disclosure_id: Identifier
    field: SealedField
    reason: DisclosureReason
    recipient: Identifier


class EraseHousehold(Command, frozen=True, kw_only=True, tag="gateway.relocation_request.erase.v1"):
    """Destroy the household's key (GDPR art. 17). What was sealed becomes unreadable everywhere."""

    request_id: Identifier


class RegisterUnit(Command, frozen=True, kw_only=True, tag="gateway.unit.register.v1"):
    unit_id: Identifier
    profile: UnitProfile
    beds: Beds


class ReportCapacity(Command, frozen=True, kw_only=True, tag="gateway.unit.report_capacity.v1"):
    """Absolute values, never a change: a repeat or a retry is harmless."""

    unit_id: Identifier
    revision_seen: int
    beds: Beds
    free: Beds
    blocked: Beds = 0
    blocked_because: BlockReason | None = None
    blocked_until: datetime | None = None


class ConfirmCapacity(Command, frozen=True, kw_only=True, tag="gateway.unit.confirm_capacity.v1"):
    """Nothing changed since the revision that was shown."""

    unit_id: Identifier
    revision_seen: int


class TrailQuery(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What of the trail was asked for: everything, or what each of these narrows it to. Ids and moments, never content."""

    case_id: Identifier | None = None
    person: Identifier | None = None
    organisation: Identifier | None = None
    verb: Verb | None = None
    since: datetime | None = None
    until: datetime | None = None


class RecordConsulted(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="gateway.record.consulted.v1"):
    """A person read something (LED 2016/680 art. 25): durable before the answer leaves."""

    resource: str
    """What was read: `relocation_request`, `shortlist`, `timeline`, `asks`, `list`, `trail`, `export`, `stream` and the like."""
    subjects: tuple[Identifier, ...] = ()
    purpose: ReadPurpose | None = None
    narrowed_to: TrailQuery | None = None
    """Of the trail: every filter that was used; null where there was none, and in events from before it was kept."""


class FieldDisclosed(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="gateway.sealed_field.disclosed.v1"
):
    """A sealed field was opened for one named person: durable before the answer leaves."""

    request_id: Identifier
    disclosure_id: Identifier
    field: SealedField
    reason: DisclosureReason
    recipient: Identifier
    expires_at: datetime


class KeyDestroyed(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="gateway.household_key.destroyed.v1"
):
    """The household's key no longer exists in the key store."""

    request_id: Identifier


ProposalHash = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
"""SHA-256 of the canonical proposal, in hex."""


GatewayContract = (
    OpenRelocationRequest
    | WithdrawRequest
    | RecordConsent
    | RecordDetails
    | ProposePlacement
    | CountersignPlacement
    | PlanJourney
    | RecordDeparture
    | RecordArrival
    | EndPlacement
    | AnswerAsk
    | RequestDisclosure
    | EraseHousehold
    | RegisterUnit
    | ReportCapacity
    | ConfirmCapacity
    | RecordConsulted
    | FieldDisclosed
    | KeyDestroyed
)
"""Everything the gateway's log may hold."""
