"""Time as a source of events: nothing is forgotten, nobody is flooded, and a timer always moves on."""

from datetime import timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from events.capacity import (
    FirmHoldRefused,
    FirmRefusal,
    HoldExpired,
    HoldMadeFirm,
    HoldPlaced,
    HoldRefusal,
    HoldRefused,
)
from events.gateway import AnswerAsk, CountersignPlacement, ProposePlacement, RecordArrival
from events.log.decider import TimePassed
from events.placement import AskExpired, DeadlineMissed, HoldRequested, NextStepSet, UnmetNeedRecorded
from events.vocabulary import (
    ArrivalOutcome,
    ConsentScope,
    DeclineReason,
    OverrideReason,
    SignatureRefusal,
    Stage,
    Urgency,
)
from services.placement.domain.request import OVER, HoldStage
from tests import builders as a
from tests.spec import Story, replayed

WAITS_FOR_SOMEBODY = [
    Stage.SHORTLISTED,
    Stage.OFFERED,
    Stage.PROPOSED,
    Stage.COUNTERSIGNED,
    Stage.CONSENTED,
    Stage.CONFIRMED,
    Stage.UNMET_NEED,
    Stage.ASTRAY,
    Stage.ARRIVED,
]


def alone_at(stage: Stage, **changes) -> Story:
    """At `stage`, with no other question open that time could answer."""
    return a.a_request_that_is(stage, a.a_unit("u1"), **changes)


@pytest.mark.parametrize("stage", WAITS_FOR_SOMEBODY)
def test_an_owner_who_does_nothing_is_reminded_at_the_deadline_and_not_before(stage: Stage) -> None:
    story = alone_at(stage)
    step, deadline = story.state.next_step.steps[0], story.state.next_step.deadline
    story.and_time_passes(until=deadline - timedelta(microseconds=1)).nothing_happens()
    story.and_time_passes(until=deadline)
    again = timedelta(days=90) if stage is Stage.ARRIVED else timedelta(minutes=60)
    story.then(DeadlineMissed(request_id=a.REQUEST, step=step, times=1, next_deadline=deadline + again))
    assert story.state.stage is stage


@pytest.mark.parametrize(
    ("urgency", "waits"),
    [
        (Urgency.URGENT, [1, 2, 4, 8, 16, 24, 24]),  # hours, after a first hour
        (Urgency.STANDARD, [24, 24, 24]),
    ],
)
def test_reminders_come_at_half_the_pace_each_time_until_one_a_day(urgency: Urgency, waits: list[int]) -> None:
    story = alone_at(Stage.PROPOSED, urgency=urgency)
    for times, wait in enumerate(waits, 1):
        story.and_time_passes(until=story.state.next_step.deadline)
        missed = story.the_last(DeadlineMissed)
        assert missed.times == times
        assert missed.next_deadline - story.now == timedelta(hours=wait)


@pytest.mark.parametrize("urgency", Urgency)
@pytest.mark.parametrize("stage", [stage for stage in WAITS_FOR_SOMEBODY if stage is not Stage.ARRIVED])
def test_a_year_without_anybody_still_reminds_once_a_day(stage: Stage, urgency: Urgency) -> None:
    story = a.a_request_that_is(stage, a.a_unit("u1"), urgency=urgency).and_time_passes(days=365)
    assert story.state.next_step.deadline - story.now <= timedelta(days=1)
    assert story.state.missed > 100


def test_a_long_stay_is_reviewed_every_three_months_and_alarms_nobody_in_between() -> None:
    story = a.a_request_that_is(Stage.ARRIVED).and_time_passes(days=365)
    assert len(story.all_of(DeadlineMissed)) == 4


def test_a_step_that_was_taken_starts_a_new_clock() -> None:
    story = a.a_request_that_is(Stage.PROPOSED).and_time_passes(hours=5)
    assert story.state.missed == 3
    a.countersigned(story)
    assert story.state.missed == 0
    assert story.state.next_step.deadline == story.now + timedelta(hours=1)


def test_an_offer_is_decided_before_its_beds_run_out() -> None:
    story = alone_at(Stage.ASKED)
    story.now += timedelta(minutes=29)
    assert a.answer_from(story).state.next_step.deadline == story.now + timedelta(hours=1)
    late = a.a_relocation_request(a.a_unit("u1"))
    late.now += timedelta(minutes=100)
    a.answer_from(a.beds_are_held(late))
    assert late.state.next_step.deadline == a.MONDAY_NOON + timedelta(hours=2)


