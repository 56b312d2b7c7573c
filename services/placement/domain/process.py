"""The process manager: what must happen next by itself, seen from the state alone. Pure.

Each call names one step; the runner calls again until nothing is missing. So a decline, an expiry, a lost hold or a
lapsed proposal needs no branch of its own here: they all leave a request that is missing a question, and the question is
asked.
"""

from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from events.log.decider import Context
from events.placement import (
    AskClosed,
    Candidate,
    FirmHoldRequested,
    HoldReleaseRequested,
    HoldRequested,
    NextStepSet,
    PlacementContract,
    ShortlistDrawn,
    UnmetNeedRecorded,
)
from events.vocabulary import ConsentScope, Role, Stage, Step
from reference import Reference
from services.placement.domain.matching import UnitFacts, draw_shortlist
from services.placement.domain.policies import host_country, origin_country
from services.placement.domain.request import Ask, AskStage, Hold, HoldStage, Request


@dataclass(frozen=True)
class PlacementFacts:
    """What placement decides with beside the request: reference data and its view of the units, read on demand."""

    reference: Reference
    units: Callable[[], Iterable[UnitFacts]]


def follow_up(request: Request, context: Context) -> Sequence[PlacementContract]:
    """The one thing missing most; empty when the request is waiting for somebody, and says for whom."""
    if request.opened is None:
        return ()
    return (
        _close_what_no_longer_stands(request)
        or _search(request, context)
        or _make_hold_firm(request)
        or _say_who_is_next(request, context)
    )


def _close_what_no_longer_stands(request: Request) -> Sequence[PlacementContract]:
    """Questions whose bed is gone or that another answer settled are closed; a hold without a question frees its beds."""
    request_id = request_id_of(request)
    for ask in request.asks.values():
        if ask.stage in (AskStage.OPEN, AskStage.ACCEPTED) and not _still_stands(request, ask):
            return [AskClosed(request_id=request_id, ask_id=ask.ask_id)]
    for hold in request.holds.values():
        if hold.stage not in (HoldStage.OVER, HoldStage.OCCUPIED) and not _is_needed(request, hold):
            return [HoldReleaseRequested(request_id=request_id, hold_id=hold.hold_id, unit_id=hold.unit_id)]
    return ()


def request_id_of(request: Request) -> str:
    assert request.opened is not None
    return request.opened.request_id


def _still_stands(request: Request, ask: Ask) -> bool:
    if request.stage is Stage.ENDED:
        return True
    if request.over or request.holds[ask.hold_id].stage is HoldStage.OVER:
        return False
    if request.proposal is not None:
        return request.proposal.hold_id == ask.hold_id
    return ask.country not in request.refused_countries()


def _is_needed(request: Request, hold: Hold) -> bool:
    if request.over:
        return False
    if request.proposal is not None:
        return request.proposal.hold_id == hold.hold_id
    if hold.stage is HoldStage.REQUESTED:
        return hold.country not in request.refused_countries()
    return any(
        ask.hold_id == hold.hold_id and ask.stage in (AskStage.OPEN, AskStage.ACCEPTED) for ask in request.asks.values()
    )


def _search(request: Request, context: Context) -> Sequence[PlacementContract]:
    """Keeps as many questions open as the urgency allows, best candidates first, until somebody says yes."""
    if not request.searching or request.offers() or request.stage is Stage.UNMET_NEED:
        return ()
    assert request.opened is not None
    clocks = context.facts.reference.clocks.of(request.opened.urgency)
    waiting = request.holds_in(HoldStage.REQUESTED, HoldStage.HELD)
    if len(waiting) >= clocks.parallel_asks:
        return ()
    if candidate := next_candidate(request):
        return [
            HoldRequested(
                request_id=request.opened.request_id,
                hold_id=context.new_id("hold", candidate.unit_id, len(request.holds)),
                unit_id=candidate.unit_id,
                shelter_id=candidate.shelter_id,
                country=candidate.country,
                beds=request.opened.household.beds,
                until=context.now + timedelta(minutes=clocks.hold_minutes),
            )
        ]
    if waiting:
        return ()
    drawn = draw(request, context, tried=request.tried.keys())
    if drawn.candidates:
        return [drawn]
    unmet = UnmetNeedRecorded(
        request_id=request.opened.request_id,
        failed_rules=_count(str(rejection.failed[0]) for rejection in drawn.rejected),
        declines=request.declines,
    )
    # The last list is kept too: it says, unit by unit, why nobody was left to ask.
    return [drawn, unmet]


def draw(request: Request, context: Context, tried: AbstractSet[str]) -> ShortlistDrawn:
    """A new shortlist from what placement knows of the units now, without those tried."""
    assert request.opened is not None
    return draw_shortlist(
        request.opened,
        context.facts.units(),
        now=context.now,
        reference=context.facts.reference,
        tried=tried,
        refused_countries=request.refused_countries(),
    )


def next_candidate(request: Request) -> Candidate | None:
    """The best ranked unit that was not tried and is not being asked."""
    if request.shortlist is None:
        return None
    busy = {hold.unit_id for hold in request.holds_in(HoldStage.REQUESTED, HoldStage.HELD)}
    refused = request.refused_countries()
    for candidate in request.shortlist.candidates:
        if (
            candidate.unit_id not in busy
            and candidate.unit_id not in request.tried
            and candidate.country not in refused
        ):
            return candidate
    return None


