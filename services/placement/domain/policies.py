"""Who may do what to a request, one named rule each. A rule returns None, or the typed reason for its no. Pure."""

from events.placement import Refusal
from events.vocabulary import (
    Actor,
    ArrivalOutcome,
    ConsentBy,
    DisclosureReason,
    Role,
    SealedField,
    Stage,
)
from services.placement.domain.request import Ask, Request

BEFORE_DEPARTURE = frozenset(
    {
        Stage.OPENED,
        Stage.SHORTLISTED,
        Stage.ASKED,
        Stage.OFFERED,
        Stage.UNMET_NEED,
        Stage.PROPOSED,
        Stage.COUNTERSIGNED,
        Stage.CONSENTED,
        Stage.CONFIRMED,
    }
)
BOTH_SIGNED_AND_FIRM = frozenset({Stage.CONFIRMED, Stage.DEPARTED, Stage.ASTRAY})


def origin_country(request: Request) -> str:
    assert request.opened is not None
    return request.opened.danger_country


def host_country(request: Request) -> str | None:
    return request.proposal.host_country if request.proposal else None


def receiving_shelter(request: Request) -> str | None:
    return request.confirmed.shelter_id if request.confirmed else None


def is_origin_coordinator(request: Request, actor: Actor) -> bool:
    return actor.role is Role.COORDINATOR and actor.country == origin_country(request)


def is_host_coordinator(request: Request, actor: Actor) -> bool:
    return actor.role is Role.COORDINATOR and actor.country == host_country(request)


def is_referrer(request: Request, actor: Actor) -> bool:
    """The organisation that opened the request: colleagues take over at shift change."""
    assert request.referrer is not None
    return actor.role is Role.REFERRER and actor.organisation == request.referrer.organisation


def is_receiving_shelter(request: Request, actor: Actor) -> bool:
    return actor.role is Role.SHELTER and actor.organisation == receiving_shelter(request)


def is_escort(request: Request, actor: Actor) -> bool:
    return actor.role is Role.ESCORT and request.journey is not None and actor.person == request.journey.escort


def may_open(actor: Actor) -> Refusal | None:
    return None if actor.role in (Role.REFERRER, Role.COORDINATOR) else Refusal.WRONG_ROLE


def may_answer(ask: Ask, actor: Actor) -> Refusal | None:
    """Only the shelter that was asked can say yes or no."""
    if actor.role is not Role.SHELTER:
        return Refusal.WRONG_ROLE
    return None if actor.organisation == ask.shelter_id else Refusal.NOT_YOUR_ORGANISATION


def may_withdraw(request: Request, actor: Actor) -> Refusal | None:
    if not (is_referrer(request, actor) or is_origin_coordinator(request, actor)):
        return Refusal.NOT_YOUR_ORGANISATION
    return None if request.stage in BEFORE_DEPARTURE else Refusal.WRONG_STAGE


def may_record_details(request: Request, actor: Actor) -> Refusal | None:
    """Those who speak with the household where it is in danger, for as long as the request is open: what is wrong can be put right."""
    if not (is_referrer(request, actor) or is_origin_coordinator(request, actor)):
        return Refusal.NOT_YOUR_ORGANISATION
    return Refusal.WRONG_STAGE if request.over else None


def may_move_region_of_stay(request: Request) -> Refusal | None:
    """It is for whoever plans the way. Of a household that has left, it would say where the house is."""
    return None if request.stage in BEFORE_DEPARTURE else Refusal.WRONG_STAGE


def may_propose(request: Request, actor: Actor) -> Refusal | None:
    """First signature: the origin country's focal point, never the person who referred."""
    if actor.role is not Role.COORDINATOR:
        return Refusal.WRONG_ROLE
    if not is_origin_coordinator(request, actor):
        return Refusal.NOT_YOUR_COUNTRY
    return _not_the_referrer(request, actor)


def may_countersign(request: Request, actor: Actor) -> Refusal | None:
    """Second signature: the host country's focal point, another natural person than the first signer and the referrer,
    whatever role or account they use."""
    if actor.role is not Role.COORDINATOR:
        return Refusal.WRONG_ROLE
    if not is_host_coordinator(request, actor):
        return Refusal.NOT_YOUR_COUNTRY
    assert request.proposer is not None
    if actor.person == request.proposer.person:
        return Refusal.SAME_PERSON
    return _not_the_referrer(request, actor)


