"""Nobody is placed or driven anywhere without their own yes, or for a presumed minor the guardian's."""

import pytest

from events.capacity import HoldMadeFirm
from events.gateway import EndPlacement
from events.placement import (
    AskClosed,
    CommandHadNoEffect,
    ConsentRecorded,
    ConsentWithdrawn,
    FirmHoldRequested,
    HoldReleaseRequested,
    HoldRequested,
    NextStepSet,
    ProposalLapse,
    ProposalLapsed,
    Refusal,
)
from events.vocabulary import ConsentBy, ConsentScope, EndingReason, Household, Role, Stage, Step, Track
from services.placement.domain.request import HoldStage
from tests import builders as a
from tests.spec import Story

SEARCHING = [Stage.SHORTLISTED, Stage.ASKED, Stage.OFFERED]
SIGNED = [Stage.PROPOSED, Stage.COUNTERSIGNED, Stage.CONSENTED, Stage.CONFIRMED]
UNDER_WAY_OR_THERE = [Stage.DEPARTED, Stage.ARRIVED, Stage.ASTRAY]


def minor_who_is(stage: Stage) -> Story:
    return a.a_request_that_is(stage, a.a_child_unit(), household=a.a_presumed_minor())


def no_to_the_netherlands(story: Story) -> Story:
    return story.when(a.consent(False), by=a.a_referrer())


def live_holds(story: Story) -> set[str]:
    return {hold.country for hold in story.state.holds.values() if hold.stage is not HoldStage.OVER}


def test_without_the_households_yes_no_bed_is_made_firm() -> None:
    story = a.a_request_that_is(Stage.COUNTERSIGNED)
    assert story.all_of(FirmHoldRequested) == []
    a.consented(story)
    story.then_among_others(
        ConsentRecorded(
            request_id=a.REQUEST,
            scope=ConsentScope.PLACEMENT,
            country="NL",
            by=ConsentBy.HOUSEHOLD,
            version=1,
        )
    )
    assert len(story.all_of(FirmHoldRequested)) == 1


def test_a_yes_given_when_the_request_opened_counts() -> None:
    story = a.a_request_that_is(Stage.PROPOSED, consented_countries=("NL",))
    assert a.countersigned(story).state.stage is Stage.CONSENTED


def test_a_yes_to_one_country_is_no_yes_to_another() -> None:
    story = a.a_request_that_is(Stage.COUNTERSIGNED)
    story.when(a.consent(country="LU"), by=a.a_referrer())
    assert story.state.stage is Stage.COUNTERSIGNED


def test_saying_the_same_again_changes_nothing() -> None:
    story = a.a_relocation_request().when(a.consent(), by=a.a_referrer())
    story.when(a.consent(), by=a.a_referrer()).then_events(CommandHadNoEffect)
    story.when(a.consent(False), by=a.a_referrer())
    story.when(a.consent(False), by=a.a_coordinator("BE")).then_events(CommandHadNoEffect)


def test_every_word_on_consent_is_counted() -> None:
    story = a.a_relocation_request()
    for version, given in enumerate((True, False, True), 1):
        story.when(a.consent(given), by=a.a_referrer())
        assert story.the_last(ConsentRecorded if given else ConsentWithdrawn).version == version


@pytest.mark.parametrize("stage", SEARCHING)
def test_a_no_while_searching_frees_that_countrys_beds_and_asks_elsewhere(stage: Stage) -> None:
    story = no_to_the_netherlands(a.a_request_that_is(stage))
    assert live_holds(story) == {"LU"}
    assert {ask.country for ask in story.state.asks.values() if ask.stage in ("open", "accepted")} <= {"LU"}
    assert story.state.stage is not Stage.OFFERED


@pytest.mark.parametrize("stage", SIGNED)
def test_a_no_before_departure_undoes_the_placement_and_frees_the_beds(stage: Stage) -> None:
    story = a.a_request_that_is(stage)
    hold = story.state.proposal.hold_id
    no_to_the_netherlands(story)
    assert story.the_last(ProposalLapsed).reason is ProposalLapse.CONSENT_WITHDRAWN
    assert story.the_last(HoldReleaseRequested).hold_id == hold
    assert story.the_last(HoldRequested).unit_id == "u2"
    assert live_holds(story) == {"LU"}
    assert story.state.stage is Stage.SHORTLISTED
    assert (story.state.confirmed, story.state.journey) == (None, None)


