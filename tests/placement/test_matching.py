"""Who can take a household, in which order, and why not the others: each rule by itself, at its edges."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given as for_any
from hypothesis import strategies as st
from msgspec.structs import replace

from events.placement import Preference, RelocationRequestOpened, Rule
from events.vocabulary import AgeStatus, DangerZone, Freshness, Group, Household, Need, Track, Urgency
from services.placement.domain.matching import (
    HARD_RULES,
    PREFERENCES,
    RULESET,
    UnitFacts,
    draw_shortlist,
    excluded_codes,
    groups_of,
)
from tests import builders as a


def a_request(**changes: Any) -> RelocationRequestOpened:
    return a.a_relocation_request(**changes).the_last(RelocationRequestOpened)


def draw(*units: UnitFacts, now: datetime = a.MONDAY_NOON, tried=(), refused=(), **request: Any):
    return draw_shortlist(
        a_request(**request),
        units,
        now=now,
        reference=a.REFERENCE,
        tried=frozenset(tried),
        refused_countries=frozenset(refused),
    )


def failed(unit: UnitFacts, **case: Any) -> tuple[Rule, ...]:
    """Every hard rule this unit fails."""
    rejected = draw(unit, **case).rejected
    return rejected[0].failed if rejected else ()


def ranking(*units: UnitFacts, **case: Any) -> list[str]:
    return [candidate.unit_id for candidate in draw(*units, **case).candidates]


# Hard rules


@pytest.mark.parametrize(("free", "asked"), [(0, False), (1, False), (2, True), (3, True)])
def test_a_household_of_two_is_kept_together_or_not_asked_for(free: int, asked: bool) -> None:
    assert failed(a.a_unit(free=free)) == (() if asked else (Rule.KEEPS_HOUSEHOLD_TOGETHER,))


@pytest.mark.parametrize(
    ("freshness", "asked"),
    [
        (Freshness.FRESH, True),
        (Freshness.AGEING, True),
        (Freshness.OVERDUE, True),
        (Freshness.NOT_REPORTED, False),
    ],
)
def test_a_unit_that_has_not_reported_is_never_asked_by_the_machine(freshness: Freshness, asked: bool) -> None:
    assert failed(a.a_unit(freshness=freshness)) == (() if asked else (Rule.CAPACITY_IS_KNOWN,))


def test_nobody_is_placed_in_the_country_they_flee() -> None:
    assert failed(a.a_unit(country="BE")) == (Rule.NOT_IN_DANGER_COUNTRY,)


@pytest.mark.parametrize(
    ("zone", "country", "region", "rule"),
    [
        (DangerZone(code="LU"), "LU", "LU00", Rule.NOT_IN_DANGER_COUNTRY),
        (DangerZone(code="LU"), "NL", "NL42", None),
        (DangerZone(code="NL41"), "NL", "NL41", Rule.OUTSIDE_DANGER_ZONES),
        (DangerZone(code="NL41"), "NL", "NL42", None),
        (DangerZone(code="NL41", with_neighbours=True), "NL", "NL41", Rule.OUTSIDE_DANGER_ZONES),
        (DangerZone(code="NL41", with_neighbours=True), "NL", "NL42", Rule.OUTSIDE_DANGER_ZONES),
        (DangerZone(code="NL41", with_neighbours=True), "NL", "NL11", None),
        # Across the border: whoever threatens a household in Antwerp drives to Zeeland in half an hour.
        (DangerZone(code="BE21"), "NL", "NL34", None),
        (DangerZone(code="BE21", with_neighbours=True), "NL", "NL34", Rule.OUTSIDE_DANGER_ZONES),
        (DangerZone(code="BE21", with_neighbours=True), "NL", "NL32", None),
        # All along a country's border.
        (DangerZone(code="BE", with_neighbours=True), "LU", "LU00", Rule.OUTSIDE_DANGER_ZONES),
        (DangerZone(code="BE", with_neighbours=True), "NL", "NL42", Rule.OUTSIDE_DANGER_ZONES),
        (DangerZone(code="BE", with_neighbours=True), "NL", "NL11", None),
    ],
)
def test_nobody_is_placed_in_a_danger_zone(zone: DangerZone, country: str, region: str, rule: Rule | None) -> None:
    assert failed(a.a_unit("u1", country, region), danger_zones=(zone,)) == ((rule,) if rule else ())


def test_zones_add_up() -> None:
    zones = (DangerZone(code="NL11"), DangerZone(code="LU"))
    assert excluded_codes(a_request(danger_zones=zones), a.REFERENCE) == {"NL11", "LU"}


@pytest.mark.parametrize(
    ("household", "track", "rules"),
    [
        (a.a_presumed_minor(), Track.ADULT, (Rule.CHILD_TRACK_FOR_PRESUMED_MINORS,)),
        (a.a_presumed_minor(), Track.CHILD, ()),
        # A girl who says she is 18 and may be 17: treated as a child at once.
        (Household(women=1, age_status=AgeStatus.PRESUMED_MINOR), Track.ADULT, (Rule.CHILD_TRACK_FOR_PRESUMED_MINORS,)),
        (Household(women=1, age_status=AgeStatus.PRESUMED_MINOR), Track.CHILD, ()),
        (Household(women=1), Track.CHILD, (Rule.ADULT_TRACK_FOR_ADULTS,)),
        (Household(women=1, children_12_to_17=1), Track.CHILD, (Rule.ADULT_TRACK_FOR_ADULTS,)),
        (Household(women=1, children_12_to_17=1), Track.ADULT, ()),
    ],
)
def test_children_and_adults_never_share_a_track(household: Household, track: Track, rules: tuple[Rule, ...]) -> None:
    assert failed(a.a_unit(free=9, track=track), household=household) == rules


@pytest.mark.parametrize("ages", ["children_under_6", "children_6_to_11", "children_12_to_17"])
def test_children_alone_are_on_the_child_track_whatever_the_form_said(ages: str) -> None:
    children_alone = Household(**{ages: 1})
    assert failed(a.a_unit(track=Track.ADULT), household=children_alone) == (Rule.CHILD_TRACK_FOR_PRESUMED_MINORS,)
    assert failed(a.a_unit(track=Track.CHILD), household=children_alone) == ()


@pytest.mark.parametrize(
    ("household", "needs"),
    [
        (Household(women=1), {Group.WOMEN}),
        (Household(women=2), {Group.WOMEN}),
        (Household(men=1), {Group.MEN}),
        (Household(women=1, men=1), {Group.WOMEN, Group.MEN, Group.FAMILIES}),
        (Household(women=1, children_under_6=1), {Group.WOMEN, Group.CHILDREN, Group.FAMILIES}),
        (Household(men=1, children_6_to_11=2), {Group.MEN, Group.CHILDREN, Group.FAMILIES}),
        (Household(children_12_to_17=1), {Group.CHILDREN}),
    ],
)
def test_a_unit_must_accept_everybody_in_the_household(household: Household, needs: set[Group]) -> None:
    assert groups_of(household) == needs
    track = Track.ADULT if household.women or household.men else Track.CHILD
    if track is Track.CHILD:
        household = replace(household, age_status=AgeStatus.PRESUMED_MINOR)
    assert failed(a.a_unit(free=9, track=track, accepts=tuple(needs)), household=household) == ()
    for group in needs:
        others = tuple(needs - {group})
        rules = failed(a.a_unit(free=9, track=track, accepts=others), household=household)
        assert rules == (Rule.ACCEPTS_HOUSEHOLD,)


@pytest.mark.parametrize(
    ("needs", "supports", "asked"),
    [
        ((), (), True),
        ((), (Need.PETS,), True),
        ((Need.PETS,), (), False),
        ((Need.PETS,), (Need.PETS,), True),
        ((Need.PETS, Need.MEDICAL_CARE), (Need.PETS,), False),
        ((Need.PETS, Need.MEDICAL_CARE), (Need.MEDICAL_CARE, Need.PETS), True),
    ],
)
def test_every_need_is_met_or_the_unit_is_not_asked(needs: tuple, supports: tuple, asked: bool) -> None:
    assert failed(a.a_unit(supports=supports), needs=needs) == (() if asked else (Rule.MEETS_NEEDS,))


def test_a_country_the_household_refused_is_not_asked() -> None:
    assert failed(a.a_unit(country="NL"), refused={"NL"}) == (Rule.COUNTRY_NOT_REFUSED,)
    assert failed(a.a_unit(country="LU"), refused={"NL"}) == ()


def test_a_unit_that_was_tried_is_not_asked_again() -> None:
    assert failed(a.a_unit("u1"), tried={"u1"}) == (Rule.NOT_TRIED_BEFORE,)
    assert failed(a.a_unit("u2"), tried={"u1"}) == ()


@pytest.mark.parametrize(
    ("utc_hour", "utc_minute", "asked"),
    [
        (5, 59, False),  # 6:59 in Amsterdam in winter
        (6, 0, True),
        (20, 59, True),  # 21:59
        (21, 0, False),
        (2, 0, False),
    ],
)
def test_at_night_an_urgent_household_is_sent_only_where_the_door_opens(
    utc_hour: int, utc_minute: int, asked: bool
) -> None:
    night = datetime(2026, 11, 23, utc_hour, utc_minute, tzinfo=UTC)
    closed_at_night = a.a_unit(open_at_night=False)
    assert failed(closed_at_night, now=night) == (() if asked else (Rule.OPEN_NOW,))
    assert failed(a.a_unit(open_at_night=True), now=night) == ()
    assert failed(closed_at_night, now=night, urgency=Urgency.STANDARD) == ()


def test_the_night_is_that_of_the_clock_on_the_wall_in_summer_too() -> None:
    assert failed(a.a_unit(open_at_night=False), now=datetime(2026, 7, 1, 5, 0, tzinfo=UTC)) == ()
    assert failed(a.a_unit(open_at_night=False), now=datetime(2026, 7, 1, 4, 59, tzinfo=UTC)) == (Rule.OPEN_NOW,)


def test_every_rule_that_fails_is_named_safety_before_space() -> None:
    worst = a.a_unit("u1", "BE", free=0, track=Track.CHILD, accepts=(), freshness=Freshness.NOT_REPORTED)
    night = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
    worst = replace(worst, profile=replace(worst.profile, open_at_night=False))
    zone = (DangerZone(code="BE21"),)
    assert failed(worst, now=night, needs=(Need.PETS,), danger_zones=zone, tried={"u1"}, refused={"BE"}) == (
        Rule.NOT_IN_DANGER_COUNTRY,
        Rule.OUTSIDE_DANGER_ZONES,
        Rule.ADULT_TRACK_FOR_ADULTS,
        Rule.ACCEPTS_HOUSEHOLD,
        Rule.COUNTRY_NOT_REFUSED,
        Rule.MEETS_NEEDS,
        Rule.CAPACITY_IS_KNOWN,
        Rule.KEEPS_HOUSEHOLD_TOGETHER,
        Rule.OPEN_NOW,
        Rule.NOT_TRIED_BEFORE,
    )


def test_every_written_rule_and_preference_is_applied() -> None:
    assert set(HARD_RULES) == set(Rule)
    assert list(PREFERENCES) == list(Preference)


# Preferences


def test_a_fresh_report_comes_first_whatever_else_speaks_for_another() -> None:
    overdue, ageing, fresh = Freshness.OVERDUE, Freshness.AGEING, Freshness.FRESH
    units = (
        a.a_unit("a", freshness=overdue, free=2),
        a.a_unit("b", freshness=ageing, free=3),
        a.a_unit("c", freshness=fresh, free=9, languages=("fr",), supports=(Need.PETS,)),
    )
    assert ranking(*units) == ["c", "b", "a"]


@pytest.mark.parametrize(
    ("spoken", "first"),
    [
        (("fr",), "french"),
        (("de", "fr"), "french"),
        (("en",), "english"),
        ((), "english"),
        (("so",), "english"),
    ],
)
def test_one_shared_language_is_preferred_and_not_required(spoken: tuple[str, ...], first: str) -> None:
    units = (a.a_unit("french", languages=("fr", "de"), free=3), a.a_unit("english", languages=("en",), free=2))
    assert ranking(*units, languages=spoken)[0] == first
    assert len(ranking(*units, languages=spoken)) == 2


def test_special_support_is_spared_for_those_who_need_it() -> None:
    special = a.a_unit("special", supports=(Need.WHEELCHAIR_ACCESS, Need.PETS), free=2)
    pets = a.a_unit("pets", supports=(Need.PETS,), free=3)
    plain = a.a_unit("plain", free=4)
    assert ranking(special, pets, plain) == ["plain", "pets", "special"]
    assert ranking(special, pets, plain, needs=(Need.PETS,)) == ["pets", "special"]


def test_a_tight_fit_leaves_the_larger_unit_for_a_larger_household() -> None:
    assert ranking(a.a_unit("big", free=4), a.a_unit("tight", free=2)) == ["tight", "big"]


EQUALS = tuple(a.a_unit(f"u{n}") for n in range(6))


def test_the_lottery_draws_the_same_for_the_same_household_however_the_units_come() -> None:
    assert ranking(*EQUALS) == ranking(*reversed(EQUALS))
    assert draw(*EQUALS) == draw(*reversed(EQUALS))


def test_the_lottery_makes_no_unit_first_for_ever() -> None:
    request = a_request()
    firsts = set()
    for number in range(60):
        another = replace(request, request_id=f"request-{number}")
        drawn = draw_shortlist(another, EQUALS, now=a.MONDAY_NOON, reference=a.REFERENCE)
        firsts.add(drawn.candidates[0].unit_id)
    assert firsts == {unit.profile.unit_id for unit in EQUALS}


def test_each_place_on_the_list_says_which_preference_put_it_there() -> None:
    units = (
        a.a_unit("1"),
        a.a_unit("2", free=3),
        a.a_unit("3", supports=(Need.PETS,)),
        a.a_unit("4", languages=("fr",)),
        a.a_unit("5", freshness=Freshness.AGEING),
    )
    drawn = draw(*reversed(units))
    assert [(candidate.unit_id, candidate.decided_by) for candidate in drawn.candidates] == [
        ("1", None),
        ("2", Preference.TIGHT_FIT),
        ("3", Preference.SCARCE_SUPPORT_SPARED),
        ("4", Preference.LANGUAGES),
        ("5", Preference.FRESHNESS),
    ]
    assert drawn.candidates[1].preferences == {
        "freshness": 0,
        "languages": 0,
        "scarce_support_spared": 0,
        "tight_fit": 1,
        "lottery": drawn.candidates[1].preferences["lottery"],
    }


def test_between_equals_the_lottery_is_named() -> None:
    assert draw(a.a_unit("u1"), a.a_unit("u2")).candidates[1].decided_by is Preference.LOTTERY


def test_a_list_says_under_which_rules_and_from_what_it_was_drawn() -> None:
    drawn = draw(a.a_unit(free=2))
    assert drawn.ruleset == RULESET
    assert drawn.units_digest == draw(a.a_unit(free=2)).units_digest
    assert drawn.units_digest != draw(a.a_unit(free=3)).units_digest


some_units = st.lists(
    st.builds(
        a.a_unit,
        st.sampled_from([f"u{n}" for n in range(9)]),
        st.sampled_from(["BE", "NL", "LU"]),
        free=st.integers(0, 5),
        freshness=st.sampled_from(Freshness),
        track=st.sampled_from(Track),
        accepts=st.sets(st.sampled_from(Group)).map(lambda groups: tuple(sorted(groups))),
        supports=st.sets(st.sampled_from(Need)).map(lambda needs: tuple(sorted(needs))),
        open_at_night=st.booleans(),
    ),
    max_size=9,
    unique_by=lambda unit: unit.profile.unit_id,
)


@for_any(some_units, st.randoms(use_true_random=False))
def test_every_unit_is_either_ranked_or_rejected_with_a_reason_in_whatever_order_they_come(units, random) -> None:
    drawn = draw(*units)
    ranked = [candidate.unit_id for candidate in drawn.candidates]
    rejected = [rejection.unit_id for rejection in drawn.rejected]
    assert sorted([*ranked, *rejected]) == sorted(unit.profile.unit_id for unit in units)
    assert all(rejection.failed for rejection in drawn.rejected)
    order = [tuple(candidate.preferences.values()) for candidate in drawn.candidates]
    assert order == sorted(order)
    shuffled = list(units)
    random.shuffle(shuffled)
    assert draw(*shuffled) == drawn