def may_record_consent(request: Request, actor: Actor, by: ConsentBy) -> Refusal | None:
    """A guardian's word is given by the guardian alone; the household's is taken down by those who speak with it."""
    if by is ConsentBy.GUARDIAN:
        if actor.role is not Role.GUARDIAN:
            return Refusal.WRONG_ROLE
        if actor.country not in (origin_country(request), host_country(request)):
            return Refusal.NOT_YOUR_COUNTRY
        return None if request.is_minor() else Refusal.WRONG_ROLE
    if is_referrer(request, actor) or is_origin_coordinator(request, actor) or is_receiving_shelter(request, actor):
        return None
    return Refusal.NOT_YOUR_ORGANISATION


def may_plan_journey(request: Request, actor: Actor) -> Refusal | None:
    if not is_origin_coordinator(request, actor):
        return Refusal.NOT_YOUR_COUNTRY
    return None if request.stage is Stage.CONFIRMED else Refusal.WRONG_STAGE


def may_record_departure(request: Request, actor: Actor) -> Refusal | None:
    if is_origin_coordinator(request, actor) or is_escort(request, actor) or is_referrer(request, actor):
        return None
    return Refusal.NOT_YOUR_ORGANISATION


def may_record_arrival(request: Request, actor: Actor, outcome: ArrivalOutcome) -> Refusal | None:
    """Only who receives can say they arrived; that they did not may also be said by who sent or drove them."""
    if is_receiving_shelter(request, actor) or is_host_coordinator(request, actor):
        return None
    if outcome is not ArrivalOutcome.ARRIVED and (is_origin_coordinator(request, actor) or is_escort(request, actor)):
        return None
    return Refusal.NOT_YOUR_ORGANISATION


def may_end_placement(request: Request, actor: Actor) -> Refusal | None:
    if is_receiving_shelter(request, actor) or is_host_coordinator(request, actor):
        return None
    if request.stage is Stage.ASTRAY and is_origin_coordinator(request, actor):
        return None
    return Refusal.NOT_YOUR_ORGANISATION


def may_erase(request: Request, actor: Actor) -> Refusal | None:
    """Nobody is erased while under way or in the house: the placement ends first."""
    if actor.role is not Role.AUDITOR:
        return Refusal.WRONG_ROLE
    return Refusal.WRONG_STAGE if request.stage in (Stage.DEPARTED, Stage.ARRIVED, Stage.ASTRAY) else None


DISCLOSURE_REASONS = {
    SealedField.CALLBACK: frozenset(
        {DisclosureReason.CALL_BACK, DisclosureReason.PREPARE_HANDOVER, DisclosureReason.OVERDUE_ARRIVAL}
    ),
    SealedField.RENDEZVOUS: frozenset(
        {
            DisclosureReason.PREPARE_HANDOVER,
            DisclosureReason.DRIVE_JOURNEY,
            DisclosureReason.RECEIVE_HOUSEHOLD,
            DisclosureReason.OVERDUE_ARRIVAL,
        }
    ),
    SealedField.JOURNEY: frozenset(
        {DisclosureReason.DRIVE_JOURNEY, DisclosureReason.RECEIVE_HOUSEHOLD, DisclosureReason.OVERDUE_ARRIVAL}
    ),
}
"""Which reason can justify which field."""


def may_see_sealed_field(
    request: Request, actor: Actor, field: SealedField, reason: DisclosureReason
) -> Refusal | None:
    """Released last and step by step: the callback to who must call, the rest only once both countries have signed, the
    bed is firm, and only until the household has arrived."""
    if reason not in DISCLOSURE_REASONS[field]:
        return Refusal.REASON_DOES_NOT_FIT
    if request.stage is Stage.ERASED:
        return Refusal.ERASED
    origin = is_origin_coordinator(request, actor)
    if field is SealedField.CALLBACK and (origin or is_referrer(request, actor)):
        return Refusal.WRONG_STAGE if request.over else None
    on_the_way = (
        is_receiving_shelter(request, actor) or is_host_coordinator(request, actor) or is_escort(request, actor)
    )
    if not (on_the_way or origin or (field is SealedField.RENDEZVOUS and is_referrer(request, actor))):
        return Refusal.NOT_ENTITLED
    return None if request.stage in BOTH_SIGNED_AND_FIRM else Refusal.WRONG_STAGE


def _not_the_referrer(request: Request, actor: Actor) -> Refusal | None:
    assert request.referrer is not None
    return Refusal.REFERRER_CANNOT_SIGN if actor.person == request.referrer.person else None
