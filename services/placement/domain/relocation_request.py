"""The decider of a relocation request: what each command, each of capacity's events and time itself make happen. Pure.

Who may is in `policies`, what follows by itself in `process`, what an event makes of the state in `request`; the commands of one
phase of its life are in `asking`, `signing` and `travelling`, those about what is learnt later in `details`.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from events.capacity import FirmHoldRefused, HoldExpired, HoldMadeFirm, HoldPlaced, HoldRefused
from events.envelope import Event, wire_name
from events.gateway import (
    AnswerAsk,
    Command,
    CountersignPlacement,
    EndPlacement,
    EraseHousehold,
    OpenRelocationRequest,
    PlanJourney,
    ProposePlacement,
    RecordArrival,
    RecordConsent,
    RecordDeparture,
    RecordDetails,
    RequestDisclosure,
    WithdrawRequest,
)
from events.log.decider import Context, TimePassed
from events.placement import (
    ArrivalOverdue,
    AskExpired,
    CommandHadNoEffect,
    DeadlineMissed,
    HouseholdErased,
    OpeningRefusal,
    PlacementContract,
    ProposalLapse,
    Refusal,
    RelocationRequestOpened,
    RelocationRequestRefused,
    RequestWithdrawn,
)
from events.vocabulary import Stage
from reference import Reference
from services.placement.domain import policies
from services.placement.domain.asking import answer_ask, ask_shelter, lose_hold
from services.placement.domain.details import record_details, reflection_end
from services.placement.domain.matching import excluded_codes
from services.placement.domain.process import draw, follow_up
from services.placement.domain.refusal import RefusedCommand, refusal_of, refuse_if
from services.placement.domain.request import Request, evolve
from services.placement.domain.signing import confirm, countersign, lapse_proposal, propose, record_consent
from services.placement.domain.travelling import (
    end_placement,
    grant_disclosure,
    plan_journey,
    record_arrival,
    record_departure,
)


class RelocationRequestDecider:
    """The decider of stream `relocation_request-<id>`."""

    service = "placement"
    initial = Request()

    def evolve(self, state: Request, event: Event) -> Request:
        return evolve(state, event)

    def follow_up(self, state: Request, context: Context) -> Sequence[PlacementContract]:
        return follow_up(state, context)

    def due(self, request: Request) -> datetime | None:
        moments = [ask.deadline for ask in request.open_asks()]
        if request.next_step is not None and request.next_step.deadline is not None:
            moments.append(request.next_step.deadline)
        return min(moments, default=None)

    def decide(self, request: Request, message: Any, context: Context) -> Sequence[PlacementContract]:
        if isinstance(message, Command):
            return _decide_command(request, message, context)
        if request.opened is None:
            return ()
        match message:
            case HoldPlaced():
                return ask_shelter(request, message, context)
            case HoldRefused(hold_id=hold_id, reason=reason):
                return lose_hold(request, hold_id, reason)
            case HoldExpired(hold_id=hold_id):
                return lose_hold(request, hold_id, "expired")
            case FirmHoldRefused(hold_id=hold_id, reason=reason):
                return lose_hold(request, hold_id, reason)
            case HoldMadeFirm(hold_id=hold_id):
                return confirm(request, hold_id)
            case TimePassed():
                return _pass_time(request, context)
        raise TypeError(f"placement has no rule for {type(message).__name__}")


def _decide_command(request: Request, command: Any, context: Context) -> Sequence[PlacementContract]:
    try:
        if isinstance(command, OpenRelocationRequest):
            return _open(request, command, context)
        return _decide_known(request, command, context) or [
            CommandHadNoEffect(
                request_id=command.request_id, command_id=context.cause_id, command=wire_name(type(command))
            )
        ]
    except RefusedCommand as refused:
        return [refusal_of(request, command, context, refused.reason)]


def _decide_known(request: Request, command: Any, context: Context) -> Sequence[PlacementContract]:
    # One refused at the door was never opened, but it brought a sealed callback that can be erased.
    erasable = isinstance(command, EraseHousehold) and request.stage is not Stage.RECEIVED
    if request.opened is None and not erasable:
        raise RefusedCommand(Refusal.UNKNOWN_REQUEST)
    match command:
        case WithdrawRequest():
            return _withdraw(request, command, context)
        case RecordDetails():
            return record_details(request, command, context)
        case RecordConsent():
            return record_consent(request, command, context)
        case AnswerAsk():
            return answer_ask(request, command, context)
        case ProposePlacement():
            return propose(request, command, context)
        case CountersignPlacement():
            return countersign(request, command, context)
        case PlanJourney():
            return plan_journey(request, command, context)
        case RecordDeparture():
            return record_departure(request, command, context)
        case RecordArrival():
            return record_arrival(request, command, context)
        case EndPlacement():
            return end_placement(request, command, context)
        case RequestDisclosure():
            return grant_disclosure(request, command, context)
        case EraseHousehold():
            return _erase(request, command, context)
    raise TypeError(f"placement has no rule for {type(command).__name__}")


def _open(request: Request, command: OpenRelocationRequest, context: Context) -> Sequence[PlacementContract]:
    if request.stage is not Stage.RECEIVED:
        raise RefusedCommand(Refusal.ALREADY_OPENED)
    refuse_if(policies.may_open(context.actor))
    reference: Reference = context.facts.reference
    opened = RelocationRequestOpened(
        request_id=command.request_id,
        urgency=command.urgency,
        danger_country=command.danger_country,
        danger_zones=command.danger_zones,
        household=command.household,
        needs=command.needs,
        languages=command.languages,
        consented_countries=command.consented_countries,
        third_country_national=command.third_country_national,
        reflection_started_on=command.reflection_started_on,
        reflection_ends_on=reflection_end(command.danger_country, command.reflection_started_on, reference),
        region_of_stay=command.region_of_stay,
        sealed_callback=context.cause_id,
    )
    if refusal := _opening_refusal(opened, reference):
        return [RelocationRequestRefused(request_id=command.request_id, reason=refusal)]
    return [opened]


def _opening_refusal(opened: RelocationRequestOpened, reference: Reference) -> OpeningRefusal | None:
    if opened.danger_country not in reference.countries:
        return OpeningRefusal.UNKNOWN_COUNTRY
    if opened.household.beds == 0:
        return OpeningRefusal.EMPTY_HOUSEHOLD
    if any(zone.code not in reference.countries and zone.code not in reference.regions for zone in opened.danger_zones):
        return OpeningRefusal.UNKNOWN_ZONE
    safe = reference.countries.keys() - {opened.danger_country} - excluded_codes(opened, reference)
    return None if safe else OpeningRefusal.NO_COUNTRY_LEFT


def _withdraw(request: Request, command: WithdrawRequest, context: Context) -> Sequence[PlacementContract]:
    if request.stage is Stage.WITHDRAWN:
        return ()
    refuse_if(policies.may_withdraw(request, context.actor))
    return [
        RequestWithdrawn(request_id=command.request_id, reason=command.reason),
        *lapse_proposal(request, ProposalLapse.REQUEST_OVER),
    ]


def _erase(request: Request, command: EraseHousehold, context: Context) -> Sequence[PlacementContract]:
    if request.stage is Stage.ERASED:
        return ()
    refuse_if(policies.may_erase(request, context.actor))
    return [HouseholdErased(request_id=command.request_id), *_lapse_if_open(request)]


def _lapse_if_open(request: Request) -> Sequence[PlacementContract]:
    return [] if request.over else lapse_proposal(request, ProposalLapse.REQUEST_OVER)


def _pass_time(request: Request, context: Context) -> Sequence[PlacementContract]:
    assert request.opened is not None
    request_id = request.opened.request_id
    expired = [
        AskExpired(request_id=request_id, ask_id=ask.ask_id)
        for ask in request.open_asks()
        if ask.deadline <= context.now
    ]
    if expired and request.stage is Stage.ASKED:
        return expired  # the step was to answer them: what is next, and by when, follows
    step = request.next_step
    missed = step is not None and step.deadline is not None and step.deadline <= context.now
    if request.stage is Stage.UNMET_NEED:
        # Woken because some bed changed, only a unit nobody asked yet counts; at the review, also those that were full.
        tried = request.tried_for_good() if missed else request.tried.keys()
        drawn = draw(request, context, tried=tried)
        if drawn.candidates:
            return [drawn]
    if not missed or step is None:
        return expired
    if request.stage is Stage.DEPARTED and not request.overdue:
        return [*expired, ArrivalOverdue(request_id=request_id)]
    clocks = context.facts.reference.clocks
    # Bounded before it is multiplied: after a month unattended the doubled pace would not fit a timedelta any more.
    pace = timedelta(minutes=clocks.of(request.opened.urgency).step_minutes) * 2 ** min(request.missed, 16)
    wait = min(pace, timedelta(hours=clocks.escalation_cap_hours))
    if request.stage is Stage.ARRIVED:
        # A long stay is no emergency: it is looked at again after as long as the first time.
        wait = timedelta(days=clocks.stay_review_days)
    return [
        *expired,
        DeadlineMissed(
            request_id=request_id,
            step=step.steps[0],
            times=request.missed + 1,
            next_deadline=context.now + wait,
        ),
    ]
