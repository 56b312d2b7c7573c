"""What staff say about their beds: absolute, bound to what they saw, and never against a claim."""

from datetime import timedelta

import pytest

from events.capacity import (
    CapacityConfirmed,
    CapacityReported,
    FreshnessChanged,
    ReportRefusal,
    UnitRegistered,
    UnitStandingChanged,
)
from events.gateway import ConfirmCapacity, RegisterUnit, ReportCapacity
from events.log.decider import TimePassed
from events.vocabulary import BlockReason, Freshness
from tests import builders as a
from tests.capacity.holds import arrived, ended, firming, held, occupied, standing, wanted
from tests.spec import Story, replayed


def reports(story: Story, beds: int, free: int, blocked: int = 0, seen: int | None = None, **why) -> Story:
    seen = story.state.revision if seen is None else seen
    command = ReportCapacity(unit_id="u1", revision_seen=seen, beds=beds, free=free, blocked=blocked, **why)
    return story.when(command, by=a.shelter_staff())


def confirms(story: Story, seen: int | None = None) -> Story:
    seen = story.state.revision if seen is None else seen
    return story.when(ConfirmCapacity(unit_id="u1", revision_seen=seen), by=a.shelter_staff())


def registers(story: Story, **profile) -> Story:
    return story.when(RegisterUnit(unit_id="u1", profile=a.a_profile(**profile), beds=4), by=a.shelter_staff())


# Registering


def test_until_it_reports_every_bed_of_a_unit_counts_as_taken() -> None:
    story = registers(a.a_unit_nobody_registered())
    story.then_events(UnitRegistered, UnitStandingChanged)
    assert standing(story) == (0, 0, 0, 0, 4)
    assert story.state.freshness is Freshness.NOT_REPORTED


def test_a_unit_is_registered_once() -> None:
    registers(a.a_unit_with_beds(4)).refused(ReportRefusal.ALREADY_REGISTERED)


def test_a_unit_of_a_country_that_takes_no_part_is_refused() -> None:
    """Nobody knows how fast its reports age: it would count as fresh for ever."""
    registers(a.a_unit_nobody_registered(), country="DE", region="DE11").refused(ReportRefusal.UNKNOWN_COUNTRY)


@pytest.mark.parametrize("says", [lambda story: reports(story, 4, 4), confirms])
def test_nothing_is_reported_of_a_unit_nobody_registered(says) -> None:
    says(a.a_unit_nobody_registered()).refused(ReportRefusal.UNKNOWN_UNIT)


# Reporting


@pytest.mark.parametrize(
    ("free", "blocked", "expected"),
    [
        (4, 0, (4, 0, 0, 0, 0)),
        (0, 4, (0, 0, 0, 4, 0)),
        (0, 0, (0, 0, 0, 0, 4)),
        (2, 1, (2, 0, 0, 1, 1)),
        (5, 0, None),
        (4, 1, None),
        (0, 5, None),
    ],
)
def test_a_report_is_absolute_and_the_rest_is_taken_by_others(free: int, blocked: int, expected) -> None:
    story = reports(a.a_unit_with_beds(4), 4, free, blocked)
    if expected:
        assert standing(story) == expected
    else:
        story.refused(ReportRefusal.CLAIMED_BEDS_TYPED_AWAY)


def test_saying_the_same_again_is_fresh_and_moves_nothing() -> None:
    story = reports(a.a_unit_with_beds(4), 4, 4)
    assert standing(story) == (4, 0, 0, 0, 0)
    story.then_events(CapacityReported, UnitStandingChanged)


def test_why_and_until_when_beds_are_blocked_is_kept() -> None:
    until = a.MONDAY_NOON + timedelta(days=3)
    why = {"blocked_because": BlockReason.REPAIR, "blocked_until": until}
    story = reports(a.a_unit_with_beds(4), 4, 3, 1, **why)
    assert (story.state.blocked_because, story.state.blocked_until) == (BlockReason.REPAIR, until)


@pytest.mark.parametrize("off", [-1, 1])
def test_a_report_that_saw_another_revision_is_refused(off: int) -> None:
    story = a.a_unit_with_beds(4)
    now = story.state.revision
    reports(story, 4, 4, seen=now + off).refused(ReportRefusal.STALE_REVISION)
    assert story.events[0].revision == now
    confirms(story, seen=now + off).refused(ReportRefusal.STALE_REVISION)


