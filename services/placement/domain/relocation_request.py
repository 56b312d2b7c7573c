"""The decider of a relocation request: what each command, each of capacity's events and time itself make happen. Pure.

Who may is in `policies`, what follows by itself in `process`, what an event makes of the state in `request`.
"""

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

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
    RequestDisclosure,
    WithdrawRequest,
)
from events.log.decider import Context, TimePassed
from events.placement import (
    ArrivalOverdue,
    ArrivalRecorded,
    AskAccepted,
    AskClosed,
    AskDeclined,
    AskExpired,
    CommandHadNoEffect,
    CommandRefused,
    ConsentRecorded,
    ConsentWithdrawn,
    CountersignatureRefused,
    DeadlineMissed,
    DepartureRecorded,
    DisclosureGranted,
    HoldLost,
    HouseholdErased,
    JourneyPlanned,
    LateAnswerRecorded,
    OpeningRefusal,
    PlacementConfirmed,
    PlacementContract,
    PlacementCountersigned,
    PlacementEnded,
    PlacementProposed,
    Proposal,
    ProposalLapse,
    ProposalLapsed,
    Refusal,
    RelocationRequestOpened,
    RelocationRequestRefused,
    RequestWithdrawn,
    ShelterAsked,
)
from events.vocabulary import ArrivalOutcome, ConsentScope, SealedField, Stage
from reference import Reference
from services.placement.domain import policies
from services.placement.domain.matching import RULESET, excluded_codes
from services.placement.domain.process import draw, follow_up
from services.placement.domain.request import Ask, AskStage, HoldStage, Request, consent_key, evolve


class RefusedCommand(Exception):
    """Raised inside a rule and turned into `CommandRefused` in one place; never leaves this module."""

    def __init__(self, reason: Refusal) -> None:
        self.reason = reason
        super().__init__(reason.value)


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
                return _ask_shelter(request, message, context)
            case HoldRefused(hold_id=hold_id, reason=reason):
                return _lose_hold(request, hold_id, reason)
            case HoldExpired(hold_id=hold_id):
                return _lose_hold(request, hold_id, "expired")
            case FirmHoldRefused(hold_id=hold_id, reason=reason):
                return _lose_hold(request, hold_id, reason)
            case HoldMadeFirm(hold_id=hold_id):
                return _confirm(request, hold_id)
            case TimePassed():
                return _pass_time(request, context)
        raise TypeError(f"placement has no rule for {type(message).__name__}")


def proposal_hash(proposal: Proposal) -> str:
    """SHA-256 of the canonical JSON of exactly what is signed."""
    return hashlib.sha256(msgspec.json.encode(proposal)).hexdigest()


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
        return [_refusal(request, command, context, refused.reason)]


def _refusal(request: Request, command: Any, context: Context, reason: Refusal) -> CommandRefused:
    return CommandRefused(
        request_id=command.request_id,
        command_id=context.cause_id,
        command=wire_name(type(command)),
        reason=reason,
        stage=request.stage,
        next_steps=request.next_step.steps if request.next_step else (),
    )


def _decide_known(request: Request, command: Any, context: Context) -> Sequence[PlacementContract]:
    # One refused at the door was never opened, but it brought a sealed callback that can be erased.
    erasable = isinstance(command, EraseHousehold) and request.stage is not Stage.RECEIVED
    if request.opened is None and not erasable:
        raise RefusedCommand(Refusal.UNKNOWN_REQUEST)
    match command:
        case WithdrawRequest():
            return _withdraw(request, command, context)
        case RecordConsent():
            return _record_consent(request, command, context)
        case AnswerAsk():
            return _answer(request, command, context)
        case ProposePlacement():
            return _propose(request, command, context)
        case CountersignPlacement():
            return _countersign(request, command, context)
        case PlanJourney():
            return _plan_journey(request, command, context)
        case RecordDeparture():
            return _depart(request, command, context)
        case RecordArrival():
            return _arrive(request, command, context)
        case EndPlacement():
            return _end(request, command, context)
        case RequestDisclosure():
            return _disclose(request, command, context)
        case EraseHousehold():
            return _erase(request, command, context)
    raise TypeError(f"placement has no rule for {type(command).__name__}")