@pytest.mark.parametrize("stage", SIGNED)
def test_a_no_to_another_country_leaves_the_placement_alone(stage: Stage) -> None:
    story = a.a_request_that_is(stage).when(a.consent(False, country="LU"), by=a.a_referrer())
    story.then_events(ConsentWithdrawn)
    assert story.state.stage is stage


@pytest.mark.parametrize("stage", UNDER_WAY_OR_THERE)
def test_a_no_on_the_way_or_in_the_house_is_kept_and_takes_no_bed_away(stage: Stage) -> None:
    story = no_to_the_netherlands(a.a_request_that_is(stage))
    story.then_events(ConsentWithdrawn, NextStepSet)
    assert story.state.stage is stage
    assert live_holds(story) == {"NL"}
    assert story.state.next_step.owner is Role.COORDINATOR
    assert Step.FIND_ALTERNATIVE in story.state.next_step.steps


def test_who_said_no_in_the_house_stays_until_the_house_says_that_they_left() -> None:
    """Only there it is seen that they went. Whoever sent them looks for another way, and is owed no more than that."""
    story = no_to_the_netherlands(a.a_request_that_is(Stage.ARRIVED))
    step = story.state.next_step
    assert (step.owner_country, step.steps) == ("BE", (Step.FIND_ALTERNATIVE,))
    story.when(EndPlacement(request_id=a.REQUEST, reason=EndingReason.OTHER_SHELTER), by=a.a_coordinator("BE"))
    story.refused(Refusal.NOT_YOUR_ORGANISATION)
    assert a.ended(story).state.stage is Stage.ENDED


@pytest.mark.parametrize("stage", [Stage.ENDED, Stage.WITHDRAWN, Stage.ERASED])
def test_of_a_request_that_is_over_nothing_is_asked_any_more(stage: Stage) -> None:
    a.a_request_that_is(stage).when(a.consent(), by=a.a_referrer()).refused(Refusal.WRONG_STAGE)


def test_when_every_country_is_refused_the_need_is_unmet() -> None:
    story = no_to_the_netherlands(a.a_relocation_request())
    story.when(a.consent(False, country="LU"), by=a.a_referrer())
    assert story.state.stage is Stage.UNMET_NEED
    assert live_holds(story) == set()


def test_a_yes_given_again_takes_up_an_unmet_need() -> None:
    story = no_to_the_netherlands(a.a_relocation_request(a.a_unit("u1")))
    assert story.state.stage is Stage.UNMET_NEED
    story.when(a.consent(True), by=a.a_referrer())
    assert story.the_last(HoldRequested).unit_id == "u1"
    assert story.state.stage is Stage.SHORTLISTED


def test_a_yes_withdrawn_as_the_bed_is_being_made_firm_confirms_nothing() -> None:
    story = a.a_request_that_is(Stage.CONSENTED)
    proposal = story.state.proposal
    no_to_the_netherlands(story)
    firm = HoldMadeFirm(unit_id=proposal.unit_id, hold_id=proposal.hold_id, request_id=a.REQUEST)
    story.when(firm).nothing_happens()
    assert story.state.confirmed is None


# Transport


def test_the_journey_is_asked_about_separately() -> None:
    story = a.journey_planned(a.a_request_that_is(Stage.CONFIRMED))
    assert story.state.next_step.steps == (Step.RECORD_CONSENT,)
    a.departed(story).refused(Refusal.NO_TRANSPORT_CONSENT)
    a.departed(a.consented(story, ConsentScope.TRANSPORT))
    assert story.state.stage is Stage.DEPARTED


def test_a_yes_to_the_journey_can_be_taken_back_until_departure() -> None:
    story = a.consented(a.journey_planned(a.a_request_that_is(Stage.CONFIRMED)), ConsentScope.TRANSPORT)
    assert story.state.next_step.steps == (Step.RECORD_DEPARTURE,)
    story.when(a.consent(False, scope=ConsentScope.TRANSPORT), by=a.a_referrer())
    assert story.state.stage is Stage.CONFIRMED
    assert story.state.next_step.steps == (Step.RECORD_CONSENT,)
    a.departed(story).refused(Refusal.NO_TRANSPORT_CONSENT)


# Minors


