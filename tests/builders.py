"""Households, units, people and requests for tests, in the words of the domain. All of it is synthetic."""

from datetime import datetime, timedelta
from typing import Any

from msgspec.structs import replace

import reference
from events.capacity import HoldMadeFirm, HoldPlaced
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
    RegisterUnit,
    ReportCapacity,
    RequestDisclosure,
    WithdrawRequest,
)
from events.log.decider import Context
from events.placement import CommandRefused
from events.vocabulary import (
    Actor,
    AgeStatus,
    ArrivalOutcome,
    ConsentBy,
    ConsentScope,
    DeclineReason,
    DisclosureReason,
    EndingReason,
    Freshness,
    Group,
    Household,
    OverrideReason,
    Role,
    Sealed,
    SealedField,
    Stage,
    Step,
    Track,
    UnitProfile,
    Urgency,
    WithdrawalReason,
)
from reference import Rhythm, UrgencyClocks
from services.capacity.domain.unit import Unit, UnitDecider
from services.placement.domain.matching import UnitFacts
from services.placement.domain.process import PlacementFacts
from services.placement.domain.relocation_request import RelocationRequestDecider
from services.placement.domain.request import Ask, AskStage, HoldStage, Request
from tests.spec import MONDAY_NOON, Story

REFERENCE = replace(
    reference.load(),
    clocks=replace(
        reference.load().clocks,
        # Fixed here, so that a changed assumption about time does not change what these tests say about rules.
        urgent=UrgencyClocks(parallel_asks=2, ask_minutes=30, hold_minutes=120, step_minutes=60, review_hours=4),
        standard=UrgencyClocks(parallel_asks=1, ask_minutes=480, hold_minutes=2880, step_minutes=1440, review_hours=24),
        disclosure_minutes=15,
        arrival_grace_minutes=60,
        escalation_cap_hours=24,
        stay_review_days=90,
        ring_again_minutes=10,
        call_after_minutes=20,
    ),
)
RHYTHM = Rhythm(fresh=timedelta(hours=12), ageing=timedelta(hours=24), overdue=timedelta(hours=72))
SEALED = Sealed(algorithm="synthetic", key_id="key-1", box="c3ludGhldGlj")
REQUEST = "request-1"


# People


def a_person(role: Role, country: str, organisation: str, person: str = "") -> Actor:
    return Actor(person=person or f"{role}-{country}", role=role, organisation=organisation, country=country)


def a_referrer(person: str = "referrer-BE", organisation: str = "police-BE") -> Actor:
    return a_person(Role.REFERRER, "BE", organisation, person)


def a_coordinator(country: str, person: str = "") -> Actor:
    return a_person(Role.COORDINATOR, country, f"focal-point-{country}", person)


def a_guardian(country: str = "BE") -> Actor:
    return a_person(Role.GUARDIAN, country, f"guardianship-{country}")


def an_escort(person: str = "escort-1") -> Actor:
    return a_person(Role.ESCORT, "BE", "transport-BE", person)


def an_auditor() -> Actor:
    return a_person(Role.AUDITOR, "BE", "inspectorate-BE")


def shelter_staff(unit_id: str = "u1", country: str = "NL") -> Actor:
    """Somebody at the shelter of a unit made by `a_unit`."""
    return a_person(Role.SHELTER, country, f"shelter-{unit_id}", f"staff-{unit_id}")


# Households and units


def a_household(**people: Any) -> Household:
    """A woman with a small child, or exactly the people named."""
    return Household(**(people or {"women": 1, "children_under_6": 1}))


def a_presumed_minor() -> Household:
    return Household(children_12_to_17=1, age_status=AgeStatus.PRESUMED_MINOR)


def a_profile(unit_id: str = "u1", country: str = "NL", region: str = "", **changes: Any) -> UnitProfile:
    somewhere = {"BE": "BE21", "NL": "NL32", "LU": "LU00"}
    profile = UnitProfile(
        unit_id=unit_id,
        shelter_id=f"shelter-{unit_id}",
        country=country,
        region=region or somewhere[country],
        accepts=tuple(Group),
        languages=("en",),
    )
    return replace(profile, **changes)


