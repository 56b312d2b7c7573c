"""The journey, the arrival, the end of the stay, and who may open which sealed field on the way. Pure."""

from collections.abc import Sequence
from datetime import timedelta

from events.gateway import (
    EndPlacement,
    PlanJourney,
    RecordArrival,
    RecordDeparture,
    RequestDisclosure,
)
from events.log.decider import Context
from events.placement import (
    ArrivalRecorded,
    DepartureRecorded,
    DisclosureGranted,
    JourneyPlanned,
    PlacementContract,
    PlacementEnded,
    Refusal,
)
from events.vocabulary import ArrivalOutcome, ConsentScope, SealedField, Stage
from services.placement.domain import policies
from services.placement.domain.refusal import RefusedCommand, refuse_if
from services.placement.domain.request import Request


def plan_journey(request: Request, command: PlanJourney, context: Context) -> Sequence[PlacementContract]:
    refuse_if(policies.may_plan_journey(request, context.actor))
    if command.arrival_due <= context.now:
        raise RefusedCommand(Refusal.ARRIVAL_DUE_IN_PAST)
    return [
        JourneyPlanned(
            request_id=command.request_id,
            escort=command.escort,
            arrival_due=command.arrival_due,
            sealed_steps=context.cause_id,
        )
    ]


def record_departure(request: Request, command: RecordDeparture, context: Context) -> Sequence[PlacementContract]:
    refuse_if(policies.may_record_departure(request, context.actor))
    if request.stage in (Stage.DEPARTED, Stage.ARRIVED, Stage.ASTRAY):
        return ()
    if request.stage is not Stage.CONFIRMED or request.confirmed is None or request.journey is None:
        raise RefusedCommand(Refusal.WRONG_STAGE)
    if not request.has_consent(ConsentScope.TRANSPORT, request.confirmed.host_country):
        raise RefusedCommand(Refusal.GUARDIAN_MUST_CONSENT if request.is_minor() else Refusal.NO_TRANSPORT_CONSENT)
    return [DepartureRecorded(request_id=command.request_id)]


def record_arrival(request: Request, command: RecordArrival, context: Context) -> Sequence[PlacementContract]:
    refuse_if(policies.may_record_arrival(request, context.actor, command.outcome))
    if request.stage is Stage.ARRIVED and command.outcome is ArrivalOutcome.ARRIVED:
        return ()
    # Arrived before departed: the phone that should have said "departed" was offline. The household is there.
    expected = {Stage.CONFIRMED, Stage.DEPARTED, Stage.ASTRAY}
    if request.stage not in expected or request.confirmed is None:
        raise RefusedCommand(Refusal.WRONG_STAGE)
    if command.outcome is not ArrivalOutcome.ARRIVED and request.stage is not Stage.DEPARTED:
        raise RefusedCommand(Refusal.WRONG_STAGE)
    return [
        ArrivalRecorded(
            request_id=command.request_id,
            outcome=command.outcome,
            hold_id=request.confirmed.hold_id,
            unit_id=request.confirmed.unit_id,
        )
    ]


def end_placement(request: Request, command: EndPlacement, context: Context) -> Sequence[PlacementContract]:
    if request.stage is Stage.ENDED:
        return ()
    refuse_if(policies.may_end_placement(request, context.actor))
    if request.stage not in (Stage.ARRIVED, Stage.ASTRAY) or request.confirmed is None:
        raise RefusedCommand(Refusal.WRONG_STAGE)
    return [
        PlacementEnded(
            request_id=command.request_id,
            reason=command.reason,
            hold_id=request.confirmed.hold_id,
            unit_id=request.confirmed.unit_id,
        )
    ]


def grant_disclosure(request: Request, command: RequestDisclosure, context: Context) -> Sequence[PlacementContract]:
    if command.recipient != context.actor.person:
        raise RefusedCommand(Refusal.NOT_THE_RECIPIENT)
    refuse_if(policies.may_see_sealed_field(request, context.actor, command.field, command.reason))
    sealed_in = _sealed_in(request, command.field)
    if sealed_in is None:
        raise RefusedCommand(Refusal.NOTHING_SEALED)
    minutes = context.facts.reference.clocks.disclosure_minutes
    return [
        DisclosureGranted(
            request_id=command.request_id,
            disclosure_id=command.disclosure_id,
            field=command.field,
            reason=command.reason,
            recipient=command.recipient,
            sealed_in=sealed_in,
            expires_at=context.now + timedelta(minutes=minutes),
        )
    ]


def _sealed_in(request: Request, field: SealedField) -> str | None:
    match field:
        case SealedField.CALLBACK:
            return request.opened.sealed_callback if request.opened else None
        case SealedField.RENDEZVOUS:
            return request.asks[request.proposal.ask_id].sealed_rendezvous if request.proposal else None
        case SealedField.JOURNEY:
            return request.journey.sealed_steps if request.journey else None
