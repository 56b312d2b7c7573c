"""From the open door to a shelter's yes: who is asked, and what happens when they do not say yes."""

from datetime import date, timedelta

import pytest

from events.capacity import HoldExpired, HoldPlaced, HoldRefusal, HoldRefused
from events.gateway import AnswerAsk
from events.placement import (
    AskAccepted,
    AskClosed,
    AskDeclined,
    AskExpired,
    CommandHadNoEffect,
    HoldLost,
    HoldReleaseRequested,
    HoldRequested,
    LateAnswerRecorded,
    NextStepSet,
    OpeningRefusal,
    Refusal,
    RelocationRequestOpened,
    RelocationRequestRefused,
    ShortlistDrawn,
    UnmetNeedRecorded,
)
from events.vocabulary import (
    AcceptCondition,
    DangerZone,
    DeclineReason,
    Freshness,
    Household,
    Role,
    Stage,
    Step,
    Urgency,
)
from services.placement.domain.request import TRIED_FOR_GOOD, HoldStage
from tests import builders as a
from tests.spec import Story


def hold_of(story: Story, unit_id: str):
    """The latest hold on beds of this unit."""
    return [hold for hold in story.state.holds.values() if hold.unit_id == unit_id][-1]


def expired(story: Story, unit_id: str) -> Story:
    hold = hold_of(story, unit_id)
    return story.when(HoldExpired(unit_id=unit_id, hold_id=hold.hold_id, request_id=a.REQUEST))


def refused_by_capacity(story: Story, unit_id: str) -> Story:
    hold_id, reason = hold_of(story, unit_id).hold_id, HoldRefusal.NOT_ENOUGH_BEDS
    return story.when(HoldRefused(unit_id=unit_id, hold_id=hold_id, request_id=a.REQUEST, reason=reason))


def asked_units(story: Story) -> list[str]:
    """Every unit whose beds were wanted, in order, again and again."""
    return [wanted.unit_id for wanted in story.all_of(HoldRequested)]


# Opening


def test_an_urgent_request_holds_beds_the_moment_it_opens() -> None:
    opened = a.a_relocation_request()
    opened.then_events(RelocationRequestOpened, ShortlistDrawn, HoldRequested, HoldRequested, NextStepSet)
    assert asked_units(opened) == ["u1", "u2"]


def test_a_standard_request_asks_one_after_the_other() -> None:
    assert asked_units(a.a_relocation_request(urgency=Urgency.STANDARD)) == ["u1"]


def test_a_hold_is_for_everybody_and_runs_out_by_itself() -> None:
    wanted = a.a_relocation_request(household=Household(women=1, children_6_to_11=1)).all_of(HoldRequested)[0]
    assert wanted.beds == 2
    assert wanted.until == a.MONDAY_NOON + timedelta(minutes=120)


def test_a_request_keeps_what_it_was_opened_with() -> None:
    opened = a.a_relocation_request(consented_countries=("NL",), reflection_started_on=date(2026, 11, 1)).the_last(
        RelocationRequestOpened
    )
    assert opened.reflection_ends_on == date(2026, 12, 16)  # Belgium: 45 days
    assert opened.sealed_callback  # the event that carries the ciphertext, never the ciphertext


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"danger_country": "DE"}, OpeningRefusal.UNKNOWN_COUNTRY),
        ({"household": Household()}, OpeningRefusal.EMPTY_HOUSEHOLD),
        ({"danger_zones": (DangerZone(code="NL99"),)}, OpeningRefusal.UNKNOWN_ZONE),
        ({"danger_zones": (DangerZone(code="NL99", with_neighbours=True),)}, OpeningRefusal.UNKNOWN_ZONE),
        ({"danger_zones": (DangerZone(code="NL"), DangerZone(code="LU"))}, OpeningRefusal.NO_COUNTRY_LEFT),
    ],
)
def test_a_request_nobody_can_help_is_refused_at_the_door_with_its_reason(changes, reason) -> None:
    a.a_relocation_request(**changes).then(RelocationRequestRefused(request_id=a.REQUEST, reason=reason))


def test_one_country_left_is_enough() -> None:
    assert a.a_relocation_request(danger_zones=(DangerZone(code="NL"),)).state.stage is Stage.SHORTLISTED


def test_a_request_is_opened_once() -> None:
    a.a_relocation_request().when(a.an_opening(), by=a.a_referrer()).refused(Refusal.ALREADY_OPENED)