def test_a_late_timer_makes_up_for_everything_that_was_due() -> None:
    """The node was down for an hour: a question is over, and so is the focal point's time to choose."""
    story = a.a_request_that_is(Stage.OFFERED).a_late_timer_fires(hours=1)
    assert {AskExpired, DeadlineMissed} <= {type(fact) for fact in story.events}


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage is not Stage.OPENED])
def test_time_that_passes_too_early_changes_nothing(stage: Stage) -> None:
    a.a_request_that_is(stage).when(TimePassed()).nothing_happens()


@pytest.mark.parametrize("stage", [Stage.RECEIVED, *sorted(OVER)])
def test_a_request_that_is_over_or_not_there_has_no_timer(stage: Stage) -> None:
    story = a.a_request_that_is(stage)
    assert story.decider.due(story.state) is None


def test_an_unmet_need_is_looked_at_every_few_hours_for_as_long_as_it_lasts() -> None:
    story = a.beds_are_held(a.a_relocation_request(a.a_unit("u1")))
    a.answer_from(story, "u1", DeclineReason.NO_SPACE)
    for _ in range(3):
        story.and_time_passes(hours=4)
        a.answer_from(a.beds_are_held(story), "u1", DeclineReason.NO_SPACE)
    assert len(story.all_of(UnmetNeedRecorded)) == 4
    assert len(story.all_of(HoldRequested)) == 4


def test_a_race_lost_for_a_bed_does_not_put_off_the_review_of_an_unmet_need() -> None:
    """Others open and lose beds all the time; the household that loses each time must not be reviewed last."""
    story = a.a_relocation_request(a.a_unit("u1", free=0))
    assert story.state.stage is Stage.UNMET_NEED
    review = story.state.next_step.deadline
    story.now += timedelta(hours=1)
    a.units_are_now(story, a.a_unit("u1"))
    story.when(TimePassed())
    a.units_are_now(story, a.a_unit("u1", free=0))
    hold = next(iter(story.state.holds))
    refused = HoldRefused(unit_id="u1", hold_id=hold, request_id=a.REQUEST, reason=HoldRefusal.NOT_ENOUGH_BEDS)
    story.when(refused)
    assert story.state.stage is Stage.UNMET_NEED
    assert story.state.next_step.deadline == review


UNITS = (a.a_unit("u1"), a.a_unit("u2", "LU"), a.a_unit("u3", free=3), a.a_unit("u4", "LU", free=4))


