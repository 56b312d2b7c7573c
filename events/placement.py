"""What placement announces: the life of one relocation request. Stream `relocation_request-<id>`."""

from datetime import date, datetime
from enum import StrEnum

import msgspec

from events.vocabulary import (
    AcceptCondition,
    ArrivalOutcome,
    Beds,
    ConsentBy,
    ConsentScope,
    CountryCode,
    DangerZone,
    DeclineReason,
    DisclosureReason,
    EndingReason,
    Freshness,
    Household,
    Identifier,
    LanguageCode,
    Need,
    OverrideReason,
    RegionCode,
    Role,
    SealedField,
    SignatureRefusal,
    Stage,
    Step,
    Urgency,
    WithdrawalReason,
)


class PlacementEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """A fact about one relocation request."""

    request_id: Identifier


class Rule(StrEnum):
    """The written rules of matching. Hard rules reject a unit; docs/adr explains each preference."""

    NOT_IN_DANGER_COUNTRY = "not_in_danger_country"
    OUTSIDE_DANGER_ZONES = "outside_danger_zones"
    CHILD_TRACK_FOR_PRESUMED_MINORS = "child_track_for_presumed_minors"
    ADULT_TRACK_FOR_ADULTS = "adult_track_for_adults"
    ACCEPTS_HOUSEHOLD = "accepts_household"
    KEEPS_HOUSEHOLD_TOGETHER = "keeps_household_together"
    MEETS_NEEDS = "meets_needs"
    COUNTRY_NOT_REFUSED = "country_not_refused"
    CAPACITY_IS_KNOWN = "capacity_is_known"
    OPEN_NOW = "open_now"
    NOT_TRIED_BEFORE = "not_tried_before"


class Preference(StrEnum):
    """What orders the units that every hard rule allows, first to last."""

    FRESHNESS = "freshness"
    LANGUAGES = "languages"
    SCARCE_SUPPORT_SPARED = "scarce_support_spared"
    TIGHT_FIT = "tight_fit"
    LOTTERY = "lottery"


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One unit that every hard rule allows, with what ranked it: one small integer a preference, lower is better."""

    unit_id: Identifier
    shelter_id: Identifier
    country: CountryCode
    region: RegionCode
    free: Beds
    freshness: Freshness
    preferences: dict[str, int]
    decided_by: Preference | None = None
    """The first preference that put it behind the candidate before it; none for the first."""


class Rejection(msgspec.Struct, frozen=True, kw_only=True):
    """One unit and every hard rule it fails, the first failing first."""

    unit_id: Identifier
    country: CountryCode
    failed: tuple[Rule, ...]


class OpeningRefusal(StrEnum):
    UNKNOWN_COUNTRY = "unknown_country"
    UNKNOWN_ZONE = "unknown_zone"
    EMPTY_HOUSEHOLD = "empty_household"
    NO_COUNTRY_LEFT = "no_country_left"


class RelocationRequestOpened(PlacementEvent, frozen=True, kw_only=True, tag="placement.relocation_request.opened.v1"):
    urgency: Urgency
    danger_country: CountryCode
    danger_zones: tuple[DangerZone, ...]
    household: Household
    needs: tuple[Need, ...]
    languages: tuple[LanguageCode, ...]
    consented_countries: tuple[CountryCode, ...]
    third_country_national: bool | None
    reflection_started_on: date | None
    reflection_ends_on: date | None
    region_of_stay: RegionCode | None
    sealed_callback: Identifier
    """Id of the gateway event that carries the sealed callback contact: ciphertext is never copied."""


class Details(msgspec.Struct, frozen=True, kw_only=True):
    """What need not be known of a household at the opening, as it stands at one moment; none of it is in what is signed."""

    third_country_national: bool | None
    reflection_started_on: date | None
    reflection_ends_on: date | None
    """Worked out when the start was said, by the rules of the country of danger; no rule that changes later moves it."""
    region_of_stay: RegionCode | None


class DetailsRecorded(
    PlacementEvent, frozen=True, kw_only=True, tag="placement.relocation_request.details_recorded.v1"
):
    """`known` takes the place of what the opening, or the last of these, said; `before` is what that was."""

    version: int
    known: Details
    before: Details


class RelocationRequestRefused(
    PlacementEvent, frozen=True, kw_only=True, tag="placement.relocation_request.refused.v1"
):
    reason: OpeningRefusal


class ShortlistDrawn(PlacementEvent, frozen=True, kw_only=True, tag="placement.shortlist.drawn.v1"):
    ruleset: str
    units_digest: str
    """SHA-256 of the unit facts the ranking used, so that an auditor can tell what it saw."""
    candidates: tuple[Candidate, ...]
    rejected: tuple[Rejection, ...]


class HoldRequested(PlacementEvent, frozen=True, kw_only=True, tag="placement.hold.requested.v1"):
    hold_id: Identifier
    unit_id: Identifier
    shelter_id: Identifier
    country: CountryCode
    beds: Beds
    until: datetime


class HoldLost(PlacementEvent, frozen=True, kw_only=True, tag="placement.hold.lost.v1"):
    """Capacity refused the hold, or it ran out."""

    hold_id: Identifier
    unit_id: Identifier
    reason: str


class HoldReleaseRequested(PlacementEvent, frozen=True, kw_only=True, tag="placement.hold.release_requested.v1"):
    hold_id: Identifier
    unit_id: Identifier


class FirmHoldRequested(PlacementEvent, frozen=True, kw_only=True, tag="placement.hold.firming_requested.v1"):
    hold_id: Identifier
    unit_id: Identifier


class ShelterAsked(PlacementEvent, frozen=True, kw_only=True, tag="placement.ask.made.v1"):
    ask_id: Identifier
    hold_id: Identifier
    unit_id: Identifier
    shelter_id: Identifier
    country: CountryCode
    deadline: datetime


class AskAccepted(PlacementEvent, frozen=True, kw_only=True, tag="placement.ask.accepted.v1"):
    ask_id: Identifier
    condition: AcceptCondition | None = None
    sealed_rendezvous: Identifier | None = None


class AskDeclined(PlacementEvent, frozen=True, kw_only=True, tag="placement.ask.declined.v1"):
    ask_id: Identifier
    reason: DeclineReason


class AskExpired(PlacementEvent, frozen=True, kw_only=True, tag="placement.ask.expired.v1"):
    ask_id: Identifier


class AskClosed(PlacementEvent, frozen=True, kw_only=True, tag="placement.ask.closed.v1"):
    """The question no longer stands: another shelter was chosen, the hold is gone, or the request is over."""

    ask_id: Identifier


class LateAnswerRecorded(PlacementEvent, frozen=True, kw_only=True, tag="placement.ask.answered_late.v1"):
    """An answer to a question that no longer stood: kept, and without effect."""

    ask_id: Identifier
    accepted: bool
    decline: DeclineReason | None = None


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """Exactly what the second signer is shown and what both signatures bind to."""

    request_id: Identifier
    ask_id: Identifier
    hold_id: Identifier
    unit_id: Identifier
    shelter_id: Identifier
    host_country: CountryCode
    household: Household
    needs: tuple[Need, ...]
    condition: AcceptCondition | None
    consent_version: int
    ruleset: str
    rank: int
    """1 is the first ranked of the offers that stood."""
    override: OverrideReason | None


class PlacementProposed(PlacementEvent, frozen=True, kw_only=True, tag="placement.placement.proposed.v1"):
    """First signature; the signer is the event's actor."""

    proposal: Proposal
    proposal_hash: str