def _refuse_if(refusal: Refusal | None) -> None:
    if refusal is not None:
        raise RefusedCommand(refusal)


def _open(request: Request, command: OpenRelocationRequest, context: Context) -> Sequence[PlacementContract]:
    if request.stage is not Stage.RECEIVED:
        raise RefusedCommand(Refusal.ALREADY_OPENED)
    _refuse_if(policies.may_open(context.actor))
    reference: Reference = context.facts.reference
    reflection_ends_on = None
    if command.danger_country in reference.countries and command.reflection_started_on is not None:
        reflection_ends_on = reference.country(command.danger_country).reflection_end(command.reflection_started_on)
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
        reflection_ends_on=reflection_ends_on,
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
    _refuse_if(policies.may_withdraw(request, context.actor))
    return [
        RequestWithdrawn(request_id=command.request_id, reason=command.reason),
        *_lapse(request, ProposalLapse.REQUEST_OVER),
    ]


def _record_consent(request: Request, command: RecordConsent, context: Context) -> Sequence[PlacementContract]:
    if request.over:
        raise RefusedCommand(Refusal.WRONG_STAGE)
    _refuse_if(policies.may_record_consent(request, context.actor, command.by))
    key = consent_key(command.scope, command.country, command.by)
    if request.consents.get(key) is command.given:
        return ()
    version = request.consent_version + 1
    if command.given:
        return [
            ConsentRecorded(
                request_id=command.request_id,
                scope=command.scope,
                country=command.country,
                by=command.by,
                version=version,
            )
        ]
    withdrawn = ConsentWithdrawn(
        request_id=command.request_id, scope=command.scope, country=command.country, by=command.by, version=version
    )
    about_the_host = request.proposal is not None and request.proposal.host_country == command.country
    if command.scope is ConsentScope.PLACEMENT and about_the_host and request.stage in policies.BEFORE_DEPARTURE:
        return [withdrawn, *_lapse(request, ProposalLapse.CONSENT_WITHDRAWN)]
    return [withdrawn]


def _answer(request: Request, command: AnswerAsk, context: Context) -> Sequence[PlacementContract]:
    ask = request.asks.get(command.ask_id)
    if ask is None:
        raise RefusedCommand(Refusal.UNKNOWN_ASK)
    _refuse_if(policies.may_answer(ask, context.actor))
    accepts = command.decline is None
    late = LateAnswerRecorded(
        request_id=command.request_id, ask_id=ask.ask_id, accepted=accepts, decline=command.decline
    )
    if ask.stage is AskStage.OPEN and ask.deadline <= context.now:
        # Its time ran out and the timer has not come round: placement's clock decides, here and now.
        return [AskExpired(request_id=command.request_id, ask_id=ask.ask_id), late]
    if ask.stage is AskStage.OPEN and accepts:
        return [
            AskAccepted(
                request_id=command.request_id,
                ask_id=ask.ask_id,
                condition=command.condition,
                sealed_rendezvous=context.cause_id if command.rendezvous else None,
            )
        ]
    if ask.stage is AskStage.OPEN and command.decline is not None:
        return [AskDeclined(request_id=command.request_id, ask_id=ask.ask_id, reason=command.decline)]
    said_so_already = (ask.stage is AskStage.ACCEPTED) if accepts else (ask.stage is AskStage.DECLINED)
    if said_so_already:
        return ()
    if ask.stage is AskStage.ACCEPTED and command.decline is not None and request.searching:
        # A shelter may take its yes back until a focal point has signed for it.
        return [AskDeclined(request_id=command.request_id, ask_id=ask.ask_id, reason=command.decline)]
    return [late]


