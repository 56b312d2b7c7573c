"""The state of one relocation request and how each event changes it. Pure.

Everything optional here was said by an event; nothing is computed from a clock.
"""

from datetime import datetime
from enum import StrEnum

import msgspec
from msgspec.structs import asdict, replace

from events.capacity import HoldRefusal
from events.envelope import Event
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
    DetailsRecorded,
    DisclosureGranted,
    FirmHoldRequested,
    HoldLost,
    HoldReleaseRequested,
    HoldRequested,
    HouseholdErased,
    JourneyPlanned,
    LateAnswerRecorded,
    NextStepSet,
    PlacementConfirmed,
    PlacementCountersigned,
    PlacementEnded,
    PlacementProposed,
    Proposal,
    ProposalLapsed,
    RelocationRequestOpened,
    RelocationRequestRefused,
    RequestWithdrawn,
    ShelterAsked,
    ShortlistDrawn,
    UnmetNeedRecorded,
)
from events.vocabulary import (
    AcceptCondition,
    Actor,
    ArrivalOutcome,
    ConsentBy,
    ConsentScope,
    DeclineReason,
    Stage,
)


class AskStage(StrEnum):
    OPEN = "open"
    ACCEPTED = "accepted"
    DECLINED = "declined"
    EXPIRED = "expired"
    CLOSED = "closed"


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    ask_id: str
    hold_id: str
    unit_id: str
    shelter_id: str
    country: str
    deadline: datetime
    stage: AskStage = AskStage.OPEN
    condition: AcceptCondition | None = None
    sealed_rendezvous: str | None = None


class HoldStage(StrEnum):
    REQUESTED = "requested"
    HELD = "held"
    FIRM_REQUESTED = "firm_requested"
    FIRM = "firm"
    OCCUPIED = "occupied"
    OVER = "over"


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    hold_id: str
    unit_id: str
    shelter_id: str
    country: str
    until: datetime
    stage: HoldStage = HoldStage.REQUESTED


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """`opened` is None for a request nobody opened (or that was refused at the door)."""

    stage: Stage = Stage.RECEIVED
    opened: RelocationRequestOpened | None = None
    """What is known of the household: what the opening said, with what was learnt since."""
    details_version: int = 0
    """Counts every time its details were recorded after the opening."""
    opened_at: datetime | None = None
    referrer: Actor | None = None
    shortlist: ShortlistDrawn | None = None
    tried: dict[str, str] = {}
    """Unit to why it is not asked again in this search."""
    holds: dict[str, Hold] = {}
    asks: dict[str, Ask] = {}
    declines: dict[str, int] = {}
    proposal: Proposal | None = None
    proposal_hash: str = ""
    proposer: Actor | None = None
    countersigner: Actor | None = None
    consents: dict[str, bool] = {}
    """`scope/country/by` to the last word on it."""
    consent_version: int = 0
    """Counts every word on consent."""
    confirmed: PlacementConfirmed | None = None
    journey: JourneyPlanned | None = None
    overdue: bool = False
    next_step: NextStepSet | None = None
    missed: int = 0
    review_at: datetime | None = None
    """When the unmet need is reviewed. A bed that somebody else was given in between does not put it off."""
    reviews_missed: int = 0

    @property
    def over(self) -> bool:
        return self.stage in OVER

    @property
    def searching(self) -> bool:
        """Still looking for a shelter's yes, or for a focal point to choose one."""
        return self.opened is not None and not self.over and self.proposal is None and self.confirmed is None

    def open_asks(self) -> list[Ask]:
        return [ask for ask in self.asks.values() if ask.stage is AskStage.OPEN]

    def offers(self) -> list[Ask]:
        return [ask for ask in self.asks.values() if ask.stage is AskStage.ACCEPTED]

    def holds_in(self, *stages: HoldStage) -> list[Hold]:
        return [hold for hold in self.holds.values() if hold.stage in stages]

    def is_minor(self) -> bool:
        return self.opened is not None and self.opened.household.is_headed_by_minor

    def consent_needed_by(self) -> ConsentBy:
        """For a presumed minor the guardian speaks (Directive 2011/36/EU arts. 14, 16)."""
        return ConsentBy.GUARDIAN if self.is_minor() else ConsentBy.HOUSEHOLD

    def has_consent(self, scope: ConsentScope, country: str) -> bool:
        return self.consents.get(consent_key(scope, country, self.consent_needed_by()), False)

    def tried_for_good(self) -> frozenset[str]:
        """Units not to be asked again for this household, in no later search either."""
        return frozenset(unit for unit, why in self.tried.items() if why in TRIED_FOR_GOOD)

    def refused_countries(self) -> frozenset[str]:
        """Countries the household or its guardian said no to."""
        return frozenset(
            key.split("/")[1]
            for key, given in self.consents.items()
            if not given and key.startswith(f"{ConsentScope.PLACEMENT}/")
        )


