"""Two signatures of two people in two countries on one proposal, and a bed that capacity made firm."""

import pytest
from msgspec.structs import replace

from events.capacity import FirmHoldRefused, FirmRefusal, HoldExpired, HoldMadeFirm
from events.gateway import AnswerAsk, CountersignPlacement, ProposePlacement
from events.log.decider import TimePassed
from events.placement import (
    AskClosed,
    CommandHadNoEffect,
    CommandRefused,
    CountersignatureRefused,
    FirmHoldRequested,
    HoldLost,
    HoldReleaseRequested,
    HoldRequested,
    NextStepSet,
    PlacementConfirmed,
    PlacementCountersigned,
    PlacementProposed,
    Proposal,
    ProposalLapse,
    ProposalLapsed,
    Refusal,
)
from events.vocabulary import AcceptCondition, OverrideReason, Role, SignatureRefusal, Stage, Step
from services.placement.domain.matching import RULESET
from services.placement.domain.signing import proposal_hash
from tests import builders as a
from tests.spec import Story, given


def two_offers() -> Story:
    """u1, ranked first, and u2 in Luxembourg both said yes."""
    return a.answer_from(a.a_request_that_is(Stage.OFFERED), "u2")


def sign(story: Story, by, refusal: SignatureRefusal | None = None, proposal: str = "") -> Story:
    command = CountersignPlacement(
        request_id=a.REQUEST, proposal=proposal or story.state.proposal_hash, refusal=refusal
    )
    return story.when(command, by=by)


def the_hold(story: Story) -> dict[str, str]:
    proposal = story.the_last(PlacementProposed).proposal
    return {"unit_id": proposal.unit_id, "hold_id": proposal.hold_id, "request_id": a.REQUEST}


# First signature


def test_a_proposal_names_everything_the_second_signer_must_see() -> None:
    story = a.a_request_that_is(Stage.ASKED)
    ask = a.the_ask(story)
    command = AnswerAsk(request_id=a.REQUEST, ask_id=ask.ask_id, condition=AcceptCondition.NIGHTS_LIMITED)
    story.when(command, by=a.shelter_staff())
    a.proposed(story)
    proposal = Proposal(
        request_id=a.REQUEST,
        ask_id=ask.ask_id,
        hold_id=ask.hold_id,
        unit_id="u1",
        shelter_id="shelter-u1",
        host_country="NL",
        household=a.a_household(),
        needs=(),
        condition=AcceptCondition.NIGHTS_LIMITED,
        consent_version=0,
        ruleset=RULESET,
        rank=1,
        override=None,
    )
    story.then_among_others(
        PlacementProposed(request_id=a.REQUEST, proposal=proposal, proposal_hash=proposal_hash(proposal))
    )


def test_choosing_one_shelter_closes_the_questions_to_the_others_and_frees_their_beds() -> None:
    story = a.proposed(two_offers())
    story.then_events(PlacementProposed, AskClosed, HoldReleaseRequested, NextStepSet)
    step = story.state.next_step
    assert (step.owner, step.owner_country, step.steps) == (Role.COORDINATOR, "NL", (Step.COUNTERSIGN_PLACEMENT,))


def test_an_open_question_is_closed_too() -> None:
    story = a.proposed(a.a_request_that_is(Stage.OFFERED))
    assert a.open_asks(story) == []


@pytest.mark.parametrize("reason", OverrideReason)
def test_another_than_the_first_ranked_offer_may_be_chosen_with_a_reason(reason: OverrideReason) -> None:
    story = a.proposed(two_offers(), "u2", override=reason)
    assert (story.state.proposal.rank, story.state.proposal.override) == (2, reason)


def test_another_than_the_first_ranked_offer_needs_a_reason() -> None:
    a.proposed(two_offers(), "u2").refused(Refusal.OVERRIDE_NEEDS_REASON)


def test_the_only_offer_is_the_first_ranked_whoever_said_no_before() -> None:
    story = a.answer_from(a.a_request_that_is(Stage.ASKED), "u2")
    assert a.proposed(story, "u2").state.proposal.rank == 1


def test_a_shelter_that_has_not_said_yes_cannot_be_proposed() -> None:
    a.proposed(a.a_request_that_is(Stage.OFFERED), "u2").refused(Refusal.NOT_OFFERED)
    command = ProposePlacement(request_id=a.REQUEST, ask_id="nobodys")
    a.a_request_that_is(Stage.OFFERED).when(command, by=a.a_coordinator("BE")).refused(Refusal.UNKNOWN_ASK)


