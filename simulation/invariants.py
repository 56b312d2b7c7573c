"""What must be true of Haven whatever happened to its processes, its clocks and its messages.

One checker for simulations, fault tests and production: it reads events (and two tables), keeps books of its own that share
no code with the deciders it checks, and raises `InvariantViolated` at the first thing that must never be. `Invariant` is
the list. Incremental use: `see` each event, `rest` whenever no transaction is half read. After the fact: `audit`.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, NoReturn

import msgspec

from events.capacity import (
    BedsOccupied,
    BedsVacated,
    CapacityConfirmed,
    CapacityReported,
    FreshnessChanged,
    HoldExpired,
    HoldMadeFirm,
    HoldPlaced,
    HoldRefused,
    HoldReleased,
    UnitRegistered,
    UnitStandingChanged,
)
from events.envelope import Event, UnreadableEvent, derived_id
from events.gateway import (
    Command,
    ConfirmCapacity,
    CountersignPlacement,
    RecordDetails,
    RegisterUnit,
    ReportCapacity,
)
from events.log.decider import Decider
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
    Details,
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
)
from events.vocabulary import (
    Actor,
    AgeStatus,
    ArrivalOutcome,
    ConsentBy,
    ConsentScope,
    Freshness,
    Role,
    SealedField,
    Track,
    UnitProfile,
)
from reference import Reference


class Invariant(StrEnum):
    """What is checked; the numbers are those of the security requirements."""

    ONE_CLAIM_PER_BED = "I1"
    """No bed has two claims at once, and the claims table says what the events say."""
    NOTHING_LOST = "I2"
    """What was acknowledged is there, was decided about, and belongs to somebody until it is over."""
    STATE_IS_FOLD = "I3"
    """What a service decides with is what its log adds up to."""
    STREAMS_ARE_GAPLESS = "I4"
    EFFECTS_ONCE = "I5"
    """Every effect has its cause, and a cause takes effect on a stream once."""
    NOTHING_AFTER_EXPIRY = "I7"
    ONLY_THE_ENTITLED = "I10"
    """Who signed, consented, answered and drove was allowed to, and nobody is placed where they must not be."""
    SERVICES_AGREE = "I11"
    """Once everything was delivered, each service believes of the others what they say themselves."""


class InvariantViolated(AssertionError):
    """Something happened that must never happen: a bug. `seed` and `step` repeat it in a simulation."""

    def __init__(self, invariant: Invariant, seed: int, step: int, detail: str) -> None:
        self.invariant = invariant
        self.seed = seed
        self.step = step
        self.detail = detail
        super().__init__(f"{invariant} {invariant.name.lower()}: {detail} (seed {seed}, step {step})")


class Claim(StrEnum):
    """Where a hold stands, in capacity's books or in placement's belief."""

    REQUESTED = "requested"
    HELD = "held"
    FIRMING = "firming"
    FIRM = "firm"
    OCCUPIED = "occupied"
    OVER = "over"


@dataclass
class HoldBook:
    request_id: str
    beds: tuple[int, ...]
    until: datetime | None
    claim: Claim


@dataclass
class UnitBook:
    """One unit, as capacity's events alone tell it."""

    profile: UnitProfile
    beds: int
    free: set[int] = field(default_factory=set)
    blocked: set[int] = field(default_factory=set)
    claims: dict[int, str] = field(default_factory=dict)
    holds: dict[str, HoldBook] = field(default_factory=dict)
    revision: int = 0
    freshness: Freshness = Freshness.NOT_REPORTED

    def standing(self) -> tuple[int, int, int, int, int]:
        """beds, free, held, occupied, blocked"""
        held = sum(self.holds[hold_id].claim is not Claim.OCCUPIED for hold_id in self.claims.values())
        return self.beds, len(self.free), held, len(self.claims) - held, len(self.blocked)


class AskState(StrEnum):
    OPEN = "open"
    ACCEPTED = "accepted"
    SETTLED = "settled"


@dataclass
class RequestBook:
    """One relocation request, as placement's events alone tell it."""

    opened: RelocationRequestOpened | None = None
    referrer: Actor | None = None
    details: Details | None = None
    details_version: int = 0
    over: bool = False
    erased: bool = False
    holds: dict[str, Claim] = field(default_factory=dict)
    wanted: dict[str, HoldRequested] = field(default_factory=dict)
    asks: dict[str, ShelterAsked] = field(default_factory=dict)
    ask_states: dict[str, AskState] = field(default_factory=dict)
    proposal: Proposal | None = None
    proposal_hash: str = ""
    proposer: Actor | None = None
    countersigner: Actor | None = None
    consents: dict[tuple[ConsentScope, str, ConsentBy], bool] = field(default_factory=dict)
    confirmed: PlacementConfirmed | None = None
    journey: JourneyPlanned | None = None
    departed: bool = False
    arrived: bool = False
    astray: bool = False
    overdue: bool = False
    arrives_by: datetime | None = None
    """The arrival planned, and the grace."""
    next_step: NextStepSet | None = None

    @property
    def is_minor(self) -> bool:
        return self.opened is not None and self.opened.household.age_status is AgeStatus.PRESUMED_MINOR

    @property
    def missing_from(self) -> datetime | None:
        """From when a household on the road is missed."""
        return self.arrives_by if self.departed and not (self.arrived or self.astray) else None

    def consented(self, scope: ConsentScope, country: str) -> bool:
        speaker = ConsentBy.GUARDIAN if self.is_minor else ConsentBy.HOUSEHOLD
        return self.consents.get((scope, country, speaker), False)

    def refused(self, country: str) -> bool:
        return any(self.consents.get((ConsentScope.PLACEMENT, country, by)) is False for by in ConsentBy)


