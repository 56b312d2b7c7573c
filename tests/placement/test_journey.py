"""From a confirmed bed to the household being there: the most dangerous hours, each with an owner."""

from datetime import timedelta

import pytest

from events.gateway import PlanJourney, RecordArrival, RecordDeparture
from events.placement import (
    ArrivalOverdue,
    ArrivalRecorded,
    CommandHadNoEffect,
    DeadlineMissed,
    DepartureRecorded,
    HoldReleaseRequested,
    JourneyPlanned,
    NextStepSet,
    PlacementEnded,
    Refusal,
)
from events.vocabulary import ArrivalOutcome, ConsentScope, Role, Stage, Step
from services.placement.domain.request import HoldStage
from tests import builders as a
from tests.spec import Story

LOST = [ArrivalOutcome.NOT_ARRIVED, ArrivalOutcome.ARRIVED_ELSEWHERE]


def ready_to_leave() -> Story:
    """Planned to arrive in three hours, and agreed to."""
    return a.consented(a.journey_planned(a.a_request_that_is(Stage.CONFIRMED)), ConsentScope.TRANSPORT)


def arrives(story: Story, by, outcome: ArrivalOutcome = ArrivalOutcome.ARRIVED) -> Story:
    return story.when(RecordArrival(request_id=a.REQUEST, outcome=outcome), by=by)


def test_a_confirmed_placement_waits_for_its_journey() -> None:
    step = a.a_request_that_is(Stage.CONFIRMED).state.next_step
    assert (step.owner, step.owner_country, step.steps) == (Role.COORDINATOR, "BE", (Step.PLAN_JOURNEY,))


@pytest.mark.parametrize(("seconds", "planned"), [(-1, False), (0, False), (1, True)])
def test_an_arrival_is_planned_in_the_future(seconds: int, planned: bool) -> None:
    story = a.a_request_that_is(Stage.CONFIRMED)
    a.journey_planned(story, seconds=seconds)
    if planned:
        story.then_events(JourneyPlanned, NextStepSet)
    else:
        story.refused(Refusal.ARRIVAL_DUE_IN_PAST)


def test_nobody_leaves_without_a_plan() -> None:
    story = a.a_request_that_is(Stage.CONFIRMED)
    a.consented(story, ConsentScope.TRANSPORT)
    story.when(RecordDeparture(request_id=a.REQUEST), by=a.a_coordinator("BE")).refused(Refusal.WRONG_STAGE)


def test_the_plan_is_due_when_the_household_should_be_there() -> None:
    assert ready_to_leave().state.next_step.deadline == a.MONDAY_NOON + timedelta(hours=3)


@pytest.mark.parametrize("hours", [1, 9])
def test_planning_again_moves_the_deadline(hours: int) -> None:
    story = a.journey_planned(ready_to_leave(), hours=hours)
    assert story.state.next_step.deadline == a.MONDAY_NOON + timedelta(hours=hours)


def test_planning_again_after_a_missed_departure_starts_afresh() -> None:
    story = ready_to_leave().and_time_passes(hours=3, minutes=30)
    assert story.state.missed == 1
    a.journey_planned(story, hours=5)
    assert story.state.next_step.deadline == story.now + timedelta(hours=5)
    assert story.state.missed == 0


def test_another_escort_takes_over_with_a_new_plan() -> None:
    story = ready_to_leave()
    due = story.now + timedelta(hours=3)
    command = PlanJourney(request_id=a.REQUEST, escort="escort-2", arrival_due=due, steps=a.SEALED)
    story.when(command, by=a.a_coordinator("BE"))
    a.departed(story).refused(Refusal.NOT_YOUR_ORGANISATION)
    story.when(RecordDeparture(request_id=a.REQUEST), by=a.an_escort("escort-2"))
    assert story.state.stage is Stage.DEPARTED


@pytest.mark.parametrize("who", [a.an_escort(), a.a_coordinator("BE"), a.a_referrer("a-colleague")])
def test_whoever_sees_them_leave_may_say_so(who) -> None:
    ready_to_leave().when(RecordDeparture(request_id=a.REQUEST), by=who).then_events(DepartureRecorded, NextStepSet)


def test_on_the_way_the_shelter_waits_an_hour_longer_than_planned() -> None:
    step = a.a_request_that_is(Stage.DEPARTED).state.next_step
    assert (step.owner, step.owner_country, step.steps) == (Role.SHELTER, "NL", (Step.RECORD_ARRIVAL,))
    assert step.deadline == a.MONDAY_NOON + timedelta(hours=4)