class PlacementCountersigned(PlacementEvent, frozen=True, kw_only=True, tag="placement.placement.countersigned.v1"):
    """Second signature; the signer is the event's actor."""

    proposal_hash: str


class CountersignatureRefused(
    PlacementEvent, frozen=True, kw_only=True, tag="placement.placement.countersignature_refused.v1"
):
    proposal_hash: str
    reason: SignatureRefusal


class ProposalLapse(StrEnum):
    HOLD_EXPIRED = "hold_expired"
    CONSENT_WITHDRAWN = "consent_withdrawn"
    REFUSED_BY_HOST = "refused_by_host"
    RULES_CHANGED = "rules_changed"
    REQUEST_OVER = "request_over"


class ProposalLapsed(PlacementEvent, frozen=True, kw_only=True, tag="placement.placement.lapsed.v1"):
    """The signatures stay as history and bind nobody any more; `signers` are told."""

    proposal_hash: str
    reason: ProposalLapse
    signers: tuple[Identifier, ...]


class ConsentRecorded(PlacementEvent, frozen=True, kw_only=True, tag="placement.consent.recorded.v1"):
    scope: ConsentScope
    country: CountryCode
    by: ConsentBy
    version: int


class ConsentWithdrawn(PlacementEvent, frozen=True, kw_only=True, tag="placement.consent.withdrawn.v1"):
    scope: ConsentScope
    country: CountryCode
    by: ConsentBy
    version: int


class PlacementConfirmed(PlacementEvent, frozen=True, kw_only=True, tag="placement.placement.confirmed.v1"):
    """Both signatures, the consent and a firm hold."""

    proposal_hash: str
    unit_id: Identifier
    shelter_id: Identifier
    hold_id: Identifier
    host_country: CountryCode


class JourneyPlanned(PlacementEvent, frozen=True, kw_only=True, tag="placement.journey.planned.v1"):
    escort: Identifier
    arrival_due: datetime
    sealed_steps: Identifier


class DepartureRecorded(PlacementEvent, frozen=True, kw_only=True, tag="placement.journey.departed.v1"):
    pass


class ArrivalRecorded(PlacementEvent, frozen=True, kw_only=True, tag="placement.journey.arrived.v1"):
    outcome: ArrivalOutcome
    hold_id: Identifier
    unit_id: Identifier