HARMLESS_WHEN_OVER = (
    CommandRefused,
    CommandHadNoEffect,
    LateAnswerRecorded,
    AskClosed,
    HoldReleaseRequested,
    HoldLost,
    ProposalLapsed,
    NextStepSet,
    HouseholdErased,
)
"""What may still be said of a request that is over: tidying up, and answers that came too late."""


class Checker:
    """Books over every log of one system. `seed` and `step` only label what it raises.

    `deciders` are the services' own, by the name of their log: their `evolve` folds the state that `state_is` compares.
    """

    def __init__(self, reference: Reference, deciders: Mapping[str, Decider[Any]], *, seed: int = 0) -> None:
        self.reference = reference
        self.deciders = deciders
        self.seed = seed
        self.step = 0
        self.checked: Counter[Invariant] = Counter()
        self.units: dict[str, UnitBook] = {}
        self.requests: dict[str, RequestBook] = {}
        self.states: dict[tuple[str, str], Any] = {}
        self.hold_answers: Counter[str] = Counter()
        self._events: dict[str, Event] = {}
        self._unreadable: set[str] = set()
        self._versions: dict[tuple[str, str], int] = {}
        self._last_cause: dict[tuple[str, str], str] = {}
        self._decided: Counter[tuple[str, str, str]] = Counter()
        self._touched: dict[str, None] = {}

    # Reading

    def see(self, source: str, incoming: Event | UnreadableEvent) -> None:
        """Takes the next event of `source`'s log, in the log's order and after the event that caused it."""
        key = (source, incoming.stream)
        self._require(
            Invariant.STREAMS_ARE_GAPLESS,
            incoming.version == self._versions.get(key, 0) + 1 and incoming.source == source,
            "version after", self._versions.get(key, 0), "in", source, incoming,
        )  # fmt: skip
        self._versions[key] = incoming.version
        self._require(Invariant.EFFECTS_ONCE, incoming.id not in self._events, "the same event twice", incoming)
        if isinstance(incoming, UnreadableEvent):
            self._unreadable.add(incoming.id)
            return
        self._events[incoming.id] = incoming
        if source not in self.deciders:
            return
        if self._last_cause.get(key) != incoming.causation_id:
            self._at_rest(incoming.stream)
        self._caused(source, incoming)
        if source == "capacity":
            self._capacity(incoming)
        elif source == "placement":
            self._placement(incoming)
        state = self.states.get(key, self.deciders[source].initial)
        self.states[key] = self.deciders[source].evolve(state, incoming)

    def rest(self) -> None:
        """Between transactions: every request that is open has an owner, a next step and a deadline."""
        for stream in list(self._touched):
            self._at_rest(stream)

    def _at_rest(self, stream: str) -> None:
        if stream not in self._touched:
            return
        del self._touched[stream]
        book, state = self.requests[stream], self.states["placement", stream]
        if book.opened is None:
            return
        step = book.next_step
        named = step is not None and step.stage is state.stage
        self._require(Invariant.NOTHING_LOST, named, stream, "in stage", state.stage, "does not say who is next:", step)
        owned = step is not None and bool(step.steps) and step.deadline is not None
        self._require(
            Invariant.NOTHING_LOST, owned is not book.over, stream, "is over:", book.over, "but next is", step
        )
        self._require(Invariant.STATE_IS_FOLD, state.over is book.over, stream, "stage", state.stage)

    def state_is(self, source: str, stream: str, state: object) -> None:
        """A service's own state of a stream must be the fold of its events."""
        expected = self.states.get((source, stream), self.deciders[source].initial)
        self._require(Invariant.STATE_IS_FOLD, state == expected, source, stream, "believes", state, "not", expected)

    def claims_are(self, rows: Iterable[tuple[str, int, str]]) -> None:
        """The claims table (unit, bed, hold) must say what the events say."""
        expected = {(unit_id, bed, hold) for unit_id, book in self.units.items() for bed, hold in book.claims.items()}
        found = set(rows)
        self._require(Invariant.ONE_CLAIM_PER_BED, found == expected, "claims table", found, "but events say", expected)

    def acknowledged(self, command_ids: Iterable[str]) -> None:
        """Every command somebody got an answer for is in the log."""
        for command_id in command_ids:
            self._require(Invariant.NOTHING_LOST, command_id in self._events, "acknowledged and gone:", command_id)

    def healed(self, now: datetime, views: Mapping[str, tuple[int, Freshness]], patience: timedelta) -> None:
        """After everything was delivered and every timer had its turn.

        `views` is placement's memory of the units (free beds, freshness); `patience` how late a timer may be.
        """
        self.rest()
        for event in list(self._events.values()):
            if isinstance(event.data, Command):
                about_units = isinstance(event.data, RegisterUnit | ReportCapacity | ConfirmCapacity)
                decided = self._decided["capacity" if about_units else "placement", event.stream, event.id]
                self._require(Invariant.NOTHING_LOST, decided == 1, "outcomes:", decided, "of", event)
            elif isinstance(event.data, HoldRequested):
                answers = self.hold_answers[event.data.hold_id]
                self._require(Invariant.EFFECTS_ONCE, answers == 1, "answers:", answers, "to", event.data)
        for unit_id, unit in self.units.items():
            truth = (len(unit.free), unit.freshness)
            self._require(
                Invariant.SERVICES_AGREE,
                views.get(unit_id) == truth,
                unit_id,
                "is",
                truth,
                "seen as",
                views.get(unit_id),
            )
        self._holds_agree(now, patience)
        for stream, request in self.requests.items():
            deadline = request.next_step.deadline if request.next_step and not request.over else None
            state = self.states["placement", stream]
            due = self.deciders["placement"].due(state)
            missed = None if request.overdue else request.missing_from
            late = [moment for moment in (deadline, due, missed) if moment is not None and moment + patience < now]
            self._require(Invariant.NOTHING_LOST, not late or state.over, stream, "waits for a moment gone by", late)

    def _holds_agree(self, now: datetime, patience: timedelta) -> None:
        truth = {}
        for unit_id, unit in self.units.items():
            for hold_id, hold in unit.holds.items():
                if hold.claim is Claim.OVER:
                    continue
                truth[hold_id] = hold.claim
                expired = hold.claim is Claim.HELD and hold.until is not None and hold.until + patience < now
                self._require(Invariant.NOTHING_AFTER_EXPIRY, not expired, unit_id, "still holds", hold_id, hold)
        believed = {
            hold_id: claim
            for request in self.requests.values()
            for hold_id, claim in request.holds.items()
            if claim is not Claim.OVER
        }
        self._require(
            Invariant.SERVICES_AGREE, believed == truth, "capacity holds", truth, "placement believes in", believed
        )

    # Causes

    def _caused(self, source: str, event: Event) -> None:
        key = (source, event.stream)
        cause = self._events.get(event.causation_id)
        unreadable = event.causation_id in self._unreadable  # by this release; a newer one acted on it
        if self._last_cause.get(key) != event.causation_id:
            self._last_cause[key] = event.causation_id
            self._decided[source, event.stream, event.causation_id] += 1
            decided = self._decided[source, event.stream, event.causation_id]
            self._require(Invariant.EFFECTS_ONCE, decided == 1, "a cause took effect twice:", event)
            by_time = event.causation_id == derived_id(event.stream, event.version - 1, "time")
            self._require(
                Invariant.EFFECTS_ONCE, cause is not None or by_time or unreadable, "an effect without a cause:", event
            )
        commanded = cause is not None and cause.source == "gateway" and cause.actor == event.actor
        spoken_for = event.actor.role is Role.SYSTEM or commanded or unreadable
        self._require(Invariant.ONLY_THE_ENTITLED, spoken_for, "nobody said this:", event)

    # Capacity

    def _capacity(self, event: Event) -> None:
        data = event.data
        if isinstance(data, UnitRegistered):
            known = data.unit_id in self.units
            self._require(Invariant.EFFECTS_ONCE, not known, "registered twice:", event)
            self.units[data.unit_id] = UnitBook(profile=data.profile, beds=data.beds, revision=event.version)
            return
        if isinstance(data, HoldRefused | HoldPlaced):
            self.hold_answers[data.hold_id] += 1
        unit = self.units.get(data.unit_id)  # type: ignore[union-attr]
        if unit is None:
            moves = isinstance(data, HoldPlaced | CapacityReported | UnitStandingChanged)
            self._require(Invariant.ONE_CLAIM_PER_BED, not moves, "beds of a unit nobody registered:", event)
            return
        match data:
            case CapacityReported():
                self._reported(unit, data, event)
            case CapacityConfirmed():
                unit.freshness = Freshness.FRESH
            case FreshnessChanged(freshness=freshness):
                unit.freshness = freshness
            case UnitStandingChanged() as said:
                told = (said.beds, said.free, said.held, said.occupied, said.blocked)
                true = unit.standing() == told and said.taken == said.beds - sum(told[1:]) >= 0
                self._require(Invariant.SERVICES_AGREE, true, "stands at", unit.standing(), "but announced", said)
            case HoldPlaced():
                self._hold_placed(unit, data, event)
            case HoldReleased(hold_id=hold_id) | HoldExpired(hold_id=hold_id) | BedsVacated(hold_id=hold_id):
                self._hold_over(unit, hold_id, event)
            case HoldMadeFirm(hold_id=hold_id):
                hold = unit.holds.get(hold_id)
                kept = hold is not None and hold.claim is Claim.HELD
                self._require(Invariant.NOTHING_AFTER_EXPIRY, kept, "made firm what was not held:", event)
                in_time = hold is not None and hold.until is not None and event.time < hold.until
                self._require(Invariant.NOTHING_AFTER_EXPIRY, in_time, "made firm after it ran out:", event)
                self._claimed(unit, hold_id, Claim.FIRM, event)
            case BedsOccupied(hold_id=hold_id):
                firm = hold_id in unit.holds and unit.holds[hold_id].claim is Claim.FIRM
                self._require(Invariant.ONE_CLAIM_PER_BED, firm, "occupied without a firm hold:", event)
                self._claimed(unit, hold_id, Claim.OCCUPIED, event)

    def _reported(self, unit: UnitBook, report: CapacityReported, event: Event) -> None:
        free, blocked = set(report.free), set(report.blocked)
        apart = not free & blocked and not (free | blocked) & unit.claims.keys()
        fits = len(free) + len(blocked) + len(unit.claims) <= report.beds
        self._require(Invariant.ONE_CLAIM_PER_BED, apart and fits, "a report typed claimed beds away:", event)
        command = self._said_by_cause(event)
        seen = isinstance(command, ReportCapacity) and command.revision_seen == unit.revision
        self._require(Invariant.ONLY_THE_ENTITLED, seen, "a report from a stale page counted:", event)
        unit.beds, unit.free, unit.blocked = report.beds, free, blocked
        unit.revision, unit.freshness = event.version, Freshness.FRESH

    def _hold_placed(self, unit: UnitBook, placed: HoldPlaced, event: Event) -> None:
        beds = set(placed.beds)
        self._require(
            Invariant.ONE_CLAIM_PER_BED, not beds & unit.claims.keys(), "a second claim:", event, "on", unit.claims
        )
        self._require(Invariant.ONE_CLAIM_PER_BED, beds <= unit.free, "held what was not free:", event)
        self._require(Invariant.EFFECTS_ONCE, placed.hold_id not in unit.holds, "placed again:", event)
        wanted = self._said_by_cause(event)
        meant = isinstance(wanted, HoldRequested) and wanted.hold_id == placed.hold_id and wanted.beds == len(beds)
        self._require(Invariant.EFFECTS_ONCE, meant, "a hold nobody asked for:", event)
        unit.holds[placed.hold_id] = HoldBook(placed.request_id, placed.beds, placed.until, Claim.HELD)
        unit.free -= beds
        unit.claims |= dict.fromkeys(placed.beds, placed.hold_id)
        unit.revision = event.version

    def _hold_over(self, unit: UnitBook, hold_id: str, event: Event) -> None:
        hold = unit.holds.get(hold_id)
        if hold is None:
            self._require(
                Invariant.ONE_CLAIM_PER_BED, isinstance(event.data, HoldReleased), "ended what never was:", event
            )
            unit.holds[hold_id] = HoldBook("", (), None, Claim.OVER)
            return
        match event.data:
            case HoldReleased():
                allowed = hold.claim in (Claim.HELD, Claim.FIRM)
            case HoldExpired():
                allowed = hold.claim is Claim.HELD and hold.until is not None and hold.until <= event.time
            case _:
                allowed = hold.claim is Claim.OCCUPIED
        self._require(Invariant.NOTHING_AFTER_EXPIRY, allowed, "ended out of turn:", event, "of", hold)
        for bed in hold.beds:
            del unit.claims[bed]
        (unit.blocked if isinstance(event.data, BedsVacated) else unit.free).update(hold.beds)
        hold.claim = Claim.OVER
        unit.revision = event.version

    def _claimed(self, unit: UnitBook, hold_id: str, claim: Claim, event: Event) -> None:
        unit.holds[hold_id].claim = claim
        unit.revision = event.version

    # Placement

    def _placement(self, event: Event) -> None:
        data = event.data
        book = self.requests.setdefault(event.stream, RequestBook())
        self._touched[event.stream] = None
        if book.over:
            self._require(
                Invariant.ONLY_THE_ENTITLED, isinstance(data, HARMLESS_WHEN_OVER), "after it was over:", event
            )
        match data:
            case RelocationRequestOpened():
                self._opened(book, data, event)
            case DetailsRecorded():
                self._learnt(book, data, event)
            case RelocationRequestRefused() | RequestWithdrawn() | PlacementEnded() | HouseholdErased():
                self._over(book, event)
            case HoldRequested():
                self._hold_requested(book, data, event)
            case ShelterAsked() | AskAccepted() | AskDeclined() | AskExpired() | AskClosed():
                self._asked(book, event)
            case HoldLost(hold_id=hold_id) | HoldReleaseRequested(hold_id=hold_id):
                standing = book.holds.get(hold_id, Claim.OVER) not in (Claim.OVER, Claim.OCCUPIED)
                self._require(Invariant.EFFECTS_ONCE, standing, "gave up a hold it did not have:", event)
                book.holds[hold_id] = Claim.OVER
            case PlacementProposed() | PlacementCountersigned() | CountersignatureRefused() | ProposalLapsed():
                self._signed(book, event)
            case ConsentRecorded() | ConsentWithdrawn():
                self._may_speak(book, event, data.by)
                book.consents[data.scope, data.country, data.by] = isinstance(data, ConsentRecorded)
            case FirmHoldRequested(hold_id=hold_id):
                self._both_signed_and_consented(book, hold_id, event)
                book.holds[hold_id] = Claim.FIRMING
            case PlacementConfirmed():
                self._confirmed(book, data, event)
            case JourneyPlanned() | DepartureRecorded() | ArrivalRecorded() | ArrivalOverdue():
                self._journey(book, event)
            case DisclosureGranted():
                self._disclosed(book, data, event)
            case NextStepSet() | DeadlineMissed():
                self._next(book, data)

    def _over(self, book: RequestBook, event: Event) -> None:
        actor = event.actor
        match event.data:
            case RelocationRequestRefused():
                allowed = book.opened is None
            case RequestWithdrawn():
                allowed = (_referred(book, actor) or _of_origin(book, actor)) and not (book.departed or book.arrived)
            case PlacementEnded(hold_id=hold_id):
                receives = _receives(book, actor) or _of_host(book, actor)
                allowed = (receives and (book.arrived or book.astray)) or (book.astray and _of_origin(book, actor))
                if book.holds.get(hold_id) is Claim.OCCUPIED:
                    book.holds[hold_id] = Claim.OVER
            case _:
                under_way = (book.departed or book.arrived) and not book.over
                allowed = actor.role is Role.AUDITOR and not under_way
                book.erased = True
        self._require(Invariant.ONLY_THE_ENTITLED, allowed, "ended by somebody who may not:", event)
        book.over = True

    def _opened(self, book: RequestBook, data: RelocationRequestOpened, event: Event) -> None:
        self._require(Invariant.EFFECTS_ONCE, book.opened is None, "opened twice:", event)
        book.opened, book.referrer = data, event.actor
        for country in data.consented_countries:
            book.consents[ConsentScope.PLACEMENT, country, ConsentBy.HOUSEHOLD] = True
        book.details = Details(
            third_country_national=data.third_country_national,
            reflection_started_on=data.reflection_started_on,
            reflection_ends_on=data.reflection_ends_on,
            region_of_stay=data.region_of_stay,
        )
        self._period(book.details, event)

    def _learnt(self, book: RequestBook, data: DetailsRecorded, event: Event) -> None:
        known, before, command = data.known, data.before, self._said_by_cause(event)
        allowed = (_referred(book, event.actor) or _of_origin(book, event.actor)) and not book.over
        self._require(Invariant.ONLY_THE_ENTITLED, allowed, "said by somebody who may not:", event)
        told = isinstance(command, RecordDetails) and all(
            getattr(command, name) == getattr(known, name)
            for name in ("third_country_national", "reflection_started_on", "region_of_stay")
        )
        self._require(Invariant.EFFECTS_ONCE, told, "records what nobody said:", event)
        seen = isinstance(command, RecordDetails) and command.version_seen == book.details_version == data.version - 1
        unseen = seen and before == book.details != known
        self._require(Invariant.EFFECTS_ONCE, unseen, "written over what was not seen:", event, book.details)
        if before.reflection_started_on == known.reflection_started_on:
            kept = before.reflection_ends_on == known.reflection_ends_on
            self._require(Invariant.EFFECTS_ONCE, kept, "moved an end nobody spoke of:", event)
        else:
            self._period(known, event)
        stays = before.region_of_stay == known.region_of_stay or not (book.departed or book.arrived)
        self._require(Invariant.ONLY_THE_ENTITLED, stays, "says where somebody is who has left:", event)
        book.details, book.details_version = known, data.version

    def _period(self, known: Details, event: Event) -> None:
        """How long it is, the rules of that day said; that it has an end with a beginning, and after it, any day can tell."""
        start, end = known.reflection_started_on, known.reflection_ends_on
        whole = end is None if start is None else end is not None and start < end
        self._require(Invariant.EFFECTS_ONCE, whole, "a period without a beginning or an end:", event)

    def _hold_requested(self, book: RequestBook, wanted: HoldRequested, event: Event) -> None:
        self._require(Invariant.EFFECTS_ONCE, wanted.hold_id not in book.holds, "requested twice:", event)
        self._safe(book, wanted.unit_id, event)
        together = book.opened is not None and wanted.beds == book.opened.household.beds
        self._require(Invariant.ONLY_THE_ENTITLED, together, "a hold for part of the household:", event)
        self._require(
            Invariant.ONLY_THE_ENTITLED, not book.refused(wanted.country), "a country they said no to:", event
        )
        book.holds[wanted.hold_id] = Claim.REQUESTED
        book.wanted[wanted.hold_id] = wanted

    def _safe(self, book: RequestBook, unit_id: str, event: Event) -> None:
        """Never where they are in danger, never a child among adults: worked out from the raw reference tables."""
        known = book.opened is not None and unit_id in self.units
        self._require(Invariant.ONLY_THE_ENTITLED, known, "a unit nobody registered:", event)
        assert book.opened is not None
        unit = self.units[unit_id].profile
        forbidden = {book.opened.danger_country}
        for zone in book.opened.danger_zones:
            forbidden.add(zone.code)
            if zone.with_neighbours:
                for code, region in self.reference.regions.items():
                    if zone.code in (code, region.country):
                        forbidden |= self.reference.adjacent[code]
        near = bool(forbidden & {unit.country, unit.region})
        self._require(Invariant.ONLY_THE_ENTITLED, not near, "placed in danger:", event, "at", unit)
        track = Track.CHILD if book.is_minor else Track.ADULT
        self._require(Invariant.ONLY_THE_ENTITLED, unit.track is track, "the wrong track:", event, "at", unit)

    def _asked(self, book: RequestBook, event: Event) -> None:
        data = event.data
        if isinstance(data, ShelterAsked):
            placed = self._said_by_cause(event)
            answered = isinstance(placed, HoldPlaced) and placed.hold_id == data.hold_id
            held = answered and book.holds.get(data.hold_id) is Claim.REQUESTED
            self._require(Invariant.EFFECTS_ONCE, held, "asked without a bed on hold:", event)
            self._require(Invariant.EFFECTS_ONCE, data.ask_id not in book.asks, "asked twice:", event)
            book.holds[data.hold_id] = Claim.HELD
            book.asks[data.ask_id] = data
            book.ask_states[data.ask_id] = AskState.OPEN
            return
        assert isinstance(data, AskAccepted | AskDeclined | AskExpired | AskClosed)
        state, ask = book.ask_states.get(data.ask_id), book.asks.get(data.ask_id)
        match data:
            case AskAccepted():
                allowed = state is AskState.OPEN and ask is not None and event.time < ask.deadline
            case AskDeclined():
                allowed = state is AskState.OPEN or (state is AskState.ACCEPTED and book.proposal is None)
            case AskExpired():
                allowed = state is AskState.OPEN and ask is not None and ask.deadline <= event.time
            case _:
                allowed = state in (AskState.OPEN, AskState.ACCEPTED)
        self._require(Invariant.NOTHING_AFTER_EXPIRY, allowed, "the question did not stand:", event, "was", state)
        if isinstance(data, AskAccepted | AskDeclined):
            theirs = ask is not None and event.actor.organisation == ask.shelter_id
            self._require(Invariant.ONLY_THE_ENTITLED, theirs, "answered for another shelter:", event)
        book.ask_states[data.ask_id] = AskState.ACCEPTED if isinstance(data, AskAccepted) else AskState.SETTLED

    def _signed(self, book: RequestBook, event: Event) -> None:
        match event.data:
            case PlacementProposed(proposal=proposal, proposal_hash=proposal_hash):
                first = book.proposal is None and book.confirmed is None
                self._require(Invariant.EFFECTS_ONCE, first, "proposed over a standing proposal:", event)
                self._require(Invariant.ONLY_THE_ENTITLED, _of_origin(book, event.actor), "not the origin's:", event)
                self._not_the_referrer(book, event)
                offered = book.ask_states.get(proposal.ask_id) is AskState.ACCEPTED
                kept = book.holds.get(proposal.hold_id) is Claim.HELD
                self._require(Invariant.NOTHING_AFTER_EXPIRY, offered and kept, "proposed without an offer:", event)
                digest = hashlib.sha256(msgspec.json.encode(proposal)).hexdigest()
                self._require(Invariant.ONLY_THE_ENTITLED, digest == proposal_hash, "signs something else:", event)
                self._require(
                    Invariant.ONLY_THE_ENTITLED,
                    proposal.rank == 1 or proposal.override is not None,
                    "no reason:",
                    event,
                )
                book.proposal, book.proposal_hash, book.proposer = proposal, proposal_hash, event.actor
            case PlacementCountersigned(proposal_hash=signed) | CountersignatureRefused(proposal_hash=signed):
                command = self._said_by_cause(event)
                shown = command.proposal if isinstance(command, CountersignPlacement) else None
                binds = shown == signed == book.proposal_hash
                self._require(Invariant.ONLY_THE_ENTITLED, binds, "signed something else than was shown:", event)
                self._require(Invariant.EFFECTS_ONCE, book.countersigner is None, "signed twice:", event)
                self._require(Invariant.ONLY_THE_ENTITLED, _of_host(book, event.actor), "not the host's:", event)
                self._not_the_referrer(book, event)
                apart = book.proposer is not None and book.proposer.person != event.actor.person
                self._require(Invariant.ONLY_THE_ENTITLED, apart, "one person signed twice:", event)
                if isinstance(event.data, PlacementCountersigned):
                    book.countersigner = event.actor
            case ProposalLapsed(proposal_hash=lapsed, signers=told):
                self._require(Invariant.EFFECTS_ONCE, lapsed == book.proposal_hash != "", "no such proposal:", event)
                signers = {signer.person for signer in (book.proposer, book.countersigner) if signer is not None}
                self._require(Invariant.NOTHING_LOST, set(told) == signers, "a signer is not told:", event, signers)
                book.proposal, book.proposal_hash, book.proposer, book.countersigner = None, "", None, None
                book.confirmed, book.journey = None, None

    def _not_the_referrer(self, book: RequestBook, event: Event) -> None:
        referred = book.referrer is not None and book.referrer.person == event.actor.person
        self._require(Invariant.ONLY_THE_ENTITLED, not referred, "the referrer signed:", event)

    def _may_speak(self, book: RequestBook, event: Event, by: ConsentBy) -> None:
        actor = event.actor
        if by is ConsentBy.GUARDIAN:
            allowed = actor.role is Role.GUARDIAN and book.is_minor
        else:
            allowed = _referred(book, actor) or _of_origin(book, actor) or _receives(book, actor)
        self._require(Invariant.ONLY_THE_ENTITLED, allowed, "spoke for the household:", event)

    def _both_signed_and_consented(self, book: RequestBook, hold_id: str, event: Event) -> None:
        proposal = book.proposal
        meant = proposal is not None and proposal.hold_id == hold_id
        self._require(Invariant.ONLY_THE_ENTITLED, meant, "no standing proposal for this hold:", event)
        assert proposal is not None
        signers = [book.referrer, book.proposer, book.countersigner]
        people = {signer.person for signer in signers if signer is not None}
        self._require(Invariant.ONLY_THE_ENTITLED, len(people) == 3, "two signatures are missing:", event, signers)
        consented = book.consented(ConsentScope.PLACEMENT, proposal.host_country)
        unbroken = not book.refused(proposal.host_country)
        self._require(Invariant.ONLY_THE_ENTITLED, consented and unbroken, "no consent:", event)

    def _confirmed(self, book: RequestBook, confirmed: PlacementConfirmed, event: Event) -> None:
        self._both_signed_and_consented(book, confirmed.hold_id, event)
        self._safe(book, confirmed.unit_id, event)
        proposal, unit = book.proposal, self.units[confirmed.unit_id]
        same = (
            proposal is not None
            and (proposal.unit_id, proposal.shelter_id, proposal.host_country, book.proposal_hash)
            == (confirmed.unit_id, confirmed.shelter_id, confirmed.host_country, confirmed.proposal_hash)
            and (unit.profile.shelter_id, unit.profile.country) == (confirmed.shelter_id, confirmed.host_country)
        )
        self._require(Invariant.ONLY_THE_ENTITLED, same, "confirmed something else than was signed:", event)
        hold = unit.holds.get(confirmed.hold_id)
        firm = hold is not None and hold.claim is Claim.FIRM and book.holds[confirmed.hold_id] is Claim.FIRMING
        self._require(Invariant.NOTHING_AFTER_EXPIRY, firm, "confirmed without a firm hold:", event, hold)
        book.holds[confirmed.hold_id] = Claim.FIRM
        book.confirmed = confirmed

    def _journey(self, book: RequestBook, event: Event) -> None:
        actor, data = event.actor, event.data
        confirmed = book.confirmed is not None
        match data:
            case JourneyPlanned():
                allowed = confirmed and _of_origin(book, actor) and not book.departed
                self._require(
                    Invariant.ONLY_THE_ENTITLED, data.arrival_due > event.time, "planned for the past:", event
                )
                book.journey = data
                grace = timedelta(minutes=self.reference.clocks.arrival_grace_minutes)
                book.arrives_by = data.arrival_due + grace
            case DepartureRecorded():
                willing = book.confirmed is not None and book.consented(
                    ConsentScope.TRANSPORT, book.confirmed.host_country
                )
                self._require(Invariant.ONLY_THE_ENTITLED, willing, "departed without consent:", event)
                sent = _of_origin(book, actor) or _escorts(book, actor) or _referred(book, actor)
                allowed = confirmed and book.journey is not None and sent and not book.departed
                book.departed = True
            case ArrivalRecorded(outcome=ArrivalOutcome.ARRIVED, hold_id=hold_id):
                allowed = confirmed and not book.arrived and (_receives(book, actor) or _of_host(book, actor))
                book.holds[hold_id] = Claim.OCCUPIED
                book.arrived, book.astray = True, False
            case ArrivalOverdue():
                allowed = book.missing_from is not None and book.missing_from <= event.time and not book.overdue
                book.overdue = True
            case _:
                may = _receives(book, actor) or _of_host(book, actor) or _of_origin(book, actor)
                allowed = book.departed and not book.arrived and (may or _escorts(book, actor))
                book.astray = True
        self._require(Invariant.ONLY_THE_ENTITLED, allowed, "moved by somebody who may not:", event)

    def _next(self, book: RequestBook, said: NextStepSet | DeadlineMissed) -> None:
        if isinstance(said, NextStepSet):
            book.next_step = said
        elif book.next_step is not None:
            book.next_step = msgspec.structs.replace(book.next_step, deadline=said.next_deadline)

    def _disclosed(self, book: RequestBook, granted: DisclosureGranted, event: Event) -> None:
        actor = event.actor
        named = granted.recipient == actor.person and actor.role is not Role.SYSTEM
        self._require(Invariant.ONLY_THE_ENTITLED, named, "shown to somebody unnamed:", event)
        minutes = timedelta(minutes=self.reference.clocks.disclosure_minutes)
        brief = event.time < granted.expires_at <= event.time + minutes
        self._require(Invariant.NOTHING_AFTER_EXPIRY, brief and not book.over, "shown too long:", event)
        sender = _of_origin(book, actor) or _referred(book, actor)
        on_the_way = book.confirmed is not None and not book.arrived
        host = _receives(book, actor) or _of_host(book, actor) or _escorts(book, actor)
        allowed = (granted.field is SealedField.CALLBACK and sender) or (on_the_way and (host or sender))
        self._require(Invariant.NOTHING_AFTER_EXPIRY, allowed, "shown outside its window:", event)

    # Raising

    def _said_by_cause(self, event: Event) -> object:
        cause = self._events.get(event.causation_id)
        return None if cause is None else cause.data

    def _require(self, invariant: Invariant, holds: bool, *detail: object) -> None:
        self.checked[invariant] += 1
        if not holds:
            self.violated(invariant, *detail)

    def violated(self, invariant: Invariant, *detail: object) -> NoReturn:
        """Raises, naming seed and step."""
        raise InvariantViolated(invariant, self.seed, self.step, " ".join(map(str, detail)))


