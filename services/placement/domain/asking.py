"""Beds held, shelters asked, shelters answering. Pure."""

from collections.abc import Sequence
from datetime import timedelta

from events.capacity import HoldPlaced
from events.gateway import (
    AnswerAsk,
)
from events.log.decider import Context
from events.placement import (
    AskAccepted,
    AskDeclined,
    AskExpired,
    HoldLost,
    LateAnswerRecorded,
    PlacementContract,
    ProposalLapse,
    Refusal,
    ShelterAsked,
)
from services.placement.domain import policies
from services.placement.domain.refusal import RefusedCommand, refuse_if
from services.placement.domain.request import AskStage, HoldStage, Request
from services.placement.domain.signing import lapse_proposal


def answer_ask(request: Request, command: AnswerAsk, context: Context) -> Sequence[PlacementContract]:
    ask = request.asks.get(command.ask_id)
    if ask is None:
        raise RefusedCommand(Refusal.UNKNOWN_ASK)
    refuse_if(policies.may_answer(ask, context.actor))
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


def ask_shelter(request: Request, placed: HoldPlaced, context: Context) -> Sequence[PlacementContract]:
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


def lose_hold(request: Request, hold_id: str, reason: str) -> Sequence[PlacementContract]:
    assert request.opened is not None
    hold = request.holds.get(hold_id)
    if hold is None or hold.stage is HoldStage.OVER:
        return ()
    lost = HoldLost(request_id=request.opened.request_id, hold_id=hold_id, unit_id=hold.unit_id, reason=str(reason))
    if request.proposal is not None and request.proposal.hold_id == hold_id:
        return [lost, *lapse_proposal(request, ProposalLapse.HOLD_EXPIRED)]
    return [lost]