@pytest.mark.parametrize(
    ("who", "reason"),
    [
        (a.a_coordinator("NL"), Refusal.NOT_YOUR_COUNTRY),
        (a.a_coordinator("LU"), Refusal.NOT_YOUR_COUNTRY),
        (a.a_referrer(), Refusal.WRONG_ROLE),
        (a.shelter_staff(), Refusal.WRONG_ROLE),
        (a.a_coordinator("BE", person=a.a_referrer().person), Refusal.REFERRER_CANNOT_SIGN),
    ],
)
@pytest.mark.attack(45)
def test_only_the_origin_focal_point_proposes_and_never_who_referred(who, reason: Refusal) -> None:
    story = a.a_request_that_is(Stage.OFFERED)
    command = ProposePlacement(request_id=a.REQUEST, ask_id=a.the_ask(story).ask_id)
    story.when(command, by=who).refused(reason)


def test_a_second_tap_on_propose_changes_nothing() -> None:
    a.proposed(a.a_request_that_is(Stage.PROPOSED)).then_events(CommandHadNoEffect)


# Second signature


def test_the_second_signature_binds_to_what_was_shown() -> None:
    story = a.countersigned(a.a_request_that_is(Stage.PROPOSED))
    story.then_events(PlacementCountersigned, NextStepSet)
    assert story.state.next_step.steps == (Step.RECORD_CONSENT,)


@pytest.mark.attack(59)
def test_a_signature_on_anything_else_says_that_the_proposal_changed() -> None:
    story = a.a_request_that_is(Stage.PROPOSED)
    sign(story, a.a_coordinator("NL"), proposal="0" * 64).refused(Refusal.PROPOSAL_CHANGED)


def test_a_proposal_made_under_older_rules_is_not_signed() -> None:
    """A release changed the rules between the two signatures."""
    proposal = replace(a.a_request_that_is(Stage.PROPOSED).state.proposal, ruleset="2025-01")
    older = PlacementProposed(request_id=a.REQUEST, proposal=proposal, proposal_hash=proposal_hash(proposal))
    story = given(a.a_request_that_is(Stage.OFFERED), older, by=a.a_coordinator("BE")).when(TimePassed())
    sign(story, a.a_coordinator("NL"))
    assert [event.reason for event in story.events if isinstance(event, CommandRefused)] == [Refusal.PROPOSAL_CHANGED]
    assert any(isinstance(event, ProposalLapsed) for event in story.events)
    assert story.state.stage in (Stage.SHORTLISTED, Stage.ASKED, Stage.UNMET_NEED), "the search goes on"


@pytest.mark.parametrize("field", Proposal.__struct_fields__)
def test_whatever_changes_in_a_proposal_changes_its_hash(field: str) -> None:
    proposal = a.a_request_that_is(Stage.PROPOSED).state.proposal
    other = {
        "household": a.a_presumed_minor(),
        "needs": ("pets",),
        "condition": AcceptCondition.NIGHTS_LIMITED,
        "consent_version": 7,
        "rank": 2,
        "override": OverrideReason.TRAVEL,
    }
    assert proposal_hash(replace(proposal, **{field: other.get(field, "other")})) != proposal_hash(proposal)


def test_a_signature_that_comes_as_the_proposal_lapses_is_told_that_it_changed() -> None:
    story = a.a_request_that_is(Stage.PROPOSED)
    shown = story.state.proposal_hash
    story.when(HoldExpired(**the_hold(story)))
    a.beds_are_held(story)
    sign(story, a.a_coordinator("NL"), proposal=shown).refused(Refusal.PROPOSAL_CHANGED)


@pytest.mark.parametrize(
    ("who", "reason"),
    [
        (a.a_coordinator("BE"), Refusal.NOT_YOUR_COUNTRY),
        (a.a_coordinator("LU"), Refusal.NOT_YOUR_COUNTRY),
        (a.a_referrer(), Refusal.WRONG_ROLE),
        (a.shelter_staff(), Refusal.WRONG_ROLE),
        (a.a_guardian("NL"), Refusal.WRONG_ROLE),
        # One natural person with an account in each country, or who referred under another.
        (a.a_coordinator("NL", person=a.a_coordinator("BE").person), Refusal.SAME_PERSON),
        (a.a_coordinator("NL", person=a.a_referrer().person), Refusal.REFERRER_CANNOT_SIGN),
    ],
)
@pytest.mark.attack(45)
def test_only_another_person_at_the_host_focal_point_countersigns(who, reason: Refusal) -> None:
    sign(a.a_request_that_is(Stage.PROPOSED), who).refused(reason)


def test_a_second_tap_on_countersign_changes_nothing() -> None:
    a.countersigned(a.a_request_that_is(Stage.COUNTERSIGNED)).then_events(CommandHadNoEffect)


def test_a_colleague_cannot_countersign_a_second_time() -> None:
    story = a.a_request_that_is(Stage.COUNTERSIGNED)
    sign(story, a.a_coordinator("NL", "a-colleague")).refused(Refusal.WRONG_STAGE)