def test_what_capacity_says_of_a_request_nobody_opened_is_ignored() -> None:
    stray = HoldPlaced(unit_id="u1", hold_id="h", request_id=a.REQUEST, beds=(1,), until=a.MONDAY_NOON)
    a.nothing_yet().when(stray).nothing_happens()


# Asking


def test_a_shelter_is_asked_once_its_beds_are_held() -> None:
    story = a.a_relocation_request()
    a.beds_are_held(story)
    assert a.open_asks(story) == ["u1", "u2"]
    assert story.state.stage is Stage.ASKED
    assert a.the_ask(story).deadline == story.now + timedelta(minutes=30)


def test_a_question_never_outlives_the_beds_it_is_about() -> None:
    story = a.a_relocation_request()
    story.now += timedelta(minutes=100)
    a.beds_are_held(story)
    assert a.the_ask(story).deadline == hold_of(story, "u1").until


def test_a_second_copy_of_a_placed_hold_asks_nobody_twice() -> None:
    story = a.a_request_that_is(Stage.ASKED)
    hold = hold_of(story, "u1")
    copy = HoldPlaced(unit_id="u1", hold_id=hold.hold_id, request_id=a.REQUEST, beds=(1, 2), until=hold.until)
    story.when(copy).nothing_happens()


def test_the_shelters_own_the_request_until_their_first_deadline() -> None:
    step = a.a_request_that_is(Stage.ASKED).state.next_step
    assert (step.owner, step.steps, step.deadline) == (
        Role.SHELTER,
        (Step.ANSWER_ASK,),
        a.MONDAY_NOON + timedelta(minutes=30),
    )


def test_a_no_frees_the_beds_and_asks_the_next() -> None:
    story = a.answer_from(a.a_request_that_is(Stage.ASKED), "u1", DeclineReason.NO_SPACE)
    story.then_events(AskDeclined, HoldReleaseRequested, HoldRequested)
    assert asked_units(story) == ["u1", "u2", "u3"]
    assert hold_of(story, "u1").stage is HoldStage.OVER


def test_no_answer_in_time_asks_the_next() -> None:
    story = a.a_request_that_is(Stage.ASKED).and_time_passes(minutes=30)
    assert a.open_asks(story) == []
    assert asked_units(story) == ["u1", "u2", "u3"]


@pytest.mark.attack(59)
def test_a_question_stands_until_its_very_deadline() -> None:
    a.a_request_that_is(Stage.ASKED).and_time_passes(minutes=29, seconds=59).nothing_happens()
    story = a.a_request_that_is(Stage.ASKED).and_time_passes(minutes=30)
    assert {type(fact) for fact in story.events} >= {AskExpired, HoldReleaseRequested}


def test_beds_that_are_gone_ask_the_next() -> None:
    story = refused_by_capacity(a.a_relocation_request(), "u1")
    story.then_events(HoldLost, HoldRequested)
    assert asked_units(story) == ["u1", "u2", "u3"]


def test_beds_that_ran_out_close_their_question() -> None:
    story = expired(a.a_request_that_is(Stage.ASKED), "u1")
    story.then_events(HoldLost, AskClosed, HoldRequested)


def test_a_hold_is_lost_once() -> None:
    story = expired(a.a_request_that_is(Stage.ASKED), "u1")
    hold = hold_of(story, "u1")
    story.when(HoldExpired(unit_id="u1", hold_id=hold.hold_id, request_id=a.REQUEST)).nothing_happens()
    story.when(HoldExpired(unit_id="u1", hold_id="nobodys", request_id=a.REQUEST)).nothing_happens()


# Answers


def test_a_yes_stops_the_search_and_asks_the_focal_point_to_choose() -> None:
    story = a.answer_from(a.a_request_that_is(Stage.ASKED), "u1")
    story.then_events(AskAccepted, NextStepSet)
    step = story.state.next_step
    assert (step.owner, step.owner_country, step.steps) == (Role.COORDINATOR, "BE", (Step.PROPOSE_PLACEMENT,))
    assert a.open_asks(story) == ["u2"]
    assert asked_units(story) == ["u1", "u2"]


def test_after_a_yes_a_no_of_another_asks_nobody_else() -> None:
    story = a.answer_from(a.a_request_that_is(Stage.OFFERED), "u2", DeclineReason.NO_SPACE)
    story.then_events(AskDeclined, HoldReleaseRequested)
    assert asked_units(story) == ["u1", "u2"]