@pytest.mark.parametrize(
    "moves",
    [
        lambda story: story.when(wanted(1, "hold-2", "request-2")),
        lambda story: story.when(firming()),
        lambda story: story.and_time_passes(hours=2),
        lambda story: story.when(firming()).when(arrived()),
        lambda story: story.when(firming()).when(arrived()).when(ended()),
        lambda story: reports(story, 4, 1),
    ],
    ids=["held", "made firm", "ran out", "arrived", "left", "reported"],
)
def test_a_page_shown_before_a_bed_moved_is_stale(moves) -> None:
    story = held()
    seen = story.state.revision
    reports(moves(story), 4, 2, seen=seen).refused(ReportRefusal.STALE_REVISION)


@pytest.mark.parametrize(
    ("beds", "free", "accepted"), [(4, 2, True), (4, 3, False), (2, 0, True), (2, 1, False), (1, 0, False)]
)
@pytest.mark.parametrize("claim", [held, occupied])
def test_a_claimed_bed_cannot_be_typed_away(claim, beds: int, free: int, accepted: bool) -> None:
    """Two of four beds are claimed."""
    story = reports(claim(), beds, free)
    if accepted:
        assert standing(story)[1] + standing(story)[2] == 2
    else:
        story.refused(ReportRefusal.CLAIMED_BEDS_TYPED_AWAY)


def test_a_unit_may_shrink_around_its_claims() -> None:
    story = held()
    claimed = story.state.claimed
    reports(story, 3, 1)
    assert standing(story) == (1, 2, 0, 0, 0)
    assert story.state.claimed == claimed


def test_free_beds_never_get_the_number_of_a_claimed_one() -> None:
    story = a.a_unit_with_beds(4).when(wanted(2)).when(wanted(1, "hold-2", "request-2"))
    story.and_time_passes(minutes=1)
    reports(story, 6, 2, 1)
    report = story.the_last(CapacityReported)
    assert set(report.free) == {4, 5}
    assert report.blocked == (6,)


def test_beds_on_turnover_are_free_when_staff_say_so() -> None:
    story = reports(occupied().when(ended()), 4, 4)
    assert standing(story) == (4, 0, 0, 0, 0)


# Freshness


@pytest.mark.parametrize(
    ("hours", "before", "after"),
    [
        (12, Freshness.FRESH, Freshness.AGEING),
        (24, Freshness.AGEING, Freshness.OVERDUE),
        (72, Freshness.OVERDUE, Freshness.NOT_REPORTED),
    ],
)
def test_a_report_ages_at_the_very_moment_its_countrys_rhythm_says(
    hours: int, before: Freshness, after: Freshness
) -> None:
    story = a.a_unit_with_beds(4).and_time_passes(hours=hours, microseconds=-1)
    assert story.state.freshness is before
    story.and_time_passes(microseconds=1).then(FreshnessChanged(unit_id="u1", freshness=after))


def test_a_timer_that_comes_days_late_says_only_where_the_report_stands_now() -> None:
    story = a.a_unit_with_beds(4).a_late_timer_fires(days=9)
    story.then(FreshnessChanged(unit_id="u1", freshness=Freshness.NOT_REPORTED))
    assert story.decider.due(story.state) is None


@pytest.mark.parametrize("says", [lambda story: reports(story, 4, 4), confirms])
@pytest.mark.parametrize("hours", [1, 13, 25, 73])
def test_a_report_or_a_confirmation_is_fresh_again_from_now(hours: int, says) -> None:
    story = says(a.a_unit_with_beds(4).and_time_passes(hours=hours))
    assert story.state.freshness is Freshness.FRESH
    assert story.decider.due(story.state) == story.now + timedelta(hours=12)


def test_a_confirmation_moves_no_bed() -> None:
    story = a.a_unit_with_beds(4, free=2)
    revision = story.state.revision
    confirms(story).then(CapacityConfirmed(unit_id="u1"))
    assert story.state.revision == revision


def test_a_hold_makes_no_report_older_or_younger() -> None:
    story = a.a_unit_with_beds(4).and_time_passes(hours=13)
    story.when(wanted(lasts=timedelta(days=2)))
    assert story.state.freshness is Freshness.AGEING


def test_a_unit_that_never_reported_has_no_timer() -> None:
    story = registers(a.a_unit_nobody_registered())
    assert story.decider.due(story.state) is None


def test_time_that_passes_too_early_changes_nothing() -> None:
    held().when(TimePassed()).nothing_happens()


def test_a_units_story_replays_to_where_it_stands() -> None:
    story = reports(occupied().when(ended()), 4, 4)
    assert replayed(story) == story.state