@pytest.mark.parametrize("reason", SignatureRefusal)
def test_when_the_host_refuses_the_search_goes_on_without_that_unit(reason: SignatureRefusal) -> None:
    story = sign(a.a_request_that_is(Stage.PROPOSED), a.a_coordinator("NL"), refusal=reason)
    story.then_events(
        CountersignatureRefused,
        ProposalLapsed,
        AskClosed,
        HoldReleaseRequested,
        HoldRequested,
        HoldRequested,
        NextStepSet,
    )
    assert [wanted.unit_id for wanted in story.all_of(HoldRequested)[-2:]] == ["u2", "u3"]
    assert story.the_last(ProposalLapsed).reason is ProposalLapse.REFUSED_BY_HOST
    assert story.the_last(ProposalLapsed).signers == (a.a_coordinator("BE").person,)


def test_a_unit_the_host_refused_is_not_asked_at_the_review_either() -> None:
    story = a.a_request_that_is(Stage.PROPOSED, a.a_unit("u1"))
    sign(story, a.a_coordinator("NL"), refusal=SignatureRefusal.RISK_IN_REGION)
    assert story.state.stage is Stage.UNMET_NEED
    story.and_time_passes(hours=4)
    assert len(story.all_of(HoldRequested)) == 1


# Firm, and only then confirmed


def test_nothing_is_confirmed_before_the_hold_is_firm() -> None:
    story = a.consented(a.a_request_that_is(Stage.COUNTERSIGNED))
    assert story.the_last(FirmHoldRequested).hold_id == story.state.proposal.hold_id
    assert story.state.next_step.steps == (Step.WAIT_FOR_FIRM_HOLD,)
    assert story.all_of(PlacementConfirmed) == []


def test_a_firm_hold_confirms_the_placement() -> None:
    story = a.made_firm(a.a_request_that_is(Stage.CONSENTED))
    story.then_events(PlacementConfirmed, NextStepSet)
    confirmed = story.the_last(PlacementConfirmed)
    assert (confirmed.unit_id, confirmed.host_country) == ("u1", "NL")
    assert confirmed.proposal_hash == story.the_last(PlacementProposed).proposal_hash


@pytest.mark.parametrize("stage", [Stage.ASKED, Stage.OFFERED, Stage.PROPOSED, Stage.COUNTERSIGNED, Stage.CONFIRMED])
def test_a_firm_hold_nobody_asked_for_confirms_nothing(stage: Stage) -> None:
    story = a.a_request_that_is(stage)
    hold = next(iter(story.state.holds.values()))
    made_firm = HoldMadeFirm(unit_id=hold.unit_id, hold_id=hold.hold_id, request_id=a.REQUEST)
    story.when(made_firm).nothing_happens()


@pytest.mark.parametrize("reason", FirmRefusal)
def test_signed_as_the_hold_ran_out_the_signatures_stay_as_history_and_both_signers_are_told(
    reason: FirmRefusal,
) -> None:
    story = a.a_request_that_is(Stage.CONSENTED)
    hold = the_hold(story)
    story.when(FirmHoldRefused(**hold, reason=reason))
    story.then_events(HoldLost, ProposalLapsed, AskClosed, HoldRequested, HoldRequested, NextStepSet)
    lapsed = story.the_last(ProposalLapsed)
    assert (lapsed.reason, lapsed.signers) == (
        ProposalLapse.HOLD_EXPIRED,
        (a.a_coordinator("BE").person, a.a_coordinator("NL").person),
    )
    assert story.all_of(HoldRequested)[-2].unit_id == "u1", "the shelter that said yes is asked first"
    assert len(story.all_of(PlacementCountersigned)) == 1


@pytest.mark.parametrize("stage", [Stage.PROPOSED, Stage.COUNTERSIGNED, Stage.CONSENTED])
def test_beds_that_run_out_under_a_proposal_ask_the_same_shelter_again(stage: Stage) -> None:
    story = a.a_request_that_is(stage)
    story.when(HoldExpired(**the_hold(story)))
    assert story.all_of(HoldRequested)[-2].unit_id == "u1"
    assert story.state.stage is Stage.SHORTLISTED
    assert story.state.proposer is None
    assert story.state.countersigner is None


def test_after_a_lapse_the_whole_way_can_be_gone_again() -> None:
    story = a.a_request_that_is(Stage.COUNTERSIGNED)
    story.when(HoldExpired(**the_hold(story)))
    for step in (a.beds_are_held, a.answer_from, a.proposed, a.countersigned, a.consented, a.made_firm):
        step(story)
    assert story.state.stage is Stage.CONFIRMED