def test_an_hour_without_word_is_an_alarm_for_the_focal_point() -> None:
    story = a.a_request_that_is(Stage.DEPARTED)
    story.and_time_passes(hours=3, minutes=59, seconds=59).nothing_happens()
    story.and_time_passes(seconds=1).then_events(ArrivalOverdue, NextStepSet)
    step = story.state.next_step
    assert (step.owner, step.owner_country) == (Role.COORDINATOR, "BE")
    assert step.steps == (Step.FIND_HOUSEHOLD, Step.RECORD_ARRIVAL)


def test_the_alarm_sounds_once_and_then_escalates() -> None:
    story = a.a_request_that_is(Stage.DEPARTED).and_time_passes(hours=24)
    assert len(story.all_of(ArrivalOverdue)) == 1
    assert len(story.all_of(DeadlineMissed)) > 1


def test_who_was_overdue_may_arrive_after_all() -> None:
    story = a.arrival(a.a_request_that_is(Stage.DEPARTED).and_time_passes(hours=5))
    assert story.state.stage is Stage.ARRIVED
    assert not story.state.overdue


def test_arrived_the_beds_are_occupied() -> None:
    story = a.arrival(a.a_request_that_is(Stage.DEPARTED))
    story.then_events(ArrivalRecorded, NextStepSet)
    assert story.state.holds[story.state.confirmed.hold_id].stage is HoldStage.OCCUPIED
    assert story.state.next_step.deadline == story.now + timedelta(days=90)


def test_arrived_before_departed_because_a_phone_was_offline_is_arrived() -> None:
    story = a.arrival(a.a_request_that_is(Stage.CONFIRMED))
    assert story.state.stage is Stage.ARRIVED
    story.when(RecordDeparture(request_id=a.REQUEST), by=a.a_coordinator("BE")).then_events(CommandHadNoEffect)
    assert story.state.stage is Stage.ARRIVED


def test_a_second_tap_on_arrived_or_departed_changes_nothing() -> None:
    a.arrival(a.a_request_that_is(Stage.ARRIVED)).then_events(CommandHadNoEffect)
    a.departed(a.a_request_that_is(Stage.DEPARTED)).then_events(CommandHadNoEffect)


@pytest.mark.parametrize(
    ("who", "may_welcome", "may_miss"),
    [
        (a.shelter_staff("u1"), True, True),
        (a.a_coordinator("NL"), True, True),
        (a.a_coordinator("BE"), False, True),
        (a.an_escort(), False, True),
        (a.shelter_staff("u2", "LU"), False, False),
        (a.a_coordinator("LU"), False, False),
        (a.a_referrer(), False, False),
        (a.an_escort("another-escort"), False, False),
    ],
)
def test_only_who_receives_them_says_they_arrived(who, may_welcome: bool, may_miss: bool) -> None:
    for outcome, may in ((ArrivalOutcome.ARRIVED, may_welcome), (ArrivalOutcome.NOT_ARRIVED, may_miss)):
        story = arrives(a.a_request_that_is(Stage.DEPARTED), who, outcome)
        if may:
            story.then_events(ArrivalRecorded, NextStepSet)
        else:
            story.refused(Refusal.NOT_YOUR_ORGANISATION)


@pytest.mark.parametrize("outcome", LOST)
def test_a_household_astray_has_an_owner_and_keeps_its_beds(outcome: ArrivalOutcome) -> None:
    story = a.arrival(a.a_request_that_is(Stage.DEPARTED), outcome)
    step = story.state.next_step
    assert story.state.stage is Stage.ASTRAY
    assert (step.owner, step.owner_country) == (Role.COORDINATOR, "BE")
    assert step.steps == (Step.FIND_HOUSEHOLD, Step.END_PLACEMENT)
    assert story.state.holds[story.state.confirmed.hold_id].stage is HoldStage.FIRM


@pytest.mark.parametrize("outcome", LOST)
def test_nobody_goes_astray_who_never_left(outcome: ArrivalOutcome) -> None:
    a.arrival(a.a_request_that_is(Stage.CONFIRMED), outcome).refused(Refusal.WRONG_STAGE)


def test_found_is_arrived() -> None:
    story = a.arrival(a.a_request_that_is(Stage.ASTRAY))
    assert story.state.stage is Stage.ARRIVED


def test_ended_while_astray_gives_the_beds_back() -> None:
    story = a.ended(a.a_request_that_is(Stage.ASTRAY))
    story.then_events(PlacementEnded, HoldReleaseRequested, NextStepSet)


def test_ended_in_the_house_leaves_the_beds_to_those_who_clean_them() -> None:
    story = a.ended(a.a_request_that_is(Stage.ARRIVED))
    story.then_events(PlacementEnded, NextStepSet)


def test_a_second_tap_on_ended_changes_nothing() -> None:
    a.ended(a.a_request_that_is(Stage.ENDED)).then_events(CommandHadNoEffect)