def a_unit(
    unit_id: str = "u1",
    country: str = "NL",
    region: str = "",
    *,
    free: int = 2,
    freshness: Freshness = Freshness.FRESH,
    **profile: Any,
) -> UnitFacts:
    """What placement believes of a unit."""
    return UnitFacts(profile=a_profile(unit_id, country, region, **profile), free=free, freshness=freshness)


def three_units() -> tuple[UnitFacts, ...]:
    """Ranked by tight fit: u1 in the Netherlands, u2 in Luxembourg, u3 in the Netherlands."""
    return a_unit("u1", free=2), a_unit("u2", "LU", free=3), a_unit("u3", free=4)


def a_child_unit() -> UnitFacts:
    return a_unit("u1", track=Track.CHILD)


def every_bed_is_somewhere(unit: Unit) -> None:
    """Free, blocked and claimed beds are three different things, and no bed is in two claims."""
    claims = [bed for hold in unit.holds.values() if hold.stage != "over" for bed in hold.beds]
    assert len(claims) == len(set(claims)), "a bed is in two claims"
    assert not unit.free & unit.blocked
    assert not unit.claimed & (unit.free | unit.blocked)
    if (standing := unit.announced) is not None:
        counted = standing.free + standing.held + standing.occupied + standing.blocked + standing.taken
        assert counted == standing.beds
        assert min(standing.free, standing.held, standing.occupied, standing.blocked, standing.taken) >= 0
        assert (standing.free, standing.blocked) == (len(unit.free), len(unit.blocked))


def a_unit_nobody_registered() -> Story:
    return Story(UnitDecider({"NL": RHYTHM}), promise=every_bed_is_somewhere)


def a_unit_with_beds(beds: int, free: int | None = None, blocked: int = 0) -> Story:
    """A registered unit in the Netherlands with one report, made now."""
    story = a_unit_nobody_registered()
    story.when(RegisterUnit(unit_id="u1", profile=a_profile(), beds=beds), by=shelter_staff())
    report = ReportCapacity(
        unit_id="u1",
        revision_seen=story.state.revision,
        beds=beds,
        free=beds - blocked if free is None else free,
        blocked=blocked,
    )
    return story.when(report, by=shelter_staff())


# A request, step by step


def somebody_owns_it(request: Request) -> None:
    """Nothing is a dead end: a request that is not over names an owner, a step and a deadline."""
    if request.opened is None:
        return
    step = request.next_step
    assert step is not None
    assert step.stage is request.stage
    if not request.over:
        assert step.owner
        assert step.steps
        assert step.deadline is not None
        for one in step.steps:
            assert its_owner_may_take(one, request), f"{one} is owed by a {step.owner} who may not"
    else:
        assert not step.steps
        assert step.deadline is None
        assert not request.open_asks()
        assert not [h for h in request.holds.values() if h.stage is not HoldStage.OVER]


def its_owner_may_take(step: Step, request: Request) -> bool:
    """Whether somebody who owes a step can do it: a colleague of those who acted before, in at least one way of doing it."""
    if step in (Step.WAIT_FOR_HOLD, Step.WAIT_FOR_FIRM_HOLD):
        return request.next_step.owner is Role.SYSTEM
    now = request.opened_at
    country = request.proposal.host_country if request.proposal else ""
    commands = {
        Step.ANSWER_ASK: [AnswerAsk(request_id=REQUEST, ask_id=ask.ask_id) for ask in request.open_asks()],
        Step.PROPOSE_PLACEMENT: [ProposePlacement(request_id=REQUEST, ask_id=ask.ask_id) for ask in request.offers()],
        Step.COUNTERSIGN_PLACEMENT: [CountersignPlacement(request_id=REQUEST, proposal=request.proposal_hash)],
        Step.RECORD_CONSENT: [consent(country=country)],
        Step.RECORD_GUARDIAN_CONSENT: [consent(country=country, by="guardian")],
        Step.PLAN_JOURNEY: [
            PlanJourney(request_id=REQUEST, escort="escort-2", arrival_due=now + timedelta(days=1), steps=SEALED)
        ],
        Step.RECORD_DEPARTURE: [RecordDeparture(request_id=REQUEST)],
        Step.RECORD_ARRIVAL: [RecordArrival(request_id=REQUEST, outcome=outcome) for outcome in ArrivalOutcome],
        Step.END_PLACEMENT: [EndPlacement(request_id=REQUEST, reason=EndingReason.MOVED_ON)],
        # Where they should be met, to look for them there.
        Step.FIND_HOUSEHOLD: [_wants_to_see(SealedField.RENDEZVOUS, DisclosureReason.OVERDUE_ARRIVAL)],
        # Nothing to send: they speak with the household, whose word they may take down and whose referrer they may call.
        Step.FIND_ALTERNATIVE: [consent(country="LU"), consent(country="LU", by="guardian")],
    }
    return any(_may(person, command, request, now) for command in commands[step] for person in _who_owes(request))


