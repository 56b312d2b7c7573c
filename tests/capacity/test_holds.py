"""Which bed is whose, and for how long."""

from datetime import timedelta

import pytest

from events.capacity import (
    BedsOccupied,
    BedsVacated,
    FirmHoldRefused,
    FirmRefusal,
    HoldExpired,
    HoldMadeFirm,
    HoldPlaced,
    HoldRefusal,
    HoldRefused,
    HoldReleased,
    UnitStandingChanged,
)
from events.gateway import RegisterUnit
from events.vocabulary import ArrivalOutcome, BlockReason
from tests import builders as a
from tests.capacity.holds import (
    TWO_HOURS,
    arrived,
    ended,
    firm,
    firming,
    held,
    ids,
    occupied,
    release,
    standing,
    wanted,
)


def refusal(reason: HoldRefusal, hold_id: str = "hold-1", request_id: str = a.REQUEST) -> HoldRefused:
    return HoldRefused(**ids(hold_id, request_id), reason=reason)


# Placing


@pytest.mark.parametrize(("free", "placed"), [(0, False), (1, False), (2, True), (3, True)])
def test_a_hold_takes_all_the_beds_it_needs_or_none(free: int, placed: bool) -> None:
    story = a.a_unit_with_beds(4, free=free).when(wanted(2))
    if placed:
        story.then_events(HoldPlaced, UnitStandingChanged)
        assert standing(story) == (free - 2, 2, 0, 0, 4 - free)
    else:
        story.then(refusal(HoldRefusal.NOT_ENOUGH_BEDS))


def test_a_hold_names_its_beds_and_when_it_runs_out() -> None:
    story = held()
    placed = HoldPlaced(**ids(), beds=(1, 2), until=a.MONDAY_NOON + TWO_HOURS)
    story.then_among_others(placed)


def test_of_two_households_and_one_last_bed_the_second_is_refused() -> None:
    story = a.a_unit_with_beds(1).when(wanted(1)).when(wanted(1, "hold-2", "request-2"))
    story.then(refusal(HoldRefusal.NOT_ENOUGH_BEDS, "hold-2", "request-2"))


def test_two_households_never_share_a_bed() -> None:
    story = a.a_unit_with_beds(4).when(wanted(2)).when(wanted(2, "hold-2", "request-2"))
    first, second = story.all_of(HoldPlaced)
    assert not set(first.beds) & set(second.beds)


def test_a_unit_nobody_registered_refuses() -> None:
    a.a_unit_nobody_registered().when(wanted()).then(refusal(HoldRefusal.UNKNOWN_UNIT))


def test_a_unit_that_never_reported_refuses() -> None:
    story = a.a_unit_nobody_registered().when(RegisterUnit(unit_id="u1", profile=a.a_profile(), beds=4))
    story.when(wanted()).then(refusal(HoldRefusal.NOT_ENOUGH_BEDS))


def test_a_second_copy_of_a_request_for_beds_holds_no_more_beds() -> None:
    for story in (held(), firm(), occupied()):
        story.when(wanted()).nothing_happens()


@pytest.mark.parametrize(("seconds", "placed"), [(-1, False), (0, False), (1, True)])
def test_a_hold_that_comes_after_its_own_end_is_refused(seconds: int, placed: bool) -> None:
    story = a.a_unit_with_beds(4).when(wanted(lasts=timedelta(seconds=seconds)))
    if placed:
        story.then_events(HoldPlaced, UnitStandingChanged)
    else:
        story.then(refusal(HoldRefusal.ALREADY_OVER))


# Releasing


def test_released_beds_are_free_again() -> None:
    story = held().when(release())
    story.then_events(HoldReleased, UnitStandingChanged)
    assert standing(story) == (4, 0, 0, 0, 0)


def test_a_firm_hold_can_be_released() -> None:
    assert standing(firm().when(release())) == (4, 0, 0, 0, 0)


def test_released_twice_is_released_once() -> None:
    held().when(release()).when(release()).nothing_happens()


def test_a_release_that_overtakes_its_hold_refuses_it_for_ever() -> None:
    story = a.a_unit_with_beds(4).when(release())
    story.then(HoldReleased(**ids()))
    for _ in range(2):
        story.when(wanted()).then(refusal(HoldRefusal.ALREADY_RELEASED))
    story.when(release()).nothing_happens()


def test_a_tombstone_moves_no_bed_and_makes_no_staff_page_stale() -> None:
    story = a.a_unit_with_beds(4)
    before = story.state.revision
    assert story.when(release()).state.revision == before


def test_the_beds_of_a_household_in_the_house_are_not_released() -> None:
    occupied().when(release()).nothing_happens()


# Running out