def _of_origin(book: RequestBook, actor: Actor) -> bool:
    return book.opened is not None and actor.role is Role.COORDINATOR and actor.country == book.opened.danger_country


def _of_host(book: RequestBook, actor: Actor) -> bool:
    return book.proposal is not None and actor.role is Role.COORDINATOR and actor.country == book.proposal.host_country


def _referred(book: RequestBook, actor: Actor) -> bool:
    return (
        book.referrer is not None and actor.role is Role.REFERRER and actor.organisation == book.referrer.organisation
    )


def _receives(book: RequestBook, actor: Actor) -> bool:
    return book.confirmed is not None and actor.role is Role.SHELTER and actor.organisation == book.confirmed.shelter_id


def _escorts(book: RequestBook, actor: Actor) -> bool:
    return book.journey is not None and actor.role is Role.ESCORT and actor.person == book.journey.escort


def causally(logs: Mapping[str, Sequence[Event | UnreadableEvent]]) -> Iterator[tuple[str, Event | UnreadableEvent]]:
    """All logs as one history: each in its own order, every event after the one that caused it, and as early as that
    allows in the order in which `logs` names them. Raises ValueError when an effect comes before its cause."""
    ids = {event.id for log in logs.values() for event in log}
    seen: set[str] = set()
    heads = dict.fromkeys(logs, 0)

    def is_ready(source: str) -> bool:
        if heads[source] == len(logs[source]):
            return False
        event = logs[source][heads[source]]
        cause = event.id if isinstance(event, UnreadableEvent) else event.causation_id
        return cause in seen or cause == event.id or cause not in ids

    while any(heads[source] < len(log) for source, log in logs.items()):
        source = next((source for source in logs if is_ready(source)), None)
        if source is None:
            raise ValueError(f"effects before their causes at {heads}")
        event = logs[source][heads[source]]
        heads[source] += 1
        seen.add(event.id)
        yield source, event


def audit(
    reference: Reference,
    deciders: Mapping[str, Decider[Any]],
    logs: Mapping[str, Sequence[Event | UnreadableEvent]],
    *,
    seed: int = 0,
) -> Checker:
    """Checks whole logs after the fact; the order of `logs` is gateway, capacity, placement. Raises InvariantViolated."""
    checker = Checker(reference, deciders, seed=seed)
    for step, (source, event) in enumerate(causally(logs)):
        checker.step = step
        checker.see(source, event)
    checker.rest()
    return checker