def _wants_to_see(field: SealedField, reason: DisclosureReason) -> RequestDisclosure:
    return RequestDisclosure(
        request_id=REQUEST, disclosure_id="disclosure-2", field=field, reason=reason, recipient="a-colleague"
    )


def _who_owes(request: Request) -> list[Actor]:
    """Everybody whom a next step can mean: the owner, in the country that is named, in each house that may be."""
    step = request.next_step
    asked = {(ask.shelter_id, ask.country) for ask in request.open_asks()}
    if request.confirmed is not None:
        asked = {(request.confirmed.shelter_id, request.confirmed.host_country)}
    if step.owner is Role.SHELTER:
        return [a_person(Role.SHELTER, country, shelter, "a-colleague") for shelter, country in asked]
    return [a_person(step.owner, step.owner_country, f"{step.owner}-{step.owner_country}", "a-colleague")]


def _may(person: Actor, command: Command, request: Request, now: datetime) -> bool:
    context = Context(now=now, actor=person, cause_id="a-try", facts=PlacementFacts(REFERENCE, three_units))
    facts = RelocationRequestDecider().decide(request, command, context)
    return not all(isinstance(fact, CommandRefused) for fact in facts)


def an_opening(**changes: Any) -> OpenRelocationRequest:
    opening = OpenRelocationRequest(
        request_id=REQUEST,
        urgency=Urgency.URGENT,
        danger_country="BE",
        household=a_household(),
        languages=("en",),
        callback=SEALED,
    )
    return replace(opening, **changes)


def nothing_yet(*units: UnitFacts, now: Any = MONDAY_NOON) -> Story:
    facts = PlacementFacts(reference=REFERENCE, units=lambda: units or three_units())
    return Story(RelocationRequestDecider(), facts=facts, now=now, promise=somebody_owns_it)


def units_are_now(story: Story, *units: UnitFacts) -> Story:
    story.facts = PlacementFacts(reference=REFERENCE, units=lambda: units)
    return story


def a_relocation_request(*units: UnitFacts, now: Any = MONDAY_NOON, **changes: Any) -> Story:
    """Opened by the police in Belgium; it has asked capacity to hold beds, and waits."""
    return nothing_yet(*units, now=now).when(an_opening(**changes), by=a_referrer())


def beds_are_held(story: Story) -> Story:
    """Capacity grants every hold that was asked for."""
    for hold in story.state.holds_in(HoldStage.REQUESTED):
        story.when(
            HoldPlaced(unit_id=hold.unit_id, hold_id=hold.hold_id, request_id=REQUEST, beds=(1, 2), until=hold.until)
        )
    return story


def the_ask(story: Story, unit_id: str = "u1") -> Ask:
    """The latest question to this unit."""
    return [ask for ask in story.state.asks.values() if ask.unit_id == unit_id][-1]


def answer_from(story: Story, unit_id: str = "u1", decline: DeclineReason | None = None) -> Story:
    ask = the_ask(story, unit_id)
    rendezvous = None if decline else SEALED
    return story.when(
        AnswerAsk(request_id=REQUEST, ask_id=ask.ask_id, decline=decline, rendezvous=rendezvous),
        by=shelter_staff(unit_id, ask.country),
    )


def proposed(story: Story, unit_id: str = "u1", override: OverrideReason | None = None) -> Story:
    command = ProposePlacement(request_id=REQUEST, ask_id=the_ask(story, unit_id).ask_id, override=override)
    return story.when(command, by=a_coordinator("BE"))