def _propose(request: Request, command: ProposePlacement, context: Context) -> Sequence[PlacementContract]:
    assert request.opened is not None
    _refuse_if(policies.may_propose(request, context.actor))
    ask = request.asks.get(command.ask_id)
    if ask is None:
        raise RefusedCommand(Refusal.UNKNOWN_ASK)
    if request.proposal is not None and request.proposal.ask_id == ask.ask_id and _is_same_signer(request, context):
        return ()
    if not request.searching:
        raise RefusedCommand(Refusal.WRONG_STAGE)
    if ask.stage is not AskStage.ACCEPTED:
        raise RefusedCommand(Refusal.NOT_OFFERED)
    rank = _rank_among_offers(request, ask)
    if rank > 1 and command.override is None:
        raise RefusedCommand(Refusal.OVERRIDE_NEEDS_REASON)
    proposal = Proposal(
        request_id=command.request_id,
        ask_id=ask.ask_id,
        hold_id=ask.hold_id,
        unit_id=ask.unit_id,
        shelter_id=ask.shelter_id,
        host_country=ask.country,
        household=request.opened.household,
        needs=request.opened.needs,
        condition=ask.condition,
        consent_version=request.consent_version,
        ruleset=RULESET,
        rank=rank,
        override=command.override,
    )
    return [PlacementProposed(request_id=command.request_id, proposal=proposal, proposal_hash=proposal_hash(proposal))]


def _is_same_signer(request: Request, context: Context) -> bool:
    return request.proposer is not None and request.proposer.person == context.actor.person


def _rank_among_offers(request: Request, ask: Ask) -> int:
    order = {c.unit_id: n for n, c in enumerate(request.shortlist.candidates)} if request.shortlist else {}
    last = len(order)
    mine = order.get(ask.unit_id, last)
    return 1 + sum(order.get(other.unit_id, last) < mine for other in request.offers())


def _countersign(request: Request, command: CountersignPlacement, context: Context) -> Sequence[PlacementContract]:
    if request.countersigner is not None and command.refusal is None and command.proposal == request.proposal_hash:
        if request.countersigner.person == context.actor.person:
            return ()
        raise RefusedCommand(Refusal.WRONG_STAGE)
    if request.proposal is None or request.stage is not Stage.PROPOSED:
        # A signature that comes as the proposal lapses binds to something that is gone: say that it changed.
        known = request.proposal is not None or bool(request.asks)
        raise RefusedCommand(Refusal.PROPOSAL_CHANGED if known and request.searching else Refusal.WRONG_STAGE)
    _refuse_if(policies.may_countersign(request, context.actor))
    if command.proposal != request.proposal_hash:
        raise RefusedCommand(Refusal.PROPOSAL_CHANGED)
    if command.refusal is not None:
        return [
            CountersignatureRefused(
                request_id=command.request_id, proposal_hash=request.proposal_hash, reason=command.refusal
            ),
            *_lapse(request, ProposalLapse.REFUSED_BY_HOST),
        ]
    if request.proposal.ruleset != RULESET:
        # Made under rules that no longer hold: nobody is bound by it, and the search goes on under the new ones.
        refusal = _refusal(request, command, context, Refusal.PROPOSAL_CHANGED)
        return [refusal, *_lapse(request, ProposalLapse.RULES_CHANGED)]
    return [PlacementCountersigned(request_id=command.request_id, proposal_hash=request.proposal_hash)]


def _lapse(request: Request, reason: ProposalLapse) -> Sequence[PlacementContract]:
    """The proposal, if there is one, binds nobody any more; the yes it was built on is closed with it."""
    if request.proposal is None:
        return []
    signers = [request.proposer, request.countersigner]
    return [
        ProposalLapsed(
            request_id=request.proposal.request_id,
            proposal_hash=request.proposal_hash,
            reason=reason,
            signers=tuple(signer.person for signer in signers if signer is not None),
        ),
        AskClosed(request_id=request.proposal.request_id, ask_id=request.proposal.ask_id),
    ]


def _plan_journey(request: Request, command: PlanJourney, context: Context) -> Sequence[PlacementContract]:
    _refuse_if(policies.may_plan_journey(request, context.actor))
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