def test_a_yes_keeps_its_condition_and_where_the_hand_over_place_is_sealed() -> None:
    story = a.a_request_that_is(Stage.ASKED)
    command = AnswerAsk(
        request_id=a.REQUEST,
        ask_id=a.the_ask(story).ask_id,
        condition=AcceptCondition.MEDICAL_CHECK_FIRST,
        rendezvous=a.SEALED,
    )
    story.when(command, by=a.shelter_staff())
    assert a.the_ask(story).condition is AcceptCondition.MEDICAL_CHECK_FIRST
    assert a.the_ask(story).sealed_rendezvous


def test_a_second_tap_on_yes_or_no_changes_nothing() -> None:
    for decline in (None, DeclineReason.NO_SPACE):
        story = a.answer_from(a.a_request_that_is(Stage.ASKED), "u1", decline)
        a.answer_from(story, "u1", decline).then_events(CommandHadNoEffect)


def test_a_shelter_may_take_its_yes_back_until_somebody_signed_for_it() -> None:
    story = a.a_request_that_is(Stage.OFFERED)
    a.answer_from(story, "u1", DeclineReason.NOT_STAFFED)
    story.then_events(AskDeclined, HoldReleaseRequested, HoldRequested, NextStepSet)
    signed = a.a_request_that_is(Stage.PROPOSED)
    a.answer_from(signed, "u1", DeclineReason.NOT_STAFFED).then_events(LateAnswerRecorded)
    assert signed.state.stage is Stage.PROPOSED


@pytest.mark.parametrize("decline", [None, DeclineReason.NO_SPACE])
@pytest.mark.parametrize("stage", [Stage.ASKED, Stage.PROPOSED, Stage.CONFIRMED, Stage.DEPARTED, Stage.ARRIVED])
def test_a_late_answer_is_kept_and_harmless(stage: Stage, decline: DeclineReason | None) -> None:
    story = a.a_request_that_is(Stage.ASKED)
    story.and_time_passes(minutes=30)
    late = a.the_ask(story, "u2")
    if stage is not Stage.ASKED:
        story = a.a_request_that_is(stage)
        late = a.the_ask(story, "u2")
    before = story.state
    command = AnswerAsk(request_id=a.REQUEST, ask_id=late.ask_id, decline=decline)
    story.when(command, by=a.shelter_staff("u2", "LU"))
    story.then(LateAnswerRecorded(request_id=a.REQUEST, ask_id=late.ask_id, accepted=decline is None, decline=decline))
    assert story.state == before


@pytest.mark.attack(38)
def test_only_the_shelter_that_was_asked_answers() -> None:
    story = a.a_request_that_is(Stage.ASKED)
    command = AnswerAsk(request_id=a.REQUEST, ask_id=a.the_ask(story, "u1").ask_id)
    story.when(command, by=a.shelter_staff("u2", "LU")).refused(Refusal.NOT_YOUR_ORGANISATION)


def test_beds_held_meanwhile_are_asked_about_even_after_a_yes() -> None:
    story = a.a_relocation_request()
    first = hold_of(story, "u1")
    story.when(HoldPlaced(unit_id="u1", hold_id=first.hold_id, request_id=a.REQUEST, beds=(1, 2), until=first.until))
    a.answer_from(story, "u1")
    a.beds_are_held(story)
    assert a.open_asks(story) == ["u2"]


def test_a_shelter_that_said_yes_and_lost_the_beds_to_the_clock_is_asked_again_first() -> None:
    story = expired(a.a_request_that_is(Stage.OFFERED), "u1")
    story.then_among_others(
        HoldLost(request_id=a.REQUEST, hold_id=next(iter(story.state.holds)), unit_id="u1", reason="expired")
    )
    assert asked_units(story) == ["u1", "u2", "u1"]
    again = hold_of(story, "u1")
    assert again.stage is HoldStage.REQUESTED


@pytest.mark.parametrize(("minutes", "asked_again"), [(119, False), (120, True), (121, True)])
def test_a_shelter_that_never_heard_in_time_may_be_asked_again(minutes: int, asked_again: bool) -> None:
    """Capacity was away until the hold was over. If by placement's own clock it is not over, something else is wrong."""
    story = a.a_relocation_request(a.a_unit("u1"))
    story.now += timedelta(minutes=minutes)
    over = HoldRefused(
        unit_id="u1", hold_id=hold_of(story, "u1").hold_id, request_id=a.REQUEST, reason=HoldRefusal.ALREADY_OVER
    )
    story.when(over)
    assert asked_units(story) == (["u1", "u1"] if asked_again else ["u1"])