def test_a_hold_runs_out_at_its_very_moment_and_not_before() -> None:
    story = held().and_time_passes(hours=1, minutes=59, seconds=59).nothing_happens()
    story.and_time_passes(seconds=1).then_events(HoldExpired, UnitStandingChanged)
    assert standing(story) == (4, 0, 0, 0, 0)


def test_every_hold_that_is_due_runs_out_at_once() -> None:
    story = held().when(wanted(1, "hold-2", "request-2")).a_late_timer_fires(hours=3)
    story.then_events(HoldExpired, HoldExpired, UnitStandingChanged)


def test_a_later_hold_stays() -> None:
    story = held().when(wanted(1, "hold-2", "request-2", lasts=timedelta(hours=4))).and_time_passes(hours=3)
    assert standing(story) == (3, 1, 0, 0, 0)


def test_beds_that_ran_out_cannot_be_released_or_placed_under_the_same_hold_again() -> None:
    story = held().and_time_passes(hours=2)
    story.when(release()).nothing_happens()
    story.when(wanted())
    assert [type(fact) for fact in story.events] == [HoldRefused]


# Made firm


def test_a_firm_hold_does_not_run_out() -> None:
    story = held().when(firming()).then_events(HoldMadeFirm, UnitStandingChanged)
    story.and_time_passes(hours=11)
    assert standing(story) == (2, 2, 0, 0, 0)


def test_made_firm_twice_is_firm_once() -> None:
    firm().when(firming()).nothing_happens()


@pytest.mark.parametrize(("seconds", "made_firm"), [(-1, True), (0, False), (1, False)])
def test_capacitys_clock_decides_whether_a_signature_came_in_time(seconds: int, made_firm: bool) -> None:
    """The timer has not come round yet: the second the hold ends, it is over all the same."""
    story = held()
    story.now += TWO_HOURS + timedelta(seconds=seconds)
    story.when(firming())
    if made_firm:
        story.then_events(HoldMadeFirm, UnitStandingChanged)
    else:
        story.then_events(HoldExpired, FirmHoldRefused, UnitStandingChanged)
        assert story.the_last(FirmHoldRefused).reason is FirmRefusal.HOLD_EXPIRED
        assert standing(story) == (4, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("story", "reason"),
    [
        (lambda: a.a_unit_with_beds(4), FirmRefusal.UNKNOWN_HOLD),
        (lambda: held().and_time_passes(hours=2), FirmRefusal.HOLD_EXPIRED),
        (lambda: held().when(release()), FirmRefusal.HOLD_RELEASED),
        (lambda: a.a_unit_with_beds(4).when(release()), FirmRefusal.HOLD_RELEASED),
    ],
)
def test_a_hold_that_is_gone_cannot_be_made_firm(story, reason: FirmRefusal) -> None:
    story().when(firming()).then(FirmHoldRefused(**ids(), reason=reason))


# Occupied and left


def test_who_arrives_occupies_the_beds() -> None:
    story = firm().when(arrived())
    story.then_events(BedsOccupied, UnitStandingChanged)
    assert standing(story) == (2, 0, 2, 0, 0)


def test_arrived_twice_occupies_once() -> None:
    occupied().when(arrived()).nothing_happens()


@pytest.mark.parametrize("outcome", [ArrivalOutcome.NOT_ARRIVED, ArrivalOutcome.ARRIVED_ELSEWHERE])
def test_who_did_not_arrive_keeps_the_beds_on_hold(outcome: ArrivalOutcome) -> None:
    firm().when(arrived(outcome)).nothing_happens()


@pytest.mark.parametrize(
    "story", [lambda: a.a_unit_with_beds(4), held, lambda: held().when(release())], ids=["no hold", "held", "released"]
)
def test_nobody_occupies_a_bed_that_was_not_made_firm(story) -> None:
    story().when(arrived()).nothing_happens()


def test_beds_that_were_left_stay_blocked_until_staff_say_they_are_ready() -> None:
    story = occupied().when(ended())
    story.then_events(BedsVacated, UnitStandingChanged)
    assert standing(story) == (2, 0, 0, 2, 0)
    assert story.state.blocked_because is BlockReason.TURNOVER


def test_left_twice_is_left_once() -> None:
    occupied().when(ended()).when(ended()).nothing_happens()


def test_an_ending_without_an_arrival_leaves_the_beds_to_their_release() -> None:
    story = firm().when(ended()).nothing_happens()
    assert standing(story.when(release())) == (4, 0, 0, 0, 0)


def test_a_message_capacity_does_not_know_is_an_error_and_not_a_silence() -> None:
    with pytest.raises(TypeError):
        a.a_unit_with_beds(4).when(HoldExpired(**ids()))