def _make_hold_firm(request: Request) -> Sequence[PlacementContract]:
    """Both signed and the household said yes: capacity may now make the hold firm, and only then is it confirmed."""
    if request.stage is not Stage.COUNTERSIGNED or request.proposal is None:
        return ()
    if not request.has_consent(ConsentScope.PLACEMENT, request.proposal.host_country):
        return ()
    return [
        FirmHoldRequested(
            request_id=request.proposal.request_id,
            hold_id=request.proposal.hold_id,
            unit_id=request.proposal.unit_id,
        )
    ]


def _say_who_is_next(request: Request, context: Context) -> Sequence[PlacementContract]:
    step = next_step(request, context)
    known = request.next_step
    if known is None or msgspec.structs.replace(step, deadline=known.deadline) != known:
        return [step]
    # The deadline of a question moves with the questions; every other one stands from when the step was set.
    return [step] if request.stage is Stage.ASKED and step.deadline != known.deadline else ()


def next_step(request: Request, context: Context) -> NextStepSet:
    """Who owns the request, what they can do, and by when."""
    assert request.opened is not None
    clocks = context.facts.reference.clocks.of(request.opened.urgency)
    origin, host = origin_country(request), host_country(request) or ""
    soon = context.now + timedelta(minutes=clocks.step_minutes)

    def is_next(owner: Role, country: str, *steps: Step, deadline: datetime | None = soon) -> NextStepSet:
        return NextStepSet(
            request_id=request_id_of(request),
            stage=request.stage,
            owner=owner,
            owner_country=country,
            steps=steps,
            deadline=deadline,
        )

    # They said no while on the road or in the house. Nobody is kept anywhere against their will.
    unwilling = () if request.has_consent(ConsentScope.PLACEMENT, host) else (Step.FIND_ALTERNATIVE,)

    match request.stage:
        case Stage.OPENED | Stage.SHORTLISTED:
            return is_next(Role.SYSTEM, "", Step.WAIT_FOR_HOLD)
        case Stage.ASKED:
            deadline = min(ask.deadline for ask in request.open_asks())
            return is_next(Role.SHELTER, "", Step.ANSWER_ASK, deadline=deadline)
        case Stage.OFFERED:
            until = min(request.holds[ask.hold_id].until for ask in request.offers())
            return is_next(Role.COORDINATOR, origin, Step.PROPOSE_PLACEMENT, deadline=min(soon, until))
        case Stage.UNMET_NEED:
            review = context.now + timedelta(hours=clocks.review_hours)
            if request.review_at is not None and request.review_at > context.now:
                review = request.review_at
            return is_next(Role.COORDINATOR, origin, Step.FIND_ALTERNATIVE, deadline=review)
        case Stage.PROPOSED:
            return is_next(Role.COORDINATOR, host, Step.COUNTERSIGN_PLACEMENT)
        case Stage.COUNTERSIGNED:
            return _consent_next(request, is_next, origin)
        case Stage.CONSENTED:
            return is_next(Role.SYSTEM, "", Step.WAIT_FOR_FIRM_HOLD)
        case Stage.CONFIRMED:
            if request.journey is None:
                return is_next(Role.COORDINATOR, origin, Step.PLAN_JOURNEY)
            if not request.has_consent(ConsentScope.TRANSPORT, host):
                return _consent_next(request, is_next, origin)
            return is_next(Role.COORDINATOR, origin, Step.RECORD_DEPARTURE, deadline=request.journey.arrival_due)
        case Stage.DEPARTED if request.overdue:
            return is_next(Role.COORDINATOR, origin, Step.FIND_HOUSEHOLD, Step.RECORD_ARRIVAL, *unwilling)
        case Stage.DEPARTED:
            assert request.journey is not None
            # Whoever owns it, and whatever they said meanwhile: when they should be there, they are missing.
            grace = timedelta(minutes=context.facts.reference.clocks.arrival_grace_minutes)
            missing_from = request.journey.arrival_due + grace
            if unwilling:
                return is_next(Role.COORDINATOR, origin, *unwilling, Step.RECORD_ARRIVAL, deadline=missing_from)
            return is_next(Role.SHELTER, host, Step.RECORD_ARRIVAL, deadline=missing_from)
        case Stage.ASTRAY:
            return is_next(Role.COORDINATOR, origin, Step.FIND_HOUSEHOLD, Step.END_PLACEMENT, *unwilling)
        case Stage.ARRIVED if unwilling:
            # Whoever sent them looks for another way. That they have left, only the house can see, and it ends the stay then.
            return is_next(Role.COORDINATOR, origin, *unwilling)
        case Stage.ARRIVED:
            review = context.now + timedelta(days=context.facts.reference.clocks.stay_review_days)
            return is_next(Role.SHELTER, host, Step.END_PLACEMENT, deadline=review)
    return is_next(Role.SYSTEM, "", deadline=None)


def _consent_next(request: Request, is_next: Callable[..., NextStepSet], origin: str) -> NextStepSet:
    if request.is_minor():
        return is_next(Role.GUARDIAN, origin, Step.RECORD_GUARDIAN_CONSENT)
    return is_next(Role.COORDINATOR, origin, Step.RECORD_CONSENT)


def _count(names: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items()))