def test_for_a_presumed_minor_the_guardian_is_asked() -> None:
    step = minor_who_is(Stage.COUNTERSIGNED).state.next_step
    assert (step.owner, step.owner_country, step.steps) == (Role.GUARDIAN, "BE", (Step.RECORD_GUARDIAN_CONSENT,))


def test_a_minors_own_yes_is_not_enough() -> None:
    story = minor_who_is(Stage.COUNTERSIGNED).when(a.consent(), by=a.a_referrer())
    assert story.state.stage is Stage.COUNTERSIGNED
    story.when(a.consent(by="guardian"), by=a.a_guardian())
    assert story.state.stage is Stage.CONSENTED


def test_a_minors_own_no_is() -> None:
    story = minor_who_is(Stage.CONFIRMED).when(a.consent(False), by=a.a_referrer())
    assert story.the_last(ProposalLapsed).reason is ProposalLapse.CONSENT_WITHDRAWN


def test_a_guardian_may_take_the_yes_back() -> None:
    story = minor_who_is(Stage.CONFIRMED).when(a.consent(False, by="guardian"), by=a.a_guardian())
    assert story.the_last(ProposalLapsed).reason is ProposalLapse.CONSENT_WITHDRAWN


def test_a_minor_does_not_leave_before_the_guardian_agreed_to_the_journey() -> None:
    story = a.journey_planned(minor_who_is(Stage.CONFIRMED))
    assert story.state.next_step.steps == (Step.RECORD_GUARDIAN_CONSENT,)
    story.when(a.consent(scope=ConsentScope.TRANSPORT), by=a.a_referrer())
    a.departed(story).refused(Refusal.GUARDIAN_MUST_CONSENT)


@pytest.mark.parametrize("ages", ["children_under_6", "children_6_to_11", "children_12_to_17"])
def test_for_children_alone_the_guardian_is_asked_whatever_the_form_said(ages: str) -> None:
    story = a.a_request_that_is(
        Stage.COUNTERSIGNED, a.a_unit("u1", track=Track.CHILD), household=Household(**{ages: 1})
    )
    assert story.state.next_step.steps == (Step.RECORD_GUARDIAN_CONSENT,)


@pytest.mark.parametrize(
    ("who", "by", "minor", "reason"),
    [
        (a.a_guardian("BE"), "guardian", True, None),
        (a.a_guardian("NL"), "guardian", True, None),  # the host country's, once there is one
        (a.a_guardian("LU"), "guardian", True, Refusal.NOT_YOUR_COUNTRY),
        (a.a_guardian("BE"), "guardian", False, Refusal.WRONG_ROLE),
        (a.a_guardian("BE"), "household", True, Refusal.NOT_YOUR_ORGANISATION),
        (a.a_referrer(), "guardian", True, Refusal.WRONG_ROLE),
        (a.a_coordinator("BE"), "guardian", True, Refusal.WRONG_ROLE),
        (a.a_referrer("a-colleague"), "household", False, None),
        (a.a_referrer(organisation="police-elsewhere"), "household", False, Refusal.NOT_YOUR_ORGANISATION),
        (a.a_coordinator("BE"), "household", False, None),
        (a.a_coordinator("NL"), "household", False, Refusal.NOT_YOUR_ORGANISATION),
        (a.shelter_staff("u1"), "household", False, Refusal.NOT_YOUR_ORGANISATION),  # nothing is confirmed yet
        (a.an_escort(), "household", False, Refusal.NOT_YOUR_ORGANISATION),
    ],
)
def test_who_may_take_down_whose_word(who, by: str, minor: bool, reason: Refusal | None) -> None:
    story = minor_who_is(Stage.PROPOSED) if minor else a.a_request_that_is(Stage.PROPOSED)
    story.when(a.consent(by=by), by=who)
    story.then_events(ConsentRecorded) if reason is None else story.refused(reason)


def test_the_receiving_shelter_takes_down_the_households_word_once_it_is_confirmed() -> None:
    story = a.a_request_that_is(Stage.CONFIRMED)
    story.when(a.consent(scope=ConsentScope.TRANSPORT), by=a.shelter_staff()).then_events(ConsentRecorded)


def test_closing_what_a_no_made_pointless_is_said() -> None:
    story = no_to_the_netherlands(a.a_request_that_is(Stage.ASKED))
    assert [fact.ask_id for fact in story.events if isinstance(fact, AskClosed)] == [a.the_ask(story, "u1").ask_id]
