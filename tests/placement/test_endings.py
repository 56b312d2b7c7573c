"""Withdrawn and erased: from any stage, for good, with every bed free again and every question closed."""

import pytest

from events.capacity import HoldExpired, HoldMadeFirm, HoldPlaced, HoldRefusal, HoldRefused
from events.gateway import EraseHousehold
from events.placement import (
    AskClosed,
    CommandHadNoEffect,
    HoldReleaseRequested,
    HouseholdErased,
    LateAnswerRecorded,
    NextStepSet,
    ProposalLapse,
    ProposalLapsed,
    Refusal,
    RequestWithdrawn,
)
from events.vocabulary import Stage
from services.placement.domain.policies import BEFORE_DEPARTURE
from services.placement.domain.request import OVER, AskStage, HoldStage
from tests import builders as a
from tests.spec import Story, replayed

BEFORE = [stage for stage in Stage if stage in BEFORE_DEPARTURE and stage is not Stage.OPENED]
SIGNED = [Stage.PROPOSED, Stage.COUNTERSIGNED, Stage.CONSENTED, Stage.CONFIRMED]
UNDER_WAY_OR_THERE = [Stage.DEPARTED, Stage.ARRIVED, Stage.ASTRAY]


def nothing_is_open(story: Story) -> bool:
    state = story.state
    return not [ask for ask in state.asks.values() if ask.stage in (AskStage.OPEN, AskStage.ACCEPTED)] and not [
        hold for hold in state.holds.values() if hold.stage is not HoldStage.OVER
    ]


@pytest.mark.parametrize("stage", BEFORE)
def test_a_withdrawn_request_frees_every_bed_and_closes_every_question(stage: Stage) -> None:
    story = a.a_request_that_is(stage)
    held = {hold.hold_id for hold in story.state.holds.values() if hold.stage is not HoldStage.OVER}
    a.withdrawn(story)
    assert story.state.stage is Stage.WITHDRAWN
    assert nothing_is_open(story)
    assert {fact.hold_id for fact in story.events if isinstance(fact, HoldReleaseRequested)} == held


@pytest.mark.parametrize("stage", SIGNED)
def test_who_signed_is_told_that_the_request_is_over(stage: Stage) -> None:
    story = a.a_request_that_is(stage)
    signers = [story.state.proposer, story.state.countersigner]
    a.withdrawn(story)
    lapsed = story.the_last(ProposalLapsed)
    assert lapsed.reason is ProposalLapse.REQUEST_OVER
    assert lapsed.signers == tuple(signer.person for signer in signers if signer)


@pytest.mark.parametrize("stage", UNDER_WAY_OR_THERE)
def test_nobody_is_withdrawn_on_the_way_or_in_the_house(stage: Stage) -> None:
    a.withdrawn(a.a_request_that_is(stage)).refused(Refusal.WRONG_STAGE)


def test_a_second_tap_on_withdraw_changes_nothing() -> None:
    a.withdrawn(a.a_request_that_is(Stage.WITHDRAWN)).then_events(CommandHadNoEffect)


@pytest.mark.parametrize("stage", [*BEFORE, Stage.ENDED, Stage.WITHDRAWN, Stage.REFUSED])
def test_erasure(stage: Stage) -> None:
    story = a.erased(a.a_request_that_is(stage))
    assert story.state.stage is Stage.ERASED
    assert nothing_is_open(story)
    assert len(story.all_of(HouseholdErased)) == 1


@pytest.mark.parametrize("stage", UNDER_WAY_OR_THERE)
def test_nobody_is_erased_on_the_way_or_in_the_house(stage: Stage) -> None:
    a.erased(a.a_request_that_is(stage)).refused(Refusal.WRONG_STAGE)


def test_a_second_order_to_erase_changes_nothing() -> None:
    a.erased(a.a_request_that_is(Stage.ERASED)).then_events(CommandHadNoEffect)


def test_only_an_auditor_orders_an_erasure() -> None:
    for person in (a.a_referrer(), a.a_coordinator("BE"), a.shelter_staff(), a.a_guardian(), a.an_escort()):
        story = a.a_request_that_is(Stage.ENDED)
        story.when(EraseHousehold(request_id=a.REQUEST), by=person).refused(Refusal.WRONG_ROLE)


ENDINGS = [a.withdrawn, a.erased]


def what_capacity_may_still_say(story: Story) -> list:
    said = []
    for hold in story.state.holds.values():
        ids = {"unit_id": hold.unit_id, "hold_id": hold.hold_id, "request_id": a.REQUEST}
        said += [
            HoldPlaced(**ids, beds=(1, 2), until=hold.until),
            HoldRefused(**ids, reason=HoldRefusal.NOT_ENOUGH_BEDS),
            HoldMadeFirm(**ids),
            HoldExpired(**ids),
        ]
    return said


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("stage", BEFORE)
def test_what_is_still_in_flight_when_a_request_is_over_changes_nothing(stage: Stage, ending) -> None:
    story = ending(a.a_request_that_is(stage))
    for message in what_capacity_may_still_say(story):
        story.when(message).nothing_happens()
    story.and_time_passes(days=30).nothing_happens()
    assert story.state.stage in OVER


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_answer_after_the_end_is_kept_and_harmless(ending) -> None:
    story = ending(a.a_request_that_is(Stage.ASKED))
    a.answer_from(story, "u1").then_events(LateAnswerRecorded)
    assert nothing_is_open(story)


def test_an_ending_is_said_in_one_breath() -> None:
    a.withdrawn(a.a_request_that_is(Stage.PROPOSED)).then_events(
        RequestWithdrawn, ProposalLapsed, AskClosed, HoldReleaseRequested, NextStepSet
    )


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage is not Stage.OPENED])
def test_every_story_replays_to_where_it_stands(stage: Stage) -> None:
    story = a.a_request_that_is(stage)
    assert replayed(story) == story.state