OVER = frozenset({Stage.REFUSED, Stage.WITHDRAWN, Stage.ENDED, Stage.ERASED})
"""Stages in which nothing is open any more."""

TRIED_FOR_GOOD = frozenset(
    {
        DeclineReason.UNSAFE_FOR_HOUSEHOLD,
        DeclineReason.UNSAFE_FOR_RESIDENTS,
        DeclineReason.NEEDS_NOT_MET,
        DeclineReason.LANGUAGE_NOT_MET,
        DeclineReason.WRONG_TRACK,
        "refused_by_host",
    }
)
"""A unit that said one of these is not asked again for this household; a full or unstaffed one is, in a later search."""


def consent_key(scope: ConsentScope, country: str, by: ConsentBy) -> str:
    return f"{scope}/{country}/{by}"


def evolve(request: Request, event: Event) -> Request:
    """The request after `event`."""
    match event.data:
        case RelocationRequestOpened() as opened:
            consents = {
                consent_key(ConsentScope.PLACEMENT, country, ConsentBy.HOUSEHOLD): True
                for country in opened.consented_countries
            }
            return replace(
                request,
                stage=Stage.OPENED,
                opened=opened,
                opened_at=event.time,
                referrer=event.actor,
                consents=consents,
            )
        case DetailsRecorded(known=known, version=version):
            assert request.opened is not None
            return replace(request, opened=replace(request.opened, **asdict(known)), details_version=version)
        case RelocationRequestRefused():
            return replace(request, stage=Stage.REFUSED, referrer=event.actor)
        case ShortlistDrawn() as shortlist:
            listed = {candidate.unit_id for candidate in shortlist.candidates}
            still_tried = {unit: why for unit, why in request.tried.items() if unit not in listed}
            return replace(request, stage=Stage.SHORTLISTED, shortlist=shortlist, tried=still_tried)
        case HoldRequested() as wanted:
            hold = Hold(
                hold_id=wanted.hold_id,
                unit_id=wanted.unit_id,
                shelter_id=wanted.shelter_id,
                country=wanted.country,
                until=wanted.until,
            )
            return _with_hold(request, hold)
        case ShelterAsked() as asked:
            ask = Ask(
                ask_id=asked.ask_id,
                hold_id=asked.hold_id,
                unit_id=asked.unit_id,
                shelter_id=asked.shelter_id,
                country=asked.country,
                deadline=asked.deadline,
            )
            held = replace(request.holds[asked.hold_id], stage=HoldStage.HELD)
            asked_somebody = replace(request, review_at=None, reviews_missed=0)
            return _restaged(_with_hold(_with_ask(asked_somebody, ask), held))
        case HoldLost(hold_id=hold_id, unit_id=unit_id, reason=reason):
            hold = request.holds[hold_id]
            lost = _with_hold(request, replace(hold, stage=HoldStage.OVER))
            # A shelter that said yes and then lost the hold to the clock may be asked again, first of all; so may one
            # that never heard of it in time.
            never_heard = reason == HoldRefusal.ALREADY_OVER and event.time >= hold.until
            may_be_asked_again = _said_yes(request, hold_id) or never_heard
            tried = request.tried if may_be_asked_again else {**request.tried, unit_id: reason}
            return _restaged(replace(lost, tried=tried))
        case HoldReleaseRequested(hold_id=hold_id):
            return _with_hold(request, replace(request.holds[hold_id], stage=HoldStage.OVER))
        case FirmHoldRequested(hold_id=hold_id):
            firming = replace(request.holds[hold_id], stage=HoldStage.FIRM_REQUESTED)
            return replace(_with_hold(request, firming), stage=Stage.CONSENTED)
        case AskAccepted(ask_id=ask_id, condition=condition, sealed_rendezvous=rendezvous):
            accepted = replace(
                request.asks[ask_id], stage=AskStage.ACCEPTED, condition=condition, sealed_rendezvous=rendezvous
            )
            return _restaged(_with_ask(request, accepted))
        case AskDeclined(ask_id=ask_id, reason=reason):
            declined = _with_ask(request, replace(request.asks[ask_id], stage=AskStage.DECLINED))
            return _restaged(
                replace(
                    declined,
                    tried={**request.tried, request.asks[ask_id].unit_id: reason},
                    declines={**request.declines, reason: request.declines.get(reason, 0) + 1},
                )
            )
        case AskExpired(ask_id=ask_id):
            expired = _with_ask(request, replace(request.asks[ask_id], stage=AskStage.EXPIRED))
            return _restaged(replace(expired, tried={**request.tried, request.asks[ask_id].unit_id: "no_answer"}))
        case AskClosed(ask_id=ask_id):
            return _restaged(_with_ask(request, replace(request.asks[ask_id], stage=AskStage.CLOSED)))
        case PlacementProposed(proposal=proposal, proposal_hash=proposal_hash):
            return replace(
                request, stage=Stage.PROPOSED, proposal=proposal, proposal_hash=proposal_hash, proposer=event.actor
            )
        case PlacementCountersigned():
            return replace(request, stage=Stage.COUNTERSIGNED, countersigner=event.actor)
        case CountersignatureRefused():
            assert request.proposal is not None
            return replace(request, tried={**request.tried, request.proposal.unit_id: "refused_by_host"})
        case ProposalLapsed():
            return _restaged(
                replace(
                    request,
                    # A request that is over stays over: its last proposal lapses with it.
                    stage=request.stage if request.over else Stage.SHORTLISTED,
                    proposal=None,
                    proposal_hash="",
                    proposer=None,
                    countersigner=None,
                    confirmed=None,
                    journey=None,
                )
            )
        case ConsentRecorded(scope=scope, country=country, by=by, version=version):
            yes = _with_consent(request, consent_key(scope, country, by), True, version)
            # A country is open again, so the search is too.
            reopens = request.stage is Stage.UNMET_NEED and scope is ConsentScope.PLACEMENT
            return replace(yes, stage=Stage.SHORTLISTED) if reopens else yes
        case ConsentWithdrawn(scope=scope, country=country, by=by, version=version):
            return _with_consent(request, consent_key(scope, country, by), False, version)
        case PlacementConfirmed() as confirmed:
            firm = replace(request.holds[confirmed.hold_id], stage=HoldStage.FIRM)
            return replace(_with_hold(request, firm), stage=Stage.CONFIRMED, confirmed=confirmed)
        case JourneyPlanned() as journey:
            # A new plan is a new deadline: what was said about the old one is said again.
            return replace(request, journey=journey, next_step=None)
        case DepartureRecorded():
            return replace(request, stage=Stage.DEPARTED)
        case ArrivalOverdue():
            return replace(request, overdue=True)
        case ArrivalRecorded(outcome=ArrivalOutcome.ARRIVED, hold_id=hold_id):
            occupied = replace(request.holds[hold_id], stage=HoldStage.OCCUPIED)
            return replace(_with_hold(request, occupied), stage=Stage.ARRIVED, overdue=False)
        case ArrivalRecorded():
            return replace(request, stage=Stage.ASTRAY, overdue=False)
        case PlacementEnded(hold_id=hold_id):
            hold = request.holds[hold_id]
            # Of an occupied bed capacity hears through this very event; a firm one still has to be given back.
            left = replace(hold, stage=HoldStage.OVER) if hold.stage is HoldStage.OCCUPIED else hold
            return replace(_with_hold(request, left), stage=Stage.ENDED)
        case RequestWithdrawn():
            return replace(request, stage=Stage.WITHDRAWN)
        case HouseholdErased():
            return replace(request, stage=Stage.ERASED)
        case UnmetNeedRecorded():
            return replace(request, stage=Stage.UNMET_NEED)
        case NextStepSet() as step:
            if step.stage is Stage.UNMET_NEED:
                return replace(request, next_step=step, missed=request.reviews_missed, review_at=step.deadline)
            return replace(request, next_step=step, missed=0)
        case DeadlineMissed(times=times, next_deadline=next_deadline):
            assert request.next_step is not None
            moved = replace(request, missed=times, next_step=replace(request.next_step, deadline=next_deadline))
            if request.stage is Stage.UNMET_NEED:
                return replace(moved, review_at=next_deadline, reviews_missed=times)
            return moved
        case CommandRefused() | CommandHadNoEffect() | LateAnswerRecorded() | DisclosureGranted():
            return request
        case _:
            raise TypeError(f"not placement's own: {type(event.data).__name__}")


def _said_yes(request: Request, hold_id: str) -> bool:
    return any(ask.hold_id == hold_id and ask.stage is AskStage.ACCEPTED for ask in request.asks.values())


def _with_ask(request: Request, ask: Ask) -> Request:
    return replace(request, asks={**request.asks, ask.ask_id: ask})


def _with_hold(request: Request, hold: Hold) -> Request:
    return replace(request, holds={**request.holds, hold.hold_id: hold})


def _with_consent(request: Request, key: str, given: bool, version: int) -> Request:
    return replace(request, consents={**request.consents, key: given}, consent_version=version)


def _restaged(request: Request) -> Request:
    """While searching, the stage says what is on the table: a yes, a question, or only a list."""
    if not request.searching:
        return request
    if request.offers():
        return replace(request, stage=Stage.OFFERED)
    return replace(request, stage=Stage.ASKED if request.open_asks() else Stage.SHORTLISTED)