class ArrivalOverdue(PlacementEvent, frozen=True, kw_only=True, tag="placement.journey.overdue.v1"):
    """Nobody arrived by the time planned: the most dangerous hour (docs/adr)."""


class PlacementEnded(PlacementEvent, frozen=True, kw_only=True, tag="placement.placement.ended.v1"):
    reason: EndingReason
    hold_id: Identifier
    unit_id: Identifier


class RequestWithdrawn(PlacementEvent, frozen=True, kw_only=True, tag="placement.relocation_request.withdrawn.v1"):
    reason: WithdrawalReason


class UnmetNeedRecorded(
    PlacementEvent, frozen=True, kw_only=True, tag="placement.relocation_request.unmet_need_recorded.v1"
):
    """No unit is left to ask. The request stays open, owned, and is searched again when any bed changes."""

    failed_rules: dict[str, int]
    """Rejected units by their first failing rule."""
    declines: dict[str, int]


class NextStepSet(PlacementEvent, frozen=True, kw_only=True, tag="placement.relocation_request.next_step_set.v1"):
    """Who owns the request now, what they can do and by when. Nothing is a dead end."""

    stage: Stage
    owner: Role
    owner_country: str
    steps: tuple[Step, ...]
    deadline: datetime | None


class DeadlineMissed(PlacementEvent, frozen=True, kw_only=True, tag="placement.relocation_request.deadline_missed.v1"):
    """The owner did not act in time: both focal points see it. `times` counts, and the pace slows down."""

    step: Step
    times: int
    next_deadline: datetime


class DisclosureGranted(PlacementEvent, frozen=True, kw_only=True, tag="placement.disclosure.granted.v1"):
    disclosure_id: Identifier
    field: SealedField
    reason: DisclosureReason
    recipient: Identifier
    sealed_in: Identifier
    """Id of the gateway event that carries the ciphertext."""
    expires_at: datetime


class HouseholdErased(PlacementEvent, frozen=True, kw_only=True, tag="placement.household.erased.v1"):
    pass


class Refusal(StrEnum):
    """Why a command about a request changed nothing."""

    UNKNOWN_REQUEST = "unknown_request"
    ALREADY_OPENED = "already_opened"
    WRONG_STAGE = "wrong_stage"
    NOT_YOUR_ORGANISATION = "not_your_organisation"
    NOT_YOUR_COUNTRY = "not_your_country"
    WRONG_ROLE = "wrong_role"
    UNKNOWN_ASK = "unknown_ask"
    NOT_OFFERED = "not_offered"
    OVERRIDE_NEEDS_REASON = "override_needs_reason"
    REFERRER_CANNOT_SIGN = "referrer_cannot_sign"
    SAME_PERSON = "same_person"
    PROPOSAL_CHANGED = "proposal_changed"
    GUARDIAN_MUST_CONSENT = "guardian_must_consent"
    NO_TRANSPORT_CONSENT = "no_transport_consent"
    ARRIVAL_DUE_IN_PAST = "arrival_due_in_past"
    NOT_THE_RECIPIENT = "not_the_recipient"
    NOT_ENTITLED = "not_entitled"
    REASON_DOES_NOT_FIT = "reason_does_not_fit"
    NOTHING_SEALED = "nothing_sealed"
    ERASED = "erased"
    DETAILS_CHANGED = "details_changed"


class CommandRefused(PlacementEvent, frozen=True, kw_only=True, tag="placement.command.refused.v1"):
    """A command changed nothing; the reason, where the request stands and what can be done next."""

    command_id: Identifier
    command: str
    reason: Refusal
    stage: Stage
    next_steps: tuple[Step, ...] = ()


class CommandHadNoEffect(PlacementEvent, frozen=True, kw_only=True, tag="placement.command.had_no_effect.v1"):
    """What the command wanted was so already: a second tap."""

    command_id: Identifier
    command: str


PlacementContract = (
    RelocationRequestOpened
    | DetailsRecorded
    | RelocationRequestRefused
    | ShortlistDrawn
    | HoldRequested
    | HoldLost
    | HoldReleaseRequested
    | FirmHoldRequested
    | ShelterAsked
    | AskAccepted
    | AskDeclined
    | AskExpired
    | AskClosed
    | LateAnswerRecorded
    | PlacementProposed
    | PlacementCountersigned
    | CountersignatureRefused
    | ProposalLapsed
    | ConsentRecorded
    | ConsentWithdrawn
    | PlacementConfirmed
    | JourneyPlanned
    | DepartureRecorded
    | ArrivalRecorded
    | ArrivalOverdue
    | PlacementEnded
    | RequestWithdrawn
    | UnmetNeedRecorded
    | NextStepSet
    | DeadlineMissed
    | DisclosureGranted
    | HouseholdErased
    | CommandRefused
    | CommandHadNoEffect
)
"""Everything placement's log may hold."""