def test_placing_a_hold_that_was_given_back_already_asks_nobody() -> None:
    story = a.a_relocation_request()
    wanted = hold_of(story, "u2")
    first = hold_of(story, "u1")
    story.when(HoldPlaced(unit_id="u1", hold_id=first.hold_id, request_id=a.REQUEST, beds=(1, 2), until=first.until))
    a.proposed(a.answer_from(story, "u1"))
    assert hold_of(story, "u2").stage is HoldStage.OVER
    late = HoldPlaced(unit_id="u2", hold_id=wanted.hold_id, request_id=a.REQUEST, beds=(1, 2), until=wanted.until)
    story.when(late).nothing_happens()


# Unmet need


def test_when_nobody_is_left_the_need_is_recorded_with_its_reasons() -> None:
    units = (a.a_unit("u1", "BE"), a.a_unit("u2", "BE", free=0), a.a_unit("u3", free=1))
    story = a.a_relocation_request(*units)
    story.then_events(RelocationRequestOpened, ShortlistDrawn, UnmetNeedRecorded, NextStepSet)
    assert story.the_last(UnmetNeedRecorded).failed_rules == {
        "keeps_household_together": 1,
        "not_in_danger_country": 2,
    }
    step = story.state.next_step
    assert (step.owner, step.owner_country, step.steps) == (Role.COORDINATOR, "BE", (Step.FIND_ALTERNATIVE,))
    assert step.deadline == story.now + timedelta(hours=4)


def test_declines_are_counted_in_an_unmet_need() -> None:
    story = a.beds_are_held(a.a_relocation_request(a.a_unit("u1"), a.a_unit("u2")))
    a.answer_from(story, "u1", DeclineReason.NO_SPACE)
    a.answer_from(story, "u2", DeclineReason.NO_SPACE)
    assert story.the_last(UnmetNeedRecorded).declines == {DeclineReason.NO_SPACE: 2}


def test_an_open_question_is_waited_for_before_a_need_is_unmet() -> None:
    story = a.beds_are_held(a.a_relocation_request(a.a_unit("u1"), a.a_unit("u2")))
    a.answer_from(story, "u1", DeclineReason.NO_SPACE)
    assert story.state.stage is Stage.ASKED


def test_a_bed_that_opens_elsewhere_takes_an_unmet_need_up_at_once() -> None:
    story = a.a_request_that_is(Stage.UNMET_NEED)
    a.units_are_now(story, a.a_unit("full", free=0), a.a_unit("new"))
    story.a_late_timer_fires(minutes=1).then_events(ShortlistDrawn, HoldRequested, NextStepSet)
    assert asked_units(story) == ["new"]


def test_waking_an_unmet_need_for_nothing_changes_nothing() -> None:
    a.a_request_that_is(Stage.UNMET_NEED).a_late_timer_fires(minutes=1).nothing_happens()


def test_who_said_no_a_minute_ago_is_not_asked_again_because_some_bed_moved() -> None:
    story = a.beds_are_held(a.a_relocation_request(a.a_unit("u1")))
    a.answer_from(story, "u1", DeclineReason.NO_SPACE)
    story.a_late_timer_fires(minutes=1).nothing_happens()


@pytest.mark.parametrize("reason", DeclineReason)
def test_at_the_review_those_are_asked_again_who_were_only_full(reason: DeclineReason) -> None:
    story = a.beds_are_held(a.a_relocation_request(a.a_unit("u1")))
    a.answer_from(story, "u1", reason)
    assert story.state.stage is Stage.UNMET_NEED
    story.and_time_passes(hours=3, minutes=59).nothing_happens()
    story.and_time_passes(minutes=1)
    again = reason not in TRIED_FOR_GOOD
    assert asked_units(story) == (["u1", "u1"] if again else ["u1"])
    assert story.state.stage is (Stage.SHORTLISTED if again else Stage.UNMET_NEED)


def test_the_reasons_for_which_a_unit_is_never_asked_again() -> None:
    assert {
        "unsafe_for_household",
        "unsafe_for_residents",
        "needs_not_met",
        "language_not_met",
        "wrong_track",
        "refused_by_host",
    } == TRIED_FOR_GOOD


def test_a_unit_without_a_report_is_never_asked_and_the_need_says_so() -> None:
    story = a.a_relocation_request(a.a_unit("u1", freshness=Freshness.NOT_REPORTED))
    assert story.the_last(UnmetNeedRecorded).failed_rules == {"capacity_is_known": 1}