class AnythingMayHappen(RuleBasedStateMachine):
    """Commands, capacity's answers, late and early timers in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.story = a.a_relocation_request(*UNITS)

    def a_hold(self, which: int):
        holds = list(self.story.state.holds.values())
        return holds[which % len(holds)] if holds else None

    def an_ask(self, which: int):
        asks = list(self.story.state.asks.values())
        return asks[which % len(asks)] if asks else None

    @rule(which=st.integers(0, 9), says=st.sampled_from(["placed", "refused", "expired", "firm", "not firm"]))
    def capacity_speaks(self, which: int, says: str) -> None:
        if (hold := self.a_hold(which)) is None:
            return
        ids = {"unit_id": hold.unit_id, "hold_id": hold.hold_id, "request_id": a.REQUEST}
        message = {
            "placed": HoldPlaced(**ids, beds=(1, 2), until=hold.until),
            "refused": HoldRefused(**ids, reason=HoldRefusal.NOT_ENOUGH_BEDS),
            "expired": HoldExpired(**ids),
            "firm": HoldMadeFirm(**ids),
            "not firm": FirmHoldRefused(**ids, reason=FirmRefusal.HOLD_EXPIRED),
        }[says]
        # What capacity would never say of such a hold: a firm one does not run out, one that is over is not made firm.
        if hold.stage in (HoldStage.FIRM, HoldStage.OCCUPIED) and says != "placed":
            return
        self.story.when(message)

    @rule(steps=st.integers(1, 5))
    def everybody_does_their_part(self, steps: int) -> None:
        for _ in range(steps):
            state = self.story.state
            chosen = next((ask.unit_id for ask in state.open_asks() or state.offers()), "")
            unit = state.confirmed.unit_id if state.confirmed else chosen
            match state.stage:
                case Stage.SHORTLISTED:
                    a.beds_are_held(self.story)
                case Stage.ASKED:
                    a.answer_from(self.story, unit)
                case Stage.OFFERED:
                    a.proposed(self.story, state.offers()[0].unit_id, OverrideReason.TRAVEL)
                case Stage.PROPOSED:
                    a.countersigned(self.story)
                case Stage.COUNTERSIGNED:
                    a.consented(self.story)
                case Stage.CONSENTED:
                    a.made_firm(self.story)
                case Stage.CONFIRMED:
                    a.travelling(self.story)
                case Stage.DEPARTED | Stage.ASTRAY:
                    a.arrival(self.story, unit_id=unit)

    @rule(which=st.integers(0, 9), decline=st.none() | st.sampled_from(DeclineReason))
    def a_shelter_answers(self, which: int, decline: DeclineReason | None) -> None:
        if ask := self.an_ask(which):
            command = AnswerAsk(request_id=a.REQUEST, ask_id=ask.ask_id, decline=decline)
            self.story.when(command, by=a.shelter_staff(ask.unit_id, ask.country))

    @rule(which=st.integers(0, 9))
    def the_origin_proposes(self, which: int) -> None:
        if ask := self.an_ask(which):
            command = ProposePlacement(request_id=a.REQUEST, ask_id=ask.ask_id, override=OverrideReason.TRAVEL)
            self.story.when(command, by=a.a_coordinator("BE"))

    @precondition(lambda self: self.story.state.proposal)
    @rule(refusal=st.sampled_from([None, None, *SignatureRefusal]))
    def the_host_signs_or_refuses(self, refusal: SignatureRefusal | None) -> None:
        state = self.story.state
        command = CountersignPlacement(request_id=a.REQUEST, proposal=state.proposal_hash, refusal=refusal)
        self.story.when(command, by=a.a_coordinator(state.proposal.host_country))

    @rule(given=st.booleans(), country=st.sampled_from(["NL", "LU"]), scope=st.sampled_from(ConsentScope))
    def the_household_says(self, given: bool, country: str, scope: ConsentScope) -> None:
        self.story.when(a.consent(given, country, scope), by=a.a_referrer())

    @rule()
    def the_journey_is_planned(self) -> None:
        a.journey_planned(self.story)

    @rule()
    def they_leave(self) -> None:
        a.departed(self.story)

    @rule(outcome=st.sampled_from(ArrivalOutcome))
    def somebody_looks_for_them_at_the_door(self, outcome: ArrivalOutcome) -> None:
        host = self.story.state.proposal.host_country if self.story.state.proposal else "NL"
        self.story.when(RecordArrival(request_id=a.REQUEST, outcome=outcome), by=a.a_coordinator(host))

    @precondition(lambda self: self.story.state.stage in (Stage.ARRIVED, Stage.ASTRAY))
    @rule()
    def the_placement_ends(self) -> None:
        a.ended(self.story, self.story.state.confirmed.unit_id)

    @precondition(lambda self: len(self.story.history) > 20)
    @rule(ending=st.sampled_from([a.withdrawn, a.erased]))
    def it_is_withdrawn_or_erased(self, ending) -> None:
        ending(self.story)

    @rule(minutes=st.sampled_from([1, 30, 60, 120, 241]))
    def time_passes(self, minutes: int) -> None:
        self.story.and_time_passes(minutes=minutes)

    @rule(minutes=st.sampled_from([0, 31, 61, 1500]))
    def a_late_timer_fires(self, minutes: int) -> None:
        self.story.a_late_timer_fires(minutes=minutes)

    @invariant()
    def no_more_beds_are_kept_from_others_than_the_urgency_allows(self) -> None:
        state = self.story.state
        most = a.REFERENCE.clocks.urgent.parallel_asks
        assert len(state.holds_in(HoldStage.REQUESTED, HoldStage.HELD)) <= most
        assert len(state.holds_in(HoldStage.FIRM_REQUESTED, HoldStage.FIRM, HoldStage.OCCUPIED)) <= 1

    @invariant()
    def a_question_stands_only_while_its_beds_are_held(self) -> None:
        state = self.story.state
        assert all(state.holds[ask.hold_id].stage is HoldStage.HELD for ask in state.open_asks())

    @invariant()
    def a_household_is_never_asked_for_where_it_said_no(self) -> None:
        state = self.story.state
        live = state.holds_in(HoldStage.REQUESTED, HoldStage.HELD, HoldStage.FIRM_REQUESTED)
        assert not {hold.country for hold in live} & state.refused_countries()

    @invariant()
    def what_is_over_stays_over(self) -> None:
        told = [event.data.stage for event in self.story.history if isinstance(event.data, NextStepSet)]
        ended = [number for number, stage in enumerate(told) if stage in OVER]
        assert all(stage in OVER for stage in told[ended[0] :]) if ended else True

    def teardown(self) -> None:
        assert replayed(self.story) == self.story.state


TestAnythingMayHappen = AnythingMayHappen.TestCase
TestAnythingMayHappen.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
