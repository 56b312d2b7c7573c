"""The synthetic shelters."""

import random

import msgspec
import pytest

import reference
from events.vocabulary import Group, Need, Track, UnitProfile
from simulation.inventory import SyntheticUnit, synthetic_inventory

DATA = reference.load()
SEEDS = range(60)
INVENTORIES = [synthetic_inventory(seed, DATA) for seed in SEEDS]
UNITS = [unit for inventory in INVENTORIES for unit in inventory]


def beds(inventory: tuple[SyntheticUnit, ...], country: str, track: Track) -> int:
    return sum(unit.beds for unit in inventory if unit.profile.country == country and unit.profile.track is track)


def test_a_seed_gives_the_same_units_whatever_else_uses_chance() -> None:
    random.seed(1)
    first = synthetic_inventory(7, DATA)
    random.seed(2)
    assert synthetic_inventory(7, DATA) == first
    assert synthetic_inventory(8, DATA) != first


@pytest.mark.parametrize("inventory", INVENTORIES[:10])
def test_the_published_places_are_there_and_the_minors_have_their_own(inventory: tuple[SyntheticUnit, ...]) -> None:
    assert beds(inventory, "NL", Track.ADULT) == 40 + 36
    assert beds(inventory, "BE", Track.ADULT) == 16 + 15 + 15
    assert beds(inventory, "LU", Track.ADULT) == 9 + 20
    assert all(beds(inventory, country, Track.CHILD) > 0 for country in ("BE", "NL", "LU"))


def test_every_inventory_is_as_small_as_the_benelux_is() -> None:
    for inventory in INVENTORIES:
        assert 20 <= len({unit.profile.shelter_id for unit in inventory}) <= 25
        assert 45 <= len(inventory) <= 80
        assert 150 <= sum(unit.beds for unit in inventory) <= 165
        assert all(1 <= unit.beds <= 8 for unit in inventory)


def test_about_sixty_units_on_average() -> None:
    assert 57 <= sum(map(len, INVENTORIES)) / len(INVENTORIES) <= 67


def test_no_unit_has_more_beds_empty_than_it_has() -> None:
    assert [unit for unit in UNITS if unit.free < 0 or unit.blocked < 0 or unit.free + unit.blocked > unit.beds] == []


def test_a_reason_stands_beside_every_blocked_bed_and_nowhere_else() -> None:
    assert any(unit.blocked for unit in UNITS)
    assert [unit for unit in UNITS if (unit.blocked > 0) is (unit.blocked_because is None)] == []


def test_occupancy_stays_between_85_and_100_percent() -> None:
    for inventory in INVENTORIES:
        total = sum(unit.beds for unit in inventory)
        taken = total - sum(unit.free + unit.blocked for unit in inventory)
        assert 0.845 <= taken / total <= 1


@pytest.mark.parametrize(("occupancy", "empty"), [((1.0, 1.0), 0), ((0.0, 0.0), 163)])
def test_the_caller_may_choose_how_full_the_shelters_are(occupancy: tuple[float, float], empty: int) -> None:
    inventory = synthetic_inventory(3, DATA, occupancy=occupancy)
    assert sum(unit.free + unit.blocked for unit in inventory) == empty


def test_every_profile_is_one_that_a_shelter_could_register() -> None:
    for unit in INVENTORIES[0]:
        assert msgspec.convert(msgspec.to_builtins(unit.profile), UnitProfile) == unit.profile


def test_identifiers_are_unique_and_tell_only_the_country() -> None:
    for inventory in INVENTORIES:
        ids = [unit.profile.unit_id for unit in inventory]
        assert len(set(ids)) == len(ids)
    for unit in UNITS:
        profile = unit.profile
        assert profile.shelter_id.startswith(f"{profile.country.lower()}-shelter-")
        assert profile.unit_id.startswith(f"{profile.shelter_id}-u")


def test_a_shelter_lies_in_one_region_of_its_country() -> None:
    for inventory in INVENTORIES:
        places = {(unit.profile.shelter_id, unit.profile.region) for unit in inventory}
        assert len(places) == len({shelter for shelter, _ in places})
    assert [unit for unit in UNITS if DATA.regions[unit.profile.region].country != unit.profile.country] == []


def test_shelters_are_spread_over_the_map_by_chance_alone() -> None:
    assert {unit.profile.region for unit in UNITS} == DATA.regions.keys()


def test_minors_units_take_children_and_nobody_else() -> None:
    assert {unit.profile.accepts for unit in UNITS if unit.profile.track is Track.CHILD} == {(Group.CHILDREN,)}


def test_no_adult_unit_takes_children_without_their_family() -> None:
    adult = [set(unit.profile.accepts) for unit in UNITS if unit.profile.track is Track.ADULT]
    assert [groups for groups in adult if Group.CHILDREN in groups and Group.FAMILIES not in groups] == []
    assert [groups for groups in adult if not groups & {Group.WOMEN, Group.MEN}] == []


def test_one_bed_is_never_offered_to_a_family() -> None:
    assert [unit for unit in UNITS if unit.beds == 1 and Group.FAMILIES in unit.profile.accepts] == []


def test_every_country_has_room_for_women_men_families_and_children() -> None:
    for country in DATA.countries:
        groups = {group for unit in UNITS if unit.profile.country == country for group in unit.profile.accepts}
        assert groups == set(Group)


def test_staff_speak_the_countrys_languages_and_some_more() -> None:
    for unit in UNITS:
        languages = unit.profile.languages
        assert set(languages) > set(DATA.country(unit.profile.country).languages)
        assert len(set(languages)) == len(languages)


def test_scarce_support_exists_and_stays_scarce() -> None:
    adult = [unit.profile.supports for unit in UNITS if unit.profile.track is Track.ADULT]

    def share(need: Need) -> float:
        return sum(need in supports for supports in adult) / len(adult)

    assert 0.02 <= share(Need.PETS) <= 0.08
    assert 0.1 <= share(Need.ADDICTION_CARE) <= 0.35
    assert share(Need.WHEELCHAIR_ACCESS) < share(Need.SECURED_ENTRANCE)


def test_some_doors_open_at_night_and_every_minors_door_does() -> None:
    assert {unit.profile.open_at_night for unit in UNITS if unit.profile.track is Track.ADULT} == {True, False}
    assert {unit.profile.open_at_night for unit in UNITS if unit.profile.track is Track.CHILD} == {True}