def _depart(request: Request, command: RecordDeparture, context: Context) -> Sequence[PlacementContract]:
    _refuse_if(policies.may_record_departure(request, context.actor))
    if request.stage in (Stage.DEPARTED, Stage.ARRIVED, Stage.ASTRAY):
        return ()
    if request.stage is not Stage.CONFIRMED or request.confirmed is None or request.journey is None:
        raise RefusedCommand(Refusal.WRONG_STAGE)
    if not request.has_consent(ConsentScope.TRANSPORT, request.confirmed.host_country):
        raise RefusedCommand(Refusal.GUARDIAN_MUST_CONSENT if request.is_minor() else Refusal.NO_TRANSPORT_CONSENT)
    return [DepartureRecorded(request_id=command.request_id)]


def _arrive(request: Request, command: RecordArrival, context: Context) -> Sequence[PlacementContract]:
    _refuse_if(policies.may_record_arrival(request, context.actor, command.outcome))
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


def _end(request: Request, command: EndPlacement, context: Context) -> Sequence[PlacementContract]:
    if request.stage is Stage.ENDED:
        return ()
    _refuse_if(policies.may_end_placement(request, context.actor))
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


def _disclose(request: Request, command: RequestDisclosure, context: Context) -> Sequence[PlacementContract]:
    if command.recipient != context.actor.person:
        raise RefusedCommand(Refusal.NOT_THE_RECIPIENT)
    _refuse_if(policies.may_see_sealed_field(request, context.actor, command.field, command.reason))
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


def _erase(request: Request, command: EraseHousehold, context: Context) -> Sequence[PlacementContract]:
    if request.stage is Stage.ERASED:
        return ()
    _refuse_if(policies.may_erase(request, context.actor))
    return [HouseholdErased(request_id=command.request_id), *_lapse_if_open(request)]


def _lapse_if_open(request: Request) -> Sequence[PlacementContract]:
    return [] if request.over else _lapse(request, ProposalLapse.REQUEST_OVER)


def _ask_shelter(request: Request, placed: HoldPlaced, context: Context) -> Sequence[PlacementContract]:
    assert request.opened is not None
    hold = request.holds.get(placed.hold_id)
    if hold is None or hold.stage is not HoldStage.REQUESTED:
        return ()
    minutes = context.facts.reference.clocks.of(request.opened.urgency).ask_minutes
    return [
        ShelterAsked(
            request_id=placed.request_id,
            ask_id=context.new_id("ask", hold.hold_id),
            hold_id=hold.hold_id,
            unit_id=hold.unit_id,
            shelter_id=hold.shelter_id,
            country=hold.country,
            deadline=min(context.now + timedelta(minutes=minutes), hold.until),
        )
    ]


def _lose_hold(request: Request, hold_id: str, reason: str) -> Sequence[PlacementContract]:
    assert request.opened is not None
    hold = request.holds.get(hold_id)
    if hold is None or hold.stage is HoldStage.OVER:
        return ()
    lost = HoldLost(request_id=request.opened.request_id, hold_id=hold_id, unit_id=hold.unit_id, reason=str(reason))
    if request.proposal is not None and request.proposal.hold_id == hold_id:
        return [lost, *_lapse(request, ProposalLapse.HOLD_EXPIRED)]
    return [lost]


def _confirm(request: Request, hold_id: str) -> Sequence[PlacementContract]:
    proposal = request.proposal
    if proposal is None or proposal.hold_id != hold_id or request.stage is not Stage.CONSENTED:
        return ()
    return [
        PlacementConfirmed(
            request_id=proposal.request_id,
            proposal_hash=request.proposal_hash,
            unit_id=proposal.unit_id,
            shelter_id=proposal.shelter_id,
            hold_id=proposal.hold_id,
            host_country=proposal.host_country,
        )
    ]


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
    return [
        *expired,
        DeadlineMissed(
            request_id=request_id,
            step=step.steps[0],
            times=request.missed + 1,
            next_deadline=context.now + min(pace, timedelta(hours=clocks.escalation_cap_hours)),
        ),
    ]
