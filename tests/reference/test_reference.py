"""The reference data itself, and what its loader refuses."""

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import reference
from events.vocabulary import Freshness, Urgency
from reference import BadReferenceData, Power, UnknownCountry, UnknownRegion

INSTALLED = Path(reference.__file__).parent
DATA = reference.load()

BELGIUM = {"BE10", "BE21", "BE22", "BE23", "BE24", "BE25", "BE31", "BE32", "BE33", "BE34", "BE35"}
NETHERLANDS = {"NL11", "NL12", "NL13", "NL21", "NL22", "NL23", "NL32", "NL34", "NL35", "NL36", "NL41", "NL42"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the data that a test may spoil."""
    for file in INSTALLED.iterdir():
        if file.suffix in {".json", ".csv"}:
            shutil.copy(file, tmp_path)
    return tmp_path


def change(folder: Path, file: str, how: Callable[[Any], object]) -> None:
    data = json.loads((folder / file).read_text("utf-8"))
    how(data)
    (folder / file).write_text(json.dumps(data), "utf-8")


def append(folder: Path, file: str, line: str) -> None:
    with (folder / file).open("a", encoding="utf-8") as rows:
        rows.write(f"{line}\n")


def facts(node: object) -> list[dict[str, Any]]:
    """Every object of a JSON file that says where it comes from."""
    if isinstance(node, dict):
        return [node] * ("source" in node) + [fact for value in node.values() for fact in facts(value)]
    return [fact for value in node for fact in facts(value)] if isinstance(node, list) else []


# Countries


def test_the_three_countries_take_part() -> None:
    assert DATA.countries.keys() == {"BE", "NL", "LU"}


def test_a_country_that_takes_no_part_is_refused_without_repeating_what_was_sent() -> None:
    with pytest.raises(UnknownCountry) as refused:
        DATA.country("Z9-secret")
    assert refused.value.code == "Z9-secret"
    assert "secret" not in str(refused.value)
    assert "BE, NL, LU" in str(refused.value)


@pytest.mark.parametrize(
    ("country", "start", "last"),
    [
        ("BE", date(2026, 1, 1), date(2026, 2, 15)),
        ("LU", date(2026, 1, 1), date(2026, 4, 1)),
        ("NL", date(2026, 1, 1), date(2026, 4, 1)),
        ("NL", date(2026, 11, 30), date(2027, 2, 28)),
        ("NL", date(2027, 11, 30), date(2028, 2, 29)),
        ("NL", date(2026, 10, 15), date(2027, 1, 15)),
        ("NL", date(2026, 9, 30), date(2026, 12, 30)),
        ("NL", date(2026, 12, 31), date(2027, 3, 31)),
    ],
)
def test_the_reflection_period_ends_after_its_own_countrys_length(country: str, start: date, last: date) -> None:
    assert DATA.country(country).reflection_end(start) == last


@pytest.mark.parametrize("month", range(1, 13))
def test_a_reflection_period_in_months_never_leaves_the_month_it_ends_in(month: int) -> None:
    last = DATA.country("NL").reflection_end(date(2026, month, 28))
    assert (last.day, last.month) == (28, (month + 2) % 12 + 1)


HOUR = timedelta(hours=1)
TICK = timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("age", "worth"),
    [
        (-HOUR, Freshness.FRESH),
        (0 * HOUR, Freshness.FRESH),
        (12 * HOUR - TICK, Freshness.FRESH),
        (12 * HOUR, Freshness.AGEING),
        (24 * HOUR - TICK, Freshness.AGEING),
        (24 * HOUR, Freshness.OVERDUE),
        (72 * HOUR - TICK, Freshness.OVERDUE),
        (72 * HOUR, Freshness.NOT_REPORTED),
    ],
)
def test_a_report_loses_worth_with_age(age: timedelta, worth: Freshness) -> None:
    assert DATA.country("LU").freshness(age) is worth


def test_a_report_passes_through_every_freshness_at_the_moments_that_were_announced() -> None:
    country = DATA.country("BE")
    reported = now = datetime(2026, 11, 23, 9, tzinfo=UTC)
    seen = [country.freshness(now - reported)]
    while change := country.next_freshness_change(reported, now):
        assert country.freshness(change - reported - TICK) is seen[-1]
        now = change
        seen.append(country.freshness(now - reported))
    assert seen == list(Freshness)


def test_the_wall_clock_is_the_countrys_own_in_summer_and_winter() -> None:
    country = DATA.country("NL")
    assert country.local_time(datetime(2026, 7, 1, 12, tzinfo=UTC)).hour == 14
    assert country.local_time(datetime(2026, 12, 1, 12, tzinfo=UTC)).hour == 13


def test_decisions_that_belong_to_one_body_stay_with_it() -> None:
    def sole(country: str, power: Power) -> list[str]:
        return [a.body for a in DATA.country(country).authorities if a.power is power and a.exclusive]

    assert any("CoMensha" in body and "COSM" in body for body in sole("NL", Power.PLACE))
    assert any("PAG-ASA" in body for body in sole("BE", Power.APPLY_FOR_PAPERS))
    assert any("Judicial Police" in body for body in sole("LU", Power.IDENTIFY))


@pytest.mark.parametrize("country", DATA.countries.values(), ids=DATA.countries)
def test_every_country_has_everybody_that_a_placement_needs(country: reference.Country) -> None:
    assert {authority.power for authority in country.authorities} >= {Power.IDENTIFY, Power.PLACE}
    assert {moving.effect for moving in country.moving} >= {"no_forced_transfer", "immigration_check"}
    assert "112" in {line.number for line in country.emergency}
    assert country.names.keys() >= {"en", "nl", "fr", "de"}


# Where facts come from


@pytest.mark.parametrize("file", ["countries.json", "clocks.json"])
def test_what_is_not_confirmed_is_never_called_verified(file: str) -> None:
    found = facts(json.loads((INSTALLED / file).read_text("utf-8")))
    doubtful = ("for a lawyer to confirm", "to be confirmed", "own assumption")
    assert found
    assert [fact for fact in found if fact["verified"] and any(words in fact["source"] for words in doubtful)] == []
    assert [fact for fact in found if fact["verified"] and "https://" not in fact["source"]] == []
    assert [fact for fact in found if not fact["verified"] and not any(w in fact["source"] for w in doubtful)] == []


def test_the_clocks_are_our_own_assumption_and_every_one_has_its_reason() -> None:
    assert DATA.clocks.verified is False
    assert DATA.clocks.reasons.keys() == {
        "parallel_asks",
        "ask_minutes",
        "hold_minutes",
        "step_minutes",
        "review_hours",
        "disclosure_minutes",
        "arrival_grace_minutes",
        "escalation_cap_hours",
        "stay_review_days",
        "ring_again_minutes",
        "call_after_minutes",
    }


# Clocks


def test_an_urgent_request_asks_more_shelters_and_waits_less() -> None:
    urgent, standard = DATA.clocks.of(Urgency.URGENT), DATA.clocks.of(Urgency.STANDARD)
    assert urgent.parallel_asks > standard.parallel_asks
    assert urgent.ask_minutes < standard.ask_minutes
    assert urgent.review_hours < standard.review_hours


@pytest.mark.parametrize("urgency", Urgency)
def test_a_bed_is_held_until_the_answer_and_the_first_signature_can_have_come(urgency: Urgency) -> None:
    clocks = DATA.clocks.of(urgency)
    assert clocks.hold_minutes >= clocks.ask_minutes + clocks.step_minutes


# Regions and neighbours


def test_the_regions_are_those_of_nuts_2024() -> None:
    assert DATA.regions.keys() == BELGIUM | NETHERLANDS | {"LU00"}
    assert {DATA.regions[code].name for code in ("NL35", "NL36")} == {"Utrecht", "Zuid-Holland"}
    assert [code for code, region in DATA.regions.items() if region.country != code[:2]] == []


def test_neighbours_are_mutual_and_nobody_is_their_own() -> None:
    for code in DATA.regions:
        assert code not in DATA.neighbours(code)
        assert all(code in DATA.neighbours(other) for other in DATA.neighbours(code))


def test_every_region_can_be_reached_from_every_other() -> None:
    reached: set[str] = set()
    frontier = {"BE10"}
    while frontier:
        reached |= frontier
        frontier = {other for code in frontier for other in DATA.neighbours(code)} - reached
    assert reached == DATA.regions.keys()


@pytest.mark.parametrize(
    ("code", "around"),
    [
        ("BE10", {"BE24"}),
        ("LU00", {"BE33", "BE34"}),
        ("NL42", {"BE22", "BE33", "NL22", "NL41"}),
        ("NL34", {"BE21", "BE23", "BE25", "NL36", "NL41"}),
        ("BE33", {"BE22", "BE24", "BE31", "BE34", "BE35", "LU00", "NL42"}),
        ("NL23", {"NL12", "NL21", "NL22", "NL32", "NL35"}),
        ("NL12", {"NL11", "NL13", "NL21", "NL23", "NL32"}),
        ("NL11", {"NL12", "NL13"}),
        ("NL21", {"NL12", "NL13", "NL22", "NL23"}),
        ("NL22", {"NL21", "NL23", "NL35", "NL36", "NL41", "NL42"}),
        ("NL35", {"NL22", "NL23", "NL32", "NL36"}),
        ("NL36", {"NL22", "NL32", "NL34", "NL35", "NL41"}),
        ("NL41", {"BE21", "BE22", "NL22", "NL34", "NL36", "NL42"}),
        ("BE24", {"BE10", "BE21", "BE22", "BE23", "BE31", "BE32", "BE33"}),
        ("BE32", {"BE23", "BE24", "BE25", "BE31", "BE35"}),
        ("BE35", {"BE31", "BE32", "BE33", "BE34"}),
    ],
)
def test_a_region_has_exactly_the_neighbours_of_the_map(code: str, around: set[str]) -> None:
    assert DATA.neighbours(code) == around


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("BE10", "BE31"),  # Sint-Genesius-Rode lies between
        ("BE22", "BE31"),  # Landen lies between
        ("NL35", "NL41"),  # Gorinchem lies between
        ("BE22", "LU00"),
        ("BE35", "LU00"),
        ("NL42", "LU00"),
        ("BE23", "NL41"),
        ("BE25", "BE24"),
        ("NL32", "NL22"),
        ("NL21", "NL32"),
        ("NL34", "NL35"),
    ],
)
def test_regions_with_another_between_them_are_no_neighbours(one: str, other: str) -> None:
    assert other not in DATA.neighbours(one)


def test_the_neighbours_of_a_country_lie_across_its_border() -> None:
    assert DATA.neighbours("LU") == {"BE33", "BE34"}
    assert DATA.neighbours("BE") == {"NL34", "NL41", "NL42", "LU00"}
    assert DATA.neighbours("NL") == {"BE21", "BE22", "BE23", "BE25", "BE33"}


def test_every_region_has_a_tile_and_most_neighbours_have_tiles_that_touch() -> None:
    assert DATA.tiles.keys() == DATA.regions.keys()
    assert next(iter(DATA.tiles)) == "NL12"
    assert list(DATA.tiles)[-1] == "LU00"
    assert len({tile.label for tile in DATA.tiles.values()}) == len(DATA.tiles)
    pairs = [(DATA.tiles[a], DATA.tiles[b]) for a, others in DATA.adjacent.items() for b in others]
    touching = [abs(a.column - b.column) <= 1 and abs(a.row - b.row) <= 1 for a, b in pairs]
    assert sum(touching) > 0.8 * len(pairs)


def test_two_tiles_in_one_place_and_a_region_without_a_tile_are_refused(folder: Path) -> None:
    rows = (folder / "tiles.csv").read_text("utf-8").splitlines()
    without = [row for row in rows if not row.startswith("LU00")]
    (folder / "tiles.csv").write_text("\n".join(without) + "\n", "utf-8")
    with pytest.raises(BadReferenceData, match="add a tile for LU00"):
        reference.load(folder)
    append(folder, "tiles.csv", "LU00,LU,3,0,NUTS,2024,true")
    with pytest.raises(BadReferenceData, match="an earlier tile is in its place"):
        reference.load(folder)


def test_a_zone_nobody_knows_is_refused_and_never_excludes_nothing() -> None:
    with pytest.raises(UnknownRegion) as refused:
        DATA.neighbours("DEA2")
    assert refused.value.code == "DEA2"
    assert "DEA2" not in str(refused.value)


# Loading


def test_the_data_is_found_from_anywhere(tmp_path: Path) -> None:
    program = "import reference; print(*reference.load().countries)"
    found = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": str(INSTALLED.parent)},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert found.stdout.split() == ["BE", "NL", "LU"]


def test_a_fourth_country_joins_by_data_alone(folder: Path) -> None:
    def join(countries: dict[str, Any]) -> None:
        fictional = json.loads(json.dumps(countries["BE"]))
        fictional["names"] = {"en": "Examplia", "eo": "Ekzamplio"}
        fictional["languages"] = ["eo"]
        fictional["reflection"] |= {"length": 1, "unit": "months"}
        fictional["rhythm"] = {"fresh": "PT1H", "ageing": "PT2H", "overdue": "PT3H"}
        countries["XA"] = fictional

    change(folder, "countries.json", join)
    append(folder, "regions.csv", "XA00,XA,Examplia,fictional,2026,false")
    append(folder, "neighbours.csv", "LU00,XA00,land,,fictional,2026,false")
    append(folder, "tiles.csv", "XA00,XA,5,7,fictional,2026,false")
    data = reference.load(folder)
    assert data.country("XA").reflection_end(date(2026, 1, 31)) == date(2026, 2, 28)
    assert data.country("XA").freshness(timedelta(hours=2)) is Freshness.OVERDUE
    assert data.neighbours("XA") == {"LU00"}
    assert "XA00" in data.neighbours("LU00")


def test_the_same_data_loads_the_same_from_a_folder(folder: Path) -> None:
    assert reference.load(folder) == DATA


@pytest.mark.parametrize(
    ("file", "line", "remedy"),
    [
        ("regions.csv", "FRE1,FR,Nord-Pas de Calais,NUTS,2024,true", "add the country"),
        ("regions.csv", "LU00,LU,Luxembourg,NUTS,2024,true", "earlier row has this code"),
        ("regions.csv", "LU001,LU,too fine,NUTS,2024,true", "code"),
        ("regions.csv", "LU01,LU,no source,,2024,true", "source"),
        ("regions.csv", "LU01,LU,no date,NUTS,recently,true", "dated"),
        ("regions.csv", "LU01,LU,unsure,NUTS,2024,perhaps", "verified"),
        ("regions.csv", "LU01,LU,too few cells", "correct it"),
        ("regions.csv", "LU01,LU,too many cells,NUTS,2024,true,more", "correct it"),
        ("neighbours.csv", "LU00,DEB2,land,,NUTS,2024,true", "add DEB2 to regions.csv"),
        ("neighbours.csv", "LU00,LU00,land,,NUTS,2024,true", "none is its own neighbour"),
        ("neighbours.csv", "LU00,BE34,land,,NUTS,2024,true", "earlier row has this pair"),
        ("neighbours.csv", "NL32,NL21,ferry,,NUTS,2024,true", "border"),
        ("tiles.csv", "DEB2,DE-RP,5,5,NUTS,2024,true", "one tile for each region"),
        ("tiles.csv", "LU00,LU,9,9,NUTS,2024,true", "one tile for each region"),
        ("tiles.csv", "LU00,LU,-1,9,NUTS,2024,true", "column"),
    ],
)
def test_a_bad_table_row_is_named_with_its_remedy(folder: Path, file: str, line: str, remedy: str) -> None:
    append(folder, file, line)
    rows = len((folder / file).read_text("utf-8").splitlines())
    with pytest.raises(BadReferenceData, match=remedy) as refused:
        reference.load(folder)
    assert (refused.value.file, refused.value.row) == (file, f"line {rows}")


def spoil(country: str, field: str, value: object) -> Callable[[Any], object]:
    return lambda countries: countries[country].__setitem__(field, value)


@pytest.mark.parametrize(
    ("spoilt", "row", "remedy"),
    [
        (spoil("NL", "timezone", "Europe/Nowhere"), "NL", "IANA"),
        (spoil("NL", "timezone", "../etc/passwd"), "NL", "IANA"),
        (spoil("NL", "languages", []), "NL", "at least one"),
        (spoil("NL", "languages", ["nl", "fy"]), "NL", "name in fy"),
        (spoil("NL", "nickname", "Holland"), "NL", "nickname"),
        (spoil("NL", "rhythm", {"fresh": "PT12H", "ageing": "PT12H", "overdue": "PT72H"}), "NL", "limits grow"),
        (lambda countries: countries["BE"]["reflection"].__setitem__("unit", "weeks"), "BE", "unit"),
        (lambda countries: countries["BE"]["reflection"].__setitem__("length", 0), "BE", "length"),
        (lambda countries: countries["BE"]["reflection"].__setitem__("length", "45"), "BE", "length"),
        (lambda countries: countries["BE"]["reflection"].pop("source"), "BE", "source"),
        (lambda countries: countries["LU"]["office_hours"][0].pop("closes"), "LU, office_hours 1", "or neither"),
        (lambda countries: countries.__setitem__("Belgium", countries["BE"]), "Belgium", "correct it"),
    ],
)
def test_a_bad_country_is_named_with_its_remedy(
    folder: Path, spoilt: Callable[[Any], object], row: str, remedy: str
) -> None:
    change(folder, "countries.json", spoilt)
    with pytest.raises(BadReferenceData, match=remedy) as refused:
        reference.load(folder)
    assert (refused.value.file, refused.value.row) == ("countries.json", row)


def test_a_country_without_a_region_is_refused(folder: Path) -> None:
    rows = (folder / "regions.csv").read_text("utf-8").splitlines()
    (folder / "regions.csv").write_text("\n".join(row for row in rows if not row.startswith("LU")), "utf-8")
    with pytest.raises(BadReferenceData, match="at least one region of LU"):
        reference.load(folder)


@pytest.mark.parametrize(
    ("spoilt", "remedy"),
    [
        (lambda clocks: clocks["urgent"].__setitem__("parallel_asks", 0), "parallel_asks"),
        (lambda clocks: clocks["standard"].pop("hold_minutes"), "hold_minutes"),
        (lambda clocks: clocks["reasons"].pop("hold_minutes"), "hold_minutes"),
        (lambda clocks: clocks["reasons"].__setitem__("lunch_minutes", "hunger"), "lunch_minutes"),
    ],
)
def test_a_bad_clock_is_named_with_its_remedy(folder: Path, spoilt: Callable[[Any], object], remedy: str) -> None:
    change(folder, "clocks.json", spoilt)
    with pytest.raises(BadReferenceData, match=remedy) as refused:
        reference.load(folder)
    assert refused.value.file == "clocks.json"


@pytest.mark.parametrize("file", ["countries.json", "regions.csv", "neighbours.csv", "tiles.csv", "clocks.json"])
def test_a_missing_file_is_named(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(BadReferenceData, match="put it there") as refused:
        reference.load(folder)
    assert refused.value.file == file


def test_a_file_cut_short_is_named_with_its_line(folder: Path) -> None:
    text = (folder / "clocks.json").read_text("utf-8")
    (folder / "clocks.json").write_text(text[: text.index('"standard"')], "utf-8")
    with pytest.raises(BadReferenceData, match="valid JSON") as refused:
        reference.load(folder)
    assert refused.value.row.startswith("line ")


@pytest.mark.parametrize("file", ["regions.csv", "neighbours.csv"])
def test_the_tables_are_kept_in_order_so_that_a_change_reads_as_one_line(file: str) -> None:
    with (INSTALLED / file).open(encoding="utf-8", newline="") as rows:
        keys = [row[:2] for row in csv.reader(rows)][1:]
    assert keys == sorted(keys)