def countersigned(story: Story, by: Actor | None = None) -> Story:
    command = CountersignPlacement(request_id=REQUEST, proposal=story.state.proposal_hash)
    return story.when(command, by=by or a_coordinator(story.state.proposal.host_country))


def consent(
    given: bool = True, country: str = "NL", scope: ConsentScope = ConsentScope.PLACEMENT, by: str = "household"
) -> RecordConsent:
    return RecordConsent(request_id=REQUEST, scope=scope, country=country, given=given, by=ConsentBy(by))


def consented(story: Story, scope: ConsentScope = ConsentScope.PLACEMENT) -> Story:
    country = story.state.proposal.host_country
    if story.state.is_minor():
        return story.when(consent(country=country, scope=scope, by="guardian"), by=a_guardian())
    return story.when(consent(country=country, scope=scope), by=a_referrer())


def made_firm(story: Story) -> Story:
    hold = story.state.holds[story.state.proposal.hold_id]
    return story.when(HoldMadeFirm(unit_id=hold.unit_id, hold_id=hold.hold_id, request_id=REQUEST))


def journey_planned(story: Story, **due_in: float) -> Story:
    due = story.now + timedelta(**(due_in or {"hours": 3}))
    command = PlanJourney(request_id=REQUEST, escort=an_escort().person, arrival_due=due, steps=SEALED)
    return story.when(command, by=a_coordinator("BE"))


def departed(story: Story) -> Story:
    return story.when(RecordDeparture(request_id=REQUEST), by=an_escort())


def arrival(story: Story, outcome: ArrivalOutcome = ArrivalOutcome.ARRIVED, unit_id: str = "u1") -> Story:
    return story.when(RecordArrival(request_id=REQUEST, outcome=outcome), by=shelter_staff(unit_id))


def ended(story: Story, unit_id: str = "u1") -> Story:
    return story.when(EndPlacement(request_id=REQUEST, reason=EndingReason.MOVED_ON), by=shelter_staff(unit_id))


def withdrawn(story: Story) -> Story:
    command = WithdrawRequest(request_id=REQUEST, reason=WithdrawalReason.DANGER_PASSED)
    return story.when(command, by=a_referrer())


def erased(story: Story) -> Story:
    return story.when(EraseHousehold(request_id=REQUEST), by=an_auditor())


def travelling(story: Story) -> Story:
    return departed(consented(journey_planned(story), ConsentScope.TRANSPORT))


ALONG_THE_WAY = (
    (Stage.SHORTLISTED, lambda story: story),
    (Stage.ASKED, beds_are_held),
    (Stage.OFFERED, answer_from),
    (Stage.PROPOSED, proposed),
    (Stage.COUNTERSIGNED, countersigned),
    (Stage.CONSENTED, consented),
    (Stage.CONFIRMED, made_firm),
    (Stage.DEPARTED, travelling),
    (Stage.ARRIVED, arrival),
    (Stage.ENDED, ended),
)
"""The life of a request, and what brings it to each stage."""


def a_request_that_is(stage: Stage, *units: UnitFacts, **changes: Any) -> Story:
    """A request brought to `stage` by the commands and events that lead there."""
    if stage is Stage.RECEIVED:
        return nothing_yet(*units)
    if stage is Stage.REFUSED:
        return a_relocation_request(*units, household=Household())
    if stage is Stage.WITHDRAWN:
        return withdrawn(a_relocation_request(*units, **changes))
    if stage is Stage.ERASED:
        return erased(a_relocation_request(*units, **changes))
    if stage is Stage.UNMET_NEED:
        return a_relocation_request(a_unit("full", free=0), **changes)
    if stage is Stage.ASTRAY:
        return arrival(a_request_that_is(Stage.DEPARTED, *units, **changes), ArrivalOutcome.NOT_ARRIVED)
    story = a_relocation_request(*units, **changes)
    for reached, step in ALONG_THE_WAY:
        step(story)
        if reached is stage:
            break
    assert story.state.stage is stage, story.state.stage
    story.events = []
    return story


def open_asks(story: Story) -> list[str]:
    """Units with a question open, in the order in which they were asked."""
    return [ask.unit_id for ask in story.state.asks.values() if ask.stage is AskStage.OPEN]
